"""Build the programs the local cluster is made of: each once per version, from pinned Go modules.

Every part has a directory under ``parts/`` with a go.mod and go.sum (one module each, since their dependencies
conflict). A build is keyed by those files, by the part's own sources and by its flags, and is published by a rename,
so a directory that exists is complete, whoever built it and whenever. Must not: leave anything in the source tree, or
trust a name alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from localcluster import debian, toolchain
from localcluster.console import CannotRun, say
from localcluster.locks import exclusive
from localcluster.paths import SOURCES, binaries_dir

KUBERNETES_VERSION = "v1.37.2"


@dataclass(frozen=True)
class Part:
    """``binaries`` maps the name of a program to the Go package it is built from."""

    name: str
    binaries: dict[str, str]
    tags: tuple[str, ...] = ()
    ldflags: tuple[str, ...] = ("-s", "-w")
    toolchain: str = "local"
    """GOTOOLCHAIN. Local: never fetch another toolchain behind our back; auto: the one that go.mod names."""

    @property
    def module(self) -> Path:
        return SOURCES / "parts" / self.name


def _kubernetes_version_flags() -> tuple[str, ...]:
    """Without these, servers and kubectl call themselves v0.0.0 and clients refuse to compare versions."""
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    values = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return tuple(f"-X={package}.{key}={value}" for package in packages for key, value in values.items())


def _commands(prefix: str, *names: str) -> dict[str, str]:
    return {name: f"{prefix}{name}" for name in names}


_CONTAINERD = "github.com/containerd/containerd/v2/cmd/"

PARTS = (
    Part("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Part(
        "kubernetes",
        _commands("k8s.io/kubernetes/cmd/", "kube-apiserver", "kubectl", "kube-controller-manager")
        | _commands("k8s.io/kubernetes/cmd/", "kube-scheduler", "kubelet", "kube-proxy")
        | {"volume-provisioner": "./volume-provisioner"},
        ldflags=("-s", "-w", *_kubernetes_version_flags()),
    ),
    Part(
        "containerd",
        _commands(_CONTAINERD, "containerd", "containerd-shim-runc-v2", "ctr"),
        # Without them it needs C libraries of file systems nobody here uses.
        tags=("no_btrfs", "no_zfs", "no_devmapper", "no_aufs"),
    ),
    Part("coredns", {"coredns": "github.com/coredns/coredns"}),
    Part("pause", {"pause": "."}),
    Part("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}),
    Part("helm", {"helm": "helm.sh/helm/v4/cmd/helm"}),
    Part("crane", {"crane": "github.com/google/go-containerregistry/cmd/crane"}),
    Part("registry", {"registry": "github.com/distribution/distribution/v3/cmd/registry"}),
    Part("versitygw", {"versitygw": "github.com/versity/versitygw/cmd/versitygw"}),
    Part("fake-gcs-server", {"fake-gcs-server": "github.com/fsouza/fake-gcs-server"}),
    # One program that is each of Argo CD's, by the name it is called by; and what these need beside Helm.
    Part("argocd", {"argocd": "github.com/argoproj/argo-cd/v3/cmd"}, toolchain="auto"),
    # A Gateway of the Gateway API's, with its chart and the API's CRDs in its module: for `make test-gateway-api`.
    Part("envoy-gateway", {"envoy-gateway": "github.com/envoyproxy/gateway/cmd/envoy-gateway"}, toolchain="auto"),
    Part("kustomize", {"kustomize": "sigs.k8s.io/kustomize/kustomize/v5"}),
    Part("miniredis", {"miniredis": "."}),
    Part("kueue", {"kueue": "sigs.k8s.io/kueue/cmd/kueue"}),
    # Whom we are compared with, as they come.
    Part("jobset", {"jobset": "sigs.k8s.io/jobset"}),
    Part("trainer", {"trainer-controller-manager": "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager"}),
)
DEBIAN = {"prometheus": "prometheus", "promtool": "prometheus"}
"""Programs that Debian has, by the package that they are in. They are for tests; building them takes half an hour."""
CLUSTER_PARTS = ("etcd", "kubernetes", "containerd", "coredns", "pause")


def part(name: str) -> Part:
    return next(each for each in PARTS if each.name == name)


def part_of(binary: str) -> Part:
    """The part that ``binary`` is built with. Raises CannotRun with the list of names for an unknown one."""
    for each in PARTS:
        if binary in each.binaries:
            return each
    known = ", ".join(sorted([*DEBIAN, *(name for each in PARTS for name in each.binaries)]))
    raise CannotRun(f"no program named '{binary}' is built here; there are: {known}")


def key(spec: Part) -> str:
    """What the binaries depend on, as 12 hexadecimal digits."""
    digest = hashlib.sha256(repr((sorted(spec.binaries.items()), spec.tags, spec.ldflags)).encode())
    for file in sorted(spec.module.rglob("*")):
        if file.is_file():
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(spec.module)} {content}\n".encode())
    return digest.hexdigest()[:12]


def directory(spec: Part) -> Path:
    return binaries_dir() / f"{spec.name}-{key(spec)}"


def is_built(spec: Part) -> bool:
    return directory(spec).is_dir()


def ensure(name: str) -> Path:
    """The directory of a part's binaries, built now if nobody has."""
    spec = part(name)
    target = directory(spec)
    if target.is_dir():
        return target
    with exclusive(binaries_dir() / f".{name}.lock", f"building {name}"):
        if not target.is_dir():
            _build(spec, target)
    return target


def binary(name: str) -> Path:
    """The path of a program, building its part first if needed."""
    if name in DEBIAN:
        return debian.unpacked(DEBIAN[name]) / "usr" / "bin" / name
    return ensure(part_of(name).name) / name


def _build(spec: Part, target: Path) -> None:
    go = toolchain.ensure_go()
    say(f"building {spec.name} ({', '.join(spec.binaries)}): minutes the first time, kept in {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{spec.name}-*"):
        shutil.rmtree(left, ignore_errors=True)  # of a build that was killed
    staging = Path(tempfile.mkdtemp(prefix=f".{spec.name}-", dir=target.parent))
    try:
        _go_build(go, spec, staging)
        staging.chmod(0o755)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _go_build(go: Path, spec: Part, target: Path) -> None:
    """Build all programs of a part at once: one is linked, on one core, while the next is compiled."""
    names, packages = list(spec.binaries), list(spec.binaries.values())
    # Several programs are named by their packages; a single one may have another name.
    output = f"{target}/" if len(names) > 1 else str(target / names[0])
    command = [str(go), "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-tags", ",".join(spec.tags)]
    command += ["-ldflags", " ".join(spec.ldflags), "-o", output, *packages]
    # GOFLAGS of the caller could change what is built; GOGC: the compiler's processes are short, and collecting garbage
    # is a good part of their time.
    environment = {"GOGC": "400"} | os.environ
    environment |= {"CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": spec.toolchain, "GOWORK": "off"}
    result = subprocess.run(command, cwd=spec.module, env=environment, capture_output=True, text=True)
    missing = [name for name in names if not (target / name).is_file()]
    if result.returncode or missing:
        tail = "\n".join(result.stderr.strip().splitlines()[-15:])
        raise CannotRun(f"building {', '.join(missing) or spec.name} failed; the compiler said:\n{tail}")

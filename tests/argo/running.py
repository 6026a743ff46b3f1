"""Argo CD as four processes of this machine: its controller, repository server and API server, and their Redis.

They are what Argo CD's images run; only that they are outside the cluster is special, and that nobody has to log in.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from localcluster import parts, toolchain
from tests.support.kubectl import ROOT, Json, Kubectl, binary, command
from tests.support.waiting import wait_for

NAMESPACE = "argocd"
KINDS = ("applications", "appprojects", "applicationsets")


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    found = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in found]
    for each in found:
        each.close()
    return ports


class Repository:
    """A repository of a team, on this machine's disk: a copy of what the page tells people to put into theirs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"file://{path}"
        path.mkdir()
        for part in ("argo", "charts", "examples"):
            shutil.copytree(ROOT / part, path / part)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "team")
        self.git("config", "user.email", "team@example.com")
        self.commit("the factory")

    def git(self, *args: str) -> str:
        return command(["git", "-C", str(self.path), *args]).strip()

    def commit(self, message: str) -> str:
        """Commit everything that differs; returns the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def write(self, file: str, content: Json) -> None:
        path = self.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace what must be there."""
        path = self.path / file
        text = path.read_text()
        assert old in text, (file, old)
        path.write_text(text.replace(old, new))


class Watch:
    """What every Application has gone through: lines of sync, health and phase, in order."""

    def __init__(self, kubectl: Kubectl, path: str) -> None:
        columns = "{.metadata.name} {.status.sync.status} {.status.health.status} {.status.operationState.phase}"
        arguments = ["get", "applications.argoproj.io", "--watch", "-o", f'jsonpath={columns}{{"\\n"}}']
        self._process = subprocess.Popen(
            [path, "--kubeconfig", kubectl.kubeconfig, "-n", NAMESPACE, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lines: list[tuple[str, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            name, _, told = line.strip().partition(" ")
            if (name, told) not in self._lines[-1:]:
                self._lines.append((name, told))

    def mark(self) -> int:
        """Now, for `since`."""
        return len(self._lines)

    def seen(self, name: str, since: int = 0) -> list[str]:
        """What was seen of an Application."""
        assert self._process.poll() is None, "the watch has ended: nothing is seen"
        return [told for each, told in self._lines[since:] if each == name]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)
        self._reader.join(timeout=10)


class Argo:
    """It, and how people talk to it."""

    def __init__(self, home: Path, kubectl: Kubectl) -> None:
        self.home = home
        self.kubectl = kubectl.within(NAMESPACE)
        self.program = binary("argocd")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        redis, repo, server, *metrics = free_ports(6)
        self.server = f"127.0.0.1:{server}"
        self._redis, self._repo, self._metrics = f"127.0.0.1:{redis}", f"127.0.0.1:{repo}", metrics
        self.path = home / "bin"
        self.path.mkdir()
        for name in ("helm", "kustomize", "kubectl", "argocd"):
            (self.path / name).symlink_to(binary(name))
        for script in ("git-verify-wrapper.sh",):
            shutil.copy(sources() / "hack" / script, self.path)
            (self.path / script).chmod(0o755)

    def start(self) -> None:
        """All four; the controller last."""
        redis, repo, metrics = self._redis, self._repo, self._metrics
        port = repo.partition(":")[2]
        self._run("miniredis", binary("miniredis"), f"--listen={redis}")
        self._run(
            "argocd-repo-server",
            self.program,
            *(f"--port={port}", "--address=127.0.0.1", f"--metrics-port={metrics[0]}", "--metrics-address=127.0.0.1"),
            *(f"--redis={redis}", "--disable-tls", "--client-ca-path="),
        )
        common = [f"--redis={redis}", f"--repo-server={repo}", "--repo-server-plaintext", f"--namespace={NAMESPACE}"]
        common += [f"--kubeconfig={self.kubectl.kubeconfig}"]
        self._run(
            "argocd-server",
            self.program,
            *(*common, "--address=127.0.0.1", f"--port={self.server.partition(':')[2]}", "--insecure"),
            *("--disable-auth", f"--metrics-port={metrics[1]}", "--metrics-address=127.0.0.1"),
        )
        self._run(
            "argocd-application-controller",
            self.program,
            *(*common, f"--metrics-port={metrics[2]}", "--app-resync=20", "--self-heal-timeout-seconds=1"),
        )
        wait_for("Argo CD to answer", lambda: self._answers(), bool, seconds=90)

    def _answers(self) -> bool:
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} has ended: {self.log(name)[-3000:]}"
        try:
            with socket.create_connection(("127.0.0.1", int(self.server.partition(":")[2])), timeout=1):
                return True
        except OSError:
            return False

    def _run(self, name: str, program: str, *args: str) -> None:
        scratch = self.home / "tmp"
        (scratch / "plugins").mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "PATH": f"{self.path}:{os.environ['PATH']}",
            "ARGOCD_BINARY_NAME": name,
            "ARGOCD_FAKE_IN_CLUSTER": "true",
            "ARGOCD_GPG_ENABLED": "false",
            "ARGOCD_TLS_DATA_PATH": str(scratch),
            "ARGOCD_SSH_DATA_PATH": str(scratch),
            "ARGOCD_PLUGINSOCKFILEPATH": str(scratch / "plugins"),
            "KUBECONFIG": self.kubectl.kubeconfig,
            "TMPDIR": str(scratch),
            "HOME": str(scratch),
        }
        with (self.home / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                # However the tests end, these end with them: a second controller would sync as well.
                ["setpriv", "--pdeathsig", "KILL", "--", program, *args],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=scratch,
            )

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text()

    def stop(self) -> None:
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)

    def shell(self, line: str, directory: Path) -> str:
        """A line as it stands on the page, typed where the team's repository is."""
        environment = {"PATH": f"{self.path}:{os.environ['PATH']}", "KUBECONFIG": self.kubectl.kubeconfig}
        environment |= {"ARGOCD_SERVER": self.server, "ARGOCD_OPTS": "--plaintext", "HOME": str(self.home)}
        done = subprocess.run(
            ["bash", "-euc", line], cwd=directory, env={**os.environ, **environment}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, *applications: Json) -> None:
        self.kubectl.apply(*applications)

    def app(self, name: str) -> Json:
        return self.kubectl.get("applications.argoproj.io", name)

    def health(self, name: str) -> dict[str, tuple[str, str]]:
        """What Argo CD shows of each object of an Application, by "Kind/name": health and message."""
        url = f"http://{self.server}/api/v1/applications/{name}/resource-tree"
        with urllib.request.urlopen(url, timeout=30) as answer:
            nodes = json.load(answer)["nodes"]
        told = {f"{node['kind']}/{node['name']}": node.get("health", {}) for node in nodes}
        return {each: (found.get("status", ""), found.get("message", "")) for each, found in told.items()}

    def refresh(self, *names: str) -> None:
        """Have the repository looked at now, and everything compared with it; returns when that is done."""
        mark = "argocd.argoproj.io/refresh"
        self.kubectl.run("annotate", "applications.argoproj.io", *names, f"{mark}=normal", "--overwrite")
        wait_for(
            f"{', '.join(names)} to be compared",
            lambda: [name for name in names if mark in self.app(name)["metadata"].get("annotations", {})],
            lambda left: not left,
            seconds=90,
        )

    def wait(self, name: str, health: str = "Healthy", *, revision: str = "", seconds: float = 120) -> Json:
        """Wait until an Application is in sync with a commit, its operation done, and its health as it is to be."""
        return wait_for(
            f"{name} to be Synced and {health}",
            lambda: self.app(name),
            lambda found: (
                state(found) == ("Synced", health, "Succeeded")
                and found["status"]["sync"].get("revision", "").startswith(revision)
                and found["status"]["operationState"]["syncResult"]["revision"].startswith(revision)
            ),
            seconds=seconds,
            every=0.5,
        )

    def delete(self, *names: str, seconds: float = 120) -> None:
        """With everything that they have made."""
        self.kubectl.run("delete", "applications.argoproj.io", *names, "--ignore-not-found", "--wait=false")
        wait_for(
            f"Applications {', '.join(names)} to be gone",
            lambda: [found for found in map(self.app, names) if found],
            lambda left: not left,
            seconds=seconds,
            every=0.5,
        )


def state(application: Json) -> tuple[str, str, str]:
    """Sync, health and the phase of the last operation."""
    found = application.get("status", {})
    parts = (found.get("sync", {}), found.get("health", {}))
    return (*(part.get("status", "") for part in parts), found.get("operationState", {}).get("phase", ""))


def application(file: Path, repository: Repository, **changes: Any) -> Json:
    """An Application of the examples, of this repository; keywords replace fields of its spec."""
    found = dict(yaml.safe_load(file.read_text()))
    found["spec"]["source"]["repoURL"] = repository.url
    found["spec"] |= changes
    return found


def sources() -> Path:
    """Argo CD's own files, as they are in the module that the program is built from."""
    go, module = str(toolchain.ensure_go()), str(parts.part("argocd").module)
    told = command([go, "-C", module, "mod", "download", "-json", "github.com/argoproj/argo-cd/v3"], GOTOOLCHAIN="auto")
    return Path(json.loads(told)["Dir"])


@contextmanager
def installed(home: Path, kubectl: Kubectl) -> Iterator[Argo]:
    """Argo CD's kinds and settings in the cluster and its processes here; afterwards nothing of them is left."""
    manifests = sources() / "manifests"
    remove(kubectl)  # what a run that was killed has left
    kubectl.run("create", "namespace", NAMESPACE)
    within = kubectl.within(NAMESPACE)
    try:
        for kind in KINDS:
            kubectl.run("apply", "--server-side", "-f", str(manifests / f"crds/{kind.removesuffix('s')}-crd.yaml"))
        for name in ("argocd-cm", "argocd-secret", "argocd-rbac-cm", "argocd-cmd-params-cm"):
            within.run("apply", "-f", str(manifests / f"base/config/{name}.yaml"))
        argo = Argo(home, kubectl)
        try:
            argo.start()
            yield argo
        finally:
            argo.stop()
    finally:
        remove(kubectl)


def remove(kubectl: Kubectl) -> None:
    """All of Argo CD in the cluster, and its Applications without what they have made."""
    within = kubectl.within(NAMESPACE)
    for kind in KINDS:
        # Who would take the finalizers away is gone.
        for name in within.run("get", f"{kind}.argoproj.io", "-o", "name", check=False).out.split():
            within.run("patch", name, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=90s")
    kinds = [f"{kind}.argoproj.io" for kind in KINDS]
    kubectl.run("delete", "crd", *kinds, "--ignore-not-found", "--timeout=60s")

"""The CRDs as a release of their own: adopted, upgraded, and kept with every object, on an API server of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest
import yaml

from localcluster.controlplane import ControlPlane
from tests.cluster import objects
from tests.support.chart import CHART
from tests.support.kubectl import ROOT, Json, Kubectl, binary

CRD = ("crd", "trainingjobs.aifactory.dev")
OWNER = ("meta.helm.sh/release-namespace", "meta.helm.sh/release-name")
ADOPT = ("upgrade", "--install", "aifactory-crds", str(ROOT / "charts/aifactory-crds"))
Helm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as found:
        yield found


@pytest.fixture(scope="module")
def cluster(plane: ControlPlane) -> Kubectl:
    return Kubectl(binary("kubectl"), str(plane.kubeconfig))


@pytest.fixture(scope="module")
def helm(plane: ControlPlane) -> Helm:
    def run(*args: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
        command = [binary("helm"), "--kubeconfig", str(plane.kubeconfig), *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert bool(done.returncode) is fails, done.stdout + done.stderr
        return done

    return run


def owner(cluster: Kubectl) -> str:
    annotations = cluster.get(*CRD)["metadata"].get("annotations", {})
    return "/".join(annotations.get(name, "") for name in OWNER)


def categories(cluster: Kubectl) -> Json:
    return dict(cluster.get(*CRD)["spec"]["names"])


def test_the_crds_go_from_hand_to_hand_and_keep_every_object(cluster: Kubectl, helm: Helm) -> None:
    # Applied by hand, from a release in which there was no category yet.
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        older = yaml.safe_load(path.read_text())
        older["spec"]["names"].pop("categories")
        cluster.apply(older)
    cluster.run("wait", "--for=condition=Established", *CRD, "--timeout=30s")
    cluster.apply(objects.job("kept", ["true"]))
    uid = cluster.get("tjob", "kept")["metadata"]["uid"]

    assert "exists and cannot be imported into the current release" in helm(*ADOPT, fails=True).stderr
    helm(*ADOPT, "--take-ownership", "--force-conflicts")
    assert owner(cluster) == "default/aifactory-crds"
    assert "categories" in categories(cluster), "what Helm adopts it brings up to date"

    # The operator's chart leaves them alone, and says so when it is not told to.
    refused = helm("install", "aifactory", str(CHART), fails=True).stderr
    assert "are those of release aifactory-crds in namespace default: add --set crds.install=false" in refused
    kept = helm("uninstall", "aifactory-crds").stdout
    assert all(f"{plural}.aifactory.dev" in kept for plural in ("trainingjobs", "modelversions", "inferencepools"))
    assert cluster.get("tjob", "kept")["metadata"]["uid"] == uid

    # That release is gone: the operator's chart takes them by the command that it names.
    takes_over = helm("install", "aifactory", str(CHART), fails=True).stderr.strip().rpartition("kubectl ")[2]
    cluster.run(*takes_over.split())
    helm("install", "aifactory", str(CHART))
    assert owner(cluster) == "default/aifactory"
    # And from there to their own chart again: what the operator's no longer has is kept.
    helm(*ADOPT, "--take-ownership", "--force-conflicts")
    helm("upgrade", "aifactory", str(CHART), "--set", "crds.install=false")
    assert owner(cluster) == "default/aifactory-crds"
    assert cluster.get("tjob", "kept")["metadata"]["uid"] == uid

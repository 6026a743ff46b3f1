"""Fixtures: Argo CD, a team's repository, the operator as Argo CD installs it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest

from tests.argo.running import Argo, Repository, Watch, installed
from tests.cluster.conftest import SYSTEM, cluster, helm, install, kubeconfig, leaving, namespace
from tests.support.kubectl import ROOT, Kubectl, binary

__all__ = ["cluster", "helm", "kubeconfig", "leaving", "namespace"]
APPLICATIONS = ROOT / "examples/argocd/applications"
PAGE = (ROOT / "docs/argocd.md").read_text()


def lines_of_the_page() -> list[str]:
    """Every command that the page shows."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]


class Page:
    """Runs the commands of the page, each as it stands there, and knows which it has run."""

    def __init__(self, argo: Argo, repository: Repository) -> None:
        self._argo, self._repository = argo, repository
        self.ran: list[str] = []

    def run(self, beginning: str) -> str:
        (line,) = (line for line in lines_of_the_page() if line.startswith(beginning))
        self.ran.append(line)
        return self._argo.shell(line, self._repository.path)


@pytest.fixture(scope="session")
def argo(cluster: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Argo]:
    """Argo CD, running."""
    with installed(tmp_path_factory.mktemp("argo"), cluster) as running:
        yield running


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The team's."""
    made = Repository(tmp_path_factory.mktemp("git") / "factory")
    url = "https://git.example.com/team/factory.git"
    for file in (made.path / "examples/argocd/applications").iterdir():
        made.edit(str(file.relative_to(made.path)), url, made.url)
    made.edit("examples/argocd/factory/training.yaml", "--steps=300", "--steps=20")
    made.commit("short trainings")
    return made


@pytest.fixture(scope="session")
def page(argo: Argo, repository: Repository) -> Page:
    """The page, with what it asks for first done."""
    made = Page(argo, repository)
    made.run("kubectl -n argocd apply --server-side")
    return made


@pytest.fixture(scope="session")
def watch(argo: Argo) -> Iterator[Watch]:
    """What becomes of Applications."""
    made = Watch(argo.kubectl, binary("kubectl"))
    yield made
    made.stop()


@pytest.fixture(scope="session")
def operator(argo: Argo, page: Page, watch: Watch, cluster: Kubectl, helm: Callable[..., str]) -> Iterator[Kubectl]:
    """The operator, installed by Argo CD from the chart; in the end by Helm, as other suites want it."""
    install_by_helm(helm, cluster)  # over whatever is there, also what a run has left that was killed
    helm("uninstall", "aifactory", "-n", SYSTEM, "--wait")
    try:
        page.run("kubectl apply -f examples/argocd/applications/operator.yaml")
        argo.wait("aifactory")
        yield cluster.within(SYSTEM)
    finally:
        argo.delete("aifactory")
        install_by_helm(helm, cluster)


def install_by_helm(helm: Callable[..., str], cluster: Kubectl) -> None:
    """Install the chart where Argo CD has had it: the CRDs are still there, and are Helm's alone afterwards."""
    install(helm, "--take-ownership", "--force-conflicts")
    for path in (ROOT / "crds").iterdir():
        name = path.stem
        found = json.loads(cluster.run("get", "crd", name, "-o", "json", "--show-managed-fields").out)
        others = [entry for entry in found["metadata"]["managedFields"] if entry["manager"] != "argocd-controller"]
        patch = json.dumps({"metadata": {"managedFields": others}})
        cluster.run("patch", "crd", name, "--type=merge", "-p", patch)


@pytest.fixture(scope="session")
def factory(argo: Argo, page: Page, operator: Kubectl, leaving: list[str], cluster: Kubectl) -> Iterator[Kubectl]:
    """Namespace `factory`, in which the Application of that name trains and serves."""
    page.run("kubectl apply -f examples/argocd/applications/factory.yaml")
    try:
        yield cluster.within("factory")
    finally:
        argo.delete("factory", "production")
        leaving.append("factory")
        cluster.run("delete", "namespace", "factory", "--wait=false", "--ignore-not-found")

"""Fixtures: Kueue, the operator beside it, two teams with the queues of the page."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import SYSTEM, cluster, helm, install, kubeconfig, leaving
from tests.kueue.running import installed
from tests.support.kubectl import ROOT, Kubectl, binary

__all__ = ["cluster", "helm", "kubeconfig", "leaving"]
TEAMS = ("team-a", "team-b")
PAGE = (ROOT / "docs/kueue.md").read_text()


def lines_of_the_page() -> list[str]:
    """Every command that the page shows."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines()]


class Page:
    """Runs the commands of the page, each as it stands there, and knows which it has run."""

    def __init__(self, kubectl: Kubectl, home: Path) -> None:
        self._environment = {"KUBECONFIG": kubectl.kubeconfig, "PATH": f"{home}:/usr/bin:/bin", "HOME": str(home)}
        (home / "kubectl").symlink_to(binary("kubectl"))
        self.ran: list[str] = []

    def run(self, line: str) -> str:
        assert line in lines_of_the_page(), line
        self.ran.append(line)
        done = subprocess.run(
            ["bash", "-euc", line], cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=150
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def page(cluster: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(cluster, tmp_path_factory.mktemp("bin"))


@pytest.fixture(scope="session")
def kueue(cluster: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """Kueue, running."""
    try:
        with installed(tmp_path_factory.mktemp("kueue"), cluster) as within:
            yield within
    finally:
        # An operator that has seen Kueue goes on looking for it.
        cluster.within(SYSTEM).run("rollout", "restart", "deployment/aifactory-operator", check=False)


@pytest.fixture(scope="session")
def operator(kueue: Kubectl, cluster: Kubectl, helm: Callable[..., str], page: Page) -> Kubectl:
    """The operator of this checkout, which has looked for Kueue when it started."""
    install(helm)
    system = cluster.within(SYSTEM)
    page.run("kubectl -n aifactory-system rollout restart deployment/aifactory-operator")
    system.run("rollout", "status", "deployment/aifactory-operator", "--timeout=120s", timeout=150)
    return system


@pytest.fixture(scope="session")
def teams(operator: Kubectl, page: Page, cluster: Kubectl, leaving: list[str]) -> Iterator[dict[str, Kubectl]]:
    """Two teams that share eight GPUs, as the page sets them up."""
    cluster.run("delete", "namespace", *TEAMS, "--ignore-not-found", "--timeout=150s", timeout=180)
    try:
        for team in TEAMS:
            page.run(f"kubectl create namespace {team}")
            cluster.run("label", "namespace", team, "pod-security.kubernetes.io/enforce=restricted")
        page.run("kubectl apply -f examples/kueue/queues.yaml")
        yield {team: cluster.within(team) for team in TEAMS}
    finally:
        leaving.extend(TEAMS)
        cluster.run("delete", "namespace", *TEAMS, "--ignore-not-found", "--wait=false")
        cluster.run("delete", "-f", str(ROOT / "examples/kueue/queues.yaml"), "--ignore-not-found", "--wait=false")

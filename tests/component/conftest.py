"""A throw-away control plane for the session, and the operator as its real process."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localcluster.controlplane import ControlPlane
from tests.support.kubectl import ROOT, Kubectl, binary
from tests.support.waiting import wait_for

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd, kube-apiserver and kube-controller-manager (garbage collection, service accounts); no node."""
    flags = ["--feature-gates=GenericWorkload=true", "--runtime-config=scheduling.k8s.io/v1beta1=true"]
    with ControlPlane(controllers=True, extra_flags=flags) as plane:
        kubectl = Kubectl(binary("kubectl"), str(plane.kubeconfig))
        kubectl.run("apply", "-f", str(ROOT / "crds"))
        kubectl.run("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield plane


@pytest.fixture(scope="session")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """kubectl for the control plane."""
    return Kubectl(binary("kubectl"), str(control_plane.kubeconfig))


@pytest.fixture
def ns(kubectl: Kubectl) -> Iterator[Kubectl]:
    """A namespace of the test's own."""
    name = f"c{next(_numbers)}"
    kubectl.run("create", "namespace", name)
    within = kubectl.within(name)
    wait_for("the default service account", lambda: within.get("serviceaccount", "default"), bool, seconds=30)
    yield within
    kubectl.run("delete", "namespace", name, "--wait=false")


class Operator:
    """One operator process."""

    def __init__(self, kubeconfig: str, log: Path, *args: str, module: str = "aifactory.app", **env: str) -> None:
        self.http_port, self.progress_port = free_port(), free_port()
        self.log = log
        ports = [f"--http-port={self.http_port}", f"--progress-port={self.progress_port}"]
        path = os.pathsep.join((str(ROOT / "operator"), str(ROOT)))
        environment = {**os.environ, **env, "KUBECONFIG": kubeconfig, "PYTHONPATH": path}
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *ports, *args], env=environment, stderr=stream, stdout=stream
            )

    def wait_ready(self, seconds: float = 60) -> None:
        """Wait until every store is complete."""
        wait_for(
            "the operator to be ready",
            lambda: (self.fetch("/readyz"), self.process.poll(), self.words()),
            lambda seen: seen[0] == "ok\n",
            never=lambda seen: seen[1] is not None,
            seconds=seconds,
        )

    def fetch(self, path: str) -> str:
        """A page of its own server; empty when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError):
            return ""

    def words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(timeout=10)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@pytest.fixture(scope="session")
def start_operator(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Operator]]:
    """Starts operator processes; those that still run at the end are killed."""
    started: list[Operator] = []

    def start(*args: str, module: str = "aifactory.app") -> Operator:
        log = tmp_path_factory.mktemp("operator") / "log"
        found = Operator(str(control_plane.kubeconfig), log, *args, module=module)
        started.append(found)
        return found

    yield start
    for process in started:
        if process.process.poll() is None:
            process.kill()


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""One operator behind a proxy, run as a kubelet runs it: started again whenever it ends."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.component.conftest import Operator
from tests.component.faults.proxy import FaultProxy
from tests.support.waiting import wait_for


@dataclass(frozen=True, slots=True)
class Exit:
    """An end of the process that nobody asked for."""

    at: float
    code: int
    words: str


class Site:
    """An operator and what stands between it and the API server.

    Args:
        proxy: the way to the API server.
        kubeconfig: what the operator is given; usually the proxy's.
        directory: for its log.
        args: its options.
        pod: the name of its pod, which a container that is started again keeps; "" for none.
    """

    def __init__(self, proxy: FaultProxy, kubeconfig: Path, directory: Path, *args: str, pod: str = "") -> None:
        self.proxy = proxy
        self.exits: list[Exit] = []
        self.restart = True
        self._start = lambda: Operator(str(kubeconfig), directory / "log", *args, POD_NAME=pod)
        self._closing = threading.Event()
        self.operator = self._start()
        self._keeper = threading.Thread(target=self._keep, name="kubelet", daemon=True)
        self._keeper.start()

    def _keep(self) -> None:
        while not self._closing.wait(0.05):
            code = self.operator.process.poll()
            if code is None or not self.restart:
                continue
            self.exits.append(Exit(time.monotonic(), code, self.operator.words()))
            self.operator = self._start()

    def wait_ready(self, seconds: float = 90) -> None:
        """Wait until its stores are complete."""
        wait_for(
            "the operator to be ready",
            lambda: (self.operator.fetch("/readyz"), [exit.code for exit in self.exits], self.operator.words()),
            lambda seen: seen[0] == "ok\n",
            seconds=seconds,
        )

    def leads(self) -> bool:
        """Whether it acts, by its own account."""
        return 'leader_election_master_status{name="aifactory.dev"} 1.0' in self.operator.fetch("/metrics")

    def wait_leading(self, seconds: float = 90) -> None:
        """Wait until it acts."""
        wait_for(
            "the operator to lead",
            lambda: (self.leads(), self.operator.words()),
            lambda seen: seen[0],
            seconds=seconds,
        )

    @property
    def log(self) -> str:
        """Everything it has said."""
        return self.operator.log.read_text(errors="replace")

    def bugs(self) -> str:
        """Tracebacks that go through our own code. kopf logs its own with one when its watch is refused."""
        parts = self.log.split("Traceback (most recent call last):")[1:]
        return "\n".join(part for part in parts if "/operator/aifactory/" in part)

    def pods_created(self, namespace: str) -> list[str]:
        """Names aside, how many pods it has created in a namespace: paths of the creates that succeeded."""
        path = f"/api/v1/namespaces/{namespace}/pods"
        return [seen.path for seen in self.proxy.writes if (seen.method, seen.path) == ("POST", path)]

    def close(self) -> None:
        """End it in order, or not at all if it does not."""
        self._closing.set()
        self._keeper.join(timeout=10)
        process = self.operator.process
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=30)
            finally:
                process.kill()

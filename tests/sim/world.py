"""Everything together: a cluster, its parts, the operator's processes, and time.

The methods change something or let time pass; `check` raises what has gone wrong so far.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from aifactory.api import names
from aifactory.engine.domain import Domain
from aifactory.kube.resources import (
    GATEWAYS,
    GRPCROUTES,
    HTTPROUTES,
    NODES,
    PODGROUPS,
    PODS,
    PVCS,
    SERVICES,
    Key,
    Resource,
)
from aifactory.serving.measure import Analysed, Measurement
from aifactory.serving.state import Report
from tests.sim.cluster import Body, Cluster, is_ready, key_of, labels_of
from tests.sim.connection import Connection
from tests.sim.controllers import DeploymentController, GarbageCollector, GatewayController, make_gateway
from tests.sim.invariants import Invariants
from tests.sim.manifests import NAMESPACE, OTHER
from tests.sim.nodes import Nodes
from tests.sim.operator import SIM_DOMAINS, SimProcess
from tests.sim.programs import Programs
from tests.sim.queues import SERVED, Queues
from tests.sim.strangers import HOSTILE
from tests.support.faketime import FakeTimeLoop

MODEL_STORE = "models"
"""The claim that hand-made versions lie in."""


BETWEEN_TRIES_SECONDS = 0.05
"""After a refusal the answer has come by now, and it is not yet time for the next try."""
CRASH_LOOP_SECONDS = 20.0
"""A process that ends within so long of its start is started again later each time."""
CATCHING_UP_SECONDS = 10.0
"""For so long a process that was stopped may still do what it would have done before."""
SQUATTER = {"squatter": "yes"}
"""Labels of somebody else's objects that have names of ours."""


class World:
    """One simulated cluster with operators in it. Close it at the end.

    Args:
        seed: of every choice the world makes by chance.
        replicas: operator processes; several elect a leader.
        gangs: the API server serves PodGroups.
        quota: pods that a simulated Kueue lets train at once, of jobs in a queue; None: there is no Kueue.
        lease_seconds: how long a silent leader keeps its lease; longer than usual, because renewals cost real time.
        kinds: what the operators reconcile.
    """

    def __init__(
        self,
        seed: int,
        *,
        replicas: int = 1,
        gangs: bool = True,
        quota: int | None = None,
        lease_seconds: float = 60.0,
        kinds: Sequence[type[Domain[Any, Any]]] = SIM_DOMAINS,
    ) -> None:
        self.kinds = kinds
        self.loop = FakeTimeLoop()
        self.loop.set_exception_handler(self._unhandled)
        self.rng = random.Random(seed)
        self.cluster = Cluster(self.loop, self.rng, gangs=gangs)
        self.invariants = Invariants(self.cluster)
        self.programs = Programs(self.rng)
        self.nodes = Nodes(self.cluster, self.programs, self.rng)
        self.invariants.served, self.invariants.mute = self.programs.served, self.programs.mute
        self.invariants.asked, self.invariants.demand = self.programs.asked, self.programs.demand
        GarbageCollector(self.cluster, self.rng)
        DeploymentController(self.cluster, self.rng)
        self.gateways = GatewayController(self.cluster, self.rng)
        self.invariants.led = self.gateways.led
        self.gangs = gangs
        self.served = (
            {NODES, HTTPROUTES, GRPCROUTES, GATEWAYS}
            | ({PODGROUPS} if gangs else set())
            | (SERVED if quota is not None else set())
        )
        """Optional resources that the API server serves."""
        if quota is not None:
            self.queues = Queues(self.cluster, self.rng, self.invariants.wrong, quota)
        self.replicas = replicas
        self.lease_seconds = lease_seconds
        self.processes: list[SimProcess] = []
        self.starts = 0
        self._crashes = [0] * replicas
        self.unlabelled: list[tuple[Resource, Key]] = []
        """Children that have lost the label by which we find them."""
        self.invariants.lag = lambda: math.inf if self.cluster.broken else max(map(_lag, self.processes))
        self._log = _ErrorLog(self.invariants.violations)
        self._closing = False
        for namespace in (NAMESPACE, OTHER):
            self.cluster.create(PVCS, {"metadata": {"name": MODEL_STORE, "namespace": namespace}}, "user")
            make_gateway(self.cluster, namespace)
        logging.getLogger("aifactory").addHandler(self._log)
        for _ in range(replicas):
            self.do(self._start)

    # --- Time ---

    def do(self, call: Callable[[], Any]) -> Any:
        """Call something inside the running loop."""

        async def inside() -> Any:
            return call()

        return self.loop.run_until_complete(inside())

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.check()

    def until(self, goal: Callable[[], str], seconds: float, *, step: float = 2.0) -> None:
        """Let time pass until `goal` returns ""; what it returns otherwise is why it is not reached yet."""
        deadline = self.loop.now + seconds
        while missing := goal():
            assert self.loop.now < deadline, self.tell(f"not within {seconds:.0f} s: {missing}")
            self.advance(step)

    def check(self) -> None:
        assert not self.invariants.violations, self.tell("\n".join(self.invariants.violations))

    def tell(self, what: str) -> str:
        """A message with what there is and what the operators did last."""
        pods = [
            f"  {key_of(pod)} {pod['status']['phase']} on {pod['spec'].get('nodeName')}"
            + (" terminating" if "deletionTimestamp" in pod["metadata"] else "")
            for pod in self.cluster.all(PODS)
        ]
        return "\n".join(
            [what, "Pods:", *pods, "The operators' last changes:", *(line[:400] for line in self.invariants.journal)]
        )

    # --- Operators ---

    def kill(self, number: int, *, away: float = 2.0) -> None:
        """An operator process is killed, and started anew after a while."""
        self.do(self.processes[number].kill)
        self._come_back(number, away)

    def crash_after_writes(self, number: int, writes: int) -> None:
        """An operator process is killed the moment its n-th write from now has been carried out."""
        process = self.processes[number]

        def crash() -> None:
            process.kill()
            self._come_back(number, 2.0)

        self._after_writes(number, writes, crash)

    def stop(self, number: int, seconds: float) -> None:
        """An operator process does nothing for a while, and does not know of it."""
        process = self.processes[number]
        process.loop.stop_for_a_while()
        self.loop.call_later(seconds, self._continue, process)

    def stop_after_writes(self, number: int, writes: int, seconds: float) -> None:
        """As `stop`, the moment its n-th write from now has been carried out; the answer waits for it."""
        self._after_writes(number, writes, lambda: self.stop(number, seconds))

    def stop_between_tries(self, number: int, seconds: float) -> None:
        """As `stop`, when the API server has just refused a write for a moment: it would be sent again soon."""
        process = self.processes[number]
        before, process.connection.faults.calls = process.connection.faults.calls, 1.0
        process.connection.faults.kinds = ("429", "503")

        def stop() -> None:
            process.connection.after_refusal = lambda: None
            process.connection.faults.calls = before
            self.loop.call_later(BETWEEN_TRIES_SECONDS, self.stop, number, seconds)

        process.connection.after_refusal = stop

    def _after_writes(self, number: int, writes: int, what: Callable[[], None]) -> None:
        process = self.processes[number]
        left = writes

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0 and self.processes[number] is process:
                what()

        process.connection.after_write = count

    @staticmethod
    def _continue(process: SimProcess) -> None:
        if process.loop.stopped:
            process.connection.blur(CATCHING_UP_SECONDS)
            process.loop.continue_()

    def terminate(self, number: int) -> None:
        """An operator process gets SIGTERM; another one is started when it has ended."""
        self.do(self.processes[number].terminate)

    def heal(self) -> None:
        """Faults stop; nodes, stores and quota are well."""
        for process in self.processes:
            self.do(lambda process=process: self._continue(process))
            process.connection.heal()
            process.connection.after_write = process.connection.after_refusal = lambda: None
        for node in list(self.nodes.lost):
            self.nodes.recover(node)
        self.nodes.make_room()
        for squatter in self.cluster.all(SERVICES, **SQUATTER):
            self.cluster.purge(SERVICES, key_of(squatter), "user")
        self.mend()
        self.put_labels_back()
        for resource in list(self.cluster.objects):
            for stranger in self.cluster.all(resource, **HOSTILE):
                self.cluster.purge(resource, key_of(stranger), "user")
        for claim in self.cluster.all(PVCS):
            if "deletionTimestamp" in claim["metadata"] and claim["metadata"]["name"] == names.INPUT_CLAIM:
                # Somebody takes the finalizer away: pods that train on hold up whoever needs other inputs.
                self.cluster.purge(PVCS, key_of(claim), "user")
        self.programs.store_away = self.programs.keys_refused = False
        self.programs.mute.clear()
        self.cluster.pod_quota_exhausted = False
        self.invariants.note_everywhere()

    def mend(self) -> None:
        """Every verb works again."""
        if self.cluster.broken is not None:
            self.cluster.broken = None
            for process in self.processes:
                process.connection.blur(CATCHING_UP_SECONDS)
            self.invariants.note_everywhere()

    def take_label(self, resource: Resource, child: Body) -> None:
        """Somebody edits the label by which we find our children."""
        label = {"metadata": {"labels": {names.LABEL_MANAGED_BY: self.rng.choice([None, "somebody"])}}}
        self.cluster.patch(resource, key_of(child), label, "user", resource_version=None)
        self.unlabelled.append((resource, key_of(child)))

    def put_labels_back(self) -> None:
        """And puts it back."""
        label = {"metadata": {"labels": {names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE}}}
        for resource, key in self.unlabelled:
            if key in self.cluster.objects[resource]:
                self.cluster.patch(resource, key, label, "user", resource_version=None)
        self.unlabelled.clear()

    def _start(self) -> None:
        self.processes.append(self._process(len(self.processes)))

    def _process(self, number: int) -> SimProcess:
        self.starts += 1
        connection = Connection(self.cluster, self.rng, f"operator-{number}-{self.starts}")
        connection.refused = self.invariants.note_refusal
        connection.careless = self.invariants.wrong
        connection.sending = lambda kind: self.invariants.note_sending(connection.actor, kind)
        elect = self.replicas > 1
        process = SimProcess(
            connection,
            self.rng,
            self._load_error,
            self._report,
            self._counted,
            self._in_flight,
            lambda pool: self.programs.answered[Key(*pool)],
            self._waiting,
            self.invariants.note,
            elect=elect,
            served=self.served,
            lease_seconds=self.lease_seconds,
            kinds=self.kinds,
        )
        process.task.add_done_callback(lambda _: self._ended(number, process))
        return process

    def _ended(self, number: int, process: SimProcess) -> None:
        """A process that ends by itself is started again by its kubelet, one that does so at once ever later."""
        if not process.connection.dead and not self._closing:
            process.connection.dead = True
            at_once = self.loop.now - process.started < CRASH_LOOP_SECONDS
            self._crashes[number] = self._crashes[number] + 1 if at_once else 0
            self._come_back(number, self.rng.uniform(1.0, 3.0) * min(2.0 ** self._crashes[number], 20.0))

    def _come_back(self, number: int, seconds: float) -> None:
        old = self.processes[number]

        def start() -> None:
            if not self._closing and self.processes[number] is old:
                self.processes[number] = self._process(number)
                self.processes[number].connection.faults = old.connection.faults

        self.loop.call_later(seconds, start)

    def _load_error(self, pod_uid: str) -> str:
        for pod in self.cluster.objects[PODS].values():
            if pod["metadata"]["uid"] == pod_uid:
                return self.programs.load_error(pod)
        return ""

    def _report(self, pod_uid: str) -> Report | None:
        """What a pod's agent says to who asks it now; nobody reaches one whose node is cut off."""
        for pod in self.cluster.objects[PODS].values():
            if pod["metadata"]["uid"] == pod_uid:
                return None if pod["spec"].get("nodeName") in self.nodes.lost else self.programs.report(pod)
        return None

    def _counted(self, analysed: Analysed) -> Measurement:
        """What the pods of a pool that compares two versions have counted; lost nodes are asked in vain."""
        sides = [
            [
                pod
                for pod in self.cluster.objects[PODS].values()
                if pod["metadata"]["uid"] in uids and pod["spec"].get("nodeName") not in self.nodes.lost
            ]
            for uids in (analysed.candidate, analysed.stable)
        ]
        return self.programs.counted(analysed.window, *sides)

    def _in_flight(self, pod_uid: str) -> float | None:
        """Requests in a ready pod, which has its part of its pool's; None where nobody can ask it."""
        if pod_uid in self.programs.mute:
            return None
        for pod in self.cluster.objects[PODS].values():
            if pod["metadata"]["uid"] == pod_uid and pod["spec"].get("nodeName") not in self.nodes.lost:
                key = Key(pod["metadata"]["namespace"], labels_of(pod).get(names.LABEL_POOL, ""))
                mine = {names.LABEL_POOL: key.name, names.LABEL_ROLE: names.ROLE_SERVE}
                answering = sum(map(is_ready, self.cluster.all(PODS, key.namespace, **mine)))
                return self.programs.demand.get(key, 0) / max(1, answering)
        return None

    def _waiting(self, pod_uid: str) -> int | None:
        """Requests that wait for a pod in a proxy: all of its pool's, in the one that is first by name."""
        for pod in self.cluster.objects[PODS].values():
            if pod["metadata"]["uid"] == pod_uid and pod["spec"].get("nodeName") not in self.nodes.lost:
                key = Key(pod["metadata"]["namespace"], labels_of(pod).get(names.LABEL_POOL, ""))
                mine = {names.LABEL_POOL: key.name}
                serving = self.cluster.all(PODS, key.namespace, **mine, **{names.LABEL_ROLE: names.ROLE_SERVE})
                proxies = self.cluster.all(PODS, key.namespace, **mine, **{names.LABEL_ROLE: names.ROLE_GATEWAY})
                first = min((each["metadata"]["name"] for each in proxies if is_ready(each)), default="")
                wait = first == pod["metadata"]["name"] and not any(map(is_ready, serving))
                return self.programs.demand.get(key, 0) if wait else 0
        return None

    # --- The end ---

    def close(self) -> None:
        self._closing = True
        for process in self.processes:
            self.do(process.kill)
        logging.getLogger("aifactory").removeHandler(self._log)
        loops = [self.loop, *(process.loop for process in self.processes)]
        for task in (tasks := [task for loop in loops for task in asyncio.all_tasks(loop)]):
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        what = context.get("exception") or context.get("task") or context.get("future")
        self.invariants.violations.append(f"{context['message']}: {what!r}")


def _lag(process: SimProcess) -> float:
    return math.inf if process.loop.stopped else process.connection.lag


class _ErrorLog(logging.Handler):
    """An exception in the operator's log is a defect: bad input and faults are answers, not crashes."""

    def __init__(self, violations: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._violations = violations

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._violations.append(f"the operator logged: {self.format(record)}")

"""Short words for pools and what belongs to them, and a tiny world with Deployments that really add and remove pods."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from aifactory.api import names
from aifactory.api.conditions import find
from aifactory.api.inferencepool import InferencePool, InferencePoolStatus, Throughput
from aifactory.api.reasons import ConditionType
from aifactory.engine.apply import Applied
from aifactory.engine.plan import Delete, Plan
from aifactory.serving import scaling
from aifactory.serving.autoscale import DELETION_COST
from aifactory.serving.demand import Demand
from aifactory.serving.gateway import secrets
from aifactory.serving.holding import Held
from aifactory.serving.measure import Measurement
from aifactory.serving.plan import plan_pool
from aifactory.serving.route import set_host
from aifactory.serving.shape import ANNOTATION_MODEL_VERSION, ANNOTATION_ROOM, image_of, revision_of
from aifactory.serving.state import (
    ConfigView,
    GatewayView,
    Observed,
    Parent,
    Report,
    RevisionView,
    RoutesView,
    RouteView,
    Said,
    ServingPodView,
    Settings,
    VersionView,
)
from tests.unit.plans import bodies, patches, repairs

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SETTINGS = Settings(server_image="aifactory/server:1", agent_image="aifactory/agent:1")
LATEST = {"name": "tiny", "track": "Latest"}


def pool(*, replicas: int | None = 2, wish: dict[str, Any] | None = None, **spec: Any) -> InferencePool:
    """InferencePool chat as the API server stores it; keywords are fields of its spec, written as in YAML."""
    metadata = {"name": "chat", "namespace": "ns", "uid": "pool-uid", "generation": 1}
    if spec.pop("deleting", False):
        metadata["deletionTimestamp"] = NOW
    status = spec.pop("status", {})
    if replicas is not None:
        spec["replicas"] = replicas
    return InferencePool.model_validate(
        {"metadata": metadata, "spec": {"models": [wish or LATEST], **spec}, "status": status}
    )


def version(number: int, **changes: Any) -> VersionView:
    """ModelVersion tiny-v<number>, Ready unless told otherwise."""
    made = {
        "name": f"tiny-v{number}",
        "model": "tiny",
        "version": number,
        "uri": f"pvc://aifactory-models/tiny/{number}",
        "digest": f"sha256:{number:064}",
        "format": "huggingface",
        "ready": True,
    }
    return VersionView(**{**made, **changes})


def conditions(status: InferencePoolStatus) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition."""
    return {found.type: (found.status, found.reason) for found in status.conditions}


def message(status: InferencePoolStatus, type_: ConditionType = ConditionType.READY) -> str:
    """A condition's message."""
    found = find(status.conditions, type_)
    assert found is not None, f"no condition {type_}"
    return found.message


@dataclass
class Pod:
    """A serving pod."""

    name: str
    revision: str
    ready: bool = False
    terminating: bool = False
    trouble: dict[str, Any] = field(default_factory=dict)
    told: str = ""
    report: Report | None = None
    silent: bool = False
    in_flight: float | None = None
    cost: int = 0
    """What its deletion costs, for the ReplicaSet."""
    live: bool = True
    """Clients are led to it when it is ready."""


@dataclass
class Deployment:
    """A revision's Deployment."""

    child: Applied
    revision: str
    wanted: int
    model_version: str = ""
    refusal: str = ""
    room: int = 0
    role: str = names.ROLE_SERVE


@dataclass
class World:
    """A cluster of dictionaries. After every change of pods the invariants of a surge are checked."""

    pool: InferencePool
    versions: dict[int, VersionView] = field(default_factory=dict)
    deployments: dict[str, Deployment] = field(default_factory=dict)
    configs: dict[str, ConfigView] = field(default_factory=dict)
    desired: dict[str, Any] = field(default_factory=dict)
    """What is in them."""
    pods: list[Pod] = field(default_factory=list)
    service: Applied | None = None
    budget: Applied | None = None
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    """NetworkPolicies, as they were written."""
    gateway: GatewayView = field(default_factory=GatewayView)
    files: dict[str, str] = field(default_factory=dict)
    """What is in the gateway's ConfigMap."""
    routes: RoutesView = field(default_factory=RoutesView)
    route_bodies: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By their kind, as they were written."""
    led: dict[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    """Where Gateways lead requests: by the route of that kind, as they have taken it last."""
    settings: Settings = SETTINGS
    may_upgrade: bool = True
    throughput: Throughput | None = None
    measured: Measurement | None = None
    demand: Demand | None = None
    held: Held | None = None
    now: datetime = NOW
    events: list[str] = field(default_factory=list)
    check: Callable[[], None] = lambda: None
    due_at_once: bool = False
    """The last plan asked to be followed by another at once."""
    _numbers: Any = field(default_factory=itertools.count)
    _children: dict[str, Applied] = field(default_factory=dict)
    """Of the policies."""

    @property
    def status(self) -> InferencePoolStatus:
        return self.pool.status

    @property
    def wanted(self) -> int:
        return scaling.wanted(self.pool)

    def revision(self, number: int) -> str:
        """The revision in which the pool would serve that version."""
        return revision_of(self.pool, self.versions[number], image_of(self.pool, self.settings))

    def publish(self, number: int, **changes: Any) -> None:
        """A ModelVersion comes or changes."""
        self.versions[number] = version(number, **changes)

    def live(self, number: int | None = None) -> list[Pod]:
        """Pods that are not on their way out."""
        wanted = None if number is None else self.revision(number)
        return [pod for pod in self.pods if not pod.terminating and wanted in (None, pod.revision)]

    def ready(self) -> int:
        return sum(pod.ready for pod in self.live() if pod.live)

    def shadows(self) -> list[Pod]:
        """Pods that get copies of requests."""
        return [pod for pod in self.live() if not pod.live]

    def observed(self) -> Observed:
        revisions: list[RevisionView] = []
        shadows: list[RevisionView] = []
        for deployment in self.deployments.values():
            pods = [pod for pod in self.live() if pod.revision == deployment.revision]
            sets = shadows if deployment.role == names.ROLE_SHADOW else revisions
            sets.append(
                RevisionView(
                    deployment.child,
                    deployment.revision,
                    deployment.wanted,
                    replicas=len(pods),
                    ready=sum(pod.ready for pod in pods),
                    refusal=deployment.refusal,
                    model_version=deployment.model_version,
                    room=deployment.room,
                )
            )
        return Observed(
            pool=self.pool,
            settings=self.settings,
            may_upgrade=self.may_upgrade,
            versions=tuple(self.versions.values()),
            revisions=tuple(revisions),
            shadows=tuple(shadows),
            configs=tuple(self.configs.values()),
            pods=tuple(
                ServingPodView(
                    pod.name,
                    pod.revision,
                    pod.ready,
                    pod.terminating,
                    told=pod.told,
                    report=pod.report,
                    silent=pod.silent,
                    in_flight=pod.in_flight,
                    **({"node": "node-a"} if not pod.trouble else {}),
                    **pod.trouble,
                )
                for pod in self.pods
            ),
            service=self.service,
            budget=self.budget,
            policies=tuple(self._children.values()),
            gateway=self.gateway,
            routes=self.routes,
            throughput=self.throughput,
            measured=self.measured,
            demand=self.demand,
            held=self.held,
        )

    def step(self) -> Plan[InferencePoolStatus]:
        """Decide once and let it come true. The status takes the way through JSON, as in the API server."""
        decision = plan_pool(self.observed(), self.now)
        assert decision is not None
        targets = [(type(write), write.kind, write.name) for write in decision.writes]
        assert len(targets) == len(set(targets)), f"one thing is written twice: {targets}"
        for body in bodies(decision):
            self._create(dict(body))
        for again in repairs(decision):
            self._apply(dict(again.body), again.uid)
        for patch in patches(decision):
            if patch.kind == "Deployment":
                self.deployments[patch.name].wanted = patch.body["spec"]["replicas"]
            elif any(pod.name == patch.name for pod in self.gateway.pods):
                self._nudge_proxy(patch.name, patch.body["metadata"]["labels"][names.LABEL_ASSIGNMENT])
            else:
                assert patch.kind == "Pod"
                (pod,) = (pod for pod in self.pods if pod.name == patch.name)
                if notes := patch.body["metadata"].get("annotations"):
                    pod.cost = int(notes[DELETION_COST])
                    continue
                pod.told = patch.body["metadata"]["labels"][names.LABEL_ASSIGNMENT]
                assert pod.told == self.assigned(pod.revision), "the kubelet would bring it something else"
        for gone in (write for write in decision.writes if isinstance(write, Delete)):
            if gone.kind == "NetworkPolicy":
                assert self._children.pop(gone.name).uid == gone.uid
                del self.policies[gone.name]
                continue
            if gone.kind in ("HTTPRoute", "GRPCRoute"):
                assert self._route(gone.kind).child.uid == gone.uid
                self._set_route(gone.kind, None)
                del self.route_bodies[gone.kind]
                self.led.pop(gone.kind, None)
                continue
            if self._remove_of_gateway(gone):
                named = [host for kind in self.route_bodies for host, _ in self._route(kind).leads]
                assert gone.name not in named, "a route leads to the Service"
                continue
            owner: dict[str, Any] = self.deployments if gone.kind == "Deployment" else self.configs
            assert owner.pop(gone.name).child.uid == gone.uid
        self.events += [f"{event.reason}: {event.message}" for event in decision.events]
        written = InferencePoolStatus.model_validate(decision.status.dump())
        assert written == decision.status, "what is written is what comes back"
        before, after = self.status.stable, written.stable
        moved = (before.revision if before else "") != (after.revision if after else "")
        assert decision.urgent or not moved, "who takes the traffic is what later steps build on"
        if moved and after is not None and written.rollout is not None and written.rollout.strategy == "HotSwap":
            ready = [pod for pod in self.live() if pod.ready and pod.revision in (after.deployment or after.revision)]
            assert all(self.says(pod) == after.revision for pod in ready), "a version is served that was not confirmed"
        flags = [conditions(written)[type_][0] for type_ in ("Ready", "Reconciling", "Stalled")]
        assert flags.count("True") == 1, f"one of Ready, Reconciling and Stalled: {flags}"
        if (spec := self.pool.spec.gateway) is not None and spec.mode == "Envoy" and flags[0] == "True":
            assert self.gateway.routed, "it is Ready and its Service does not lead to the gateway"
            assert self.gateway.ready >= (spec.replicas or 2), "it is Ready and proxies are missing"
        if spec is not None and spec.mode == "GatewayAPI" and flags[0] == "True":
            assert self.led.get("HTTPRoute"), "it is Ready and no Gateway leads to it"
        self.pool = self.pool.model_copy(update={"status": written})
        self.due_at_once = decision.requeue_after == 0
        self._deploy()
        return decision

    def settle(self) -> Plan[InferencePoolStatus]:
        """Decide until nothing is left to do now; returns the last decision, which changed nothing."""
        for _ in range(60):
            before = self.observed()
            decision = self.step()
            if self.observed() == before:
                assert not decision.writes
                assert decision.requeue_after != 0, "it asks to be called at once and changes nothing"
                return decision
        raise AssertionError(f"no end after 60 steps: {self.status}")

    def assigned(self, pods: str) -> str:
        """The revision that a set of pods is told to serve."""
        return next((view.assigned for view in self.configs.values() if view.revision == pods), "")

    @staticmethod
    def says(pod: Pod) -> str:
        """The revision that a pod says it serves."""
        return pod.report.revision if pod.report is not None and pod.report.ready else ""

    def change_over(self, count: int = 1, *, error: str = "", seconds: float | None = 1.5) -> None:
        """So many pods have loaded what they are told to serve, one after another; with `error` they can not."""
        for _ in range(count):
            waiting = [pod for pod in self.live() if pod.ready and not self._is_over(pod)]
            if not waiting:
                return
            pod = waiting[0]
            revision = self.assigned(pod.revision)
            assert pod.told in ("", revision)
            number = next((n for n in self.versions if self.revision(n) == revision), None)
            before = pod.report.version if pod.report is not None else None
            if error:
                pod.report = Report(revision, ready=False, version=before, error=error)
            else:
                pod.report = Report(revision, ready=True, version=number, load_seconds=seconds)
            self.check()
            self.settle()

    def _is_over(self, pod: Pod) -> bool:
        assigned = self.assigned(pod.revision)
        return (
            pod.report is not None and pod.report.revision == assigned and (pod.report.ready or bool(pod.report.error))
        )

    def load(self, count: int = 1, number: int | None = None) -> None:
        """The agent brings up the model in as many pods as are told, one after another."""
        for _ in range(count):
            waiting = [pod for pod in self.live(number) if not pod.ready and not pod.trouble]
            if not waiting:
                return
            waiting[0].ready = True
            self.check()
            self.settle()

    def roll_out(self) -> None:
        """Everything that can become ready does."""
        self.settle()
        self.load(4 * (self.wanted + 1))

    def bury(self) -> None:
        """Pods that were on their way out are gone."""
        self.pods = self.live()

    def edit(self, **spec: Any) -> None:
        """The user changes fields of the spec."""
        changed = self.pool.spec.model_validate({**self.pool.spec.dump(), **spec})
        meta = self.pool.metadata.model_copy(update={"generation": self.pool.metadata.generation + 1})
        self.pool = self.pool.model_copy(update={"spec": changed, "metadata": meta})

    def pin(self, number: int) -> None:
        self.edit(models=[{"name": "tiny", "version": number}])

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def meddle(self, policy: str) -> None:
        """Somebody changes a NetworkPolicy."""
        self.policies[policy] = {**self.policies[policy], "spec": {"podSelector": {}}}
        self._children[policy] = replace(self._children[policy], edits="spec")

    def proxies(self, ready: int, *, waiting: int = 0, made_with: str | None = None, **trouble: Any) -> None:
        """So many pods of the gateway are ready, and others are not; they were made with these Secrets."""
        assert self.gateway.deployment is not None
        told = {pod.name: pod.told for pod in self.gateway.pods}
        own = secrets(self.pool) if made_with is None else made_with
        pods = [
            ServingPodView(f"gateway-{n}", own, ready=True, told=told.get(f"gateway-{n}", "")) for n in range(ready)
        ]
        pods += [ServingPodView(f"gateway-{ready + n}", "", **trouble) for n in range(waiting)]
        self.gateway = replace(self.gateway, ready=ready, pods=tuple(pods))
        self.settle()

    def take_routes(self, *, settle: bool = True, **said: Any) -> None:
        """The controllers of the Gateways look at the routes as they are; `said` is what they say, left out: yes."""
        for kind, body in self.route_bodies.items():
            view = self._route(kind)
            told = Said(view.generation, **({"accepted": True} | said))
            refs = body["spec"]["parentRefs"]
            parents = (Parent(ref.get("namespace", "ns"), ref["name"], ref.get("sectionName", "")) for ref in refs)
            self._set_route(kind, replace(view, said=dict.fromkeys(parents, told)))
            self.led[kind] = view.leads if told.accepted else ()
        self._check_led()
        if settle:
            self.settle()

    def _check_led(self) -> None:
        """A Gateway answers 503 for the part of a Service without ready pods."""
        ready = {set_host(self.pool, pod.revision) for pod in self.live() if pod.ready}
        for kind, leads in self.led.items():
            empty = [host for host, _ in leads if host not in ready | {self.pool.metadata.name}]
            assert not empty or not self.wanted, f"the {kind} leads to {empty}, without a ready pod"

    def _route(self, kind: str) -> RouteView:
        found = self.routes.http if kind == "HTTPRoute" else self.routes.grpc
        assert found is not None
        return found

    def _set_route(self, kind: str, view: RouteView | None) -> None:
        self.routes = replace(self.routes, **{"http" if kind == "HTTPRoute" else "grpc": view})

    def _write_route(self, body: dict[str, Any], child: Applied, before: RouteView | None) -> None:
        rules = body["spec"]["rules"]
        (leads,) = {tuple((ref["name"], ref["weight"]) for ref in rule["backendRefs"]) for rule in rules}
        there = {self.pool.metadata.name, *(service.name for service in self.gateway.services)}
        assert {host for host, _ in leads} <= there, "a route leads to a Service that is not there"
        self.route_bodies[body["kind"]] = body
        generation, said = (before.generation + 1, before.said) if before is not None else (1, {})
        self._set_route(body["kind"], RouteView(child, generation, leads, said))

    def _is_of_gateway(self, body: dict[str, Any]) -> bool:
        kind, name, labels = body["kind"], body["metadata"]["name"], body["metadata"]["labels"]
        if kind == "Service":
            return bool(name != self.pool.metadata.name)
        return bool(labels.get(names.LABEL_ROLE) == names.ROLE_GATEWAY)

    def _note_of_gateway(self, body: dict[str, Any], child: Applied) -> None:
        noted = body["metadata"]["annotations"].get(names.LABEL_ASSIGNMENT, "")
        match body["kind"]:
            case "Service":
                others = (each for each in self.gateway.services if each.name != child.name)
                self.gateway = replace(self.gateway, services=(*others, child))
            case "ConfigMap":
                self.gateway, self.files = replace(self.gateway, config=child, files=noted), body["data"]
            case "Deployment":
                self.gateway = replace(self.gateway, deployment=child, first=noted)
            case _:
                self.gateway = replace(self.gateway, budget=child)

    def _lead(self, service: dict[str, Any]) -> None:
        role = service["metadata"]["labels"][names.LABEL_ROLE]
        assert service["spec"]["selector"][names.LABEL_ROLE] == role
        self.gateway = replace(self.gateway, routed=role == names.ROLE_GATEWAY)

    def _nudge_proxy(self, name: str, digest: str) -> None:
        assert digest == self.gateway.files, "the kubelet would bring it something else"
        pods = (replace(pod, told=digest) if pod.name == name else pod for pod in self.gateway.pods)
        self.gateway = replace(self.gateway, pods=tuple(pods))

    def _remove_of_gateway(self, gone: Delete) -> bool:
        view = self.gateway
        known = {"deployment": view.deployment, "config": view.config, "budget": view.budget}
        for part, child in known.items():
            if child is not None and child.uid == gone.uid:
                empty: dict[str, Any] = {"ready": 0, "pods": ()} if part == "deployment" else {}
                self.gateway = replace(view, **{part: None, **empty})
                assert not view.routed, "requests are led to it"
                return True
        services = tuple(each for each in view.services if each.uid != gone.uid)
        self.gateway = replace(view, services=services)
        return len(services) < len(view.services)

    def _create(self, body: dict[str, Any]) -> None:
        name, kind, labels = body["metadata"]["name"], body["kind"], body["metadata"]["labels"]
        child = Applied(name, f"uid-{next(self._numbers)}", body["metadata"]["annotations"][names.ANNOTATION_APPLIED])
        if kind == "NetworkPolicy":
            assert name not in self.policies
            self.policies[name], self._children[name] = body, child
        elif kind in ("HTTPRoute", "GRPCRoute"):
            assert kind not in self.route_bodies
            self._write_route(body, child, None)
        elif self._is_of_gateway(body):
            self._note_of_gateway(body, child)
        elif kind == "Service":
            assert self.service is None
            self.service = child
            self._lead(body)
        elif kind == "PodDisruptionBudget":
            assert self.budget is None
            self.budget = child
        elif kind == "ConfigMap":
            assert name not in self.configs
            self._tell(name, body, child)
        else:
            assert name not in self.deployments
            served = body["metadata"]["annotations"][ANNOTATION_MODEL_VERSION]
            room = int(body["metadata"]["annotations"].get(ANNOTATION_ROOM, 0))
            revision, wanted = labels[names.LABEL_REVISION], body["spec"]["replicas"]
            role = body["spec"]["template"]["metadata"]["labels"][names.LABEL_ROLE]
            assert labels.get(names.LABEL_ROLE, names.ROLE_SERVE) == role
            self.deployments[name] = Deployment(child, revision, wanted, served, room=room, role=role)

    def _apply(self, body: dict[str, Any], uid: str) -> None:
        """What exists is applied again."""
        name, kind = body["metadata"]["name"], body["kind"]
        stamp = body["metadata"]["annotations"][names.ANNOTATION_APPLIED]
        if kind == "NetworkPolicy":
            self.policies[name], self._children[name] = body, replace(self._children[name], stamp=stamp)
        elif kind in ("HTTPRoute", "GRPCRoute"):
            view = self._route(kind)
            assert view.child.uid == uid
            self._write_route(body, replace(view.child, stamp=stamp), view)
        elif self._is_of_gateway(body):
            self._note_of_gateway(body, Applied(name, uid, stamp))
        elif kind == "Service":
            assert self.service is not None
            assert self.service.uid == uid
            self.service = replace(self.service, stamp=stamp)
            self._lead(body)
        elif kind == "PodDisruptionBudget":
            assert self.budget is not None
            assert self.budget.uid == uid
            self.budget = replace(self.budget, stamp=stamp)
        elif kind == "ConfigMap":
            view = self.configs[name]
            self._tell(name, body, replace(view.child, stamp=stamp))
        else:
            found = self.deployments[name]
            found.child, found.wanted = replace(found.child, stamp=stamp), body["spec"]["replicas"]

    def _tell(self, name: str, body: dict[str, Any], child: Applied) -> None:
        labels, notes = body["metadata"]["labels"], body["metadata"]["annotations"]
        self.configs[name] = ConfigView(child, labels[names.LABEL_REVISION], notes[names.LABEL_ASSIGNMENT])
        self.desired[name] = json.loads(body["data"]["desired.json"])
        assert self.desired[name]["revision"] == notes[names.LABEL_ASSIGNMENT]

    def _deploy(self) -> None:
        """The Deployment controllers: pods that are not ready go first, then those that cost least."""
        owned = {deployment.revision: deployment.wanted for deployment in self.deployments.values()}
        for revision in sorted({pod.revision for pod in self.pods} | owned.keys()):
            pods = [pod for pod in self.live() if pod.revision == revision]
            surplus = len(pods) - owned.get(revision, 0)
            for pod in sorted(pods, key=lambda pod: (pod.ready, pod.cost))[: max(0, surplus)]:
                pod.terminating, pod.ready = True, False
            for _ in range(-surplus):
                (role,) = (each.role for each in self.deployments.values() if each.revision == revision)
                live = role == names.ROLE_SERVE
                self.pods.append(Pod(f"{revision}-{next(self._numbers)}", revision, live=live))
        self._check_led()
        self.check()


def serving(number: int = 1, *, replicas: int | None = 2, **spec: Any) -> World:
    """A pool that serves a version with all of its pods."""
    world = World(pool(replicas=replicas, **spec))
    world.publish(number)
    world.roll_out()
    assert world.status.phase == ("Serving" if world.wanted else "ScaledToZero")
    return world


def guard(world: World, *, ready: int | None = None) -> None:
    """From now on: never fewer ready pods than wanted, and never more pods than one more than wanted."""

    def check() -> None:
        least = world.wanted if ready is None else ready
        pods = [(pod.revision, pod.ready) for pod in world.live() if pod.live]
        assert world.ready() >= least, f"fewer than {least} are ready: {pods}"
        if not world.due_at_once:  # a plan that is has only begun
            assert len(pods) <= world.wanted + 1, f"more than {world.wanted} + 1 pods: {pods}"

    world.check = check

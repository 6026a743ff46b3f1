"""What is gathered around a pool, whom a change wakes, and what is told when the API server refuses an object."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from aifactory import __version__
from aifactory.api import names
from aifactory.api.inferencepool import InferencePool, Throughput
from aifactory.api.modelversion import ModelVersion
from aifactory.api.reasons import ConditionType
from aifactory.engine import custom
from aifactory.engine.apply import Applied
from aifactory.engine.cluster import Cluster
from aifactory.engine.domain import Outside
from aifactory.engine.plan import Create, WriteError
from aifactory.kube import resources
from aifactory.kube.errors import AlreadyExists, Forbidden
from aifactory.kube.objects import (
    ConfigMap,
    Deployment,
    DisruptionBudget,
    NetworkPolicy,
    Pod,
    ReplicaSet,
    Route,
    Service,
    decoder,
)
from aifactory.kube.objects import Gateway as GatewayObject
from aifactory.kube.podstate import Crash, Trouble
from aifactory.kube.resources import Key, Resource
from aifactory.models.domain import Models
from aifactory.serving.demand import Demand
from aifactory.serving.domain import Serving
from aifactory.serving.holding import Held
from aifactory.serving.probe import SILENT_AFTER, ServingPod, ServingProbe
from aifactory.serving.state import (
    ConfigView,
    ListenerView,
    Parent,
    ParentGateway,
    Report,
    RevisionView,
    RoutesView,
    RouteView,
    Said,
    ServingPodView,
    Settings,
    VersionView,
)
from aifactory.serving.wakeup import Proxy
from tests.support.faketime import FakeClock
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS
from tests.unit.serving.builders import NOW, SETTINGS, conditions, message

TYPES: dict[Resource, Any] = {
    resources.SERVICES: Service,
    resources.BUDGETS: DisruptionBudget,
    resources.NETWORKPOLICIES: NetworkPolicy,
    resources.CONFIGMAPS: ConfigMap,
    resources.DEPLOYMENTS: Deployment,
    resources.REPLICASETS: ReplicaSet,
    resources.PODS: Pod,
    resources.HTTPROUTES: Route,
    resources.GRPCROUTES: Route,
    resources.GATEWAYS: GatewayObject,
}
GATEWAY_API = (resources.HTTPROUTES, resources.GRPCROUTES, resources.GATEWAYS)
STAMP = {names.ANNOTATION_APPLIED: "stamp."}
GONE = {"deletionTimestamp": "2026-01-01T12:00:00Z"}
READY = {"type": "Ready", "status": "True"}


class Installation:
    """Pool chat, uid `chat-uid`, among other objects."""

    def __init__(self, served: Any = (), namespace: str | None = None, **settings: Any) -> None:
        self.serving = Serving(Settings(**{"server_image": "server:1", "agent_image": "agent:1", **settings}))
        self.cluster = Cluster([self.serving, Models()], served, namespace)
        self.woken: list[str] = []
        self._versions = 0
        self.cluster.connect(
            {
                INFERENCEPOOLS: lambda key, *, background: self.woken.append(str(key)),
                MODELVERSIONS: lambda key, *, background: None,
            }
        )

    def meta(self, name: str, namespace: str = "ns", **meta: Any) -> dict[str, Any]:
        self._versions += 1
        ours = {"name": name, "namespace": namespace, "uid": f"{name}-uid", "resourceVersion": str(self._versions)}
        return {**ours, **meta}

    def pool(self, name: str = "chat", model: str = "tiny", status: Any = None, more: Any = None, **meta: Any) -> None:
        spec = {"models": [{"name": model, "track": "Latest"}], **(more or {})}
        body = {"metadata": self.meta(name, **meta), "spec": spec}
        self.cluster.stored(INFERENCEPOOLS).put(custom.parser(InferencePool)({**body, "status": status or {}}))

    def version(self, number: int, model: str = "tiny", status: Any = None, source: Any = None, **meta: Any) -> None:
        source = {"uri": f"s3://b/{number}", **(source or {})}
        spec = {"model": model, "version": number, "source": source, "format": "huggingface"}
        body = {"metadata": self.meta(f"{model}-v{number}", **meta), "spec": spec, "status": status or {}}
        self.cluster.stored(MODELVERSIONS).put(custom.parser(ModelVersion)(body))

    def put(self, resource: Resource, name: str, owner: tuple[str, str] | None = None, **body: Any) -> None:
        """An object; `owner` is kind and name of who controls it."""
        meta = self.meta(name, **body.pop("meta", {}))
        if owner is not None:
            kind, of = owner
            group = names.API_VERSION if kind == "InferencePool" else "apps/v1"
            reference = {"apiVersion": group, "kind": kind, "name": of, "uid": f"{of}-uid", "controller": True}
            meta["ownerReferences"] = [reference]
        found = decoder(TYPES[resource])(json.dumps({"metadata": meta, **body}).encode())
        self.cluster._objects[resource].put(found)

    def pod(self, name: str, revision: str = "v1-a", meta: Any = None, **body: Any) -> None:
        """A pod of the revision's ReplicaSet."""
        labels = {names.LABEL_ROLE: names.ROLE_SERVE, names.LABEL_REVISION: revision}
        of = ("ReplicaSet", f"chat-{revision}-rs")
        self.put(resources.PODS, name, of, meta={"labels": labels, **(meta or {})}, **body)

    def revision(self, revision: str = "v1-a", meta: Any = None, **body: Any) -> None:
        """A Deployment with its ReplicaSet and ConfigMap."""
        labels, name = {"labels": {names.LABEL_REVISION: revision}}, f"chat-{revision}"
        notes = {**STAMP, names.LABEL_MODEL_VERSION: "tiny-v1"}
        ours = ("InferencePool", "chat")
        self.put(resources.DEPLOYMENTS, name, ours, meta={**labels, "annotations": notes, **(meta or {})}, **body)
        self.put(resources.REPLICASETS, f"{name}-rs", ("Deployment", name))
        self.put(resources.CONFIGMAPS, name, ours, meta={**labels, "annotations": STAMP})

    def observed(self) -> Any:
        stored = self.cluster.stored(INFERENCEPOOLS).get("ns", "chat")
        assert stored is not None
        assert stored.model is not None
        return self.serving.gather(stored.model, self.cluster)


def test_everything_around_a_pool_is_gathered() -> None:
    found = Installation()
    found.pool()
    found.revision(spec={"replicas": 3}, status={"replicas": 2, "readyReplicas": 1})
    found.put(resources.SERVICES, "chat", ("InferencePool", "chat"), meta={"annotations": STAMP})
    found.put(resources.BUDGETS, "chat-serving", ("InferencePool", "chat"), meta={"annotations": STAMP})
    found.pod("p", status={"phase": "Running", "conditions": [READY]}, spec={"nodeName": "n-1"})
    found.put(resources.PODS, "theirs", ("ReplicaSet", "other"))
    found.version(1)
    found.version(1, model="other")
    found.version(2, namespace="elsewhere")
    throughput = Throughput(requests_per_second="3")
    found.serving.book.set_throughput(("ns", "chat"), throughput)
    seen = found.observed()
    assert seen.pool.metadata.name == "chat"
    assert seen.settings is found.serving.settings
    assert [view.name for view in seen.versions] == ["tiny-v1"]
    assert seen.revisions == (
        RevisionView(
            Applied("chat-v1-a", "chat-v1-a-uid", "stamp."), "v1-a", 3, replicas=2, ready=1, model_version="tiny-v1"
        ),
    )
    assert seen.configs == (ConfigView(Applied("chat-v1-a", "chat-v1-a-uid", "stamp."), "v1-a"),)
    assert seen.pods == (ServingPodView("p", "v1-a", ready=True, node="n-1", running=True),)
    assert seen.service == Applied("chat", "chat-uid", "stamp.")
    assert seen.budget == Applied("chat-serving", "chat-serving-uid", "stamp.")
    assert (seen.throughput, seen.may_upgrade, seen.orphans) == (throughput, True, ())


# --- The way through a Gateway of the user's ---

BEHIND = {
    "gateway": {
        "mode": "GatewayAPI",
        "parentRefs": [{"name": name, "namespace": "gateways"} for name in ("public", "away", "zone", "inner")],
        "grpc": {"parentRefs": [{"name": "own", "sectionName": "grpc"}]},
    }
}
PUBLIC = {"name": "public", "namespace": "gateways"}


def route_body(*parents: dict[str, Any], said: Any = (), **meta: Any) -> dict[str, Any]:
    refs = [{"name": "chat", "weight": 75}, {"name": "other", "weight": 25}, {"name": "none", "weight": 0}]
    spec = {"parentRefs": list(parents), "rules": [{"backendRefs": refs}]}
    return {"meta": {"annotations": STAMP, "generation": 3, **meta}, "spec": spec, "status": {"parents": list(said)}}


def accepted(status: str = "True", type_: str = "Accepted", **words: Any) -> dict[str, Any]:
    return {"type": type_, "status": status, "observedGeneration": 3, **words}


def test_routes_and_the_gateways_that_the_pool_names_are_gathered() -> None:
    found = Installation(GATEWAY_API)
    found.pool(more=BEHIND)
    said = [{"parentRef": {"name": "silent"}}, {"parentRef": PUBLIC, "conditions": [accepted()]}]
    ours = ("InferencePool", "chat")
    found.put(resources.HTTPROUTES, "chat", ours, **route_body(PUBLIC, said=said))
    found.put(resources.GRPCROUTES, "chat", ours, **route_body({"name": "own"}, generation=4))
    listener = {"name": "web", "port": 8080, "protocol": "HTTP", "hostname": "*.example.com"}
    spec = {"gatewayClassName": "eg", "listeners": [listener]}
    status = {"addresses": [{"value": ""}, {"value": "192.0.2.7"}], "conditions": [accepted()]}
    found.put(resources.GATEWAYS, "public", meta={"namespace": "gateways"}, spec=spec, status=status)
    leads, child = (("chat", 75), ("other", 25)), Applied("chat", "chat-uid", "stamp.")
    assert found.observed().routes == RoutesView(
        http=RouteView(child, 3, leads, {Parent("gateways", "public"): Said(3, accepted=True)}),
        grpc=RouteView(child, 4, leads),
        gateways=(
            ParentGateway("gateways", "away", found=False),
            ParentGateway("gateways", "inner", found=False),
            ParentGateway(
                "gateways",
                "public",
                class_name="eg",
                listeners=(ListenerView("web", 8080, "HTTP", "*.example.com"),),
                address="192.0.2.7",
            ),
            ParentGateway("gateways", "zone", found=False),
            ParentGateway("ns", "own", found=False),
        ),
    )


@pytest.mark.parametrize("owner", [None, ("InferencePool", "other")])
def test_routes_of_others_are_not_the_pools(owner: Any) -> None:
    found = Installation(GATEWAY_API)
    found.pool(more=BEHIND)
    for kind in (resources.HTTPROUTES, resources.GRPCROUTES):
        found.put(kind, "chat", owner, **route_body(PUBLIC))
    assert (found.observed().routes.http, found.observed().routes.grpc) == (None, None)


def test_where_the_operator_does_not_look_a_gateway_is_not_known_to_be_missing() -> None:
    unserved = Installation()
    unserved.pool(more=BEHIND)
    assert unserved.observed().routes.unserved == ("HTTPRoute", "GRPCRoute")
    assert not any(each.known for each in unserved.observed().routes.gateways)
    found = Installation(GATEWAY_API, namespace="ns")
    found.pool(more=BEHIND)
    seen = {each.namespace: (each.found, each.known) for each in found.observed().routes.gateways}
    assert seen == {"gateways": (False, False), "ns": (False, True)}


PENDING = accepted("Unknown", reason="Pending", message="Waiting for controller")
INVALID = accepted("False", reason="Invalid", message="no such class")
NO_ADDRESS = accepted("False", "Programmed", reason="AddressNotAssigned", message="none yet")


@pytest.mark.parametrize(
    ("told", "taken_on", "trouble"),
    [
        ((), False, ""),
        ((PENDING,), False, ""),
        ((PENDING, accepted("Unknown", "Programmed")), False, ""),
        ((INVALID,), True, "Invalid: no such class"),
        ((accepted(),), True, ""),
        ((accepted(), NO_ADDRESS), True, "AddressNotAssigned: none yet"),
        ((NO_ADDRESS,), False, "AddressNotAssigned: none yet"),
        ((accepted(), accepted("True", "Programmed")), True, ""),
    ],
)
def test_what_is_said_of_a_gateway(told: Any, *, taken_on: bool, trouble: str) -> None:
    found = Installation(GATEWAY_API)
    found.pool(more={"gateway": {"mode": "GatewayAPI", "parentRefs": [PUBLIC]}})
    found.put(resources.GATEWAYS, "public", meta={"namespace": "gateways"}, status={"conditions": list(told)})
    expected = ParentGateway("gateways", "public", taken_on=taken_on, trouble=trouble)
    assert found.observed().routes.gateways == (expected,)


def test_a_gateway_wakes_the_pools_whose_routes_name_it() -> None:
    found = Installation(GATEWAY_API)
    service = {"name": "mesh", "kind": "Service"}
    for name, kind, parents in (
        ("chat", resources.HTTPROUTES, (PUBLIC, service)),
        ("search", resources.GRPCROUTES, ({"name": "own"},)),
        ("idle", resources.HTTPROUTES, ({"name": "public"},)),
    ):
        found.pool(name)
        found.put(kind, name, ("InferencePool", name), **route_body(*parents))
    woken = {}
    for namespace, name in (("gateways", "public"), ("ns", "own"), ("ns", "mesh"), ("gateways", "own")):
        found.woken.clear()
        found.put(resources.GATEWAYS, name, meta={"namespace": namespace})
        woken[namespace, name] = set(found.woken)
    assert woken == {
        ("gateways", "public"): {"ns/chat"},
        ("ns", "own"): {"ns/search"},
        ("ns", "mesh"): set(),
        ("gateways", "own"): set(),
    }


# --- Several models ---

OF_OLD = {"models": [{"name": "old", "version": 1, "modelVersion": "old-v1"}]}
STABLE = {"revision": "a", "modelVersion": "old-v1"}
TWO = {"models": [{"name": name, "track": "Latest"} for name in ("tiny", "bert")]}


@pytest.mark.parametrize(
    ("more", "status", "models"),
    [
        pytest.param({}, {"stable": STABLE}, ["tiny"], id="of one model, which is the only one it can serve"),
        pytest.param({}, {"stable": {**STABLE, **OF_OLD}}, ["tiny", "old"], id="it was of several"),
        pytest.param({}, {"previous": {**STABLE, **OF_OLD}}, ["tiny", "old"], id="it was, before the last change"),
        pytest.param(TWO, {"stable": STABLE}, ["tiny", "bert", "old"], id="it was of one"),
        pytest.param(TWO, {}, ["tiny", "bert"], id="it is new"),
    ],
)
def test_versions_of_models_that_pods_still_serve_are_gathered(more: Any, status: Any, models: list[str]) -> None:
    found = Installation()
    found.pool(more=more, status=status)
    for model in ("tiny", "bert", "old", "other"):
        found.version(1, model=model)
    assert [view.model for view in found.observed().versions] == models


def test_pods_that_serve_several_models_are_asked_for_each() -> None:
    for more, several in (({}, False), (TWO, True)):
        found = Installation()
        found.pool(more=more)
        found.revision()
        found.pod("p", status={"podIP": "10.0.0.1", "conditions": [READY]})
        expected = ServingPod("p-uid", "10.0.0.1", ("ns", "chat"), ready=True, several=several)
        assert found.serving.asked_pods(found.cluster) == [expected]


@pytest.mark.parametrize("owner", [None, ("InferencePool", "other")])
def test_a_service_and_a_budget_of_others_are_not_the_pools(owner: Any) -> None:
    found = Installation()
    found.pool()
    found.put(resources.SERVICES, "chat", owner)
    found.put(resources.BUDGETS, "chat-serving", owner)
    assert (found.observed().service, found.observed().budget) == (None, None)


def test_what_is_being_deleted_or_bears_no_labels_is_seen_as_that() -> None:
    found = Installation()
    found.pool()
    found.revision(meta={**GONE, "labels": {}, "annotations": {}})
    found.put(resources.CONFIGMAPS, "odd", ("InferencePool", "chat"))
    found.pod("p", meta={**GONE, "labels": {}}, status={"conditions": [READY]})
    seen = found.observed()
    (view,), (pod,) = seen.revisions, seen.pods
    assert (view.terminating, view.revision, view.model_version, view.refusal) == (True, "", "", "")
    assert (pod.terminating, pod.revision, pod.ready) == (True, "", False)
    assert {config.revision for config in seen.configs} == {"v1-a", ""}


SCHEDULED = {"type": "PodScheduled", "status": "False"}
NEVER = {"name": "triton", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
LOOP = {
    "name": "triton",
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
    "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "no such flag"}},
    "restartCount": 3,
}


@pytest.mark.parametrize(
    ("status", "view"),
    [
        ({"containerStatuses": [NEVER]}, {"waiting_reason": "ErrImagePull", "waiting_message": "no such image"}),
        ({"containerStatuses": [LOOP]}, {"crash": Crash("triton", 1, "Error", "no such flag", 3)}),
        (
            {"conditions": [{**SCHEDULED, "reason": "Unschedulable", "message": "no node"}]},
            {"unschedulable": "no node", "waiting_reason": "FailedMount", "waiting_message": "no secret"},
        ),
        (
            {"conditions": [{**SCHEDULED, "reason": "SchedulingGated"}]},
            {"gated": True, "waiting_reason": "FailedMount", "waiting_message": "no secret"},
        ),
        ({}, {"overlooked": True, "waiting_reason": "FailedMount", "waiting_message": "no secret"}),
        (
            {"phase": "Failed", "reason": "OutOfcpu", "message": "no room"},
            {
                "refused_by_node": "OutOfcpu: no room",
                "waiting_reason": "FailedMount",
                "waiting_message": "no secret",
            },
        ),
    ],
)
def test_what_keeps_a_pod_away_is_read_of_its_status_and_events(status: Any, view: Any) -> None:
    found = Installation()
    found.cluster.explain = lambda _: Trouble("FailedMount", "no secret")
    found.pool()
    found.revision()
    found.pod("p", status={"phase": "Pending", **status})
    found.serving.book.set_error("p-uid", "LoadFailed: no")
    overlooked = {"overlooked": not status.get("conditions") and status.get("phase") != "Failed"}
    expected = {"load_error": "LoadFailed: no", **overlooked, **view}
    assert found.observed().pods == (ServingPodView("p", "v1-a", **expected),)


def test_a_version_is_seen_with_all_that_makes_a_difference() -> None:
    found = Installation()
    found.pool()
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Verified",
        "message": "3 files",
        "lastTransitionTime": NOW,
        "observedGeneration": 1,
    }
    found.version(
        1,
        status={"conditions": [ready], "resolvedDigest": "sha256:a", "sizeBytes": 7, "memoryBytes": 9},
        source={"secretRef": {"name": "s3"}},
    )
    found.version(2, status={"conditions": [{**ready, "status": "False"}]}, **GONE)
    found.version(3)
    kept = {"model": "tiny", "digest": "", "format": "huggingface"}
    told = {"reason": "Verified", "message": "3 files"}
    first = {**kept, **told, "digest": "sha256:a", "size_bytes": 7, "memory_bytes": 9, "secret": "s3", "ready": True}
    assert sorted(found.observed().versions, key=lambda view: view.version) == [
        VersionView(name="tiny-v1", version=1, uri="s3://b/1", **first, deleting=False),
        VersionView(name="tiny-v2", version=2, uri="s3://b/2", **kept, **told, ready=False, deleting=True),
        VersionView(name="tiny-v3", version=3, uri="s3://b/3", **kept, ready=False, reason="", message=""),
    ]


@pytest.mark.parametrize(
    ("uri", "claim"), [("pvc://models/tiny/1", "models"), ("pvc://models/", "models"), ("s3://pvc://models/1", None)]
)
def test_the_claim_that_an_artifact_lies_in(uri: str, claim: str | None) -> None:
    assert VersionView("tiny-v1", "tiny", 1, uri, "", "huggingface").claim == claim


# --- Whom a change wakes ---


def test_a_version_wakes_the_pools_of_its_model_when_they_see_something_new() -> None:
    found = Installation()
    found.pool("chat")
    found.pool("search", model="other")
    found.pool("far", namespace="elsewhere")
    found.woken.clear()
    found.version(1)
    assert found.woken == ["ns/chat"]
    found.version(1, status={"inUse": 3})
    assert found.woken == ["ns/chat"], "who else uses it is none of their business"
    found.version(1, status={"resolvedDigest": "sha256:a"})
    assert found.woken == ["ns/chat"] * 3, "asked for the version as it was and as it is"


OLD = {"stable": {"revision": "v1-a", "image": "server:0"}}


def test_a_pool_that_is_up_to_date_wakes_those_whose_turn_it_is() -> None:
    found = Installation(max_concurrent_rollouts=1)
    for name in ("c", "b", "chat"):
        found.pool(name, status=OLD)
    found.woken.clear()
    found.pool("b", status={**OLD, "summary": "1/1"})
    assert found.woken == [], "nothing that others see has changed"
    assert not found.observed().may_upgrade
    found.pool("b", status={"stable": {"revision": "v1-b", "image": "server:1"}})
    assert set(found.woken) == {"ns/c"}
    found.pool("c", status=OLD, **GONE)
    assert found.observed().may_upgrade, "one that is being deleted holds up nobody"


@pytest.mark.parametrize(
    ("status", "waits"),
    [
        (OLD, True),
        ({**OLD, "rollout": {"phase": "Complete", "revision": "v1-a"}}, True),
        ({**OLD, "rollout": {"phase": "Failed", "failedRevision": "v1-b"}}, False),
        ({"stable": {"revision": "v0-a", "image": "server:1"}}, True),
        ({"stable": {"revision": "v1-a", "image": "server:1"}}, False),
        ({"stable": {"revision": "", "image": "server:0"}}, False),
        ({}, False),
    ],
)
def test_a_pool_waits_for_its_turn_if_only_the_installation_has_changed(status: Any, waits: bool) -> None:
    found = Installation(max_concurrent_rollouts=0)
    found.pool(status=status)
    assert found.observed().may_upgrade is not waits


# --- Who is asked ---


def test_pods_that_really_belong_to_a_pool_are_asked_by_the_leader_alone() -> None:
    found = Installation()
    change = {"phase": "Progressing", "revision": "new", "strategy": "HotSwap"}
    found.pool(status={"stable": {"revision": "v1-a"}, "rollout": change})
    found.revision()
    found.pod("of-another-role", meta={"labels": {}}, status={"podIP": "10.0.0.4"})
    found.pod("ready", status={"podIP": "10.0.0.1", "conditions": [READY]})
    found.pod("starting", status={"podIP": "10.0.0.2"})
    found.pod("without-address")
    found.pod("going", meta=GONE, status={"podIP": "10.0.0.3"})
    forged = {names.LABEL_ROLE: names.ROLE_SERVE, names.LABEL_POOL: "chat"}
    found.put(resources.PODS, "forged", meta={"labels": forged}, status={"podIP": "10.0.0.5"})
    leads, woken, clock = [False], [], FakeClock()
    outside = Outside(
        api=None,  # type: ignore[arg-type] # the pods are asked, nobody else
        cluster=found.cluster,
        wake=lambda key, seconds: woken.append((key, seconds)),
        leading=lambda: leads[0],
        leader_address=lambda: "",
        clock=clock,
    )
    run, follow, _ = found.serving.probes(outside)
    probe = run.__self__  # type: ignore[attr-defined]
    assert follow == probe.follow
    assert probe._swapping() == []
    assert probe._pods() == []
    leads[0] = True
    assert sorted(probe._pods(), key=lambda pod: pod.uid) == [
        ServingPod("ready-uid", "10.0.0.1", ("ns", "chat"), ready=True),
        ServingPod("starting-uid", "10.0.0.2", ("ns", "chat"), ready=False),
    ]
    assert {pod.uid for pod in probe._swapping()} >= {"ready-uid", "starting-uid"}
    probe._wake(("ns", "chat"))
    assert woken == [(Key("ns", "chat"), 0.0)]
    assert (probe._book, probe._monotonic) == (found.serving.book, clock.monotonic)


@pytest.mark.parametrize(
    ("phase", "strategy", "asked"),
    [
        ("Progressing", "HotSwap", ["at-old", "not-there-yet", "unknown"]),
        ("Failed", "HotSwap", ["at-new", "not-there-yet", "unknown"]),
        ("Complete", "HotSwap", []),
        ("Progressing", "Surge", []),
    ],
)
def test_pods_that_change_over_are_asked_until_they_say_that_they_have(
    phase: str, strategy: str, asked: list[str]
) -> None:
    found = Installation()
    change = {"phase": phase, "revision": "new", "strategy": strategy}
    found.pool(status={"stable": {"revision": "old"}, "rollout": change})
    found.revision()
    for number, name in enumerate(("at-new", "at-old", "not-there-yet", "unknown")):
        found.pod(name, status={"podIP": f"10.0.0.{number}", "conditions": [READY]})
    found.pod("without-address")
    found.pod("going", meta=GONE, status={"podIP": "10.0.0.9"})
    found.serving.book.set_report("at-new-uid", Report("new", ready=True))
    found.serving.book.set_report("at-old-uid", Report("old", ready=True))
    found.serving.book.set_report("not-there-yet-uid", Report("new", ready=False))
    pods = found.serving.swapping_pods(found.cluster)
    assert sorted(pod.uid.removesuffix("-uid") for pod in pods) == asked
    assert {pod.pool for pod in pods} <= {("ns", "chat")}


@pytest.mark.parametrize(
    "status",
    [
        {"rollout": {"phase": "Progressing", "revision": "v1-b", "strategy": "Surge"}},
        {"rollout": {"phase": "Failed", "revision": "v1-b", "strategy": "Surge"}},
        {"phase": "Waiting"},
    ],
    ids=["new pods come", "they were taken back", "the version is gone"],
)
def test_pods_that_had_begun_a_change_are_asked_until_they_say_that_they_are_back(status: dict[str, Any]) -> None:
    """Else what they said in the middle would stand for ever, and what failed would never be tried again."""
    found = Installation()
    found.pool(status={"stable": {"revision": "v1-a"}, **status})
    found.revision()
    told = {"labels": {names.LABEL_REVISION: "v1-a", names.LABEL_ASSIGNMENT: "v1-a"}}
    other = {"labels": {names.LABEL_REVISION: "v1-b", names.LABEL_ASSIGNMENT: "v1-b"}}
    halfway = {"labels": {names.LABEL_REVISION: "v1-a", names.LABEL_ASSIGNMENT: "v1-b"}}
    metas = {"untouched": {"labels": {names.LABEL_REVISION: "v1-a"}}, "candidate": other}
    metas |= {"untold": {"labels": {names.LABEL_REVISION: "v1-a"}}, "told-since": halfway}
    for number, name in enumerate(("candidate", "untouched", "there", "halfway", "unknown", "untold", "told-since")):
        found.pod(name, meta=metas.get(name, told), status={"podIP": f"10.0.0.{number}", "conditions": [READY]})
    found.serving.book.set_report("there-uid", Report("v1-a", ready=True))
    found.serving.book.set_report("halfway-uid", Report("v1-b", ready=False))
    found.serving.book.set_report("untold-uid", Report("v1-b", ready=True))
    found.serving.book.set_report("told-since-uid", Report("v1-a", ready=True))
    pods = found.serving.swapping_pods(found.cluster)
    assert sorted(pod.uid.removesuffix("-uid") for pod in pods) == ["halfway", "told-since", "unknown", "untold"]


@pytest.mark.parametrize("phase", ["Progressing", "Failed"])
def test_pods_that_change_over_are_asked_though_the_status_has_lost_what_they_served(phase: str) -> None:
    found = Installation()
    found.pool(status={"rollout": {"phase": phase, "revision": "new", "strategy": "HotSwap"}})
    found.revision()
    found.pod("p", status={"podIP": "10.0.0.1", "conditions": [READY]})
    assert [pod.uid for pod in found.serving.swapping_pods(found.cluster)] == ["p-uid"]
    found.serving.book.set_report("p-uid", Report("new", ready=True))
    assert not found.serving.swapping_pods(found.cluster)


def test_what_pods_are_told_and_say_is_gathered() -> None:
    found = Installation()
    found.pool()
    found.revision(meta={"annotations": {**STAMP, "aifactory.dev/repository-bytes": "1000"}})
    found.put(
        resources.CONFIGMAPS,
        "chat-v1-b",
        ("InferencePool", "chat"),
        meta={"labels": {names.LABEL_REVISION: "v1-b"}, "annotations": {names.LABEL_ASSIGNMENT: "v1-c"}},
    )
    found.pod("p", meta={"labels": {names.LABEL_REVISION: "v1-a", names.LABEL_ASSIGNMENT: "v1-d"}})
    found.serving.book.set_report("p-uid", Report("v1-d", ready=True, version=2))
    seen = found.observed()
    assert [view.room for view in seen.revisions] == [1000]
    assert [pod.told for pod in seen.pods] == ["v1-d"]
    assert [pod.silent for pod in seen.pods] == [False]
    assert [pod.report for pod in seen.pods] == [Report("v1-d", ready=True, version=2)]
    assert (seen.assigned("v1-a"), seen.assigned("v1-b"), seen.assigned("v1-z")) == ("v1-a", "v1-c", "")
    found.pod("silent")
    for _ in range(SILENT_AFTER):
        found.serving.book.set_unanswered("silent-uid")
    assert {pod.name: pod.silent for pod in found.observed().pods} == {"p": False, "silent": True}


def gateway_of(found: Installation, *, role: str = names.ROLE_GATEWAY, owner: Any = ("InferencePool", "chat")) -> None:
    """A gateway of one ready proxy, and the Service of the pool."""
    ours, files = ("InferencePool", "chat"), {**STAMP, names.LABEL_ASSIGNMENT: "files-2"}
    refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    found.put(
        resources.DEPLOYMENTS,
        "chat-gateway",
        ours,
        meta={"annotations": {**STAMP, names.LABEL_ASSIGNMENT: "files-1"}},
        status={"readyReplicas": 1, "conditions": [refused]},
    )
    found.put(resources.REPLICASETS, "chat-gateway-rs", ("Deployment", "chat-gateway"))
    found.put(resources.PODS, "proxy", ("ReplicaSet", "chat-gateway-rs"), status={"conditions": [READY]})
    found.put(resources.CONFIGMAPS, "chat-gateway", ours, meta={"annotations": files})
    found.put(resources.BUDGETS, "chat-gateway", ours, meta={"annotations": STAMP})
    found.put(resources.SERVICES, "chat-pods", ours, meta={"annotations": STAMP})
    found.put(resources.SERVICES, "chat", owner, meta={"annotations": STAMP, "labels": {names.LABEL_ROLE: role}})


def test_a_gateway_is_gathered_apart_from_the_pods_that_serve() -> None:
    found = Installation()
    found.pool()
    found.revision()
    gateway_of(found)
    seen = found.observed()
    view = seen.gateway
    assert view.deployment == Applied("chat-gateway", "chat-gateway-uid", "stamp.")
    assert view.config == view.budget == view.deployment
    assert (view.first, view.files, view.ready) == ("files-1", "files-2", 1)
    assert "exceeded quota" in view.refusal
    assert [(pod.name, pod.ready) for pod in view.pods] == [("proxy", True)]
    assert view.services == (Applied("chat-pods", "chat-pods-uid", "stamp."),)
    assert view.routed
    assert [each.child.name for each in seen.revisions] == ["chat-v1-a"]
    assert not seen.pods
    assert found.serving.asked_pods(found.cluster) == []


@pytest.mark.parametrize(
    "service", [{"role": names.ROLE_SERVE}, {"owner": None}, {"owner": ("InferencePool", "another")}]
)
def test_requests_are_led_to_a_gateway_by_the_pools_own_service_alone(service: Any) -> None:
    found = Installation()
    found.pool()
    gateway_of(found, **service)
    assert not found.observed().gateway.routed


WINDOW = {"since": "2026-01-01T12:00:00Z", "candidate": {"requests": 3}, "stable": {"requests": 7}}


def probe_of(found: Installation, leads: list[bool]) -> ServingProbe:
    """What asks the pods, while `leads[0]` is true."""
    outside = Outside(
        api=None,  # type: ignore[arg-type] # nothing is asked
        cluster=found.cluster,
        wake=lambda key, seconds: None,
        leading=lambda: leads[0],
        leader_address=lambda: "",
        clock=FakeClock(),
    )
    return found.serving.probes(outside)[0].__self__  # type: ignore[attr-defined,no-any-return]


def test_pods_whose_versions_are_compared_are_those_of_both() -> None:
    found, leads = Installation(), [True]
    change = {"phase": "Progressing", "strategy": "Canary", "revision": "v1-b", "window": WINDOW}
    status = {"stable": {"revision": "v1-a"}, "candidate": {"revision": "v1-b"}, "rollout": change}
    found.pool(name="another", status={"rollout": change})
    found.pool(status=status)
    for revision in ("v1-a", "v1-b", "v1-c"):
        found.revision(revision)
        found.pod(f"of-{revision}", revision)
    (analysed,) = found.serving.analysed_pools(found.cluster)
    assert analysed.pool == ("ns", "chat")
    assert (analysed.candidate, analysed.stable) == ({"of-v1-b-uid"}, {"of-v1-a-uid"})
    assert (analysed.window.revision, analysed.window.since) == ("v1-b", NOW)
    assert (analysed.window.candidate.requests, analysed.window.stable.requests) == (3, 7)
    probe = probe_of(found, leads)
    assert probe._analysed() == [analysed]
    leads[0] = False
    assert probe._analysed() == []
    found.serving.book.set_measured(("ns", "chat"), analysed.window)
    assert found.observed().measured == analysed.window


SHADOW = {"labels": {names.LABEL_REVISION: "v1-b-shadow", names.LABEL_ROLE: names.ROLE_SHADOW}}


def test_pods_that_get_copies_are_compared_and_counted_nowhere_else() -> None:
    found = Installation()
    change = {"phase": "Progressing", "strategy": "Shadow", "revision": "v1-b", "window": WINDOW}
    candidate = {"revision": "v1-b", "deployment": "chat-v1-b-shadow"}
    found.pool(status={"stable": {"revision": "v1-a"}, "candidate": candidate, "rollout": change})
    for revision, meta in (("v1-a", None), ("v1-b-shadow", SHADOW)):
        found.revision(revision, meta=meta)
        found.pod(f"of-{revision}", revision, meta=meta, status={"podIP": "10.0.0.1", "conditions": [READY]})
    observed = found.observed()
    assert [view.revision for view in observed.revisions] == ["v1-a"]
    assert [view.revision for view in observed.shadows] == ["v1-b-shadow"]
    assert observed.find("v1-b-shadow") == observed.shadows[0]
    (analysed,) = found.serving.analysed_pools(found.cluster)
    assert (analysed.candidate, analysed.stable) == ({"of-v1-b-shadow-uid"}, {"of-v1-a-uid"})
    asked = {pod.uid: pod.live for pod in found.serving.asked_pods(found.cluster)}
    assert asked == {"of-v1-a-uid": True, "of-v1-b-shadow-uid": False}


SCALED = {"autoscaling": {"maxReplicas": 4, "metrics": [{"name": "inFlightRequests", "target": "4"}]}}


def test_what_pods_have_to_do_is_asked_where_that_decides_how_many_there_are() -> None:
    found, leads = Installation(), [True]
    found.pool(name="another")
    found.pool(name="going", more=SCALED, **GONE)
    found.pool(more=SCALED)
    found.revision()
    found.pod("busy")
    demand = Demand(3.0, 0.0, 3.0, 0.0, complete=True, by_pod={"busy-uid": 3.0})
    found.serving.book.set_demand(("ns", "chat"), demand)
    assert found.observed().demand == demand
    assert [pod.in_flight for pod in found.observed().pods] == [3.0]
    probe = probe_of(found, leads)
    assert probe._scaled() == {("ns", "chat")}
    leads[0] = False
    assert probe._scaled() == set()
    found.pool()
    assert found.observed().demand is None, "it is asked no more"


def test_proxies_of_pools_at_zero_are_asked_whether_a_request_waits() -> None:
    found = Installation()
    scaled = {**SCALED["autoscaling"], "minReplicas": 0}
    zero = {"autoscaling": scaled, "gateway": {"mode": "Envoy"}}
    for name, more, replicas in (("chat", zero, 0), ("busy", zero, 1), ("plain", SCALED, 0)):
        found.pool(name, more=more, status={"scaling": {"replicas": replicas}})
        owner, proxies = ("InferencePool", name), f"{name}-gateway"
        found.put(resources.DEPLOYMENTS, proxies, owner, meta={"labels": {}, "annotations": STAMP})
        found.put(resources.REPLICASETS, f"{proxies}-rs", ("Deployment", proxies))
        for number, status in enumerate(({"podIP": f"{name}.1", "conditions": [READY]}, {"podIP": f"{name}.2"}, {})):
            found.put(resources.PODS, f"{name}-{number}", ("ReplicaSet", f"{proxies}-rs"), status=status)
    assert found.serving.proxies_of_sleepers(found.cluster) == [Proxy("chat-0-uid", "chat.1", ("ns", "chat"))]
    found.pool("chat", more=zero, status={"scaling": {"replicas": 0}}, **GONE)
    assert found.serving.proxies_of_sleepers(found.cluster) == []


@pytest.mark.parametrize("other", [{"phase": "Failed"}, {"window": None}, {"paused": True}])
def test_nothing_is_compared_outside_of_a_window(other: dict[str, Any]) -> None:
    found = Installation()
    change = {"phase": "Progressing", "strategy": "Canary", "revision": "v1-b", "window": WINDOW, **other}
    found.pool(status={"stable": {"revision": "v1-a"}, "candidate": {"revision": "v1-b"}, "rollout": change})
    assert found.serving.analysed_pools(found.cluster) == []


def test_a_pod_of_another_kind_of_ours_is_not_asked() -> None:
    found = Installation()
    found.version(1)
    reference = {"apiVersion": names.API_VERSION, "kind": "ModelVersion", "name": "tiny-v1", "uid": "u"}
    meta = {"labels": {names.LABEL_ROLE: names.ROLE_SERVE}, "ownerReferences": [{**reference, "controller": True}]}
    found.put(resources.PODS, "p", meta=meta, status={"podIP": "10.0.0.1"})
    assert found.serving.asked_pods(found.cluster) == []


# --- What is told of a refusal, and what the operator may do at all ---


def refused(found: Installation, *errors: Any) -> Any:
    return found.serving.refused(found.observed(), errors, NOW).status


def test_how_many_pods_there_are_is_decided_whatever_is_refused() -> None:
    found = Installation()
    found.pool(more=SCALED, status={"scaling": {"replicas": 3}})
    found.revision(status={"replicas": 3, "readyReplicas": 3}, spec={"replicas": 3})
    idle = Demand(0.0, 0.0, 0.0, 0.0, complete=True)
    found.serving.book.set_demand(("ns", "chat"), idle)
    write = Create({"kind": "Deployment", "metadata": {"name": "chat-v2"}})
    error = WriteError(write, Forbidden(403, "Forbidden", "no"))
    plan = found.serving.refused(found.observed(), [error], NOW)
    assert plan.status.scaling is not None
    assert plan.status.scaling.pending is not None
    assert plan.status.scaling.pending.replicas == 1
    assert plan.requeue_after == 75.0


def test_what_was_left_behind_is_named_in_order() -> None:
    found = Installation()
    found.pool()
    label = {"labels": {names.LABEL_POOL: "chat"}}
    kinds = (resources.SERVICES, resources.BUDGETS, resources.NETWORKPOLICIES, resources.DEPLOYMENTS)
    for resource in (*kinds, resources.CONFIGMAPS):
        for name in ("chat-b", "chat-a"):
            found.put(resource, name if resource is not resources.SERVICES else "chat", meta=label)
    assert found.observed().orphans == (
        "service/chat",
        "poddisruptionbudget/chat-a",
        "poddisruptionbudget/chat-b",
        "networkpolicy/chat-a",
        "networkpolicy/chat-b",
        "deployment/chat-a",
        "deployment/chat-b",
        "configmap/chat-a",
        "configmap/chat-b",
    )


def test_a_refusal_is_told_in_the_api_servers_words_and_a_taken_name_first() -> None:
    found = Installation()
    found.pool()
    write = Create({"kind": "Service", "metadata": {"name": "chat"}})
    no = WriteError(write, Forbidden(403, "Forbidden", "no"))
    other = WriteError(write, Forbidden(403, "Forbidden", "not that either"))
    status = refused(found, no, other)
    assert conditions(status)["Stalled"] == ("True", "PodRejected")
    assert message(status, ConditionType.STALLED) == no.message
    taken = WriteError(write, AlreadyExists(409, "AlreadyExists", '"chat" already exists'))
    status = refused(found, no, taken)
    assert conditions(status)["Stalled"] == ("True", "NameConflict")
    assert message(status, ConditionType.STALLED) == (
        f"{taken.message}; it does not belong to this pool: rename one of them, or, if nobody needs it: "
        "kubectl -n ns delete service/chat"
    )


def test_the_operator_may_do_with_a_pools_objects_what_it_does_with_them() -> None:
    change = ("create", "patch", "delete")
    assert {child.resource.kind: child.verbs for child in Serving.children} == {
        "Service": change,
        "ConfigMap": change,
        "Deployment": change,
        "PodDisruptionBudget": change,
        "NetworkPolicy": change,
        "ReplicaSet": (),
        "Pod": ("patch",),
        "HTTPRoute": change,
        "GRPCRoute": change,
        "Gateway": (),
    }
    kinds = {child.resource.kind: child for child in Serving.children}
    assert {kind for kind, child in kinds.items() if child.optional} == {"HTTPRoute", "GRPCRoute", "Gateway"}
    assert {kind for kind, child in kinds.items() if child.selector == ""} == {"Gateway"}, "users label none for us"


def test_a_pool_is_planned_with_what_the_installation_says() -> None:
    found = Installation()
    found.pool()
    plan = found.serving.plan(found.observed(), NOW)
    assert plan is not None
    assert plan.status.phase == "Waiting"
    assert Serving(SETTINGS, "http://here").url == "http://here"


def test_an_installation_that_says_nothing_has_this_releases_images() -> None:
    settings = Serving().settings
    assert settings.server_image == f"aifactory/server:{__version__}"
    assert settings.agent_image == f"aifactory/agent:{__version__}"


ZERO = {"autoscaling": {**SCALED["autoscaling"], "minReplicas": 0}, "gateway": {"mode": "Envoy"}}


def at_zero(found: Installation, name: str, more: Any) -> None:
    """A pool without pods, and a proxy of it for each address."""
    found.pool(name, more=more, status={"scaling": {"replicas": 0}})
    owner, proxies = ("InferencePool", name), f"{name}-gateway"
    found.put(resources.DEPLOYMENTS, proxies, owner, meta={"labels": {}, "annotations": STAMP})
    found.put(resources.REPLICASETS, f"{proxies}-rs", ("Deployment", proxies))
    for number, address in enumerate(({"podIP": f"{name}.1"}, {})):
        status = {**address, "conditions": [READY]}
        found.put(resources.PODS, f"{name}-{number}", ("ReplicaSet", f"{proxies}-rs"), status=status)


def test_proxies_without_an_address_and_those_that_hold_nothing_are_not_asked() -> None:
    found = Installation()
    at_zero(found, "chat", ZERO)
    at_zero(found, "off", {"replicas": 0, "gateway": {"mode": "Envoy"}})
    assert found.serving.proxies_of_sleepers(found.cluster) == [Proxy("chat-0-uid", "chat.1", ("ns", "chat"))]


def test_the_leader_alone_asks_proxies_and_a_pool_is_woken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, clock, leads, woken, given = Installation(), FakeClock(), [True], list[Any](), list[Any]()
    at_zero(found, "chat", ZERO)
    outside = Outside(
        api=None,  # type: ignore[arg-type] # nobody is asked
        cluster=found.cluster,
        wake=lambda key, seconds: woken.append((key, seconds)),
        leading=lambda: leads[0],
        leader_address=lambda: "",
        clock=clock,
    )

    async def ask(*arguments: Any) -> None:
        given.extend(arguments)

    monkeypatch.setattr(found.serving.wakeups, "run", ask)
    asyncio.run(found.serving.probes(outside)[-1]())
    proxies, wake, monotonic = given
    assert [proxy.uid for proxy in proxies()] == ["chat-0-uid"]
    leads[0] = False
    assert proxies() == []
    wake(("ns", "chat"))
    assert woken == [(Key("ns", "chat"), 0.0)]
    assert monotonic == clock.monotonic


def test_what_proxies_hold_is_seen_of_a_pool_without_pods() -> None:
    found = Installation()
    found.serving.wakeups.set_held(("ns", "chat"), Held(2))
    for replicas, held in ((0, Held(2)), (1, None)):
        found.pool(more=ZERO, status={"scaling": {"replicas": replicas}})
        assert found.observed().held == held


def test_the_policies_that_are_seen_are_the_pools_own() -> None:
    found = Installation()
    found.pool()
    found.put(resources.NETWORKPOLICIES, "chat-serving", ("InferencePool", "chat"), meta={"annotations": STAMP})
    found.put(resources.NETWORKPOLICIES, "chat-theirs", meta={"annotations": STAMP})
    assert found.observed().policies == (Applied("chat-serving", "chat-serving-uid", "stamp."),)

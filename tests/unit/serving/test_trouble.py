"""What keeps a pool's pods away: whose words are told, with which way out, and that it goes when it is mended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aifactory.api.reasons import Reason
from aifactory.engine.apply import Applied
from aifactory.kube import podstate
from aifactory.kube.objects import Deployment, Pod, decoder
from aifactory.kube.podstate import Crash
from aifactory.serving.domain import revision_view
from aifactory.serving.state import Observed, RevisionView, ServingPodView
from aifactory.serving.trouble import Problem, load_error, problem
from tests.unit.serving.builders import SETTINGS, World, conditions, message, pool, serving

QUOTA = 'FailedCreate: pods "chat-v1-x-y" is forbidden: exceeded quota: team, requested: requests.cpu=1, used: 0'
REFUSALS = [
    pytest.param(QUOTA, "Reconciling", "QuotaExceeded", "raise the quota or ask for less", id="quota"),
    pytest.param(
        'FailedCreate: pods "x" is forbidden: failed quota: team: must specify limits.memory',
        "Stalled",
        "PodRejected",
        "write them into spec.template",
        id="quota that asks for limits",
    ),
    pytest.param(
        'FailedCreate: pods "x" is forbidden: violates PodSecurity "restricted:latest": host namespaces',
        "Stalled",
        "PodRejected",
        "take what it names out of spec.template",
        id="pod security",
    ),
    pytest.param(
        'FailedCreate: pods "x" is forbidden: error looking up service account ns/bot: serviceaccount "bot" not found',
        "Stalled",
        "PodRejected",
        "create the ServiceAccount",
        id="service account",
    ),
    pytest.param(
        'FailedCreate: pods "x" is forbidden: no PriorityClass with name high was found',
        "Stalled",
        "PodRejected",
        "create the PriorityClass",
        id="priority class",
    ),
]


@pytest.mark.parametrize(("words", "kind", "reason", "advice"), REFUSALS)
def test_pods_that_can_not_be_made_are_told_and_forgotten(words: str, kind: str, reason: str, advice: str) -> None:
    world = World(pool())
    world.publish(1)
    world.settle()
    (deployment,) = world.deployments.values()
    deployment.refusal = words
    world.settle()
    assert conditions(world.status)[kind] == ("True", reason)
    assert (world.status.phase, world.status.reason) == ("Starting", reason)
    for part in (f"no pod of Deployment {deployment.child.name} can be made", words, advice):
        assert part in message(world.status)
    deployment.refusal = ""
    world.roll_out()
    assert (world.status.phase, conditions(world.status)["Stalled"][0]) == ("Serving", "False")


def test_a_candidate_whose_pods_can_not_be_made_says_so_and_the_stable_ones_serve() -> None:
    world = serving(1)
    world.publish(2)
    world.settle()
    next(found for found in world.deployments.values() if found.revision == world.revision(2)).refusal = QUOTA
    world.settle()
    assert (world.status.phase, world.status.reason) == ("RollingOut", "QuotaExceeded")
    assert "exceeded quota: team" in message(world.status)
    assert conditions(world.status)["Available"][0] == "True"


@pytest.mark.parametrize(
    ("crash", "words"),
    [
        (
            Crash("triton", 1, "Error", "unrecognized option --no-such-flag"),
            "last with exit code 1: unrecognized option --no-such-flag; read more with kubectl -n ns logs ",
        ),
        (
            Crash("triton", 137, "OOMKilled"),
            "exit code 137 (OOMKilled); raise resources.limits.memory of container triton",
        ),
        (Crash("proxy", 0, "Completed"), "container proxy of pod "),
        (
            Crash("triton", 1, "Error", "usage\n" * 99 + "no such flag"),
            " | usage | no such flag; read more with kubectl",
        ),
    ],
)
def test_a_container_that_crashes_is_told_with_its_last_words(crash: Crash, words: str) -> None:
    world = World(pool(replicas=1))
    world.publish(1)
    world.settle()
    world.pods[0].trouble = {"crash": crash}
    world.settle()
    assert conditions(world.status)["Stalled"] == ("True", "CrashLoopBackOff")
    assert words in message(world.status)
    assert world.pods[0].name in message(world.status)
    world.pods[0].trouble = {}
    world.load()
    assert world.status.phase == "Serving"


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("pod has unbound immediate PersistentVolumeClaims", "create the claim, or give it a storage class"),
        ('persistentvolumeclaim "aifactory-models" not found', "create the claim"),
        ("1 node(s) didn't match Pod's node affinity/selector", "label a node as nodeSelector"),
        ("1 node(s) had untolerated taint {gpu: true}", "free nodes or GPUs, or tolerate the taint"),
        ("1 node(s) had volume node affinity conflict", "the volume lies where no such node is"),
        ("something new", "correct spec.template"),
    ],
)
def test_a_pod_without_a_node_is_advised_by_the_schedulers_words(words: str, advice: str) -> None:
    world = World(pool(replicas=1))
    world.publish(1)
    world.settle()
    world.pods[0].trouble = {"unschedulable": words}
    world.settle()
    assert conditions(world.status)["Reconciling"] == ("True", "Unschedulable")
    assert f"{words}; {advice}" in message(world.status)


def test_a_scheduler_that_does_not_exist_is_named() -> None:
    world = World(pool(replicas=1, template={"spec": {"schedulerName": "volcano"}}))
    world.publish(1)
    world.settle()
    world.pods[0].trouble = {"overlooked": True}
    world.settle()
    assert conditions(world.status)["Reconciling"] == ("True", "Unschedulable")
    assert "waits for scheduler volcano: start it, or correct schedulerName" in message(world.status)


@pytest.mark.parametrize("way", ["rolling", "taken back", "waiting"])
def test_what_is_wrong_with_the_pods_that_serve_meanwhile_is_told_as_well(way: str) -> None:
    world = serving(1)
    if way == "waiting":
        world.publish(1, ready=False, reason="Gone")
    else:
        world.publish(2)
        world.settle()
        if way == "taken back":
            world.live(2)[0].trouble = {"load_error": "LoadFailed: no such layer"}
            world.settle()
    lost = world.live(1)[0]
    lost.ready, lost.trouble = False, {"crash": Crash("triton", 137, "OOMKilled")}
    world.settle()
    said = message(world.status)
    assert f"; of what is served meanwhile, container triton of pod {lost.name} ends again and again" in said


@pytest.mark.parametrize("template", [{}, {"spec": {"schedulerName": "default-scheduler"}}])
def test_the_default_scheduler_is_given_its_moment(template: Any) -> None:
    world = World(pool(replicas=1, template=template))
    world.publish(1)
    world.settle()
    world.pods[0].trouble = {"overlooked": True}
    world.settle()
    assert world.status.reason == "Starting"


def test_a_pod_that_a_queue_holds_back_says_so() -> None:
    world = World(pool(replicas=1))
    world.publish(1)
    world.settle()
    world.pods[0].trouble = {"gated": True}
    world.settle()
    assert conditions(world.status)["Reconciling"] == ("True", "Unschedulable")
    assert "waits for its scheduling gates" in message(world.status)


def test_a_pod_that_its_node_refuses_is_told() -> None:
    world = World(pool(replicas=1))
    world.publish(1)
    world.settle()
    world.pods[0].trouble = {"refused_by_node": "UnexpectedAdmissionError: no such device", "node": "gpu-3"}
    world.settle()
    assert "node gpu-3 does not run pod " in message(world.status)
    assert "UnexpectedAdmissionError: no such device" in message(world.status)


# --- What is read of Kubernetes' objects ---


def pod(phase: str = "Running", **status: Any) -> Pod:
    body = {"metadata": {"name": "a", "namespace": "ns"}, "spec": {}, "status": {"phase": phase, **status}}
    return decoder(Pod)(json.dumps(body).encode())


def container(state: dict[str, Any], last: dict[str, Any], restarts: int, name: str = "triton") -> dict[str, Any]:
    return {"name": name, "state": state, "lastState": last, "restartCount": restarts}


ENDED = {"terminated": {"exitCode": 1, "reason": "Error", "message": "loading\nno such flag\n\n"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}


@pytest.mark.parametrize(
    ("state", "last", "restarts", "found"),
    [
        pytest.param(BACK_OFF, ENDED, 1, True, id="it is held back"),
        pytest.param({"running": {}}, ENDED, 1, False, id="it runs again"),
        pytest.param({"running": {}}, ENDED, 2, True, id="it runs again, for a moment"),
        pytest.param(ENDED, ENDED, 2, True, id="it has just ended"),
        pytest.param(ENDED, {}, 0, False, id="the first time"),
        pytest.param({"terminated": {"exitCode": 0}}, {}, 0, False, id="it is done"),
        pytest.param({"running": {}}, {}, 0, False, id="all is well"),
    ],
)
def test_which_container_crashes(state: Any, last: Any, restarts: int, found: bool) -> None:
    for where in ("containerStatuses", "initContainerStatuses"):
        crash = podstate.crash(pod(**{where: [container(state, last, restarts)]}))
        assert (crash is not None) is found
        if crash is not None:
            assert (crash.container, crash.exit_code) == ("triton", 1)
            assert crash.message == "loading\nno such flag\n\n"
            assert crash.restarts == restarts


@pytest.mark.parametrize(("ready", "found"), [(True, False), (False, True)])
def test_an_init_container_that_ended_with_0_is_done_unless_it_is_to_stay(ready: bool, found: bool) -> None:
    """A kubelet counts one that is done as ready; one with restartPolicy Always that ends is never done."""
    state = {**container({"terminated": {"exitCode": 0, "reason": "Completed"}}, ENDED, 3), "ready": ready}
    assert (podstate.crash(pod(initContainerStatuses=[state])) is not None) is found


def test_a_pod_that_nobody_has_scheduled() -> None:
    assert podstate.is_unseen(pod("Pending"))
    assert not podstate.is_unseen(pod("Pending", conditions=[{"type": "PodScheduled", "status": "False"}]))
    assert not podstate.is_unseen(pod("Running"))


@pytest.mark.parametrize(("reason", "gated"), [("SchedulingGated", True), ("Unschedulable", False)])
def test_a_pod_with_scheduling_gates(reason: str, gated: bool) -> None:
    found = pod("Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": reason}])
    assert podstate.is_gated(found) is gated
    assert bool(podstate.unschedulable(found)) is not gated


def test_a_pod_that_its_node_ended() -> None:
    found = podstate.refused_by_node(pod("Failed", reason="OutOfcpu", message="Node didn't have enough resource"))
    assert (found.reason, found.message) == ("OutOfcpu", "Node didn't have enough resource")
    assert not podstate.refused_by_node(pod("Failed")), "its containers have ended, which is told of them"
    assert not podstate.refused_by_node(pod("Running", reason="x"))


@pytest.mark.parametrize(
    ("entry", "refusal"),
    [
        (
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: team"},
            "FailedCreate: exceeded quota: team",
        ),
        (
            {"type": "Progressing", "status": "False", "reason": "ReplicaSetCreateError", "message": "forbidden"},
            "ReplicaSetCreateError: forbidden",
        ),
        ({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "late"}, ""),
        ({"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "message": "no"}, ""),
    ],
)
def test_a_deployment_that_can_make_no_pods(entry: dict[str, str], refusal: str) -> None:
    body = {"metadata": {"name": "a", "namespace": "ns"}, "status": {"replicas": 0, "conditions": [entry]}}
    assert revision_view(decoder(Deployment)(json.dumps(body).encode())).refusal == refusal


# --- In full ---


def seen(*pods: ServingPodView, refusal: str = "", terminating: bool = False, **spec: Any) -> Observed:
    view = RevisionView(Applied("chat-r", "uid"), "r", 1, refusal=refusal, terminating=terminating)
    return Observed(pool(**spec), SETTINGS, revisions=(view,), pods=pods)


def serving_pod(name: str = "p", revision: str = "r", **changes: Any) -> ServingPodView:
    return ServingPodView(name, revision, **changes)


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (
            {"crash": Crash("triton", 1, "Error", "no such flag")},
            Problem(
                Reason.CRASH_LOOP_BACK_OFF,
                "container triton of pod p ends again and again, last with exit code 1: no such flag; "
                "read more with kubectl -n ns logs p -c triton --previous",
                waits=False,
            ),
        ),
        (
            {"crash": Crash("triton", 137, "OOMKilled")},
            Problem(
                Reason.CRASH_LOOP_BACK_OFF,
                "container triton of pod p ends again and again, last with exit code 137 (OOMKilled); "
                "raise resources.limits.memory of container triton in spec.template (/dev/shm counts too)",
                waits=False,
            ),
        ),
        (
            {"crash": Crash("proxy", 0, "Completed")},
            Problem(
                Reason.CRASH_LOOP_BACK_OFF,
                "container proxy of pod p ends again and again, last with exit code 0; "
                "read more with kubectl -n ns logs p -c proxy --previous",
                waits=False,
            ),
        ),
        (
            {"unschedulable": "3 Insufficient cpu"},
            Problem(
                Reason.UNSCHEDULABLE,
                "pod p has no node: 3 Insufficient cpu; "
                "free nodes or GPUs, add a node, or ask for less in spec.template",
                waits=True,
            ),
        ),
        (
            {"overlooked": True},
            Problem(
                Reason.UNSCHEDULABLE,
                "pod p waits for scheduler volcano: start it, or correct schedulerName in spec.template",
                waits=True,
            ),
        ),
        (
            {"gated": True},
            Problem(
                Reason.UNSCHEDULABLE,
                "pod p waits for its scheduling gates: whoever set them, a queue for example, removes them",
                waits=True,
            ),
        ),
        (
            {"load_error": "LoadFailed: no such layer"},
            Problem(Reason.MODEL_LOAD_FAILED, "pod p: LoadFailed: no such layer", waits=False),
        ),
        (
            {"refused_by_node": "OutOfcpu: no room", "node": "n-3"},
            Problem(
                Reason.PODS_NOT_READY, "node n-3 does not run pod p: OutOfcpu: no room; another one is made", waits=True
            ),
        ),
        ({}, None),
    ],
)
def test_what_keeps_a_pod_away_is_told_in_full(trouble: Any, told: Problem | None) -> None:
    assert problem(seen(serving_pod(**trouble), template={"spec": {"schedulerName": "volcano"}}), "r") == told


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("exceeded quota: team", "raise the quota or ask for less in spec.template"),
        (
            "must specify limits.memory",
            "a ResourceQuota asks for these: write them into spec.template, or add a LimitRange",
        ),
        ("violates PodSecurity", "take what it names out of spec.template"),
        (
            'serviceaccount "bot" not found',
            "create the ServiceAccount or correct serviceAccountName in spec.template",
        ),
        ("no PriorityClass with name high", "create the PriorityClass or correct priorityClassName in spec.template"),
        (
            'admission webhook "w" denied the request: no',
            "change spec.template as the admission webhook or policy asks",
        ),
        ("something new", "correct spec.template"),
    ],
)
def test_the_way_out_when_no_pod_can_be_made(words: str, advice: str) -> None:
    quota = words.startswith("exceeded quota")
    reason = Reason.QUOTA_EXCEEDED if quota else Reason.POD_REJECTED
    told = Problem(reason, f"no pod of Deployment chat-r can be made: {words}; {advice}", waits=quota)
    assert problem(seen(refusal=words), "r") == told
    assert problem(seen(refusal=words, terminating=True), "r") is None, "it makes no pods any more"


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (
            "unbound immediate PersistentVolumeClaims",
            "create the claim, or give it a storage class that can provide it",
        ),
        ("volume node affinity", "the volume lies where no such node is: free one there, or move the claim"),
        ("Insufficient cpu", "free nodes or GPUs, add a node, or ask for less in spec.template"),
        ("Pod's node affinity", "label a node as nodeSelector or affinity in spec.template ask, or correct them"),
        ("untolerated taint", "free nodes or GPUs, or tolerate the taint in spec.template"),
        ("something new", "correct spec.template"),
    ],
)
def test_the_way_out_when_there_is_no_node(words: str, advice: str) -> None:
    found = problem(seen(serving_pod(unschedulable=words)), "r")
    assert found is not None
    assert found.message == f"pod p has no node: {words}; {advice}"


def test_the_first_pod_by_name_that_has_a_trouble_is_told() -> None:
    gated = {"gated": True}
    pods = [
        serving_pod("d", **gated),
        serving_pod("c", **gated),
        serving_pod("b"),
        serving_pod("a", ready=True, **gated),
        serving_pod("a", terminating=True, **gated),
        serving_pod("a", "other", **gated),
    ]
    found = problem(seen(*pods), "r")
    assert found is not None
    assert found.message.startswith("pod c waits")


@pytest.mark.parametrize(
    ("node", "others", "told"),
    [
        (
            "n-1",
            1,
            "pod p: LoadFailed: x; 1 other pod has it loaded, so it is this pod or n-1: "
            "kubectl cordon n-1, then kubectl -n ns delete pod p",
        ),
        (
            "",
            2,
            "pod p: LoadFailed: x; 2 other pods have it loaded, so it is this pod or its node: "
            "kubectl cordon NODE, then kubectl -n ns delete pod p",
        ),
    ],
)
def test_a_pod_that_can_not_load_what_others_have_loaded(node: str, others: int, told: str) -> None:
    pods = [serving_pod(f"o-{number}", ready=True) for number in range(others)]
    stranger = serving_pod("s", "other", ready=True)
    found = problem(seen(serving_pod(load_error="LoadFailed: x", node=node), *pods, stranger), "r")
    assert found is not None
    assert found.message == told


def test_what_passes_is_no_fault_of_a_pod_or_its_node() -> None:
    pods = [serving_pod(load_error="StoreUnavailable: s3://b: away", node="n-1"), serving_pod("o", ready=True)]
    found = problem(seen(*pods), "r")
    assert found is not None
    assert found.message == "pod p: StoreUnavailable: s3://b: away"


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([], ""),
        (["", ""], ""),
        (["StoreUnavailable: s3://b: it is away"], ""),
        (["StoreUnavailable: it is away", "LoadFailed: no such layer: h.7"], "LoadFailed: no such layer: h.7"),
        (["LoadFailed: StoreUnavailable: no"], "LoadFailed: StoreUnavailable: no"),
    ],
)
def test_which_load_errors_do_not_pass(errors: list[str], told: str) -> None:
    pods = [serving_pod(f"p-{number}", load_error=error) for number, error in enumerate(errors)]
    assert load_error(pods, "r") == told

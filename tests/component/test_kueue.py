"""Jobs in a queue, with Kueue's own kinds on a real API server; the test plays Kueue (`make test-kueue` has it)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.cluster import objects
from tests.component import pods
from tests.component.conftest import Operator
from tests.kueue.running import GROUP, sources
from tests.support.kubectl import Json, Kubectl, condition
from tests.support.waiting import wait_for

KINDS = ("workloads", "resourceflavors", "workloadpriorityclasses")
FLAVOR = {
    "apiVersion": f"{GROUP}/v1beta2",
    "kind": "ResourceFlavor",
    "metadata": {"name": "a100"},
    "spec": {"nodeLabels": {"gpu": "a100"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]},
}
URGENT = {
    "apiVersion": f"{GROUP}/v1beta2",
    "kind": "WorkloadPriorityClass",
    "metadata": {"name": "urgent"},
    "value": 1000,
}


@pytest.fixture(scope="module")
def operator(kubectl: Kubectl, start_operator: Callable[..., Operator]) -> Iterator[Operator]:
    """An operator that has found Kueue's kinds when it started."""
    crds = sources() / "config/components/crd/bases"
    for kind in KINDS:
        kubectl.run("apply", "--server-side", "-f", str(crds / f"{GROUP}_{kind}.yaml"))
    names = [f"crd/{kind}.{GROUP}" for kind in KINDS]
    kubectl.run("wait", "--for=condition=Established", *names, "--timeout=30s")
    kubectl.apply(FLAVOR, URGENT)
    process = start_operator("--lease-seconds=3")
    process.wait_ready()
    yield process
    assert process.stop() == 0, process.words()
    assert "Traceback" not in process.log.read_text(), process.words()
    kubectl.run("delete", *names)


def queued(job: Json, **labels: str) -> Json:
    return {**job, "metadata": {**job["metadata"], "labels": {f"{GROUP}/queue-name": "training", **labels}}}


def workload(ns: Kubectl) -> Json:
    """The only one in the namespace, once it is there."""
    (found,) = wait_for("a Workload", lambda: ns.list(f"workloads.{GROUP}"), lambda seen: len(seen) == 1, seconds=30)
    return dict(found)


def tell(ns: Kubectl, found: Json, conditions: dict[str, tuple[str, str]], admission: Json | None = None) -> None:
    """Write a Workload's status as Kueue would: some conditions beside the others."""
    kept = [one for one in found.get("status", {}).get("conditions", ()) if one["type"] not in conditions]
    told = [
        {
            "type": type_,
            "status": status,
            "reason": reason,
            "message": f"{reason} it is",
            "lastTransitionTime": pods.STARTED,
        }
        for type_, (status, reason) in conditions.items()
    ]
    status: Json = {"conditions": [*kept, *told]}
    if admission is not None:
        status["admission"] = admission
    patch = json.dumps({"status": status, "metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}})
    ns.run("patch", f"workload.{GROUP}", found["metadata"]["name"], "--subresource=status", "--type=merge", "-p", patch)


def admit(ns: Kubectl) -> None:
    sets = [
        {"name": "node", "count": 2, "flavors": {"nvidia.com/gpu": "a100"}, "resourceUsage": {"nvidia.com/gpu": "2"}}
    ]
    given = {"QuotaReserved": ("True", "QuotaReserved"), "Admitted": ("True", "Admitted")}
    over = {"Evicted": ("False", "QuotaReserved")} if facts(ns).get("Evicted") else {}
    tell(ns, workload(ns), {**given, **over}, {"clusterQueue": "gpus", "podSetAssignments": sets})


def facts(ns: Kubectl) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in workload(ns).get("status", {}).get("conditions", ())}


def wait_fact(ns: Kubectl, type_: str, wanted: tuple[str, str]) -> None:
    wait_for(f"{type_} to be {wanted}", lambda: facts(ns).get(type_), lambda seen: seen == wanted, seconds=30)


def wait_pods(ns: Kubectl, *names: str) -> None:
    wait_for(
        f"pods {names}",
        lambda: sorted(pod["metadata"]["name"] for pod in ns.list("pods")),
        lambda seen: seen == sorted(names),
        seconds=30,
    )


def run(ns: Kubectl, *names: str) -> None:
    for name in names:
        pods.run(ns, name)
    ns.wait_condition("tjob", "train", "Running")


def test_a_job_from_queue_to_queue_to_end(ns: Kubectl, operator: Operator) -> None:
    ns.apply(queued(objects.job("train", ["true"], nodes=2), **{f"{GROUP}/priority-class": "urgent"}))
    found = workload(ns)
    spec, owner = found["spec"], found["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("TrainingJob", "train", True)
    assert (spec["queueName"], spec["priority"], spec["priorityClassRef"]["name"]) == ("training", 1000, "urgent")
    (asked,) = spec["podSets"]
    assert asked["count"] == 2
    (trainer,) = asked["template"]["spec"]["containers"]
    assert {name: str(count) for name, count in trainer["resources"]["limits"].items()} == {"nvidia.com/gpu": "1"}
    job = ns.wait("tjob", "train", "is told to wait", lambda job: job.get("status", {}).get("phase") == "Queued")
    assert condition(job, "Admitted")["status"] == "False"
    assert not ns.list("pods")

    admit(ns)
    wait_pods(ns, "train-0-0", "train-1-0")
    made = ns.get("pod", "train-1-0")["spec"]
    assert made["nodeSelector"] == {"gpu": "a100"}
    assert {"key": "gpu", "operator": "Exists"} in made["tolerations"]
    run(ns, "train-0-0", "train-1-0")
    wait_fact(ns, "PodsReady", ("True", "Started"))

    tell(ns, workload(ns), {"Evicted": ("True", "Preempted"), "Preempted": ("True", "InCohortReclamation")})
    job = ns.wait("tjob", "train", "is preempted", lambda job: job["status"]["phase"] == "Queued")
    assert job["status"]["reason"] == "Preempted"
    assert "Preempted it is" in condition(job, "Reconciling")["message"]
    wait_fact(ns, "QuotaReserved", ("False", "Pending"))
    told = facts(ns)
    assert told["Admitted"] == ("False", "NoReservation")
    assert told["Requeued"] == ("True", "Preempted")
    assert told["PodsReady"] == ("False", "WaitForStart")
    assert told["Preempted"] == ("True", "InCohortReclamation"), "what is Kueue's stays"
    assert "admission" not in workload(ns)["status"]
    assert not ns.list("pods")

    admit(ns)
    wait_pods(ns, "train-0-1", "train-1-1")
    run(ns, "train-0-1", "train-1-1")
    for name in ("train-0-1", "train-1-1"):
        pods.end(ns, name, 0)
    job = ns.wait_condition("tjob", "train", "Complete")
    assert (job["status"]["attempt"], job["status"]["restarts"]["total"]) == (1, 0)
    wait_fact(ns, "Finished", ("True", "Succeeded"))
    assert not condition(job, "Admitted")


def test_another_number_of_nodes_is_another_request(ns: Kubectl, operator: Operator) -> None:
    ns.apply(queued(objects.job("train", ["true"], nodes=2)))
    before = workload(ns)["metadata"]["uid"]
    admit(ns)
    wait_pods(ns, "train-0-0", "train-1-0")
    run(ns, "train-0-0", "train-1-0")
    ns.run("scale", "tjob", "train", "--replicas=3")
    wait_for("the old one to be gone", lambda: workload(ns)["metadata"]["uid"], lambda uid: uid != before, seconds=30)
    assert workload(ns)["spec"]["podSets"][0]["count"] == 3
    ns.wait("tjob", "train", "waits anew", lambda job: job["status"]["phase"] == "Queued")
    assert not ns.list("pods")


def test_a_suspended_job_and_a_deleted_one_wait_for_nothing(ns: Kubectl, operator: Operator) -> None:
    ns.apply(queued(objects.job("train", ["true"])))
    workload(ns)
    ns.run("patch", "tjob", "train", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    ns.wait_condition("tjob", "train", "Suspended")
    wait_for("no Workload", lambda: ns.list(f"workloads.{GROUP}"), lambda seen: not seen, seconds=30)
    ns.run("patch", "tjob", "train", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    workload(ns)
    ns.run("delete", "tjob", "train")
    wait_for("no Workload", lambda: ns.list(f"workloads.{GROUP}"), lambda seen: not seen, seconds=30)


def test_a_class_that_comes_later_is_noticed(ns: Kubectl, operator: Operator) -> None:
    ns.apply(queued(objects.job("train", ["true"]), **{f"{GROUP}/priority-class": "later"}))
    job = ns.wait_condition("tjob", "train", "Stalled")
    assert condition(job, "Stalled")["reason"] == "DependencyMissing"
    assert "WorkloadPriorityClass later does not exist" in condition(job, "Stalled")["message"]
    ns.apply({**URGENT, "metadata": {"name": "later"}, "value": 7})
    assert workload(ns)["spec"]["priority"] == 7

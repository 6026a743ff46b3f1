"""What a program finds in the way is told before a pod asks for a GPU, and beside pods that it would have ended."""

from __future__ import annotations

from tests.cluster import objects
from tests.support.kubectl import Json, Kubectl, condition
from tests.support.waiting import wait_for

FOREVER = 1_000_000


def asked(*options: str) -> Json:
    """A job of two pods with a GPU each."""
    return objects.training_job("asked", steps=FOREVER, nodes=2, args=("--checkpoint-every=20", *options))


def pods(ns: Kubectl) -> list[Json]:
    return ns.list("pods", "aifactory.dev/job-name=asked")


def role(pod: Json) -> str:
    return str(pod["metadata"]["labels"]["aifactory.dev/role"])


def roles(ns: Kubectl) -> set[str]:
    return set(map(role, pods(ns)))


def test_a_bad_option_is_told_before_a_gpu_is_asked_for_and_a_mended_spec_goes_on(ns: Kubectl) -> None:
    ns.apply(asked("--heads=7"))
    found = ns.wait_condition("tjob", "asked", "Stalled", seconds=180)
    assert found["status"]["reason"] == "CheckFailed"
    told = condition(found, "Stalled")["message"]
    assert "ArgumentError: embedding 128 must be a multiple of 2 x heads (14)" in told
    assert roles(ns) == {"check"}
    (pod,) = pods(ns)
    assert "nvidia.com/gpu" not in str(pod["spec"]["containers"])

    ns.apply(asked("--heads=4"))
    found = ns.wait_condition("tjob", "asked", "Running", seconds=240)
    assert found["status"]["check"]["phase"] == "Passed"
    assert found["status"]["check"]["seconds"] >= 0
    print(f"the check took {found['status']['check']['seconds']} s")
    wait_for("the check's pod to be gone", lambda: roles(ns), lambda seen: seen == {"node"})

    ns.wait("tjob", "asked", "to report a checkpoint", lambda seen: seen["status"].get("checkpoint"), seconds=120)
    before = sorted(pod["metadata"]["uid"] for pod in pods(ns))
    ns.apply(asked("--heads=2"))
    found = ns.wait_condition("tjob", "asked", "Stalled", seconds=180)
    told = condition(found, "Stalled")["message"]
    assert "can not be taken up, it was written with other --heads (4, now 2)" in told
    assert condition(found, "Running")["status"] == "True"
    assert sorted(pod["metadata"]["uid"] for pod in pods(ns) if role(pod) == "node") == before

    ns.apply(asked("--heads=4"))
    found = ns.wait_condition("tjob", "asked", "Ready", seconds=60)
    assert (found["status"]["attempt"], found["status"]["restarts"]["total"]) == (0, 0)
    found = (pod["metadata"]["uid"] for pod in pods(ns) if role(pod) == "node")
    assert sorted(found) == before

"""Training goes on: after a killed pod from the checkpoint, after a suspension, after a resize."""

from __future__ import annotations

from tests.cluster import objects
from tests.support.kubectl import Json, Kubectl
from tests.support.waiting import wait_for


def _step(found: Json) -> int:
    return int((found.get("status", {}).get("progress") or {}).get("step", 0))


def test_a_killed_pod_costs_one_restart_and_no_checkpoint(ns: Kubectl) -> None:
    ns.apply(objects.training_job("phoenix", steps=200, nodes=2, args=("--checkpoint-every=20",)))
    ns.wait(
        "tjob",
        "phoenix",
        "to have a checkpoint",
        lambda found: (found.get("status", {}).get("checkpoint") or {}).get("step"),
    )
    ns.run("delete", "pod", "phoenix-1-0", "--grace-period=0", "--force")
    found = ns.wait_condition("tjob", "phoenix", "Complete", seconds=300)
    status = found["status"]
    assert status["restarts"]["total"] == 1, status["lastFailure"]
    assert status["restarts"]["byCause"] == {"Disruption": 1}
    assert status["attempt"] == 1
    assert status["lastFailure"]["pod"] == "phoenix-1-0"
    assert _step(found) == 200
    assert status["progress"]["percent"] == 100
    log = ns.run("logs", "phoenix-0-1").out
    assert "resum" in log.lower(), log


def test_suspend_removes_the_pods_and_resume_goes_on(ns: Kubectl) -> None:
    ns.apply(objects.training_job("pause", steps=80, nodes=1, args=("--checkpoint-every=1000000",)))
    ns.wait("tjob", "pause", "to make progress", lambda found: _step(found) > 0)
    ns.run("patch", "tjob", "pause", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    found = ns.wait_condition("tjob", "pause", "Suspended")
    assert found["status"]["phase"] == "Suspended"
    assert ns.list("pods") == []
    ns.run("patch", "tjob", "pause", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    found = ns.wait_condition("tjob", "pause", "Complete", seconds=300)
    # The only checkpoint is the one written on SIGTERM: without it the run would start again from nothing.
    assert "resum" in ns.run("logs", "pause-0-1").out.lower()
    assert found["status"]["restarts"]["total"] == 0
    assert found["status"]["attempt"] == 1


def test_scaling_restarts_with_the_new_number_of_nodes(ns: Kubectl) -> None:
    ns.apply(objects.job("grow", objects.UNTIL_TOLD))
    ns.wait_condition("tjob", "grow", "Running")
    ns.run("scale", "tjob", "grow", "--replicas=2")
    found = ns.wait(
        "tjob",
        "grow",
        "to run with two pods",
        lambda f: f["status"]["nodes"]["summary"] == "2/2" and f["status"]["attempt"] == 1,
    )
    assert found["status"]["resolved"]["nodes"] == 2
    wait_for(
        "the old pod, which has ended, to be gone too",
        lambda: {pod["metadata"]["name"] for pod in ns.list("pods")},
        lambda names: names == {"grow-0-1", "grow-1-1"},
    )

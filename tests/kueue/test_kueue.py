"""Two teams share eight GPUs by the real Kueue: quota, borrowing, a preemption that costs no step, and what is told.

In order: what a test has made is what the next one begins with.
"""

from __future__ import annotations

import re

import pytest

from tests.cluster import objects
from tests.kueue.conftest import Page, lines_of_the_page
from tests.support.kubectl import Json, Kubectl, condition
from tests.support.waiting import wait_for

Teams = dict[str, Kubectl]
STEPS = 150


def queued(job: Json, queue: str = "training", priority: str = "") -> Json:
    """A job that waits in a queue."""
    labels = {"kueue.x-k8s.io/queue-name": queue}
    if priority:
        labels["kueue.x-k8s.io/priority-class"] = priority
    return {**job, "metadata": {**job["metadata"], "labels": labels}}


def workloads(team: Kubectl, job: str) -> list[Json]:
    return team.list("workloads.kueue.x-k8s.io", f"aifactory.dev/job-name={job}")


def workload(team: Kubectl, job: str) -> Json:
    """The only Workload of a job."""
    (found,) = workloads(team, job)
    return found


def true(team: Kubectl, job: str) -> set[str]:
    return {
        one["type"] for one in workload(team, job).get("status", {}).get("conditions", ()) if one["status"] == "True"
    }


def step(found: Json) -> int:
    return int((found.get("status", {}).get("progress") or {}).get("step", 0))


def test_a_job_that_needs_more_than_its_teams_quota_borrows(teams: Teams) -> None:
    team = teams["team-a"]
    large = objects.training_job("large", steps=STEPS, nodes=2, output="large", args=("--checkpoint-every=1000000",))
    large["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": 4}}
    team.apply(queued(large))
    found = team.wait("tjob", "large", "trains", step, seconds=240)
    admitted = condition(found, "Admitted")
    assert (admitted["status"], admitted["reason"]) == ("True", "Admitted")
    assert "ClusterQueue team-a: nvidia.com/gpu of flavor gpu-node" in admitted["message"]
    usage = workload(team, "large")["status"]["admission"]["podSetAssignments"][0]
    assert (usage["resourceUsage"], usage["count"]) == ({"nvidia.com/gpu": "8"}, 2)
    wait_for("Kueue to know that all pods run", lambda: true(team, "large"), lambda found: "PodsReady" in found)
    assert found["status"]["attempt"] == 0


def test_the_next_job_waits_and_says_for_what(teams: Teams) -> None:
    team = teams["team-a"]
    team.apply(queued(objects.job("small", ["true"], gpus=1)))
    found = team.wait(
        "tjob",
        "small",
        "to say what it waits for",
        lambda found: "insufficient" in condition(found, "Reconciling").get("message", ""),
    )
    assert (found["status"]["phase"], found["status"]["reason"]) == ("Queued", "Queued")
    assert condition(found, "Admitted")["status"] == "False"
    assert "LocalQueue training" in condition(found, "Reconciling")["message"]
    assert not team.list("pods", "aifactory.dev/job-name=small")
    columns = team.run("get", "tjob", "small", "-o", "wide").out.splitlines()
    assert re.search(r"\bQUEUE\b", columns[0])
    assert re.search(r"\bQueued\b.*\btraining\b", columns[1])


def test_a_team_gets_its_own_back_and_no_step_is_lost(teams: Teams) -> None:
    """The only checkpoint is the one that the pods write when they are told to end."""
    lender, borrower = teams["team-b"], teams["team-a"]
    lender.apply(queued(objects.training_job("own", steps=20, nodes=1, output="own")))
    found = borrower.wait("tjob", "large", "has lost its quota", lambda found: found["status"]["reason"] == "Preempted")
    assert condition(found, "Admitted")["reason"] == "Preempted"
    found = borrower.wait(
        "tjob", "large", "waits again", lambda found: found["status"]["phase"] == "Queued", seconds=180
    )
    assert condition(found, "Reconciling")["status"] == "True"
    saved = found["status"]["checkpoint"]["step"]
    assert 0 < saved < STEPS
    assert saved == step(found), "steps after the checkpoint would be done again"
    assert found["status"]["nodes"]["active"] == 0
    lender.wait_condition("tjob", "own", "Complete", seconds=300)
    assert true(lender, "own") >= {"Finished", "PodsReady"}
    found = borrower.wait_condition("tjob", "large", "Complete", seconds=600)
    status = found["status"]
    assert (status["attempt"], status["restarts"]["total"], step(found)) == (1, 0, STEPS)
    assert status["restarts"].get("lostSteps", 0) == 0
    log = borrower.run("logs", "large-0-1").out
    assert re.search(rf"resum\w*\D*\b{saved}\b", log, re.IGNORECASE), log
    assert "Finished" in true(borrower, "large")
    assert borrower.get("mver", "large-v1")
    borrower.wait_condition("tjob", "small", "Complete", seconds=180)


def test_an_urgent_job_takes_the_quota_of_one_that_is_not(teams: Teams) -> None:
    team = teams["team-b"]
    team.apply(queued(objects.job("slow", objects.UNTIL_TOLD, nodes=2, gpus=4)))
    team.wait_condition("tjob", "slow", "Running", seconds=180)
    team.apply(queued(objects.job("now", ["true"], gpus=1), priority="urgent"))
    team.wait_condition("tjob", "now", "Complete", seconds=180)
    found = team.wait(
        "tjob",
        "slow",
        "runs again",
        lambda found: condition(found, "Running").get("status") == "True" and found["status"]["attempt"],
        seconds=180,
    )
    assert (found["status"]["attempt"], found["status"]["restarts"]["total"]) == (1, 0)
    team.run("delete", "tjob", "slow")
    wait_for(
        "its Workload to be gone",
        lambda: workloads(team, "slow"),
        lambda left: not left,
    )


@pytest.mark.parametrize(
    ("name", "named", "reason", "words"),
    [
        ("no-queue", {"queue": "nowhere"}, "NotAdmissible", "nowhere"),
        ("no-class", {"priority": "unheard-of"}, "DependencyMissing", "WorkloadPriorityClass unheard-of"),
    ],
)
def test_what_can_never_be_admitted_says_what_to_do(
    teams: Teams, name: str, named: dict[str, str], reason: str, words: str
) -> None:
    team = teams["team-a"]
    team.apply(queued(objects.job(name, ["true"]), **named))
    found = team.wait_condition("tjob", name, "Stalled")
    assert (found["status"]["phase"], condition(found, "Stalled")["reason"]) == ("Queued", reason)
    assert words in condition(found, "Stalled")["message"]


def test_a_suspended_job_leaves_the_queue(teams: Teams) -> None:
    team = teams["team-a"]
    team.apply(queued(objects.job("pause", objects.UNTIL_TOLD, gpus=1)))
    team.wait_condition("tjob", "pause", "Running", seconds=180)
    team.run("patch", "tjob", "pause", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    team.wait_condition("tjob", "pause", "Suspended")
    wait_for(
        "its Workload to be gone",
        lambda: workloads(team, "pause"),
        lambda left: not left,
    )
    team.run("patch", "tjob", "pause", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    team.wait_condition("tjob", "pause", "Running", seconds=180)
    assert "Admitted" in true(team, "pause")


def test_the_rest_of_the_page(teams: Teams, page: Page) -> None:
    assert "tiny-gpt" in page.run("kubectl -n team-a apply -f examples/kueue/job.yaml")
    teams["team-a"].wait(
        "tjob", "tiny-gpt", "is admitted", lambda found: condition(found, "Admitted").get("status") == "True"
    )
    assert "trainingjob-tiny-gpt-" in page.run("kubectl -n team-a get workloads.kueue.x-k8s.io")
    assert "Admitted" in page.run("kubectl -n team-a describe tjob tiny-gpt")
    assert set(page.ran) == set(lines_of_the_page())

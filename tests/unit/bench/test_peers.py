"""The comparison's own arithmetic: what an audit log says of each side, whose names and statuses differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.journal import Journal, Write, parse
from tests.bench.peers import measure, table
from tests.bench.peers.objects import KINDS, RUNTIME, job_of, runtime
from tests.bench.sides import Load

Json = dict[str, Any]
USER, KWOK, JOBS = "aifactory-bench-user", "kwok", "kube-controller-manager"


def line(second: float, agent: str, verb: str, resource: str, name: str = "", **body: Any) -> str:
    plural, _, sub = resource.partition("/")
    entry: Json = {
        "verb": verb,
        "userAgent": f"{agent}/v1",
        "objectRef": {"resource": plural, "subresource": sub, **({"name": name} if name else {})},
        "responseStatus": {"code": 201},
        "requestReceivedTimestamp": f"2026-01-01T00:00:{second:09.6f}Z",
        "stageTimestamp": f"2026-01-01T00:00:{second + 0.5:09.6f}Z",
    }
    return json.dumps(entry | ({"requestObject": body} if body else {})) + "\n"


def journal(path: Path, *lines: str) -> Journal:
    (path / "audit.log").write_text("".join(lines))
    found = Journal(path / "audit.log")
    found.read()
    return found


def pod(second: float, begins: str) -> str:
    return line(second, JOBS, "create", "pods", metadata={"generateName": begins}, spec={})


COMPLETE = {"type": "Complete", "status": "True", "reason": "AllJobsCompleted"}


@pytest.mark.parametrize(
    ("side", "status", "before"),
    [
        ("ours", {"phase": "Succeeded"}, {"phase": "Running", "conditions": [COMPLETE | {"status": "False"}]}),
        ("jobset", {"terminalState": "Completed", "restarts": 0}, {"restarts": 0, "conditions": None}),
        ("trainer", {"conditions": [COMPLETE]}, {"conditions": [COMPLETE | {"status": "False"}]}),
    ],
)
def test_each_side_tells_the_end_of_a_job_in_its_way(tmp_path: Path, side: str, status: Json, before: Json) -> None:
    kind = KINDS[side]
    log = journal(
        tmp_path,
        line(0, "own", "create", "configmaps", "made-before-the-jobs"),
        line(0.5, USER, "create", kind.resource, "job-0000"),
        line(1, USER, "create", kind.resource, "job-0001"),
        line(1, "own", "update", "leases", "own"),
        line(2, "own", "patch", f"{kind.resource}/status", "job-0000", status=before),
        pod(3, "job-0000-node-0-0-"),
        pod(5, "job-0001-node-0-0-"),
        line(6, KWOK, "patch", "pods/status", "job-0000-node-0-0-abcde"),
        line(7, KWOK, "patch", "pods/status", "job-0001-node-0-0-abcde"),
        line(8, KWOK, "patch", "pods/status", "job-0000-node-0-0-abcde"),
        line(10, "own", "update", f"{kind.resource}/status", "job-0000", status=status),
        line(12, "own", "patch", f"{kind.resource}/status", "job-0001", status=status),
        line(14, "own", "patch", f"{kind.resource}/status", "job-0001", status=status),
    )
    assert measure.life(log, kind, Load(2, 1)) == {
        "podsCreatedSeconds": 5.0,
        "podsRunningSeconds": 7.0,
        "completeSeconds": 12.0,
        "jobSeconds": {"p50": 11.5, "p99": 11.5},
        "writesPerJob": 3.0,
        "pods": 2,
    }


def test_a_restart_lasts_until_the_last_pod_in_place_of_the_old(tmp_path: Path) -> None:
    log = journal(
        tmp_path,
        line(1, USER, "patch", "pods/status", "job-0000-node-0-1-abcde"),
        line(1, USER, "patch", "pods/status", "job-0001-0-0"),
        pod(4, "job-0000-node-0-0-"),
        pod(6, "job-0000-node-0-1-"),
        line(2, "aifactory-operator", "create", "pods", "job-0001-0-1"),
        line(3, "aifactory-operator", "create", "pods", "job-0001-1-1"),
        pod(20, "job-0000-node-0-1-"),
    )
    assert measure.delays(log.writes, nodes=2) == {"restartSeconds": {"p50": 5.0, "p99": 5.0}}
    assert measure.by_job([{"metadata": {"name": name}} for name in ("job-0001-0-0", "job-0000-1-0")]) == {
        "job-0000": ["job-0000-1-0"],
        "job-0001": ["job-0001-0-0"],
    }


def test_a_name_that_the_api_server_chooses_is_known_by_its_beginning() -> None:
    found = parse(pod(0, "job-0007-node-0-3-").encode())
    assert isinstance(found, Write)
    assert job_of(found.name) == "job-0007"
    with pytest.raises(ValueError, match="coredns is no job's"):
        job_of("coredns")


def test_all_sides_have_the_same_pods() -> None:
    theirs = KINDS["jobset"].make("job-0000", 8, True)["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (theirs["parallelism"], theirs["completions"], theirs["backoffLimit"]) == (8, 8, 0)
    (job,) = runtime(True)["spec"]["template"]["spec"]["replicatedJobs"]
    assert job["template"]["spec"]["template"]["metadata"] == theirs["template"]["metadata"]
    assert KINDS["trainer"].make("job-0000", 8, True)["spec"] == {
        "runtimeRef": {"name": RUNTIME},
        "trainer": {"image": "trainer", "command": ["torchrun", "train.py"], "numNodes": 8},
    }
    assert (
        "metadata"
        not in KINDS["jobset"].make("a", 1, False)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    )


def test_the_page_has_a_row_for_each_side_and_limit() -> None:
    assert table.section({}) == ""
    life = {
        "podsCreatedSeconds": 169.0,
        "podsRunningSeconds": 170.0,
        "completeSeconds": 180.0,
        "jobSeconds": {"p50": 90.0, "p99": 179.0},
        "writesPerJob": 12.0,
        "pods": 1000,
        "cpuSeconds": {"own": 5.0, "kube-controller-manager": 7.0, "kube-apiserver": 60.0},
    }
    restart = {"restartSeconds": {"p50": 20.0, "p99": 31.0}}
    found = {
        "versions": {"jobset": "v0.12.0", "trainer": "v2.3.0"},
        "scale": 1,
        "taken": {"date": "d", "commit": "c", "cpus": 2, "model": "m", "memory": 24, "othersCores": 0.0},
        "scenarios": {
            "jobs-1": {"jobs": 1000, "nodes": 1, "measured": {"as shipped": {"trainer": life}}},
            "restart": {"jobs": 20, "nodes": 8, "measured": {"as shipped": {"jobset": restart}, "raised": {}}},
        },
    }
    text = table.section(found)
    assert (
        "| 1,000 x 1 | as shipped | Kubeflow Trainer | 169.0 s | 170.0 s | 180.0 s | 90.0 s / 179.0 s | 12.0 |" in text
    )
    assert "| 12.0 s | 60.0 s |\n" in text
    assert "| 20 x 8 | as shipped | JobSet | 20.0 s / 31.0 s |\n" in text
    assert text.count("as shipped |") == 2
    assert "JobSet v0.12.0 and Kubeflow Trainer v2.3.0" in text

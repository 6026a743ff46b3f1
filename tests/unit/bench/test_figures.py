"""Figures are only as good as what reads them: the audit log, percentiles, verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aifactory.api.trainingjob import TrainingJobStatus
from tests.bench.journal import Journal, Write, by_target, parse, percentile
from tests.bench.objects import attempt_of, job, job_of, recipe
from tests.bench.processes import lag_p99_ms
from tests.bench.timeline import svg
from tests.bench.verdict import Verdict


def line(verb: str = "patch", code: int = 200, **changes: Any) -> bytes:
    entry = {
        "verb": verb,
        "userAgent": "aifactory-operator/0.1.0",
        "objectRef": {"resource": "trainingjobs", "subresource": "status", "name": "train"},
        "responseStatus": {"code": code},
        "requestReceivedTimestamp": "2026-01-01T00:00:01.500000Z",
        "stageTimestamp": "2026-01-01T00:00:01.750000Z",
        **changes,
    }
    return json.dumps(entry).encode() + b"\n"


def test_a_status_patch_tells_its_phase() -> None:
    write = parse(line(requestObject={"metadata": {"uid": "u"}, "status": {"phase": "Running", "nodes": None}}))
    assert isinstance(write, Write)
    assert (write.agent, write.resource, write.phase) == ("aifactory-operator", "trainingjobs/status", "Running")
    assert write.at - write.sent == pytest.approx(0.25)


def test_lists_are_counted_and_are_no_writes(tmp_path: Path) -> None:
    assert parse(line("list")) == "trainingjobs"
    log = tmp_path / "audit.log"
    log.write_bytes(line("list") + line() + line("list"))
    journal = Journal(log)
    assert journal.read() == 1
    assert journal.lists == {"trainingjobs": 2}


def test_a_log_is_read_while_it_grows(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    journal = Journal(log)
    assert journal.read() == 0
    whole, half = line(), line(code=409)
    log.write_bytes(whole + half[:20])
    assert journal.read() == 1
    log.write_bytes(whole + half)
    assert journal.read() == 2
    assert by_target(journal.writes) == {"patch trainingjobs/status": 1, "patch trainingjobs/status (409)": 1}
    assert len(list(journal.select("patch"))) == 1


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([], 0.5)) == (51.0, 100.0, 0.0)


def test_pod_names_are_taken_apart_from_the_end() -> None:
    assert (job_of("my-job-7-2-11"), attempt_of("my-job-7-2-11")) == ("my-job-7", 11)


def test_the_limit_writes_what_the_operator_would() -> None:
    found = recipe(job("job-0001", 2, gang=True))
    kinds = [json.loads(body)["kind"] for _, body in found.children]
    assert sorted(kinds) == ["Pod", "Pod", "PodGroup", "Service"]
    statuses = [
        TrainingJobStatus.model_validate(json.loads(body)["status"]) for body in (found.running, found.complete)
    ]
    assert [status.phase for status in statuses] == ["Running", "Succeeded"]
    names = [json.loads(body)["metadata"]["name"] for body in found.second_attempt]
    assert names == ["job-0001-0-1", "job-0001-1-1"]


def test_lateness_counts_from_the_earlier_page_on() -> None:
    page = "\n".join(
        f'aifactory_event_loop_lag_seconds_bucket{{le="{bound}"}} {count}'
        for bound, count in (("0.001", 90.0), ("0.01", 99.0), ("0.1", 100.0), ("+Inf", 100.0))
    )
    assert lag_p99_ms(page) == 10.0
    earlier = page.replace(" 100.0", " 99.0")
    assert lag_p99_ms(page, earlier) == 100.0


@pytest.mark.parametrize(
    ("value", "more", "met", "in_range"),
    [(1.0, False, True, True), (1.2, False, False, True), (3.0, False, False, False), (3.0, True, True, False)],
)
def test_verdicts(value: float, more: bool, met: bool, in_range: bool) -> None:
    verdict = Verdict("jobs-1", "what", target=1.1, low=0.5, high=2.0, more=more, value=value)
    assert (verdict.met, verdict.in_range) == (met, in_range)


def test_a_picture_has_a_line_for_each_side() -> None:
    text = svg("pods", {"limit": [0.1, 0.5], "ours": [0.2, 0.9]})
    assert text.count("<polyline") == 2

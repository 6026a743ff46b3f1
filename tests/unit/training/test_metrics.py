"""What is told of a job: what its status says, and nothing that it does not say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aifactory.engine.domain import Sample
from aifactory.training import metrics
from tests.unit.training.builders import NOW

USE = {"since": NOW.isoformat(), "gpus": 8, "gpuSeconds": 100, "trains": True, "lostGPUSeconds": 20}
REPORT = {"lastHeartbeatTime": NOW.isoformat(), "step": 5}


def told(**status: Any) -> dict[str, float]:
    """Values by name, and by labels beyond those that all have."""
    return {name(sample): sample.value for sample in of(status)}


def name(sample: Sample) -> str:
    own = sample.family.labels.split()[2:]
    labels = ",".join(f"{label}={value}" for label, value in zip(own, sample.labels, strict=True))
    return sample.family.name.removeprefix("aifactory_job_") + (f"{{{labels}}}" if labels else "")


def of(status: dict[str, Any]) -> list[Sample]:
    return list(metrics.samples(json.dumps({"metadata": {}, "spec": {}, "status": status}).encode()))


def test_a_job_that_only_began() -> None:
    assert told() == {}
    assert told(phase="Pending") == {"running": 0, "restarts_total": 0, "lost_steps_total": 0}


def test_a_job_that_runs() -> None:
    known = {"totalSteps": 20, "loss": "2.5", "tokensPerSecond": "1500"}
    status = {"phase": "Running", "progress": {**REPORT, **known}, "restarts": {"total": 2, "lostSteps": 7}}
    assert told(**status, cost={**USE, "gpuHourPrice": "2.49"}) == {
        "running": 1,
        "restarts_total": 2,
        "lost_steps_total": 7,
        "step": 5,
        "last_report_timestamp_seconds": NOW.timestamp(),
        "progress_ratio": 0.25,
        "loss": 2.5,
        "tokens_per_second": 1500,
        "gpus": 8,
        "gpu_seconds_total": 100,
        "lost_gpu_seconds_total": 20,
        "gpu_hour_price": 2.49,
    }


def test_what_is_not_reported_is_not_zero() -> None:
    without = told(phase="Running", progress=REPORT, cost=USE)
    assert {"step", "gpus"} <= without.keys()
    assert not {"progress_ratio", "loss", "tokens_per_second", "gpu_hour_price"} & without.keys()
    bare = told(phase="Running", cost={"since": NOW.isoformat()})
    assert (bare["gpus"], bare["gpu_seconds_total"], bare["lost_gpu_seconds_total"]) == (0, 0, 0)
    assert "progress_ratio" not in told(phase="Running", progress={**REPORT, "totalSteps": 0})
    assert told(phase="Running", progress={**REPORT, "totalSteps": 4})["progress_ratio"] == 1


@pytest.mark.parametrize(("trains", "grows"), [(True, 0), (False, 8), (None, 8)])
def test_seconds_grow_by_the_gpus_and_those_of_training_are_not_lost(trains: bool | None, grows: int) -> None:
    found = {sample.family: sample for sample in of({"phase": "Running", "cost": {**USE, "trains": trains}})}
    held, lost = found[metrics.GPU_SECONDS], found[metrics.LOST_SECONDS]
    assert (held.per_second, held.since) == (8, NOW)
    assert (lost.per_second, lost.since) == (grows, NOW)


def test_inputs_by_phase() -> None:
    inputs = [{"phase": "Fetching", "bytes": 5}, {"phase": "Ready", "bytes": 70}, {"phase": "Fetching"}]
    found = told(phase="Pending", inputs=inputs)
    assert (found["inputs{phase=Fetching}"], found["inputs{phase=Ready}"], found["input_bytes"]) == (2, 1, 75)
    assert not any(each.startswith("input") for each in told(phase="Pending"))


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_job_that_is_done(phase: str) -> None:
    ended = told(phase=phase, reason="ApplicationError", completionTime=NOW.isoformat(), cost=USE, progress=REPORT)
    failed = {"failed_timestamp_seconds{reason=ApplicationError}": NOW.timestamp()}
    assert ended == (failed if phase == "Failed" else {})


def test_one_that_fails_and_goes_on_has_not_failed() -> None:
    assert told(phase="Failed", reason="ApplicationError") == {}
    assert not any(each.startswith("failed") for each in told(phase="Running", completionTime=NOW.isoformat()))


def test_a_figure_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        told(phase="Running", progress={**REPORT, "loss": "much"})

"""Which of several signs of a failure decides, where what they tell apart is fine."""

from __future__ import annotations

from aifactory.api.reasons import Reason
from aifactory.training.detectors import first_failure
from tests.unit.training.builders import job, observe, pod

SILENT = {"gpu-7": "does not answer"}


def test_a_program_that_failed_before_its_node_was_lost_is_judged_by_its_own_end() -> None:
    pods = (pod(0, exit_code=1, node="gpu-7"), pod(1, running=True, node="gpu-8"))
    failure = first_failure(observe(job(nodes=2), *pods, lost_nodes=SILENT), pods)
    assert failure is not None
    assert (failure.pod, failure.cause) == ("train-0-0", Reason.APPLICATION_ERROR)


def test_a_trainer_that_is_done_is_not_missed_when_its_node_is_lost() -> None:
    """Only a side container keeps its pod alive."""
    pods = (pod(0, exit_code=0, phase="Running", node="gpu-7"), pod(1, exit_code=1, node="gpu-8"))
    failure = first_failure(observe(job(nodes=2), *pods, lost_nodes=SILENT), pods)
    assert failure is not None
    assert (failure.pod, failure.cause) == ("train-1-0", Reason.APPLICATION_ERROR)

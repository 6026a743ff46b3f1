"""The last stage, one decision at a time: whole lives are in `test_sequences`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aifactory.api.reasons import ConditionType
from aifactory.engine.plan import Create
from aifactory.training.state import Observed, PodView, VersionView
from tests.unit.plans import bodies, created
from tests.unit.training.builders import (
    NOW,
    OUTPUT,
    PUBLISHED,
    UID,
    conditions,
    decide,
    job,
    message,
    observe,
    pod,
    publisher,
)

SEEN = {"resolved": {"nodes": 1, "createdAttempt": 0}}
OTHER = {**PUBLISHED, "format": "torch-export"}


def trained(*pods: PodView, output: Any = OUTPUT, status: Any = None, nodes: int = 1, **changes: Any) -> Observed:
    """A job all of whose pods have succeeded."""
    owner = job(output=output, nodes=nodes, status={**SEEN, **(status or {})})
    if annotation := changes.pop("retry", ""):
        meta = owner.metadata.model_copy(update={"annotations": {"aifactory.dev/retry": annotation}})
        owner = owner.model_copy(update={"metadata": meta})
    return observe(owner, *(pods or (pod(exit_code=0),)), **changes)


def test_the_model_claim_is_made_if_nobody_names_a_store_and_may_be_made_by_several() -> None:
    (claim, _) = decide(trained(model_claim_exists=False)).writes
    assert isinstance(claim, Create)
    assert (claim.name, claim.shared) == ("aifactory-models", True)
    own = {**OUTPUT, "store": "pvc://own/models"}
    assert created(decide(trained(output=own, model_claim_exists=False))) == ["Pod train-publish-0"]


@pytest.mark.parametrize(("retry", "request_"), [("", "1/"), ("now", "1/now")])
def test_what_was_asked_for_is_on_record(retry: str, request_: str) -> None:
    output = decide(trained(retry=retry)).status.output
    assert output is not None
    assert (output.request, output.publish_attempt) == (request_, 0)


@pytest.mark.parametrize(
    "answer", [{"uri": PUBLISHED["uri"]}, {"digest": PUBLISHED["digest"]}, {**PUBLISHED, "uri": 7}]
)
def test_half_a_receipt_is_none(answer: dict[str, Any]) -> None:
    status = decide(trained(publishers=(publisher(0, 0, answer),))).status
    assert conditions(status)["Stalled"] == ("True", "PublisherFailed")


def test_only_news_about_the_publisher_are_written_at_once() -> None:
    assert not decide(trained()).urgent
    failed = decide(trained(publishers=(publisher(0, 1, {"reason": "StoreFull", "message": "full"}),)))
    assert (failed.urgent, failed.requeue_after) == (True, 30)
    assert failed.status.output is not None
    assert failed.status.output.next_publish_time == NOW + timedelta(seconds=30)


def test_a_model_of_another_format_is_told_at_once_and_copied_again_when_asked() -> None:
    first = decide(trained(publishers=(publisher(0, 0, OTHER),)))
    assert (first.status.reason, first.urgent, first.requeue_after) == ("FormatMismatch", True, None)
    assert first.status.output is not None
    assert first.status.output.publish_attempt == 0
    written = {"output": first.status.output.dump()}
    again = decide(trained(publishers=(publisher(0, 0, OTHER),), status=written, retry="1"))
    assert (again.urgent, again.requeue_after) == (True, 0)
    assert again.status.output is not None
    assert (again.status.output.publish_attempt, again.status.output.request) == (1, "1/1")


def test_the_version_names_the_image_of_the_first_node_and_is_looked_for_soon() -> None:
    pods = (pod(1, exit_code=0, image="side@sha256:1"), pod(0, exit_code=0, image="trainer@sha256:0"))
    plan = decide(trained(*pods, nodes=2, publishers=(publisher(0, 0, PUBLISHED),)))
    (body,) = bodies(plan)
    assert body["spec"]["lineage"]["image"] == "trainer@sha256:0"
    assert plan.requeue_after == 2
    gone = decide(trained(nodes=2, status=DONE, publishers=(publisher(0, 0, PUBLISHED),), pods=()))
    assert "image" not in bodies(gone)[0]["spec"]["lineage"], "somebody has cleaned the pods up"


DONE = {"nodes": {"desired": 2, "succeeded": 2}}


def test_a_version_of_the_job_ends_it_with_where_its_model_is() -> None:
    theirs = VersionView("tiny-v1", 1, "another job's uid", "pvc://c/1", "sha256:1")
    mine = VersionView("tiny-v2", 2, UID, "pvc://c/2", "sha256:2")
    plan = decide(trained(versions=(theirs, mine), status={"output": {"request": "1/", "publishAttempt": 3}}))
    assert (plan.status.phase, plan.urgent, plan.requeue_after) == ("Succeeded", True, None)
    assert plan.status.output is not None
    assert plan.status.output.dump() == {
        "request": "1/",
        "publishAttempt": 3,
        "modelVersion": "tiny-v2",
        "uri": "pvc://c/2",
        "digest": "sha256:2",
        "probed": "",
    }


@pytest.mark.parametrize("output", [OUTPUT, None])
def test_pods_that_outlive_the_end_are_looked_at_at_once(output: Any) -> None:
    pods = (pod(0, exit_code=0, phase="Running"), pod(1, exit_code=0))
    versions = (VersionView("tiny-v1", 1, UID),)
    assert decide(trained(*pods, nodes=2, output=output, versions=versions)).requeue_after == 0
    done = decide(trained(output=output, versions=versions))
    assert (done.urgent, done.requeue_after) == (True, None)


def test_what_was_not_published_is_told_also_by_whoever_was_stopped_before_it_was_written() -> None:
    receipt = {**PUBLISHED, "leftOut": ["optimizer.pt"], "leftOutFiles": 31}
    first = decide(trained(publishers=(publisher(0, 0, receipt),))).status
    assert first.output is not None
    assert (first.output.left_out, first.output.left_out_files) == (("optimizer.pt",), 31)
    versions = (VersionView("tiny-v1", 1, UID, "pvc://c/1", "sha256:1"),)
    stopped = decide(trained(versions=versions, publishers=(publisher(0, 0, receipt),))).status
    cleaned = decide(trained(versions=versions, status={"output": first.output.dump()})).status
    for status in (stopped, cleaned):
        assert status.output is not None
        assert (status.output.left_out, status.output.left_out_files) == (("optimizer.pt",), 31)
        assert "31 files beside the model left out (status.output.leftOut)" in message(status, ConditionType.COMPLETE)
    plain = decide(trained(versions=versions, publishers=(publisher(0, 0, PUBLISHED),))).status
    assert plain.output is not None
    assert "leftOut" not in plain.output.dump()
    assert message(plain, ConditionType.COMPLETE) == "all pods succeeded; the result is ModelVersion tiny-v1"

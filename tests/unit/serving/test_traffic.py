"""What becomes of a revision that is wanted and not yet served."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aifactory.serving import traffic
from aifactory.serving.traffic import Course
from tests.unit.serving.builders import NOW, pool

STABLE = {"revision": "old"}
FAILED = {"phase": "Failed", "failedRevision": "new", "revision": "new"}
DUE = {**FAILED, "retryTime": NOW}


@pytest.mark.parametrize(
    ("status", "asked", "course"),
    [
        pytest.param({}, "", Course.STEADY, id="the first one"),
        pytest.param({"stable": {"revision": "new"}, "rollout": FAILED}, "", Course.STEADY, id="it takes the traffic"),
        pytest.param({"stable": STABLE}, "", Course.ROLL_OUT, id="another one takes the traffic"),
        pytest.param({"stable": STABLE, "rollout": {"phase": "Complete"}}, "", Course.ROLL_OUT, id="after another"),
        pytest.param(
            {"stable": STABLE, "rollout": {**FAILED, "phase": "Progressing"}}, "", Course.ROLL_OUT, id="its second try"
        ),
        pytest.param(
            {"stable": STABLE, "rollout": {**FAILED, "failedRevision": "newer"}}, "", Course.ROLL_OUT, id="not this one"
        ),
        pytest.param({"stable": STABLE, "rollout": FAILED}, "", Course.HELD_BACK, id="it was taken back for good"),
        pytest.param({"stable": STABLE, "rollout": FAILED}, "now", Course.RETRY, id="somebody asks"),
        pytest.param(
            {"stable": STABLE, "rollout": FAILED, "retried": "now"}, "now", Course.HELD_BACK, id="somebody has asked"
        ),
        pytest.param({"stable": STABLE, "rollout": FAILED, "retried": "now"}, "", Course.HELD_BACK, id="no more"),
        pytest.param({"stable": STABLE, "rollout": DUE}, "", Course.RETRY, id="it is due"),
        pytest.param(
            {"stable": STABLE, "rollout": {**DUE, "retryTime": NOW + timedelta(seconds=1)}},
            "",
            Course.HELD_BACK,
            id="it is not due yet",
        ),
    ],
)
def test_what_becomes_of_the_wanted_revision(status: Any, asked: str, course: Course) -> None:
    found = pool(status=status)
    found.metadata.annotations.update({"aifactory.dev/retry": asked} if asked else {})
    assert traffic.course(found, "new", remains=False, now=NOW) is course
    held = Course.HELD_BACK if course is Course.RETRY else course
    assert traffic.course(found, "new", remains=True, now=NOW) is held, "what is left of the earlier try goes first"


def test_a_long_request_is_remembered_by_its_beginning() -> None:
    found = pool()
    found.metadata.annotations["aifactory.dev/retry"] = "x" * 1000
    assert traffic.retry_request(found) == "x" * 64

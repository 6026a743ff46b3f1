"""What becomes of a revision that is wanted and not yet served."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifactory.engine.apply import Applied
from aifactory.serving import traffic
from aifactory.serving.state import RevisionView
from aifactory.serving.traffic import Course, weights
from tests.unit.serving.builders import NOW, pool, serving


@pytest.mark.parametrize(
    ("ready", "parts"),
    [
        ({"b": 1, "a": 2}, (("a", 67), ("b", 33))),
        ({"a": 1, "b": 1, "c": 1}, (("a", 34), ("b", 33), ("c", 33))),
        ({"a": 1, "b": 6}, (("a", 14), ("b", 86))),
        ({"a": 5, "b": 1}, (("a", 83), ("b", 17))),
        ({"a": 0, "b": 3}, (("b", 100),)),
        ({"a": 0}, ()),
    ],
)
def test_parts_are_a_hundred_together(ready: dict[str, int], parts: tuple[tuple[str, int], ...]) -> None:
    assert traffic.shares(ready) == parts


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


def views(**ready: int) -> list[RevisionView]:
    return [RevisionView(Applied(f"chat-{name}", "uid"), name, count, ready=count) for name, count in ready.items()]


def changing(strategy: str, weight: int | None = None, *, phase: str = "Progressing", replicas: int = 4) -> Any:
    change = {"phase": phase, "revision": "b", "strategy": strategy, "weight": weight}
    candidate = {"revision": "b"} if phase == "Progressing" else None
    return pool(replicas=replicas, status={"stable": {"revision": "a"}, "candidate": candidate, "rollout": change})


@pytest.mark.parametrize(
    ("state", "ready", "parts"),
    [
        pytest.param(changing("Canary", 25), {"a": 3, "b": 1}, {"a": 75, "b": 25}, id="as it is wished"),
        pytest.param(changing("Canary", 5), {"a": 4, "b": 1}, {"a": 95, "b": 5}, id="whatever the pods are"),
        pytest.param(changing("Canary", 50), {"a": 3, "b": 1}, {"a": 75, "b": 25}, id="not more than its pods can do"),
        pytest.param(changing("Canary", 100), {"a": 1, "b": 4}, {"b": 100}, id="everything"),
        pytest.param(changing("Canary", 25), {"a": 3}, {"a": 100}, id="it has no pod"),
        pytest.param(changing("Canary", 25), {"b": 1}, {}, id="nobody else has one"),
        pytest.param(changing("Canary", 25), {}, {}, id="nobody has one"),
        pytest.param(changing("Canary"), {"a": 3, "b": 1}, {"a": 100}, id="it has no step yet"),
        pytest.param(changing("Surge"), {"a": 3, "b": 1}, {}, id="in a surge all pods are alike"),
        pytest.param(changing("Canary", phase="Failed"), {"a": 2, "b": 2}, {"a": 100}, id="taken back"),
        pytest.param(changing("Canary", phase="Failed"), {"b": 2}, {}, id="taken back, and nobody else"),
        pytest.param(changing("Canary", phase="Complete"), {"a": 4, "old": 1}, {"a": 100}, id="what was before goes"),
        pytest.param(changing("Canary", phase="Complete"), {"a": 4}, {}, id="it has gone"),
        pytest.param(pool(status={}), {"a": 1, "b": 2}, {}, id="nothing is stable yet"),
    ],
)
def test_a_gateway_is_told_the_weights(state: Any, ready: dict[str, int], parts: dict[str, int]) -> None:
    assert dict(weights(state, views(**ready))) == parts


def test_what_ends_or_was_taken_back_gets_no_part() -> None:
    one, two = views(a=3, b=1)
    state = changing("Canary", 25)
    assert weights(state, [one, replace(two, terminating=True)]) == (("a", 100),)
    failed = state.status.rollout.model_copy(update={"phase": "Failed"})
    taken_back = state.model_copy(update={"status": state.status.model_copy(update={"rollout": failed})})
    assert weights(taken_back, [one, two]) == (("a", 100),)


def test_the_way_back_from_a_canary_is_immediate() -> None:
    world = serving(1, replicas=4, rollout={"steps": [{"weight": 50}, {"pause": {}}]})
    world.publish(2)
    world.settle()
    world.load(2, 2)
    assert dict(weights(world.pool, world.observed().revisions)) == {world.revision(1): 50, world.revision(2): 50}
    world.pin(1)
    world.step()
    assert dict(weights(world.pool, world.observed().revisions)) == {world.revision(1): 100}
    world.roll_out()
    assert weights(world.pool, world.observed().revisions) == ()


@given(st.sampled_from(["Canary", "Surge", "HotSwap"]), st.integers(0, 100), *[st.integers(0, 9)] * 3)
def test_weights_are_hundred_together_and_for_pods_that_answer(
    strategy: str, weight: int, a: int, b: int, c: int
) -> None:
    parts = weights(changing(strategy, weight), views(a=a, b=b, c=c))
    assert sum(part for _, part in parts) == (100 if a and strategy == "Canary" else 0)
    ready = {"a": a, "b": b, "c": c}
    assert all(part > 0 and ready[name] for name, part in parts)

"""What users read of a pool of several models: whole statuses in a golden file, and when the next try is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aifactory.api.inferencepool import FailedVersion, ModelStatus
from aifactory.api.reasons import Reason
from aifactory.serving.assignment import Waiting
from aifactory.serving.packing import Packed
from aifactory.serving.status import StatusDraft
from tests.unit.golden import assert_golden
from tests.unit.serving.builders import NOW, conditions
from tests.unit.serving.test_several import BERT, GPT, Several, both, limited, several
from tests.unit.serving.test_status import summed_up

GOLDEN = Path(__file__).parent / "golden" / "statuses-several.yaml"
DENIED = "AccessDenied: the store refused the credentials"
MEBIBYTE = 1024**2


def given(world: Several, *versions: tuple[str, int], **changes: Any) -> Several:
    """Versions come, and all happens that can."""
    for model, number in versions:
        world.give(model, number, **changes)
    world.go()
    return world


def begun(*versions: tuple[str, int]) -> Several:
    """Versions come, and the pods are told of the first one; nothing of it is loaded yet."""
    world = both()
    for model, number in versions:
        world.give(model, number)
    for _ in range(3):
        world.step()
    return world


def half_way() -> Several:
    """One of two pods has changed over."""
    world = begun(("bert", 2))
    world.work(world.live()[0])
    world.step()
    return world


def at_the_moment_of(event: str, world: Several) -> Several:
    """Decided step by step until the status tells of that, and no further."""
    for _ in range(30):
        world.step()
        if any(told.startswith(event) for told in world.events):
            return world
        for pod in world.live():
            world.work(pod)
    raise AssertionError(f"no {event}: {world.events}")


def swapped() -> Several:
    world = both()
    world.give("bert", 2)
    return at_the_moment_of("RolledOut", world)


def first_starts() -> Several:
    world = several()
    world.give("gpt", 1)
    world.step()
    world.step()
    return world


def complete() -> Several:
    """The first model is there, and the second one's turn has not come."""
    world = several()
    world.give("gpt", 1)
    world.give("bert", 1)
    for _ in range(30):
        world.step()
        if conditions(world.status)["Available"][0] == "True":
            return world
        for pod in world.live():
            world.work(pod)
    raise AssertionError("no pod answers")


def taken_back(*versions: tuple[str, int], words: str = "LoadFailed: no such layer") -> Several:
    """Version 2 of gpt does not load."""
    world = both()
    world.broken, world.words = ("gpt-v2",), words
    return given(world, ("gpt", 2), *versions)


def without_room_by_now() -> Several:
    """What was taken back has been tried, and takes more than the pods have."""
    world = both(template=limited("1Gi"))
    world.broken, world.words = ("gpt-v2",), DENIED
    given(world, ("gpt", 2))
    world.versions = {
        key: replace(view, memory_bytes=960 * MEBIBYTE) if view.name == "gpt-v2" else view
        for key, view in world.versions.items()
    }
    world.go()
    assert world.model("gpt").failed is not None
    return world


def taken_back_twice() -> Several:
    world = taken_back(words=DENIED)
    world.wait(60)
    world.go()
    return world


def first_does_not_load(*others: tuple[str, int], words: str = "LoadFailed: no such layer") -> Several:
    world = several()
    world.broken, world.words = ("gpt-v1",), words
    return given(world, ("gpt", 1), *others)


def at_the_moment_it_does_not_load() -> Several:
    world = several()
    world.broken = ("gpt-v1",)
    world.give("gpt", 1)
    for _ in range(3):
        world.step()
    for pod in world.live():
        world.work(pod)
    world.step()
    return world


def no_room(number: int) -> Several:
    world = several(template=limited("1Gi"))
    given(world, ("gpt", 1), memory_bytes=600 * MEBIBYTE)
    return given(world, ("bert", number), memory_bytes=500 * MEBIBYTE)


def with_less_memory() -> Several:
    world = several(template=limited("2Gi"))
    given(world, ("gpt", 1), ("bert", 1), memory_bytes=600 * MEBIBYTE)
    world.edit(template=limited("1Gi"))
    world.go()
    return world


def other_pods(**changes: Any) -> Several:
    """Version 2 of bert needs pods of its own, which come up."""
    world = both()
    world.give("bert", 2, **changes)
    for _ in range(3):
        world.step()
    return world


def replaced() -> Several:
    """What is served is another artifact by now."""
    world = both()
    world.versions = {
        key: replace(view, digest="sha256:another") if view.name == "gpt-v1" else view
        for key, view in world.versions.items()
    }
    for _ in range(3):
        world.step()
    return world


SITUATIONS: dict[str, Callable[[], Several]] = {
    "waits for both": lambda: given(several()),
    "the first one starts": first_starts,
    "the first one is there": complete,
    "the first one serves, and the second does not exist": lambda: given(several(), ("gpt", 1)),
    "the first one serves, and the second is pinned to a version that is broken": lambda: given(
        given(several(models=[GPT, {"name": "bert", "version": 1}]), ("gpt", 1)),
        ("bert", 1),
        ready=False,
        reason="DigestMismatch",
        message="a is not b",
    ),
    "both serve": both,
    "both serve from one pod": lambda: both(replicas=1),
    "both are served by no pods": lambda: both(replicas=0),
    "one changes": lambda: begun(("bert", 2)),
    "one has changed in one pod": half_way,
    "two change, one after the other": lambda: begun(("bert", 2), ("gpt", 2)),
    "one has changed": swapped,
    "a new version was taken back": taken_back,
    "a new version was taken back, and the other one has changed": lambda: taken_back(("bert", 2)),
    "a new version was taken back that can be mended": lambda: taken_back(words=DENIED),
    "a new version was taken back twice": taken_back_twice,
    "a new version was taken back, and has no room by now": without_room_by_now,
    "the first one does not load": first_does_not_load,
    "the first one does not load at this moment": at_the_moment_it_does_not_load,
    "the first one does not load, the second serves": lambda: first_does_not_load(("bert", 1)),
    "the first one can not be fetched": lambda: first_does_not_load(("bert", 1), words=DENIED),
    "the second has no room": lambda: no_room(1),
    "both have no room in new pods": with_less_memory,
    "another format": lambda: other_pods(format="onnx"),
    "another artifact under the same name": replaced,
}


def test_what_users_read_in_each_situation() -> None:
    assert_golden(GOLDEN, [{name: summed_up(make().status)} for name, make in SITUATIONS.items()])


@pytest.mark.parametrize(
    ("models", "due"),
    [
        ([], None),
        ([("Failed", None)], None),
        ([("Failed", 90), ("Failed", None), ("Failed", 30)], 30.0),
        ([("Failed", 90), ("Changing", 30)], 90.0),
        ([("Changing", 30)], None),
        ([("Failed", 1.5)], 1.5),
        ([("Failed", -5)], 1.0),
    ],
)
def test_the_next_try_is_due_with_the_first_of_the_models(
    models: list[tuple[str, float | None]], due: float | None
) -> None:
    """And not at once, where another change is still under way."""
    told = [ModelStatus(name="lost", state="Failed")]
    for number, (state, seconds) in enumerate(models):
        time = NOW + timedelta(seconds=seconds) if seconds is not None else None
        failed = FailedVersion(model_version="gpt-v1", revision="", retry_time=time)
        told.append(ModelStatus(name=f"model-{number}", state=state, failed=failed))
    draft = StatusDraft(several().observed(), 2, NOW)
    draft.several(Packed(Waiting(Reason.WAITING_FOR_MODEL, ""), tuple(told)))
    assert draft.due == due


def test_the_pool_is_looked_at_again_when_the_first_of_all_that_is_due_is() -> None:
    world = taken_back(words=DENIED)
    world.wait(10)
    assert world.settle().requeue_after == 50
    world.give("bert", 2)
    for _ in range(3):
        world.step()
    assert world.settle().requeue_after == 50, "the pods that change over are asked later"


@pytest.mark.parametrize("models", [1, 2])
def test_a_refused_object_makes_nobody_forget_what_was_taken_back(models: int) -> None:
    world = taken_back()
    before = world.status.models
    assert before is not None
    world.edit(models=[GPT, BERT][:models])
    draft = StatusDraft(world.observed(), 2, world.now)
    draft.refused(Reason.POD_REJECTED, "no")
    assert draft.result().models == (before if models > 1 else None)

"""Who has changed over, who is asked to, and who answers by which name: one pod at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aifactory.serving import swap, traffic
from aifactory.serving.state import Report, Wish
from tests.unit.serving.builders import Pod, World, pool

SIZE = 1024 * 1024


def world_of(*, replicas: int = 1) -> World:
    """A pool that serves version 1 by the pod `old`, and is told to serve version 2; nothing has been said yet."""
    world = World(pool(replicas=replicas))
    world.publish(1, size_bytes=SIZE)
    world.roll_out()
    world.publish(2, size_bytes=SIZE)
    world.settle()
    return world


def wish_of(world: World, number: int = 2) -> Wish:
    """A version by the pods that run."""
    return Wish(world.versions[number], world.revision(number), "", traffic.stable_pods(world.pool))


def pod_of(world: World, *, says: str = "", ready: bool = True, running: bool = True, **made: Any) -> Pod:
    """The only pod of the pool; it says that it serves 1 or 2, that it loads 2, or that it can not: in one word."""
    reports = {
        "": None,
        "old": Report(world.revision(1), ready=True, version=1),
        "new": Report(world.revision(2), ready=True, version=2),
        "loading": Report(world.revision(2), version=1),
        "failed": Report(world.revision(2), version=1, error="LoadFailed: no such layer"),
        "failed the old": Report(world.revision(1), error="LoadFailed: no file"),
    }
    own = traffic.stable_pods(world.pool)
    pod = Pod("the-pod", own, ready, trouble={"running": running}, report=reports[says])
    for name, value in made.items():
        setattr(pod, name, value)
    world.pods = [pod]
    return pod


ANOTHER_SET = "v2-00000000-11111111"


@pytest.mark.parametrize(
    ("made", "where"),
    [
        pytest.param({"says": "new"}, "done", id="it says that it serves it"),
        pytest.param({"says": "old"}, "missing", id="it serves the old one"),
        pytest.param({"says": "new", "told": "earlier"}, "missing", id="it was told something else since"),
        pytest.param({"says": "loading"}, "missing", id="it loads it"),
        pytest.param({}, "missing", id="it has not been asked"),
        pytest.param({"says": "new", "ready": False}, "neither", id="it knows, and is not ready"),
        pytest.param({"says": "loading", "ready": False}, "neither", id="it knows, and will be ready with it"),
        pytest.param({"ready": False}, "missing", id="it may become ready with the old one"),
        pytest.param({"says": "old", "ready": False}, "missing", id="it said so: it may become ready with the old one"),
        pytest.param({"ready": False, "running": False}, "neither", id="it will read the new wish when it starts"),
        pytest.param({"says": "old", "ready": False, "running": False}, "neither", id="its containers start again"),
        pytest.param({"says": "new", "terminating": True}, "neither", id="it ends"),
        pytest.param({"terminating": True}, "neither", id="it ends, and was not asked"),
        pytest.param({"says": "new", "revision": ANOTHER_SET}, "neither", id="it is of another set"),
        pytest.param({"revision": ANOTHER_SET}, "neither", id="it is of another set, and was not asked"),
    ],
)
def test_how_far_a_pod_is(made: Any, where: str) -> None:
    world = world_of()
    pod_of(world, **made)
    found = swap.look(world.observed(), wish_of(world))
    assert (bool(found.done), bool(found.missing)) == (where == "done", where == "missing")


@pytest.mark.parametrize(
    ("made", "counts"),
    [
        ({"says": "failed"}, True),
        ({"says": "failed", "ready": False}, True),
        ({"says": "failed the old"}, False),
        ({"says": "loading"}, False),
        ({}, False),
        ({"says": "failed", "terminating": True}, False),
        ({"says": "failed", "revision": ANOTHER_SET}, False),
    ],
)
def test_what_a_pod_can_not_load_is_held_against_the_version_that_it_was_told(made: Any, counts: bool) -> None:
    world = world_of()
    pod_of(world, **made)
    assert [pod.name for pod, _ in swap.failures(world.observed(), wish_of(world))] == ["the-pod"] * counts


def test_what_pods_of_another_set_say_is_not_what_these_have_been_told() -> None:
    world = world_of()
    pod_of(world, says="new", revision=ANOTHER_SET)
    assert swap.said(world.observed(), ANOTHER_SET) == {world.revision(2)}
    assert swap.said(world.observed(), traffic.stable_pods(world.pool)) == set()


@pytest.mark.parametrize(
    ("made", "of_all", "of_some"),
    [
        pytest.param({}, True, False, id="nothing is known of it"),
        pytest.param({"says": "old"}, True, True, id="it says something else"),
        pytest.param({"says": "new"}, False, False, id="it was made with it"),
        pytest.param({"says": "old", "told": "earlier"}, True, True, id="it was told something else"),
        pytest.param({"says": "new", "told": "earlier"}, True, True, id="its label tells something else"),
        pytest.param({"told": "earlier"}, True, True, id="it was told something else, and has said nothing"),
        pytest.param({"says": "old", "told": "new"}, False, False, id="it has been told"),
        pytest.param({"says": "old", "terminating": True}, False, False, id="it ends"),
        pytest.param({"says": "old", "revision": ANOTHER_SET}, False, False, id="it is of another set"),
    ],
)
def test_which_pods_are_brought_the_wish_at_once(made: Any, of_all: bool, of_some: bool) -> None:
    world = world_of()
    pod = pod_of(world, **made)
    if pod.told == "new":
        pod.told = world.revision(2)
    wish = wish_of(world)
    for all_of_them, wanted in ((True, of_all), (False, of_some)):
        found = swap.to_nudge(world.observed(), wish.pods, wish.revision, all_of_them=all_of_them)
        assert found == ["the-pod"] * wanted


def test_pods_are_brought_the_wish_by_name_and_those_that_know_it_hide_no_other() -> None:
    world = world_of()
    wish = wish_of(world)
    world.pods = [
        Pod("d", wish.pods, ready=True, told=wish.revision),
        Pod("c", wish.pods, ready=True),
        Pod("a", wish.pods, ready=True),
    ]
    assert swap.to_nudge(world.observed(), wish.pods, wish.revision, all_of_them=True) == ["a", "c"]
    assert not swap.to_nudge(world.observed(), wish.pods, world.revision(1), all_of_them=True), "it is not in the file"


def answers(world: World) -> str:
    return traffic.summary(swap.answering(world.observed()))


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (("", ""), "2 pods of tiny-v1 answer"),
        (("old", "new"), "1 pod of tiny-v1 and 1 of tiny-v2 answer"),
        (("new", "loading"), "1 pod of tiny-v1 and 1 of tiny-v2 answer"),
        (("new", "new"), "2 pods of tiny-v2 answer"),
    ],
)
def test_pods_answer_by_the_name_of_the_version_that_they_say(says: tuple[str, str], words: str) -> None:
    world = world_of(replicas=2)
    first, second = (pod_of(world, says=each) for each in says)
    world.pods = [first, second]
    assert answers(world) == words


@pytest.mark.parametrize(
    "made",
    [{"ready": False}, {"terminating": True}, {"revision": ANOTHER_SET}],
)
def test_a_pod_that_gets_no_requests_answers_nothing(made: Any) -> None:
    world = world_of()
    other, one = pod_of(world, says="new", **made), pod_of(world, says="old")
    world.pods = [one, other]
    assert answers(world) == "1 pod of tiny-v1 answers"


def test_every_set_of_pods_answers_whichever_comes_first() -> None:
    world = World(pool(replicas=3))
    world.publish(1)
    world.roll_out()
    world.publish(2)
    world.settle()
    world.load(1, 2)
    observed = world.observed()
    assert len(observed.revisions) == 2
    for sets in (observed.revisions, observed.revisions[::-1]):
        found = {view.model_version: view.ready for view in swap.answering(replace(observed, revisions=sets))}
        assert found == {"tiny-v1": 2, "tiny-v2": 1}


@pytest.mark.parametrize(
    ("value", "words"), [(None, None), (0.123, "0.12"), (9.87, "9.9"), (12.3, "12"), (123.4, "123")]
)
def test_how_long_a_load_took_has_two_digits_or_is_a_whole_number(value: float | None, words: str | None) -> None:
    assert swap.seconds(value) == words

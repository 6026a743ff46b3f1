"""Which models are loaded where not all have room: tables for the rules, and a pod that is played."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from aifactory_agent.serve.planner import Actual, Confirm, Failure, Fetch, Load, Present, Unload, plan
from aifactory_agent.serve.residency import PATIENCE, Residency, Use, asked, decide
from aifactory_agent.serve.status import State, Told, report
from aifactory_contract.desired import Desired, ModelKey, ModelSpec, OnDemand
from aifactory_contract.errors import Reason
from aifactory_contract.uri import ArtifactUri

HOLD = 40.0


def spec(name: str, version: int = 1) -> ModelSpec:
    uri = ArtifactUri("pvc", "models", f"{name}/{version}")
    return ModelSpec(ModelKey(name, version), uri, f"sha256:{name}-{version}", "huggingface")


A, B, C = spec("a"), spec("b"), spec("c")
A2 = spec("a", 2)
ALL = (A, B, C)


def desired(*specs: ModelSpec, room: int = 2, **sizes: int) -> Desired:
    """Room for two models of one byte each."""
    taken = {each.key: sizes.get(each.key.name, 1) for each in specs}
    return Desired("r", specs, OnDemand(room, taken, HOLD, 10))


def there(*specs: ModelSpec, running: tuple[ModelSpec, ...] = (), **more: object) -> Actual:
    """Files of all are there, all have answered, and some run."""
    serving: dict[str, frozenset[int]] = {}
    for each in running:
        serving[each.key.name] = serving.get(each.key.name, frozenset()) | {each.key.version}
    actual = Actual(
        triton_up=True,
        serving=serving,
        present={each.key: Present(each.digest, "c") for each in specs},
        confirmed=frozenset(each.key for each in running),
        answered=frozenset(each.key for each in specs),
    )
    return replace(actual, **more)  # type: ignore[arg-type]


def use(*waiting: str, in_use: str = "", since: float = 0.0, **used: float) -> Use:
    return Use(frozenset(waiting), frozenset(in_use.split()), used, dict.fromkeys(waiting, since))


def resting(found: Residency) -> str:
    return " ".join(sorted(found.resting))


def test_what_runs_stays_while_nobody_asks_for_another() -> None:
    actual = there(*ALL, running=(A, B))
    assert decide(desired(*ALL), actual, use(), 0) == Residency(frozenset({"c"}))
    assert decide(Desired("r", ALL), actual, use(), 0) == Residency(), "and all of it where nothing is on demand"


def test_the_one_goes_that_nobody_has_asked_for_longest_and_has_no_request_under_way() -> None:
    actual = there(*ALL, running=(A, B))
    assert resting(decide(desired(*ALL), actual, use("c", a=2.0, b=1.0), 3)) == "b"
    assert resting(decide(desired(*ALL), actual, use("c", a=2.0, b=1.0, in_use="b"), 3)) == "a"
    assert resting(decide(desired(*ALL), actual, use("c", a=2.0), 3)) == "b", "one that was never asked before all"


def test_nothing_goes_where_there_is_room_or_where_it_would_not_help() -> None:
    actual = there(*ALL, running=(A, B))
    assert resting(decide(desired(*ALL, room=3), actual, use("c"), 0)) == ""
    assert decide(desired(*ALL, c=3), actual, use("c"), 0) == Residency(frozenset({"c"}), frozenset({"c"}))
    busy = decide(desired(*ALL, c=2), actual, use("c", in_use="a"), 0)
    assert busy == Residency(frozenset({"c"}), frozenset({"c"})), "b alone is not enough, so it stays"
    assert resting(decide(desired(*ALL, c=2), actual, use("c"), 0)) == "a b"


def test_one_that_is_never_idle_goes_when_another_has_waited_long() -> None:
    actual = there(*ALL, running=(A, B))
    asks = use("c", in_use="a b", a=1.0, b=2.0)
    assert resting(decide(desired(*ALL), actual, asks, PATIENCE * HOLD - 0.1)) == "c"
    found = decide(desired(*ALL), actual, asks, PATIENCE * HOLD)
    assert resting(found) == "a"
    actual = replace(actual, resting=found.resting, in_use=asks.in_use)
    assert plan(desired(*ALL), actual, 0) == [], "its requests come to their end before"
    assert plan(desired(*ALL), replace(actual, in_use=frozenset({"b"})), 0) == [Unload("a")]


def test_a_model_is_loaded_when_the_memory_of_the_one_before_it_is_free() -> None:
    wish, asks = desired(*ALL), use("c")
    actual = replace(there(*ALL, running=(A, B)), resting=frozenset({"a"}))
    assert plan(wish, actual, 0) == [Unload("a")]
    going = there(*ALL, running=(B,), loading=frozenset({"a"}), unloading=frozenset({"a"}), resting=frozenset({"a"}))
    found = decide(wish, going, asks, 0)
    assert resting(found) == "a", "b does not go as well"
    assert plan(wish, replace(going, resting=found.resting), 0) == []
    gone = there(*ALL, running=(B,), resting=frozenset({"a"}))
    assert plan(wish, gone, 0) == [Load("c", (1,), C, C)]
    loading = replace(gone, loading=frozenset({"c"}))
    assert resting(decide(wish, loading, use(), 0)) == "a", "also when who asked has gone: it takes its room"


def test_each_is_loaded_once_before_it_counts_as_served() -> None:
    wish = desired(*ALL)
    actual = replace(there(*ALL, running=(A, B)), answered=frozenset({A.key, B.key}))
    assert asked(wish, actual, use(), 0) == ["c"]
    told = report(wish, None, replace(actual, resting=decide(wish, actual, use(), 0).resting), Told(), 0)
    assert (told.ready, {each.key.name: each.state for each in told.models}["c"]) == (False, State.PENDING)
    actual = there(*ALL, running=(B, C), resting=frozenset({"a"}))
    told = report(wish, None, actual, Told(), 0)
    assert told.ready
    assert [each.state for each in told.models] == [State.STANDBY, State.READY, State.READY]
    assert {key.name: key.version for key in told.answers} == {"a": 1, "b": 1, "c": 1}


def test_after_an_agent_or_triton_was_restarted_nothing_is_loaded_before_somebody_asks() -> None:
    wish = desired(*ALL)
    new = replace(there(*ALL), answered=frozenset(), bearing=frozenset(each.key for each in ALL))
    found = decide(wish, new, use(), 0)
    assert resting(found) == "a b c"
    assert plan(wish, replace(new, resting=found.resting), 0) == []
    assert report(wish, None, replace(new, resting=found.resting), Told(), 0).ready


def test_one_that_failed_is_not_served_and_takes_nothing_from_others_until_it_is_tried_again() -> None:
    wish = desired(*ALL)
    failures = {C.key: Failure(C, Reason.LOAD_FAILED, "no", 2, retry_at=10.0)}
    actual = there(*ALL, running=(A, B), failures=failures)
    assert resting(decide(wish, actual, use("c"), 5)) == "c"
    told = report(wish, None, actual, Told(), 5)
    assert (told.ready, told.message) == (False, "c version 1 is Failed: no")
    assert resting(decide(wish, actual, use(), 10)) == "a", "it is tried again by itself"


def test_of_a_swap_the_old_version_answers_until_the_new_one_has_room_and_others_in_use_stay() -> None:
    wish = desired(A2, replace(A, warm=True), B)
    actual = replace(there(A, A2, B, running=(A, B)), answered=frozenset({A.key, B.key}))
    busy = decide(wish, actual, use(in_use="b"), 0)
    assert busy == Residency(frozenset(), frozenset({"a"}))
    assert plan(wish, replace(actual, resting=busy.resting, crowded=busy.crowded), 0) == []
    idle = decide(wish, actual, use(), 0)
    assert idle == Residency(frozenset({"b"}), frozenset())
    gone = there(A, A2, B, running=(A,), answered=actual.answered, resting=frozenset({"b"}))
    assert plan(wish, gone, 0) == [Load("a", (1, 2), A2, A2)]
    both = there(A, A2, B, running=(A, A2), resting=frozenset({"b"}))
    assert plan(wish, both, 0) == [Load("a", (2,), A2, None)], "of the one that is kept warm the files alone"


@pytest.mark.parametrize("seed", range(20))
def test_memory_is_never_short_nobody_is_disturbed_and_everybody_who_waits_is_served(seed: int) -> None:
    """A pod whose tasks end one a step, and clients that come, wait, and go when they were answered."""
    rng = random.Random(seed)
    names = "abcde"[: rng.randint(2, 5)]
    specs = tuple(spec(name) for name in names)
    sizes = {name: rng.randint(1, 3) for name in names}
    room = rng.randint(max(sizes.values()), 6)
    wish = desired(*specs, room=room, **sizes)
    actual = Actual(triton_up=True, present={each.key: Present(each.digest, "c") for each in specs})
    waiting: dict[str, float] = {}
    since: dict[str, float] = {}
    in_use: set[str] = set()
    used: dict[str, float] = {}
    for step in range(150):
        now = float(step)
        if step < 60 and rng.random() < 0.3:
            waiting.setdefault(rng.choice(names), now)
        if in_use and (step >= 60 or rng.random() < 0.3):
            in_use.discard(sorted(in_use)[0])
        asks = Use(frozenset(waiting), frozenset(in_use), used, since)
        since = {name: since.get(name, now) for name in asked(wish, actual, asks, now)}
        found = decide(wish, actual, replace(asks, since=since), now)
        actual = replace(actual, resting=found.resting, crowded=found.crowded)
        for name in [each for each in waiting if ModelKey(each, 1) in actual.confirmed and each not in found.resting]:
            del waiting[name]
            in_use.add(name)
            used[name] = now
        actual = replace(actual, in_use=frozenset(in_use))
        for action in plan(wish, actual, now):
            assert not isinstance(action, Fetch)
            name = action.spec.key.name if isinstance(action, Confirm) else action.name  # type: ignore[union-attr]
            key, serving = ModelKey(name, 1), dict(actual.serving)
            if isinstance(action, Unload):
                assert name not in in_use, "nobody is disturbed"
                del serving[name]
                actual = replace(actual, serving=serving, confirmed=actual.confirmed - {key})
            elif isinstance(action, Load):
                serving[name] = frozenset({1})
                actual = replace(actual, serving=serving)
            else:
                actual = replace(actual, confirmed=actual.confirmed | {key}, answered=actual.answered | {key})
            assert sum(sizes[each] for each in actual.serving) <= room, "memory is never short"
    assert not waiting, "everybody is served"
    assert actual.answered == {each.key for each in specs}

"""The planner as a plain function: tables for the rules, and a simulated Triton for what may come together."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory_agent.serve.planner import (
    Action,
    Actual,
    Confirm,
    Failure,
    Fetch,
    Load,
    Present,
    Remove,
    Unload,
    carries,
    conflict_with,
    is_ready,
    plan,
)
from aifactory_contract.desired import Desired, ModelKey, ModelSpec
from aifactory_contract.errors import Reason
from aifactory_contract.uri import ArtifactUri


def spec(name: str, version: int, content: str = "") -> ModelSpec:
    digest = f"sha256:{name}-{version}-{content}"
    return ModelSpec(ModelKey(name, version), ArtifactUri("pvc", "models", f"{name}/{version}"), digest, "huggingface")


def present(*specs: ModelSpec, config: str = "c") -> dict[ModelKey, Present]:
    return {item.key: Present(item.digest, config) for item in specs}


A1, A2, A3 = spec("a", 1), spec("a", 2), spec("a", 3)
B1 = spec("b", 1)


def desired(*specs: ModelSpec) -> Desired:
    return Desired("r", specs)


def failed(item: ModelSpec, retry_at: float, reason: Reason = Reason.LOAD_FAILED) -> dict[ModelKey, Failure]:
    return {item.key: Failure(item, reason, "no", 1, retry_at)}


def test_fetches_what_is_missing_also_without_triton() -> None:
    assert plan(desired(A1, B1), Actual(), 0) == [Fetch(A1), Fetch(B1)]
    assert plan(desired(A1, B1), Actual(fetching={A1.key: 0}), 0) == [Fetch(B1)]


def test_what_was_fetched_for_another_engine_goes_at_once() -> None:
    wished = replace(A1, engine="vllm")
    actual = Actual(triton_up=True, serving={"a": frozenset({1})}, present=present(A1), confirmed=frozenset({A1.key}))
    assert plan(desired(wished), actual, 0) == [Unload("a")]
    assert plan(desired(wished), replace(actual, serving={}), 0) == [Remove(A1.key)]


def test_what_goes_of_one_model_is_gone_before_another_one_is_loaded() -> None:
    both = present(A1, A2, B1)
    serving = {"a": frozenset({1, 2})}
    actual = Actual(triton_up=True, present=both, serving=serving, confirmed=frozenset({A1.key, A2.key}))
    assert plan(desired(A2, B1), actual, 0) == [Load("a", (2,), A2, None)]
    assert Load("b", (1,), B1, B1) in plan(desired(A2, B1), replace(actual, serving={"a": frozenset({2})}), 0)
    assert Load("b", (1,), B1, B1) in plan(desired(A2, B1), replace(actual, held=frozenset({"a"})), 0)
    one = replace(actual, serving={"a": frozenset({1})}, present=present(A1, B1), confirmed=frozenset({A1.key}))
    assert plan(desired(B1), one, 0) == [Unload("a")], "nor is one that is no longer desired at all"


def test_loads_what_was_fetched() -> None:
    actual = Actual(triton_up=True, present=present(A1))
    assert plan(desired(A1), actual, 0) == [Load("a", (1,), A1, A1)]


def test_asks_a_loaded_version_for_an_answer_and_then_rests() -> None:
    actual = Actual(triton_up=True, present=present(A1), serving={"a": frozenset({1})})
    assert plan(desired(A1), actual, 0) == [Confirm(A1)]
    confirmed = replace(actual, confirmed=frozenset({A1.key}))
    assert plan(desired(A1), confirmed, 0) == []
    assert is_ready(A1, confirmed)


def test_keeps_the_old_version_until_the_new_one_has_answered() -> None:
    actual = Actual(
        triton_up=True, present=present(A1, A2), serving={"a": frozenset({1})}, confirmed=frozenset({A1.key})
    )
    assert plan(desired(A2), actual, 0) == [Load("a", (1, 2), A2, A2)]
    loaded = replace(actual, serving={"a": frozenset({1, 2})})
    assert plan(desired(A2), loaded, 0) == [Confirm(A2)]
    confirmed = replace(loaded, confirmed=frozenset({A1.key, A2.key}))
    assert plan(desired(A2), confirmed, 0) == [Load("a", (2,), A2, None)]
    dropped = replace(confirmed, serving={"a": frozenset({2})})
    assert plan(desired(A2), dropped, 0) == [Remove(A1.key)]


W1, W2 = replace(A1, warm=True), replace(A2, warm=True)


def test_the_version_before_stays_warm_and_going_back_to_it_is_one_call() -> None:
    actual = Actual(
        triton_up=True, present=present(A1, A2), serving={"a": frozenset({1})}, confirmed=frozenset({A1.key})
    )
    assert plan(desired(A2, W1), actual, 0) == [Load("a", (1, 2), A2, A2)]
    loaded = replace(actual, serving={"a": frozenset({1, 2})})
    assert plan(desired(A2, W1), loaded, 0) == [Confirm(A2)]
    both = replace(loaded, confirmed=frozenset({A1.key, A2.key}))
    assert plan(desired(A2, W1), both, 0) == [], "version 1 runs on"
    assert plan(desired(A1, W2), both, 0) == [Load("a", (1,), A1, None)], "a higher one would answer by the name"
    back = replace(both, serving={"a": frozenset({1})})
    assert plan(desired(A1, W2), back, 0) == [], "the files of version 2 are kept"


def test_a_warm_version_comes_after_all_live_ones_and_only_if_it_fits() -> None:
    wish = desired(A2, W1)
    assert plan(wish, Actual(triton_up=True), 0) == [Fetch(A2)]
    actual = Actual(triton_up=True, present=present(A2), serving={"a": frozenset({2})}, confirmed=frozenset({A2.key}))
    assert plan(wish, actual, 0) == [Fetch(W1)]
    fetched = replace(actual, present=present(A1, A2))
    assert plan(wish, fetched, 0) == [Load("a", (1, 2), A2, W1)]
    full = replace(fetched, failures=failed(W1, retry_at=9, reason=Reason.NO_ROOM))
    assert plan(wish, full, 0) == []
    other = replace(actual, present=present(A2) | present(A1, config="other"))
    assert plan(wish, other, 0) == [], "it can not run beside one of another configuration"


def test_what_is_neither_live_nor_warm_goes_before_a_third_version_comes() -> None:
    actual = Actual(
        triton_up=True,
        present=present(A1, A2),
        serving={"a": frozenset({1, 2})},
        confirmed=frozenset({A1.key, A2.key}),
    )
    wish = desired(A3, W2)
    assert plan(wish, actual, 0) == [Load("a", (2,), None, None)]
    unloaded = replace(actual, serving={"a": frozenset({2})})
    assert plan(wish, unloaded, 0) == [Remove(A1.key)]
    removed = replace(unloaded, present=present(A2))
    assert plan(wish, removed, 0) == [Fetch(A3)]
    stuck = replace(actual, held=frozenset({"a"}))
    assert plan(wish, stuck, 0) == [Fetch(A3)], "what can not be taken out holds up nothing"


def test_a_version_that_does_not_load_leaves_the_warm_one_answering() -> None:
    actual = Actual(
        triton_up=True,
        present=present(A1, A2),
        serving={"a": frozenset({1})},
        confirmed=frozenset({A1.key}),
        failures=failed(A2, retry_at=9),
        bearing=frozenset({A1.key}),
    )
    assert plan(desired(A2, W1), actual, 0) == []
    assert carries(desired(A2, W1), actual)


def test_a_triton_that_was_restarted_before_the_new_version_came_answers_as_before() -> None:
    wish = desired(A2, W1)
    fetching = Actual(
        triton_up=True, present=present(A1), fetching={A2.key: 0}, bearing=frozenset({A1.key}), serving={}
    )
    assert plan(wish, fetching, 0) == [Load("a", (1,), None, W1)]
    loaded = replace(fetching, serving={"a": frozenset({1})})
    assert plan(wish, loaded, 0) == [Confirm(W1)]
    answers = replace(loaded, confirmed=frozenset({A1.key}))
    assert plan(wish, answers, 0) == []
    assert carries(wish, answers)
    assert not is_ready(A2, answers)
    fetched = replace(answers, present=present(A1, A2), fetching={})
    assert plan(wish, fetched, 0) == [Load("a", (1, 2), A2, A2)]
    died = replace(fetched, serving={}, confirmed=frozenset(), failures=failed(A2, 9, Reason.TRITON_UNAVAILABLE))
    assert plan(wish, died, 0) == [Load("a", (1,), None, W1)], "its load may have ended Triton"
    assert plan(wish, died, 9) == [Load("a", (2,), A2, A2)]


def test_once_the_new_version_bears_the_traffic_the_one_before_does_no_more() -> None:
    actual = Actual(
        triton_up=True, present=present(A1, A2), failures=failed(A2, retry_at=9), bearing=frozenset({A2.key})
    )
    assert plan(desired(A2, W1), actual, 0) == [], "it could take the room"
    alone = replace(actual, serving={"a": frozenset({1})}, confirmed=frozenset({A1.key}))
    assert not carries(desired(A2, W1), alone)
    assert plan(desired(A2, W1), replace(actual, bearing=frozenset()), 0) == [], "a pod that never served anything"


def test_swaps_at_once_where_the_configurations_differ() -> None:
    both = present(A1, config="x") | present(A2, config="y")
    actual = Actual(triton_up=True, present=both, serving={"a": frozenset({1})}, confirmed=frozenset({A1.key}))
    assert plan(desired(A2), actual, 0) == [Load("a", (2,), A2, A2)]


def test_two_wanted_versions_of_different_configuration_conflict() -> None:
    both = present(A1, config="x") | present(A2, config="y")
    actual = Actual(triton_up=True, present=both)
    assert plan(desired(A1, A2), actual, 0) == [Load("a", (2,), A2, A2)]
    assert conflict_with(A1, desired(A1, A2), actual, 0) == A2
    assert conflict_with(A2, desired(A1, A2), actual, 0) is None


def test_adds_one_new_version_a_load() -> None:
    actual = Actual(triton_up=True, present=present(A1, A2, A3))
    assert plan(desired(A1, A2, A3), actual, 0) == [Load("a", (1,), A3, A1)]


def test_a_failed_version_waits_and_holds_up_nothing() -> None:
    actual = Actual(triton_up=True, present=present(A1, A2, B1), failures=failed(A1, retry_at=9))
    assert plan(desired(A1, A2, B1), actual, 0) == [Load("a", (2,), A2, A2), Load("b", (1,), B1, B1)]
    assert Load("a", (1,), A2, A1) in plan(desired(A1, A2, B1), actual, 10)


def test_a_failure_of_other_bytes_is_forgotten() -> None:
    other = spec("a", 1, "other")
    actual = Actual(triton_up=True, failures=failed(A1, retry_at=9, reason=Reason.DIGEST_MISMATCH))
    assert plan(desired(A1), actual, 0) == []
    assert plan(desired(other), actual, 0) == [Fetch(other)]


def test_a_loaded_version_that_stopped_answering_is_taken_out_and_loaded_again() -> None:
    serving = Actual(
        triton_up=True,
        present=present(A1),
        serving={"a": frozenset({1})},
        failures=failed(A1, 5, Reason.CONFIRM_FAILED),
    )
    assert plan(desired(A1), serving, 0) == [Unload("a")]
    assert plan(desired(A1), replace(serving, serving={}), 0) == []
    assert plan(desired(A1), replace(serving, serving={}), 6) == [Load("a", (1,), A1, A1)]


def test_other_bytes_of_the_same_version_replace_it_in_order() -> None:
    other = spec("a", 1, "other")
    actual = Actual(triton_up=True, present=present(A1), serving={"a": frozenset({1})}, confirmed=frozenset({A1.key}))
    assert plan(desired(other), actual, 0) == [Unload("a")]
    assert plan(desired(other), replace(actual, serving={}), 0) == [Remove(A1.key)]
    assert plan(desired(other), replace(actual, serving={}, present={}), 0) == [Fetch(other)]


def test_a_model_nobody_wants_goes() -> None:
    actual = Actual(triton_up=True, present=present(A1), serving={"a": frozenset({1})})
    assert plan(desired(), actual, 0) == [Unload("a")]
    assert plan(desired(), replace(actual, serving={}), 0) == [Remove(A1.key)]


def test_leaves_a_model_alone_that_is_being_worked_on() -> None:
    actual = Actual(triton_up=True, present=present(A1, B1), loading=frozenset({"a"}))
    assert plan(desired(A1, B1), actual, 0) == [Load("b", (1,), B1, B1)]


# A simulated world: any order of wishes and results, then quiet; the end must be what was wished last.

SPECS = [
    replace(spec(name, version, content), warm=warm)
    for name in "ab"
    for version in (1, 2, 3)
    for content in ("x", "y")
    for warm in (False, True)
]


class World:
    """Applies actions as Triton and the volume would; loads of bad versions fail."""

    def __init__(self, bad: frozenset[ModelSpec]) -> None:
        self.bad = bad
        self.actual = Actual(triton_up=True)
        self.bytes: dict[ModelKey, ModelSpec] = {}

    def apply(self, action: Action, now: float) -> None:
        match action:
            case Fetch(item):
                self._update(present={**self.actual.present, item.key: Present(item.digest, item.digest[-1])})
                self.bytes[item.key] = item
            case Load(name, versions, leader, adding):
                loaded = [self.bytes[ModelKey(name, version)] for version in versions]
                configs = {self.actual.present[item.key].config for item in loaded}
                assert len(configs) == 1, "versions of different configuration in one load"
                new = set(versions) - self.actual.serving.get(name, frozenset())
                assert versions, "a load of nothing"
                assert len(new) <= 1
                assert (adding is None) == (not new)
                alike = [replace(item, warm=True) for item in loaded]  # what was fetched as warm may be live now
                assert leader is None or replace(leader, warm=True) in alike or adding is not None
                if adding is not None and replace(adding, warm=False) in self.bad:
                    self._fail(adding, now)
                else:
                    self._serve(name, frozenset(versions))
            case Confirm(item):
                self._update(confirmed=self.actual.confirmed | {item.key})
            case Unload(name):
                self._serve(name, frozenset())
            case Remove(key):
                assert key.version not in self.actual.serving.get(key.name, frozenset()), (
                    "files removed under a version"
                )
                self._update(present={other: value for other, value in self.actual.present.items() if other != key})

    def bear(self, wish: Desired) -> None:
        """As the agent does when the pod is ready."""
        if all(is_ready(item, self.actual) for item in wish.live):
            self._update(bearing=frozenset(item.key for item in wish.live))

    def crash(self) -> None:
        self._update(serving={}, confirmed=frozenset())

    def _serve(self, name: str, versions: frozenset[int]) -> None:
        serving = {key: value for key, value in self.actual.serving.items() if key != name}
        if versions:
            serving[name] = versions
        running = {ModelKey(model, version) for model, items in serving.items() for version in items}
        self._update(serving=serving, confirmed=self.actual.confirmed & running)

    def _fail(self, item: ModelSpec, now: float) -> None:
        failure = Failure(item, Reason.LOAD_FAILED, "bad", 1, now + 1000)
        self._update(failures={**self.actual.failures, item.key: failure})

    def _update(self, **changes: object) -> None:
        self.actual = replace(self.actual, **changes)  # type: ignore[arg-type]


wishes = st.lists(st.sampled_from(SPECS), max_size=4, unique_by=lambda item: item.key).map(
    lambda items: desired(*items)
)


@settings(max_examples=400, deadline=None)
@given(
    bad=st.frozensets(st.sampled_from([item for item in SPECS if not item.warm]), max_size=3),
    history=st.lists(st.tuples(wishes, st.integers(0, 4), st.booleans()), min_size=1, max_size=5),
)
def test_always_ends_at_the_last_wish(bad: frozenset[ModelSpec], history: list[tuple[Desired, int, bool]]) -> None:
    world, now, wish = World(bad), 0.0, desired()
    for wish, steps, crash in history:
        for _ in range(steps):
            now += 1
            for action in plan(wish, world.actual, now)[:1]:
                world.apply(action, now)
            world.bear(wish)
        if crash:
            world.crash()
    for _ in range(40):
        now += 1
        actions = plan(wish, world.actual, now)
        if not actions:
            break
        world.apply(actions[0], now)
        world.bear(wish)
    else:
        raise AssertionError(f"never at rest: {actions}")
    for item in wish.live:
        config = world.actual.present.get(item.key)
        leader = conflict_with(item, wish, world.actual, now)
        assert is_ready(item, world.actual) or item in bad or leader is not None, (item, config)
    for key in world.actual.present:
        others_ready = all(is_ready(item, world.actual) for item in wish.named(key.name))
        wanted = any(item.key == key for item in wish.models)
        assert wanted or not others_ready, f"{key} was left behind"
    for name in "ab":
        live = [item.key.version for item in wish.named(name) if is_ready(item, world.actual)]
        if live and len(live) == len(wish.named(name)):
            assert max(world.actual.serving[name]) == max(live), "a live version answers by the name"

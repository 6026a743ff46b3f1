"""What is decided for each of several models, and what is told of each before anything is done about it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from aifactory.api.inferencepool import FailedVersion, ModelStatus, RevisionStatus
from aifactory.api.reasons import Reason
from aifactory.engine.apply import Applied
from aifactory.serving import packing
from aifactory.serving.assignment import Waiting
from aifactory.serving.packing import pack
from aifactory.serving.state import ConfigView, Observed, Report, RevisionView, ServingPodView, VersionView
from tests.unit.serving.builders import NOW, SETTINGS, conditions, pool
from tests.unit.serving.test_several import BERT, GPT, Several, both, limited, several

MEBIBYTE = 1024**2
T5 = {"name": "t5", "version": 1}


def view(model: str, number: int = 1, **changes: Any) -> VersionView:
    return several().give(model, number, **changes)


def seen(*versions: VersionView, **spec: Any) -> Observed:
    return Observed(pool(**{"models": [GPT, BERT], **spec}), SETTINGS, versions=versions)


def one_set(observed: Observed, *pods: ServingPodView) -> Observed:
    """Other pods in the set that takes the traffic."""
    (set_,) = observed.revisions
    return replace(observed, pods=tuple(replace(pod, revision=pod.revision or set_.revision) for pod in pods))


# --- What is told of each ---


def test_all_that_is_told_of_each() -> None:
    world = both()
    world.give("bert", 2)
    found = pack(world.observed(), NOW)
    served = {"memory": "0.977KiB", "memory_bytes": 1000, "ready_replicas": 2, "version": 1}
    assert found.models == (
        ModelStatus(name="gpt", state="Serving", model_version="gpt-v1", **served),
        ModelStatus(name="bert", state="Changing", model_version="bert-v1", wanted=2, **served),
    )
    assert found.leader == "bert"
    assert isinstance(found.target, VersionView)
    assert found.target.title == "bert-v2 + gpt-v1"


def test_nothing_at_all() -> None:
    none = "waiting for a ModelVersion of {0}: none exists; a TrainingJob with output.model.name {0} makes one"
    models = tuple(
        ModelStatus(name=name, state="Waiting", reason="WaitingForModel", message=none.format(name))
        for name in ("gpt", "bert")
    )
    assert pack(seen(), NOW) == packing.Packed(Waiting(Reason.WAITING_FOR_MODEL, none.format("gpt")), models)


def test_what_can_not_be_served_is_told_before_what_is_waited_for() -> None:
    found = pack(seen(view("bert", size_bytes=2 * 1024**3), template=limited("1Gi")), NOW)
    assert [each.state for each in found.models] == ["Waiting", "Refused"]
    assert isinstance(found.target, Waiting)
    assert (found.target.reason, found.target.message) == ("ModelTooLarge", found.models[1].message)


def test_what_an_engine_does_not_serve_is_refused() -> None:
    found = pack(seen(view("gpt", format="huggingface"), view("bert"), runtime={"engine": "transformers"}), NOW)
    assert [(each.state, each.reason) for each in found.models] == [("Changing", None), ("Refused", "Unservable")]
    assert isinstance(found.target, VersionView)
    assert (found.target.title, found.target.coming) == ("gpt-v1", ()), "no pod is made for it"


def test_one_that_is_pinned_to_a_version_that_is_not_there_goes_on_as_it_is() -> None:
    world = both()
    world.edit(models=[GPT, {"name": "bert", "version": 9}])
    world.go()
    assert world.states() == {"gpt": ("Serving", 1), "bert": ("Waiting", 1)}
    assert world.model("bert").message == "waiting for version 9 of model bert; existing versions: 1"
    assert conditions(world.status)["Available"][0] == "True"
    assert world.told() == [("bert", 1, "live"), ("gpt", 1, "live")]
    target = pack(world.observed(), NOW).target
    assert isinstance(target, VersionView)
    assert target.title == "bert-v1 + gpt-v1"


def test_one_that_is_served_and_gone_is_told_with_the_way_out() -> None:
    world = both()
    world.versions = {key: each for key, each in world.versions.items() if each.name != "bert-v1"}
    said = "ModelVersion bert-v1 is served and gone: make it again, or take its model out of the pool"
    assert pack(world.observed(), NOW).target == Waiting(Reason.WAITING_FOR_MODEL, said)


def test_which_pods_answer_from_a_model() -> None:
    world = both()
    reports = {
        "it says so": Report("x", answers=(("bert", 2), ("gpt", 1))),
        "another one": Report("x", answers=(("bert", 1), ("gpt", 2))),
    }
    pods = (
        ServingPodView("not ready", "", ready=False, report=reports["it says so"]),
        ServingPodView("it ends", "", ready=True, terminating=True, report=reports["it says so"]),
        *(ServingPodView(name, "", ready=True, report=report) for name, report in reports.items()),
        ServingPodView("it has not said", "", ready=True),
        ServingPodView("it has not said, of another set", "other", ready=True),
    )
    found = pack(one_set(world.observed(), *pods), NOW)
    assert [(each.name, each.ready_replicas) for each in found.models] == [("gpt", 2), ("bert", 2)]
    (alone,) = (ServingPodView("of another set", "other", ready=True, report=reports["it says so"]),)
    found = pack(one_set(world.observed(), alone, ServingPodView("new", "other", ready=True)), NOW)
    assert [each.ready_replicas for each in found.models] == [1, 0]


def test_one_that_is_on_its_way_comes_before_those_that_stand_before_it() -> None:
    world = both()
    world.give("bert", 2)
    world.step()
    world.give("gpt", 2)
    found = pack(world.observed(), NOW)
    assert found.leader == "bert"
    assert [(each.state, each.message) for each in found.models] == [
        ("Waiting", "version 2 is next: one model changes at a time"),
        ("Changing", None),
    ]


def test_one_that_goes_takes_no_room_from_one_that_comes() -> None:
    world = several(models=[GPT, BERT], template=limited("1Gi"))
    world.give("gpt", 1, memory_bytes=600 * MEBIBYTE)
    world.give("bert", 1, memory_bytes=100 * MEBIBYTE)
    world.go()
    world.give("t5", 1, memory_bytes=600 * MEBIBYTE)
    world.edit(models=[BERT, T5])
    assert [(each.name, each.state) for each in pack(world.observed(), NOW).models] == [
        ("bert", "Serving"),
        ("t5", "Changing"),
    ]


# --- One that was taken back ---


def failed(**told: Any) -> Several:
    """gpt-v2 does not load, and was taken back."""
    world = both()
    world.broken = ("gpt-v2",)
    world.give("gpt", 2)
    world.go()
    assert world.states()["gpt"] == ("Failed", 1)
    models = [each.model_copy(update=told) if each.name == "gpt" else each for each in world.status.models or ()]
    status = world.status.model_copy(update={"models": tuple(models)})
    world.pool = world.pool.model_copy(update={"status": status})
    return world


@pytest.mark.parametrize(
    ("told", "reason", "message"),
    [
        ({"reason": "PodRejected", "message": "no quota"}, "PodRejected", "no quota"),
        ({"reason": None, "message": None}, "ModelLoadFailed", ""),
    ],
)
def test_what_was_said_of_it_goes_on_being_said(told: dict[str, Any], reason: str, message: str) -> None:
    found = pack(failed(**told).observed(), NOW).models[0]
    assert (found.state, found.version, found.wanted) == ("Failed", 1, 2)
    assert (found.reason, found.message) == (reason, message)


def test_it_is_tried_again_when_that_is_due() -> None:
    record = failed().model("gpt").failed
    assert record is not None
    for later, state in ((1, "Failed"), (0, "Changing"), (-1, "Changing")):
        due = record.model_copy(update={"retry_time": NOW + timedelta(seconds=later)})
        assert pack(failed(failed=due).observed(), NOW).models[0].state == state


CHANGE = {"strategy": "HotSwap", "revision": "b"}


@pytest.mark.parametrize(
    ("sets", "assigned", "change", "due", "expected"),
    [
        pytest.param("a", "a", None, 0, True, id="it is due"),
        pytest.param("a", "", None, 0, True, id="it is due, and nothing is known of what pods are told"),
        pytest.param("a", "a", None, 1, False, id="it is not due"),
        pytest.param("a", "a", None, None, False, id="it would change nothing"),
        pytest.param("a", "b", None, 0, False, id="pods are told something else"),
        pytest.param("ab", "a", None, 0, False, id="its pods are there"),
        pytest.param("b", "a", None, 0, False, id="there are others"),
        pytest.param("ab", "b", {**CHANGE, "phase": "Progressing", "model": "gpt"}, None, True, id="it is on its way"),
        pytest.param("ab", "b", {**CHANGE, "phase": "Progressing", "model": "t5"}, None, False, id="another one is"),
        pytest.param("ab", "b", {**CHANGE, "phase": "Failed", "model": "gpt"}, None, False, id="it was"),
    ],
)
def test_when_it_may_be_tried_again(sets: str, assigned: str, change: Any, due: int | None, *, expected: bool) -> None:
    status = {"stable": {"revision": "a"}, **({"rollout": change} if change else {})}
    child = Applied("chat-a", "uid")
    observed = replace(
        seen(status=status),
        revisions=tuple(RevisionView(child, each, 1) for each in sets),
        configs=(ConfigView(child, "a", assigned),) if assigned else (),
    )
    retry = NOW + timedelta(seconds=due) if due is not None else None
    record = FailedVersion(model_version="gpt-v2", revision="x", retry_time=retry)
    assert packing._may_try(observed, "gpt", record, NOW) is expected


def test_a_trial_is_the_same_whatever_is_served_with_it() -> None:
    one, beside, coming = view("gpt"), view("bert"), view("t5", uri="pvc://other/t5/1")
    observed = seen(one)
    alone = packing.trial(observed, replace(one, beside=()))
    assert packing.trial(observed, replace(one, beside=(beside,), coming=(coming,))) == alone
    assert packing.trial(observed, view("gpt", 2)) != alone


# --- Several as one ---


def test_several_are_in_the_order_of_their_names() -> None:
    views = {name: view(name) for name in ("gpt", "t5", "bert", "zeta", "alpha")}
    kept = {name: views[name] for name in ("gpt", "t5", "bert")}
    beside, coming = (views["gpt"], views["t5"]), (views["alpha"], views["zeta"])
    assert packing.bundle(kept, views) == replace(views["bert"], beside=beside, coming=coming)
    assert packing.bundle(kept, views, "t5").beside == (views["bert"], views["gpt"])


def test_pods_are_made_for_what_is_to_come_as_far_as_it_has_room() -> None:
    models = [GPT, {"name": "zeta", "version": 1}, {"name": "alpha", "version": 1}, BERT, T5]
    zeta, alpha = view("zeta"), view("alpha")
    large = view("t5", memory_bytes=2 * 1024**3)
    observed = seen(view("gpt"), zeta, alpha, large, models=models, template=limited("1Gi"))
    served = replace(view("gpt"), beside=())
    assert packing.as_made(observed, served) == replace(served, coming=(alpha, zeta))
    assert packing.as_made(observed, view("gpt")) == view("gpt"), "served in a pool of one model"
    assert packing.as_made(seen(zeta, models=[{"name": "zeta", "version": 1}]), served) == served


def test_the_models_of_what_is_served_are_known_by_the_names_of_versions() -> None:
    assert packing.named_in(None) == {}
    one = RevisionStatus(revision="a", model_version="my-v2-model-v13")
    assert packing.named_in(one) == {"my-v2-model": "my-v2-model-v13"}

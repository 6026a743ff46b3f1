"""Custom resources are kept as JSON and read when they are planned."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import msgspec
import pytest

from aifactory.api.base import CustomResource
from aifactory.api.modelversion import ModelVersion
from aifactory.engine import custom
from aifactory.kube.depth import MAX_DEPTH
from aifactory.kube.resources import Key

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
READY = {
    "type": "Ready",
    "status": "False",
    "reason": "Any",
    "message": "",
    "lastTransitionTime": "2025-01-01T00:00:00Z",
}
SPEC = {"model": "gpt", "version": 1, "source": {"uri": "s3://models/gpt/1"}, "format": "huggingface"}


def body(version: int = 1, **changes: Any) -> dict[str, Any]:
    metadata = {"name": "gpt-v1", "namespace": "team", "uid": "u", "resourceVersion": str(version), "generation": 3}
    metadata |= {"labels": {"team": "a"}, "managedFields": [{"manager": "kubectl"}]}
    metadata |= {"annotations": {custom.LAST_APPLIED: "{}", "aifactory.dev/allow-delete-in-use": "true"}}
    return {"metadata": metadata, "spec": SPEC, "status": {"phase": "New", "unknown": [1]}, **changes}


def test_what_was_put_in_comes_out() -> None:
    stored = custom.parser(ModelVersion)(body())
    assert stored.subject.key == Key("team", "gpt-v1")
    assert stored.status == {"phase": "New", "unknown": [1]}
    model = stored.model
    assert model is not None
    assert (model.spec.model, model.metadata.generation, model.metadata.labels) == ("gpt", 3, {"team": "a"})
    assert model.metadata.annotations == {"aifactory.dev/allow-delete-in-use": "true"}
    assert stored.error == ""
    assert stored.model is model, "it is read once"


def test_what_only_other_tools_read_is_not_kept() -> None:
    assert custom.LAST_APPLIED == "kubectl.kubernetes.io/last-applied-configuration"
    stored = custom.parser(ModelVersion)(body())
    assert b"managedFields" not in stored.body
    assert b"last-applied" not in stored.body


def test_two_versions_of_an_object_are_not_taken_for_each_other() -> None:
    parse = custom.parser(ModelVersion)
    old, new = parse(body(1)), parse(body(2, spec={**SPEC, "version": 2}))
    assert old.model is not None
    assert new.model is not None
    assert (old.model.spec.version, new.model.spec.version) == (1, 2)


def test_what_does_not_fit_is_kept_with_the_reason() -> None:
    for wrong in (body(spec={**SPEC, "version": "x"}), {key: value for key, value in body().items() if key != "spec"}):
        stored = custom.parser(ModelVersion)(wrong)
        assert stored.model is None
        assert stored.error.startswith("spec")
        assert stored.metadata.name == "gpt-v1"
        assert stored.status["phase"] == "New"


def test_an_object_without_a_status_has_an_empty_one() -> None:
    without = {key: value for key, value in body().items() if key != "status"}
    assert custom.parser(ModelVersion)(without).status == {}
    assert custom.parser(ModelVersion)(body(status=None)).status == {}


def invalid(*conditions: dict[str, Any], **status: Any) -> dict[str, Any]:
    """The status of a version whose number is a word."""
    before = {**status, "conditions": list(conditions)} if conditions else status
    stored = custom.parser(ModelVersion)(body(spec={**SPEC, "version": "many"}, status=before))
    return custom.invalid_status(stored, NOW)


def test_the_user_is_told_which_field_does_not_fit_and_the_rest_stays() -> None:
    status = invalid(READY | {"type": "Other"}, phase="Running", observedGeneration=2)
    assert (status["phase"], status["observedGeneration"], status["reason"]) == ("Running", 3, "InvalidSpec")
    other, stalled = status["conditions"]
    assert other == READY | {"type": "Other"}
    message = stalled.pop("message")
    assert message.startswith("the object does not fit this operator's API: spec.version: ")
    assert message.endswith("; correct the field or update the CRDs")
    assert stalled == {
        "type": "Stalled",
        "status": "True",
        "reason": "InvalidSpec",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
        "observedGeneration": 3,
    }


@pytest.mark.parametrize("status", ["True", "False", "Unknown"])
def test_what_can_not_be_read_is_not_ready(status: str) -> None:
    """It was Ready and Stalled at once, and stayed Ready whatever became of its pods."""
    ready, stalled = invalid({**READY, "status": status})["conditions"]
    since = READY["lastTransitionTime"] if status == "False" else "2026-01-02T03:04:05Z"
    assert ready == stalled | {"type": "Ready", "status": "False", "lastTransitionTime": since}


def test_since_when_it_can_not_be_read_stays_until_it_could() -> None:
    old = {"type": "Stalled", "reason": "Any", "message": "", "lastTransitionTime": "2025-01-01T00:00:00Z"}

    def since(status: str) -> tuple[str, int]:
        conditions = invalid({**old, "status": status}, READY)["conditions"]
        (found,) = [entry for entry in conditions if entry["type"] == "Stalled"]
        return found["lastTransitionTime"], len(conditions)

    assert since("True") == ("2025-01-01T00:00:00Z", 2)
    assert since("False") == ("2026-01-02T03:04:05Z", 2)


def test_an_object_that_never_had_a_status_gets_one() -> None:
    assert [entry["type"] for entry in invalid()["conditions"]] == ["Stalled"]


@pytest.mark.parametrize(("end", "true"), [("Complete", "Ready"), ("Failed", "Stalled")])
def test_what_has_ended_stays_as_it_ended(end: str, true: str) -> None:
    """A job that was done was told to be Stalled when a later release knew a value of its spec no more."""
    told = {"status": "True", "reason": "Succeeded", "message": "the result is ModelVersion gpt-v1"}
    told |= {"lastTransitionTime": "2025-01-01T00:00:00Z"}
    both = [{**told, "type": end, "observedGeneration": 2}, {**told, "type": true, "observedGeneration": 2}]
    status = invalid(*both, phase="Succeeded", reason="Succeeded")
    assert (status["phase"], status["reason"], status["observedGeneration"]) == ("Succeeded", "Succeeded", 3)
    assert status["conditions"] == [both[0], {**both[1], "observedGeneration": 3}]


def test_what_has_ended_and_was_told_to_be_stalled_is_mended() -> None:
    done = {**READY, "type": "Complete", "status": "True", "reason": "Succeeded", "message": "done"}
    wrong = {"status": "True", "reason": "InvalidSpec", "message": "x", "lastTransitionTime": "2025-01-01T00:00:00Z"}
    found = invalid(done, {**wrong, "type": "Ready", "status": "False"}, {**wrong, "type": "Stalled"})
    told = {entry["type"]: (entry["status"], entry["message"]) for entry in found["conditions"]}
    assert told == {"Complete": ("True", "done"), "Ready": ("True", "done"), "Stalled": ("False", "")}


def test_what_has_failed_is_not_ready() -> None:
    failed = {**READY, "type": "Failed", "status": "True", "reason": "Failed", "message": "exit code 1"}
    found = invalid({**READY, "status": "True"}, failed)["conditions"]
    told = {entry["type"]: (entry["status"], entry["message"]) for entry in found}
    assert told == {
        "Ready": ("False", "exit code 1"),
        "Failed": ("True", "exit code 1"),
        "Stalled": ("True", "exit code 1"),
    }


def test_what_has_not_ended_is_stalled() -> None:
    not_yet = {**READY, "type": "Complete", "status": "False", "reason": "Running", "message": ""}
    stalled = invalid(not_yet)["conditions"][-1]
    assert (stalled["type"], stalled["status"], stalled["reason"]) == ("Stalled", "True", "InvalidSpec")


@pytest.mark.parametrize("levels", [350, 990, 10_000])
def test_what_nests_too_deep_is_kept_with_the_reason(levels: int) -> None:
    """From 350 levels the planner could not hash it, from 990 no parser could read it."""
    raw = msgspec.json.encode(body(spec={**SPEC, "format": 1})).replace(b'"format":1', b'"x":%b' % nested(levels))
    stored = custom.decoder(ModelVersion)(raw)
    assert stored.metadata.name == "gpt-v1"
    assert stored.model is None
    assert custom.invalid_status(stored, NOW)["conditions"][-1] | {"lastTransitionTime": ""} == {
        "type": "Stalled",
        "status": "True",
        "reason": "InvalidSpec",
        "message": "the object does not fit this operator's API: spec: it nests deeper than "
        f"{MAX_DEPTH} levels; correct the field or update the CRDs",
        "lastTransitionTime": "",
        "observedGeneration": 3,
    }


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


class Named(CustomResource):
    """Its fields have names of the user's."""

    plural: ClassVar[str] = "named"

    spec: dict[str, int]


def test_what_is_said_about_an_object_is_not_as_long_as_the_object() -> None:
    """A message of more than 32 KiB would be refused, and nothing would be said at all."""
    stored = custom.parser(Named)(body(spec={"x" * 100_000: "y"}))
    (*_, stalled) = custom.invalid_status(stored, NOW)["conditions"]
    assert stalled["message"].startswith("the object does not fit this operator's API: spec.xxx")
    assert stalled["message"].endswith("; correct the field or update the CRDs")
    assert len(stalled["message"]) < custom.MAX_MESSAGE


def test_a_failure_is_told_beside_what_is_true() -> None:
    ready, running = ({**READY, "type": type_, "status": "True"} for type_ in ("Ready", "Running"))
    stalled = {**READY, "type": "Stalled", "status": "True", "message": "x"}
    stored = custom.parser(ModelVersion)(body(status={"phase": "New", "conditions": [ready, running, stalled]}))
    status = custom.failing_status(stored, "500: no webhook", NOW)
    assert (status["phase"], status["observedGeneration"], status["reason"]) == ("New", 3, "FailureLasts")
    assert [(entry["type"], entry["status"], entry["message"]) for entry in status["conditions"]] == [
        ("Ready", "True", ""),
        ("Running", "True", ""),
        ("Stalled", "False", ""),
        ("Reconciling", "True", "it is tried again every minute: 500: no webhook"),
    ]
    again = custom.parser(ModelVersion)(body(status=status))
    assert custom.failing_status(again, "500: no webhook", NOW + timedelta(hours=1)) == status


def test_of_two_conditions_that_exclude_each_other_the_other_is_untrue_from_now_on() -> None:
    reconciling = {**READY, "type": "Reconciling", "status": "True", "message": "it comes up"}
    untrue = invalid(READY, reconciling)["conditions"][1]
    assert untrue == {**reconciling, "status": "False", "message": "", "lastTransitionTime": "2026-01-02T03:04:05Z"}
    settled = {**READY, "type": "Reconciling", "message": "it was done"}
    assert invalid(settled)["conditions"][0] == settled, "what was untrue already stays as it was told"

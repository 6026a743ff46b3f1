"""A custom resource in a store, and what its status says when it can not be read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from aifactory.api.base import Model, ObjectMeta
from aifactory.engine.custom import Stored, decoder, invalid_plan, parser
from aifactory.engine.plan import Plan
from aifactory.kube.resources import Key

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
READY = {
    "type": "Ready",
    "status": "False",
    "reason": "Any",
    "message": "",
    "lastTransitionTime": "2025-01-01T00:00:00Z",
}


class HerdSpec(Model):
    size: int


class Herd(Model):
    metadata: ObjectMeta
    spec: HerdSpec


def body(size: Any, status: Any = None) -> dict[str, Any]:
    metadata = {"name": "a", "namespace": "ns", "uid": "u", "resourceVersion": "7", "generation": 3}
    return {"metadata": metadata, "spec": {"size": size}, **({} if status is None else {"status": status})}


def test_an_object_is_kept_with_its_status_as_it_stands() -> None:
    status = {"phase": "Running", "unknown": {"to": ["us"]}}
    stored = decoder(Herd)(json.dumps(body(4, status)).encode())
    assert stored.model is not None
    assert stored.model.spec.size == 4
    assert stored.error == ""
    assert stored.status == status
    assert stored.metadata == stored.model.metadata
    subject = stored.subject
    assert (subject.key, subject.uid, subject.resource_version) == (Key("ns", "a"), "u", "7")
    assert subject.status == status


def test_an_object_without_a_status_has_an_empty_one() -> None:
    assert parser(Herd)(body(4)).status == {}
    assert parser(Herd)({**body(4), "status": None}).status == {}


def test_an_object_that_does_not_fit_is_kept_with_the_reason() -> None:
    stored = parser(Herd)(body("many", {"phase": "Running"}))
    assert stored.model is None
    assert stored.error.startswith("spec.size: ")
    assert "integer" in stored.error
    assert stored.status == {"phase": "Running"}
    assert (stored.metadata.name, stored.metadata.generation, stored.metadata.resource_version) == ("a", 3, "7")


def invalid(*conditions: dict[str, Any], **status: Any) -> Plan:
    stored: Stored[Herd] = parser(Herd)(
        body("many", {**status, "conditions": list(conditions)} if conditions else status)
    )
    return invalid_plan(stored, NOW)


def test_the_user_is_told_which_field_does_not_fit_and_the_rest_stays() -> None:
    plan = invalid(READY, phase="Running", observedGeneration=2)
    assert (plan.writes, plan.events, plan.requeue_after) == ((), (), None)
    status = plan.status
    assert status is not None
    assert (status["phase"], status["observedGeneration"]) == ("Running", 3)
    ready, stalled = status["conditions"]
    assert ready == READY
    message = stalled.pop("message")
    assert message.startswith("the object does not fit this operator's API: spec.size: ")
    assert message.endswith("; correct the field or update the CRDs")
    assert stalled == {
        "type": "Stalled",
        "status": "True",
        "reason": "InvalidSpec",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
        "observedGeneration": 3,
    }


def test_since_when_it_can_not_be_read_stays_until_it_could() -> None:
    old = {"type": "Stalled", "reason": "Any", "message": "", "lastTransitionTime": "2025-01-01T00:00:00Z"}

    def since(status: str) -> tuple[str, int]:
        plan = invalid({**old, "status": status}, READY)
        assert plan.status is not None
        conditions = plan.status["conditions"]
        (found,) = [entry for entry in conditions if entry["type"] == "Stalled"]
        return found["lastTransitionTime"], len(conditions)

    assert since("True") == ("2025-01-01T00:00:00Z", 2)
    assert since("False") == ("2026-01-02T03:04:05Z", 2)


def test_an_object_that_never_had_a_status_gets_one() -> None:
    plan = invalid()
    assert plan.status is not None
    assert [entry["type"] for entry in plan.status["conditions"]] == ["Stalled"]

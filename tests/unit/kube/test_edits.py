"""What others have changed in a child, read from the managers of its fields."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aifactory.api.names import FIELD_MANAGER
from aifactory.kube.objects import AppliedMetadata, decoder

SPEC = {"f:spec": {"f:replicas": {}}}


def entry(manager: str = "kubectl-edit", fields: Any = SPEC, **more: Any) -> dict[str, Any]:
    return {"manager": manager, "time": "2026-01-01T00:00:00Z", "fieldsV1": fields, "operation": "Update", **more}


def edits(*managed: dict[str, Any]) -> str:
    found = decoder(AppliedMetadata)(json.dumps({"name": "a", "managedFields": managed}).encode())
    assert found.managed_fields == (), "half of a stored object, and read once"
    return found.edits


@pytest.mark.parametrize(
    ("managed", "told"),
    [
        ((), False),
        ((entry(FIELD_MANAGER),), False),
        ((entry(),), True),
        ((entry(fields={"f:data": {"f:key": {}}}),), True),
        ((entry(fields={"f:metadata": {"f:labels": {}}}),), False),
        ((entry(fields={"f:status": {"f:phase": {}}}, subresource="status"),), False),
        ((entry(subresource="status"),), False),
        ((entry("kubectl", subresource="scale"),), True),
        ((entry(FIELD_MANAGER), entry()), True),
        (({"manager": "old-client"},), False),
    ],
)
def test_who_counts_as_meddling(managed: tuple[dict[str, Any], ...], told: bool) -> None:
    assert bool(edits(*managed)) is told


def test_another_edit_is_told_from_the_one_before() -> None:
    one = edits(entry())
    assert one == edits(entry()), "the same twice is the same"
    assert one == edits(entry(FIELD_MANAGER), entry()), "what we do ourselves does not count"
    others = [
        edits(entry("kubectl-patch")),
        edits(entry(time="2026-01-01T00:00:01Z")),
        edits(entry(fields={"f:spec": {"f:paused": {}}})),
        edits(entry(), entry("helm")),
        edits(entry("helm"), entry()),
    ]
    assert len({one, *others}) == 6
    assert all(len(found) == 8 for found in (one, *others))


def test_an_object_that_nobody_has_touched_says_nothing() -> None:
    assert decoder(AppliedMetadata)(b'{"name":"a"}').edits == ""
    assert decoder(AppliedMetadata)(b'{"name":"a","annotations":{"k":"v"}}').annotations == {"k": "v"}

"""When a child is applied again: when we would send something else, and when others have meddled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from aifactory.api import names
from aifactory.engine import apply
from aifactory.engine.apply import Applied
from aifactory.engine.plan import Apply, Create
from aifactory.kube.objects import AppliedMetadata, Service, decoder

BODY = {"kind": "Service", "metadata": {"name": "a", "annotations": {"theirs": "kept"}}, "spec": {"port": 1}}


def stands(**metadata: Any) -> Applied:
    """A Service as the API server has it."""
    raw = {"metadata": {"name": "a", "uid": "u", **metadata}}
    return apply.applied(decoder(Service)(msgspec.json.encode(raw)))


def after(write: Any, *managed: Any) -> Applied:
    """What stands after a write of ours, and after others have written."""
    return stands(annotations=write.body["metadata"]["annotations"], managedFields=list(managed))


def entry(manager: str, fields: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "manager": manager,
        "time": "2026-01-01T00:00:00Z",
        "fieldsV1": fields or {"f:spec": {"f:port": {}}},
        **more,
    }


def test_what_is_missing_is_made_and_what_stands_is_left_alone() -> None:
    (write,) = apply.ensure(BODY, None)
    assert isinstance(write, Create)
    assert write.body["metadata"]["annotations"]["theirs"] == "kept"
    assert BODY["metadata"]["annotations"] == {"theirs": "kept"}, "the body is not changed in place"  # type: ignore[index]
    found = after(write, entry(names.FIELD_MANAGER))
    assert apply.ensure(BODY, found) == ()
    assert apply.ensure(dict(reversed(BODY.items())), found) == (), "the order of keys says nothing"


def test_an_operator_that_would_send_something_else_does() -> None:
    (write,) = apply.ensure(BODY, None)
    newer = {**BODY, "spec": {"port": 2}}
    (again,) = apply.ensure(newer, after(write))
    assert isinstance(again, Apply)
    assert (again.uid, again.body["spec"]) == ("u", {"port": 2})
    assert apply.ensure(newer, after(again)) == ()


@pytest.mark.parametrize(
    ("who", "drift"),
    [
        (entry("kubectl-edit"), True),
        (entry("kubectl", {"f:data": {"f:key": {}}}), True),
        (entry("kubectl", subresource="scale"), True),
        (entry("kube-controller-manager", {"f:metadata": {"f:annotations": {}}}), False),
        (entry("kube-controller-manager", {"f:spec": {}}, subresource="status"), False),
        (entry(names.FIELD_MANAGER), False),
    ],
)
def test_drift_is_repaired_once(who: dict[str, Any], drift: bool) -> None:
    (made,) = apply.ensure(BODY, None)

    def repaired(body: Any, found: Applied) -> Any:
        return [apply.repair(body, found)] if apply.is_meddled_with(found) else []

    for write, fix in ((made, apply.ensure), (apply.create(BODY), repaired)):
        again = fix(BODY, after(write, entry(names.FIELD_MANAGER), who))
        assert bool(again) is drift
        if again:
            assert again[0].uid == "u"
            assert not fix(BODY, after(again[0], who)), "what they added beside ours stays, and is known from then on"
            later = {**who, "time": "2026-01-02T00:00:00Z"}
            assert fix(BODY, after(again[0], later)), "another change"


def test_an_upgrade_does_not_touch_what_is_only_repaired() -> None:
    assert not apply.is_meddled_with(after(apply.create(BODY)))


def test_managed_fields_are_not_kept() -> None:
    meta = decoder(Service)(
        msgspec.json.encode({"metadata": {"name": "a", "managedFields": [entry("kubectl")]}})
    ).metadata
    assert isinstance(meta, AppliedMetadata)
    assert meta.managed_fields == ()
    assert meta.edits


def test_a_stamp_of_an_earlier_release_is_replaced() -> None:
    (write,) = apply.ensure(BODY, stands())
    assert isinstance(write, Apply)
    assert write.uid == "u"
    assert not apply.is_meddled_with(replace(stands(), stamp="")), "nothing is known about it, and nobody has meddled"

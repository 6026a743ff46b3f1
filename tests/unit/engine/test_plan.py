"""What a plan says when a domain says no more, and how its writes are called in messages."""

from __future__ import annotations

import pytest

from aifactory.engine.plan import Apply, Create, Delete, Patch, Plan, Write, WriteError
from aifactory.kube.errors import Forbidden
from tests.support.herd import HerdStatus

BODY = {"kind": "Pod", "metadata": {"name": "a"}}


@pytest.mark.parametrize("write", [Create(BODY), Apply(BODY, "uid"), Patch("Pod", "a", {}), Delete("Pod", "a", "uid")])
def test_a_refusal_names_its_object_and_says_what_the_server_said(write: Write) -> None:
    assert WriteError(write, Forbidden(403, "Forbidden", "quota")).message == "Pod a: quota"
    assert WriteError(write, Forbidden(403, "Forbidden", "")).message == "Pod a: Forbidden", "no more than that"


def test_a_status_can_wait_and_nothing_is_due_unless_the_plan_says_so() -> None:
    plan = Plan(HerdStatus())
    assert (plan.urgent, plan.requeue_after, plan.writes, plan.events) == (False, None, (), ())

"""What the API server's refusals mean, in the sentences that its admission plugins write."""

from __future__ import annotations

import pytest

from aifactory.api.reasons import Reason
from aifactory.engine.plan import Create, WriteError
from aifactory.engine.refusals import LOOK_AGAIN_SECONDS, Refusal, explain
from aifactory.kube.errors import Forbidden, Invalid

QUOTA = (
    'pods "train-0-0" is forbidden: exceeded quota: team, requested: requests.cpu=2, used: requests.cpu=1, '
    "limited: requests.cpu=2"
)
UNSAID = 'pods "p" is forbidden: failed quota: team: must specify limits.cpu for: publish; limits.memory for: publish'
SECURITY = (
    'pods "p" is forbidden: violates PodSecurity "restricted:latest": unrestricted capabilities (container "x" must '
    'set securityContext.capabilities.drop=["ALL"])'
)


def refused(message: str) -> Refusal:
    pod = {"kind": "Pod", "metadata": {"name": "p"}}
    return explain(WriteError(Create(pod), Forbidden(403, "Forbidden", message)))


@pytest.mark.parametrize(
    ("message", "reason", "stalled", "step"),
    [
        (QUOTA, Reason.QUOTA_EXCEEDED, False, "raise the ResourceQuota"),
        (UNSAID, Reason.QUOTA_EXCEEDED, True, "taskPods.resources of the chart"),
        (
            'pods "p" is forbidden: no PriorityClass with name high was found',
            Reason.DEPENDENCY_MISSING,
            True,
            "create the PriorityClass",
        ),
        (
            'pods "p" is forbidden: error looking up service account ns/me: serviceaccount "me" not found',
            Reason.DEPENDENCY_MISSING,
            True,
            "create the ServiceAccount",
        ),
        (SECURITY, Reason.POD_SECURITY_VIOLATED, True, "securityContext"),
    ],
)
def test_a_refusal_is_told_with_the_next_step(message: str, reason: Reason, stalled: bool, step: str) -> None:
    found = refused(message)
    assert (found.reason, found.stalled, found.retry_after) == (reason, stalled, LOOK_AGAIN_SECONDS)
    assert found.message.startswith(f"Pod p: {message}; ")
    assert step in found.message


def test_what_is_not_known_is_told_as_it_is() -> None:
    error = Invalid(422, "Invalid", 'unknown field "spec.x"')
    found = explain(WriteError(Create({"kind": "Pod", "metadata": {"name": "p"}}), error))
    assert found == Refusal(Reason.POD_REJECTED, 'Pod p: unknown field "spec.x"')

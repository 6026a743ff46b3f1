"""What the API server's refusals mean, in the sentences that its admission plugins write."""

from __future__ import annotations

import pytest

from aifactory.api.reasons import Reason
from aifactory.engine.plan import Create, WriteError
from aifactory.engine.refusals import LOOK_AGAIN_SECONDS, Refusal, explain, removal
from aifactory.kube.errors import AlreadyExists, Forbidden, Invalid

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
        (QUOTA, Reason.QUOTA_EXCEEDED, False, "; or raise the ResourceQuota"),
        (UNSAID, Reason.QUOTA_EXCEEDED, True, ", in taskPods.resources of the chart"),
        (
            'pods "p" is forbidden: no PriorityClass with name high was found',
            Reason.DEPENDENCY_MISSING,
            True,
            "create the PriorityClass or correct priorityClassName; it then goes on by itself",
        ),
        (
            'pods "p" is forbidden: error looking up service account ns/me: serviceaccount "me" not found',
            Reason.DEPENDENCY_MISSING,
            True,
            "create the ServiceAccount or correct serviceAccountName; it then goes on by itself",
        ),
        (
            'serviceaccounts "p": ServiceAccount "me" not found',
            Reason.DEPENDENCY_MISSING,
            True,
            "create the ServiceAccount or correct serviceAccountName; it then goes on by itself",
        ),
        (SECURITY, Reason.POD_SECURITY_VIOLATED, True, "relax the namespace's pod-security label"),
    ],
)
def test_a_refusal_is_told_with_the_next_step(message: str, reason: Reason, stalled: bool, step: str) -> None:
    found = refused(message)
    assert (found.reason, found.stalled, found.retry_after) == (reason, stalled, LOOK_AGAIN_SECONDS)
    assert found.message.startswith(f"Pod p: {message}; ")
    assert found.message.endswith(step)


def test_what_is_not_known_is_told_as_it_is() -> None:
    error = Invalid(422, "Invalid", 'unknown field "spec.x"')
    found = explain(WriteError(Create({"kind": "Pod", "metadata": {"name": "p"}}), error))
    assert found == Refusal(Reason.POD_REJECTED, 'Pod p: unknown field "spec.x"')
    assert (found.stalled, found.retry_after) == (True, None), "a person is needed; nothing says when"


def test_what_is_in_the_way_is_named_with_the_command_that_removes_it() -> None:
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "train-workspace", "namespace": "team"}}
    pod = {"kind": "Pod", "metadata": {"name": "train-0-0", "namespace": "team"}}
    taken = [WriteError(Create(body), AlreadyExists(409, "AlreadyExists", "it exists")) for body in (pod, claim)]
    found = explain(taken[0])
    assert (found.reason, found.stalled, found.retry_after) == (Reason.NAME_CONFLICT, True, LOOK_AGAIN_SECONDS)
    assert found.message.startswith("Pod train-0-0: it exists; it belongs to somebody else")
    assert found.message.endswith("if nobody needs it: kubectl -n team delete pod/train-0-0")
    assert removal(taken, "team") == (
        "kubectl -n team delete pod/train-0-0 persistentvolumeclaim/train-workspace (what is on a claim goes with it)"
    )

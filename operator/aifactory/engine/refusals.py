"""What it means that the API server refuses an object of ours: its words, whether it passes, and what a person does.

The server says all of this with one code, 403, and a sentence. The sentences are those of the admission plugins of
kubernetes/kubernetes (plugin/pkg/admission) and have been the same for years; one that is not known is told as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aifactory.api.reasons import Reason
from aifactory.engine.plan import Create, WriteError
from aifactory.kube.errors import AlreadyExists
from aifactory.kube.resources import PVCS

LOOK_AGAIN_SECONDS: Final = 30.0
"""What others free (quota) or make (a ServiceAccount) is noticed after this at most."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an object is not made."""

    reason: Reason
    message: str
    """The server's words and the next step."""
    stalled: bool = True
    """A person is needed; else it passes by itself."""
    retry_after: float | None = None
    """Seconds until it is worth another try though nothing has changed here; None leaves that to the engine."""


_KNOWN: Final = (
    (
        re.compile(r"exceeded quota: "),
        Reason.QUOTA_EXCEEDED,
        False,
        "it goes on by itself when others in the namespace have freed enough; or raise the ResourceQuota",
    ),
    (
        re.compile(r"failed quota: .*must specify"),
        Reason.QUOTA_EXCEEDED,
        True,
        "set these resources in the template; for pods that the operator adds, in taskPods.resources of the chart",
    ),
    (
        re.compile(r"no PriorityClass with name"),
        Reason.DEPENDENCY_MISSING,
        True,
        "create the PriorityClass or correct priorityClassName; it then goes on by itself",
    ),
    (
        re.compile(r"error looking up service account|serviceaccount .* not found", re.IGNORECASE),
        Reason.DEPENDENCY_MISSING,
        True,
        "create the ServiceAccount or correct serviceAccountName; it then goes on by itself",
    ),
    (
        re.compile(r"violates PodSecurity"),
        Reason.POD_SECURITY_VIOLATED,
        True,
        "correct the template's securityContext and volumes, or relax the namespace's pod-security label",
    ),
)


def removal(errors: Sequence[WriteError], namespace: str) -> str:
    """The command that removes the objects which have names we need."""
    targets = " ".join(f"{error.write.kind.lower()}/{error.write.name}" for error in errors)
    lost = any(error.write.kind == PVCS.kind for error in errors)
    return f"kubectl -n {namespace} delete {targets}{' (what is on a claim goes with it)' if lost else ''}"


def explain(error: WriteError) -> Refusal:
    """What a refusal means and what comes next."""
    if isinstance(error.error, AlreadyExists) and isinstance(error.write, Create):
        command = removal([error], error.write.body["metadata"]["namespace"])
        message = f"{error.message}; it belongs to somebody else: rename one of them, or, if nobody needs it: {command}"
        return Refusal(Reason.NAME_CONFLICT, message, retry_after=LOOK_AGAIN_SECONDS)
    for pattern, reason, stalled, step in _KNOWN:
        if pattern.search(error.error.message):
            return Refusal(reason, f"{error.message}; {step}", stalled, LOOK_AGAIN_SECONDS)
    return Refusal(Reason.POD_REJECTED, error.message)

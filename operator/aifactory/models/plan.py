"""One decision about one ModelVersion: verify once, remember the answer, keep the list of users."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from aifactory.api.base import format_time
from aifactory.api.conditions import ConditionSet, find, shorten
from aifactory.api.modelversion import MAX_USERS, ModelVersionStatus
from aifactory.api.reasons import ConditionType, Reason
from aifactory.engine.decision import Decision, Notice, Removal
from aifactory.engine.pods import TaskPod, needs_person, retry_seconds
from aifactory.models import children
from aifactory.models.state import Observed

PERMANENT = frozenset({Reason.DIGEST_MISMATCH, Reason.INVALID_ARTIFACT})
"""The spec is immutable, so these stay true until another version is made."""
PASSING = frozenset({Reason.SOURCE_NOT_FOUND, Reason.ACCESS_DENIED, Reason.STORE_UNAVAILABLE, Reason.STORE_FULL})
"""These pass, or a person removes them: the artifact is read again."""


def plan_model_version(observed: Observed, now: datetime) -> Decision[ModelVersionStatus] | None:
    """What to do about one version now; None when it is being deleted.

    Args:
        observed: the version, its verifier pods and its users.
        now: the time, in UTC.
    """
    version = observed.version
    if version.metadata.deletion_timestamp is not None:
        return None
    now = now.replace(microsecond=0)  # the precision of what is written
    draft = _Draft(observed, now)
    verified = find(version.status.conditions, ConditionType.VERIFIED)
    if verified is not None and verified.status == "True":
        # Who uses it is what the deletion guard goes by: it can not wait for company.
        taken = version.status.used_by != observed.users
        return Decision(draft.result(), removals=_removals(observed.verifiers), urgent=taken)
    if verified is not None and verified.status == "False" and verified.reason in set(map(str, PERMANENT)):
        return Decision(draft.result())

    number = version.status.verify_attempt
    verifier = next((view for view in observed.verifiers if view.number == number), None)
    if verifier is None:
        draft.verifying("the verifier is being created")
        leftovers = _removals(view for view in observed.verifiers if view.number != number)
        body = children.verifier(version, number, observed.settings)
        return Decision(draft.result(), creates=(body,), removals=leftovers)
    answer = verifier.answer
    if verifier.phase == "Succeeded" and isinstance(answer.get("digest"), str):
        draft.verified(answer)
        return Decision(draft.result(), urgent=True, again_after=0)
    if verifier.phase in ("Succeeded", "Failed"):
        return _failed(verifier, answer, draft, now)
    draft.waiting(verifier)
    return Decision(draft.result())


def plan_rejected(observed: Observed, words: str, now: datetime) -> ModelVersionStatus:
    """The status when the API server refused the verifier for good."""
    draft = _Draft(observed, now)
    draft.stalled(Reason.POD_REJECTED, words, known=False)
    return draft.result()


def _failed(verifier: TaskPod, answer: dict[str, Any], draft: _Draft, now: datetime) -> Decision[ModelVersionStatus]:
    """The answer is bad for good, or it is asked for again: a pod can also fail by itself (evicted, no answer)."""
    known = (reason for reason in PERMANENT | PASSING if reason == answer.get("reason"))
    reason = next(known, Reason.VERIFIER_FAILED)
    words = str(answer.get("message") or verifier.message or f"see: kubectl logs {verifier.name}")
    if reason in PERMANENT:
        draft.stalled(reason, words)
        return Decision(draft.result(), urgent=True, notices=(Notice("Warning", str(reason), shorten(words)),))
    due = draft.next_verify_time or (verifier.finished_at or now) + timedelta(seconds=retry_seconds(verifier.number))
    if due > now:
        draft.stalled(reason, f"{shorten(words, 900)}; it is tried again at {format_time(due)}")
        draft.wait_until(due)
        return Decision(draft.result(), urgent=True, again_after=(due - now).total_seconds())
    draft.retry(verifier.number + 1)
    return Decision(draft.result(), urgent=True, again_after=0)


def _removals(verifiers: Iterable[TaskPod]) -> tuple[Removal, ...]:
    return tuple(Removal("Pod", view.name, view.uid) for view in verifiers if not view.terminating)


class _Draft:
    """The status under construction."""

    def __init__(self, observed: Observed, now: datetime) -> None:
        version = observed.version
        self._generation = version.metadata.generation
        self._status = version.status
        self._conditions = ConditionSet(version.status.conditions, self._generation, now.replace(microsecond=0))
        self._changes: dict[str, Any] = {"used_by": observed.users[:MAX_USERS], "in_use": len(observed.users)}
        if observed.users:
            listed = ", ".join(f"{use.kind}/{use.name}" for use in observed.users)
            self._conditions.set(ConditionType.IN_USE, True, Reason.USED_BY_POOLS, listed)
        else:
            self._conditions.set(ConditionType.IN_USE, False, Reason.NOT_USED)

    @property
    def next_verify_time(self) -> datetime | None:
        return self._status.next_verify_time

    def verifying(self, message: str) -> None:
        """It is being read. What an earlier reading found wrong stands until this one has ended."""
        verified = find(self._status.conditions, ConditionType.VERIFIED)
        if verified is None or verified.status != "False":
            self._set(ConditionType.RECONCILING, Reason.VERIFYING, message)
            self._conditions.set(ConditionType.VERIFIED, None, Reason.VERIFYING, message)

    def waiting(self, verifier: TaskPod) -> None:
        """The verifier has not ended yet."""
        if (trouble := needs_person(verifier)) is not None:
            self.stalled(*trouble, known=False)
        elif verifier.unschedulable:
            # A node may become free or be added: that is waiting, for every kind of ours.
            message = f"pod {verifier.name} has no node: {verifier.unschedulable}"
            self._conditions.set(ConditionType.VERIFIED, None, Reason.UNSCHEDULABLE, message)
            self._set(ConditionType.RECONCILING, Reason.UNSCHEDULABLE, message)
        else:
            self.verifying(f"pod {verifier.name} reads the artifact")

    def verified(self, answer: dict[str, Any]) -> None:
        size, files = _whole(answer.get("sizeBytes")), _whole(answer.get("files"))
        self._changes |= {
            "resolved_digest": answer["digest"],
            "size_bytes": size,
            "size": human_size(size),
            "files": files,
        }
        message = f"{files} files, {human_size(size)}"
        self._conditions.set(ConditionType.VERIFIED, True, Reason.VERIFIED, message)
        self._set(ConditionType.READY, Reason.VERIFIED, message)

    def stalled(self, reason: Reason, message: str, *, known: bool = True) -> None:
        """A person is needed; `known` tells that the artifact itself was found wanting."""
        self._conditions.set(ConditionType.VERIFIED, False if known else None, reason, message)
        self._set(ConditionType.STALLED, reason, message)

    def wait_until(self, due: datetime) -> None:
        self._changes["next_verify_time"] = due

    def retry(self, number: int) -> None:
        self._changes |= {"verify_attempt": number, "next_verify_time": None}

    def result(self) -> ModelVersionStatus:
        self._changes |= {"conditions": self._conditions.result(), "observed_generation": self._generation}
        return self._status.model_copy(update=self._changes)

    def _set(self, true: ConditionType, reason: Reason, message: str) -> None:
        self._conditions.kstatus(true, reason, message)
        self._changes["reason"] = str(reason)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def human_size(size: int) -> str:
    """A size in binary units, three digits: `1.3MiB`.

    >>> human_size(1_400_000)
    '1.34MiB'
    """
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 999.5:  # from there on three digits are an exponent
            return f"{value:.3g}{unit}"
        value /= 1024
    return f"{value:.3g}TiB"

"""One decision about one ModelVersion: verify once, remember the answer, keep the list of users."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from aifactory.api.conditions import ConditionSet, find, is_true, shorten
from aifactory.api.modelversion import ModelVersionStatus
from aifactory.api.reasons import ConditionType, Reason
from aifactory.engine.decision import Decision, Notice, Removal
from aifactory.models import children
from aifactory.models.state import Observed, VerifierView

PERMANENT = frozenset({Reason.DIGEST_MISMATCH, Reason.INVALID_ARTIFACT})
"""The spec is immutable, so these stay true until another version is made."""

RETRY_BASE_SECONDS = 10
RETRY_MAX_SECONDS = 300

_PULL_PROBLEMS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})


def plan_model_version(observed: Observed, now: datetime) -> Decision[ModelVersionStatus] | None:
    """What to do about one version now; None when it is being deleted.

    Args:
        observed: the version, its verifier pods and its users.
        now: the time, in UTC.
    """
    version = observed.version
    if version.metadata.deletion_timestamp is not None:
        return None
    draft = _Draft(observed, now)
    verified = find(version.status.conditions, ConditionType.VERIFIED)
    if verified is not None and verified.status == "True":
        return Decision(draft.result(), removals=_removals(observed.verifiers))
    if verified is not None and verified.status == "False" and verified.reason in set(map(str, PERMANENT)):
        return Decision(draft.result())

    number = version.status.verify_attempt
    verifier = next((view for view in observed.verifiers if view.number == number), None)
    if verifier is None:
        draft.verifying("the verifier is being created")
        leftovers = _removals(view for view in observed.verifiers if view.number != number)
        body = children.verifier(version, number, observed.settings)
        return Decision(draft.result(), creates=(body,), removals=leftovers)
    if verifier.phase == "Succeeded":
        return _succeeded(verifier, draft)
    if verifier.phase == "Failed":
        return _failed(verifier, number, draft, now)
    draft.waiting(verifier)
    return Decision(draft.result())


def plan_rejected(observed: Observed, words: str, now: datetime) -> ModelVersionStatus:
    """The status when the API server refused the verifier for good."""
    draft = _Draft(observed, now)
    draft.stalled(Reason.POD_REJECTED, words, known=False)
    return draft.result()


def _succeeded(verifier: VerifierView, draft: _Draft) -> Decision[ModelVersionStatus]:
    answer = _answer(verifier.message)
    if "digest" not in answer:
        draft.stalled(Reason.VERIFIER_FAILED, f"pod {verifier.name} gave no answer; see: kubectl logs {verifier.name}")
        return Decision(draft.result(), urgent=True)
    draft.verified(answer)
    notice = Notice("Normal", "Verified", f"digest {answer['digest']}")
    return Decision(draft.result(), urgent=True, again_after=0, notices=(notice,))


def _failed(verifier: VerifierView, number: int, draft: _Draft, now: datetime) -> Decision[ModelVersionStatus]:
    answer = _answer(verifier.message)
    reason = _reason(answer)
    words = str(answer.get("message") or verifier.message or f"see: kubectl logs {verifier.name}")
    if reason in PERMANENT:
        draft.stalled(reason, words)
        return Decision(draft.result(), urgent=True, notices=(Notice("Warning", str(reason), shorten(words)),))
    wait = min(RETRY_BASE_SECONDS * 2 ** min(number, 10), RETRY_MAX_SECONDS)
    since = verifier.finished_at or now
    left = wait - (now - since).total_seconds()
    if left > 0:
        draft.stalled(reason, f"{words} (asked again every {wait} s)")
        return Decision(draft.result(), again_after=left)
    draft.retry(number + 1)
    return Decision(draft.result(), urgent=True, again_after=0)


def _reason(answer: dict[str, Any]) -> Reason:
    try:
        return Reason[_BY_VALUE[str(answer.get("reason"))]]
    except KeyError:
        return Reason.VERIFIER_FAILED


_BY_VALUE = {str(reason): reason.name for reason in Reason}


def _answer(message: str) -> dict[str, Any]:
    try:
        answer = json.loads(message)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _removals(verifiers: Any) -> tuple[Removal, ...]:
    return tuple(Removal("Pod", view.name, view.uid) for view in verifiers if not view.terminating)


class _Draft:
    """The status under construction."""

    def __init__(self, observed: Observed, now: datetime) -> None:
        version = observed.version
        self._generation = version.metadata.generation
        self._status = version.status
        self._conditions = ConditionSet(version.status.conditions, self._generation, now.replace(microsecond=0))
        self._changes: dict[str, Any] = {"used_by": observed.users, "in_use": len(observed.users)}
        if observed.users:
            listed = ", ".join(f"{use.kind}/{use.name}" for use in observed.users)
            self._conditions.set(ConditionType.IN_USE, True, Reason.USED_BY_POOLS, listed)
        else:
            self._conditions.set(ConditionType.IN_USE, False, Reason.NOT_USED)

    def verifying(self, message: str) -> None:
        if not is_true(self._status.conditions, ConditionType.STALLED):
            self._set(False, True, False, Reason.VERIFYING, message)
            self._conditions.set(ConditionType.VERIFIED, None, Reason.VERIFYING, message)

    def waiting(self, verifier: VerifierView) -> None:
        """The verifier has not ended yet."""
        if verifier.waiting_reason in _PULL_PROBLEMS:
            words = verifier.waiting_message or verifier.waiting_reason
            self.stalled(Reason.IMAGE_PULL_FAILED, f"pod {verifier.name}: {words}", known=False)
        elif verifier.unschedulable:
            self.stalled(Reason.UNSCHEDULABLE, f"pod {verifier.name}: {verifier.unschedulable}", known=False)
        else:
            self.verifying(f"pod {verifier.name} reads the artifact")

    def verified(self, answer: dict[str, Any]) -> None:
        size = int(answer.get("sizeBytes", 0))
        self._changes |= {
            "resolved_digest": str(answer["digest"]),
            "size_bytes": size,
            "size": human_size(size),
            "files": int(answer.get("files", 0)),
        }
        message = f"{answer.get('files', 0)} files, {human_size(size)}"
        self._conditions.set(ConditionType.VERIFIED, True, Reason.VERIFIED, message)
        self._set(True, False, False, Reason.VERIFIED, message)

    def stalled(self, reason: Reason, message: str, *, known: bool = True) -> None:
        """A person is needed; `known` tells that the artifact itself was found wanting."""
        self._conditions.set(ConditionType.VERIFIED, False if known else None, reason, message)
        self._set(False, False, True, reason, message)

    def retry(self, number: int) -> None:
        self._changes["verify_attempt"] = number

    def result(self) -> ModelVersionStatus:
        self._changes |= {"conditions": self._conditions.result(), "observed_generation": self._generation}
        return self._status.model_copy(update=self._changes)

    def _set(self, ready: bool, reconciling: bool, stalled: bool, reason: Reason, message: str) -> None:
        self._conditions.set(ConditionType.READY, ready, reason, message)
        self._conditions.set(ConditionType.RECONCILING, reconciling, reason, message if reconciling else "")
        self._conditions.set(ConditionType.STALLED, stalled, reason, message if stalled else "")
        self._changes["reason"] = str(reason)


def human_size(size: int) -> str:
    """A size in binary units, three digits: `1.3MiB`.

    >>> human_size(1_400_000)
    '1.34MiB'
    """
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g}{unit}"
        value /= 1024
    return f"{value:.3g}TiB"

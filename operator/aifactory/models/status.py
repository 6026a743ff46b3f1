"""The status of a ModelVersion under construction: one method for each thing that can be true about it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from aifactory.api.base import Condition
from aifactory.api.conditions import ConditionSet, find
from aifactory.api.leftout import left_out, left_out_words
from aifactory.api.modelversion import MAX_USERS, ModelVersion, ModelVersionStatus, Use
from aifactory.api.reasons import ConditionType, Reason
from aifactory.api.sizes import human_size
from aifactory.engine.refusals import Refusal
from aifactory.engine.tasks import Json, Step

_OFF = (
    "it is switched off, by spec.validation.enabled or by taskPods.defaults.validation.enabled of the chart (or the "
    "namespace's)"
)


class StatusDraft:
    """Starts from the status as it stands; `result()` is the one to be written if it differs."""

    def __init__(self, version: ModelVersion, users: tuple[Use, ...], now: datetime) -> None:
        before = version.status
        self._status = before.model_copy()
        self._conditions = ConditionSet(before.conditions, version.metadata.generation, now.replace(microsecond=0))
        self._status.observed_generation = version.metadata.generation
        self._status.used_by = users[:MAX_USERS]
        self._status.in_use = len(users)
        listed = ", ".join(f"{use.kind}/{use.name}" for use in users)
        self._conditions.set(
            ConditionType.IN_USE, bool(users), Reason.USED_BY_POOLS if users else Reason.NOT_USED, listed
        )

    def tried(self, step: Step, request: str) -> None:
        """Which try counts, for what it was asked, and when the next one is due."""
        self._status.verify_attempt, self._status.next_verify_time = step.number, step.next_time
        self._status.request = request

    def asked_again(self) -> None:
        """What was found before is not known any more."""
        self._conditions.set(ConditionType.VERIFIED, None, Reason.VERIFYING, "it is asked for again")
        self._conditions.remove(ConditionType.VALIDATED)

    def verifying(self, step: Step) -> None:
        """It is being read, or something is in the way. What an earlier reading found stands until this one ends."""
        if step.stalled and step.reason is not None:
            self.stalled(step.reason, step.message, known=step.tried)
            return
        verified = find(self._status.conditions, ConditionType.VERIFIED)
        if step.reason is None and verified is not None and verified.status == "False":
            self.found(verified)
            return
        # Without a node, or ended from outside: that is waiting, for every kind of ours.
        reason = step.reason or Reason.VERIFYING
        self._set(ConditionType.RECONCILING, reason, step.message)
        self._conditions.set(ConditionType.VERIFIED, None, reason, step.message)

    def found(self, verified: Condition) -> None:
        """What an earlier reading has found stands, whatever was told in between."""
        true = ConditionType.READY if verified.status == "True" else ConditionType.STALLED
        self._conditions.by(verified, true)
        self._status.reason = verified.reason

    def verified(self, answer: Json, *, tried: bool) -> None:
        """Every byte was read, and the version was tried where it is to be."""
        message = self._read(answer)
        found = answer.get("validation")
        found = found if isinstance(found, dict) else {}
        skipped = str(found.get("skipped") or ("" if tried else _OFF))
        if skipped:
            self._conditions.set(ConditionType.VALIDATED, None, Reason.VALIDATION_SKIPPED, skipped)
        elif found:
            self._conditions.set(ConditionType.VALIDATED, True, Reason.VALIDATED, self._measured(found))
        self._set(ConditionType.READY, Reason.VERIFIED, message)

    def invalid(self, answer: Json, message: str) -> None:
        """Every byte was read, and the version does not load or answers wrongly."""
        self._read(answer)
        self._conditions.set(ConditionType.VALIDATED, False, Reason.VALIDATION_FAILED, message)
        self._set(ConditionType.STALLED, Reason.VALIDATION_FAILED, message)

    def _measured(self, found: Json) -> str:
        """Take down what trying it has shown; in words."""
        status = self._status
        status.load_seconds, status.first_token_seconds = (
            _seconds(found.get(name)) for name in ("loadSeconds", "firstTokenSeconds")
        )
        status.memory_bytes = _whole(found.get("memoryBytes")) or None
        told = f"loaded in {status.load_seconds} s"
        if status.memory_bytes is not None:
            told += f" with {human_size(status.memory_bytes)} of memory"
        if status.first_token_seconds is not None:
            told += f", first answer after {status.first_token_seconds} s"
        return f"{told}; it has answered {_whole(found.get('requests'))} request(s) as it must"

    def _read(self, answer: Json) -> str:
        """Take down what the files are; in words."""
        size, files = _whole(answer.get("sizeBytes")), _whole(answer.get("files"))
        self._status.resolved_digest = answer["digest"]
        self._status.size_bytes, self._status.size, self._status.files = size, human_size(size), files
        beside = left_out(answer)
        self._status.left_out, self._status.left_out_files = beside["left_out"], beside["left_out_files"]
        message = f"{files} files, {human_size(size)}"
        message += left_out_words(self._status.left_out_files, "status.leftOut")
        self._conditions.set(ConditionType.VERIFIED, True, Reason.VERIFIED, message)
        return message

    def stalled(self, reason: Reason, message: str, *, known: bool) -> None:
        """A person is needed; `known` tells that the artifact itself was asked for and found wanting."""
        self._conditions.set(ConditionType.VERIFIED, False if known else None, reason, message)
        self._set(ConditionType.STALLED, reason, message)

    def refused(self, refusal: Refusal) -> None:
        """The pod that reads it may not be made. What an earlier reading found is not known any more."""
        self._conditions.set(ConditionType.VERIFIED, None, refusal.reason, refusal.message)
        true = ConditionType.STALLED if refusal.stalled else ConditionType.RECONCILING
        self._set(true, refusal.reason, refusal.message)

    def result(self) -> ModelVersionStatus:
        """The status to be written if it differs from the one that stands."""
        self._status.conditions = self._conditions.result()
        return self._status

    def _set(self, true: ConditionType, reason: Reason, message: str) -> None:
        self._conditions.kstatus(true, reason, message)
        self._status.reason = str(reason)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _seconds(value: Any) -> str | None:
    """As it stands in the status: floats are no part of the API."""
    return f"{value:.3g}" if isinstance(value, int | float) and not isinstance(value, bool) else None

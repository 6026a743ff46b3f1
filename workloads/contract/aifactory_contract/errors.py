"""The one error type of artifacts and serving: a reason from a closed list and a sentence that says what to do.

Reasons reach users through the status of a ModelVersion, a TrainingJob or an InferencePool, so they are stable names;
the sentence names the file or URI and the way out.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why an operation did not succeed."""

    SOURCE_NOT_FOUND = "SourceNotFound"
    DIGEST_MISMATCH = "DigestMismatch"
    INVALID_ARTIFACT = "InvalidArtifact"
    UNSERVABLE = "Unservable"
    VALIDATION_FAILED = "ValidationFailed"
    ACCESS_DENIED = "AccessDenied"
    STORE_UNAVAILABLE = "StoreUnavailable"
    STORE_FULL = "StoreFull"
    # Only while serving:
    DISK_FULL = "DiskFull"
    TRITON_UNAVAILABLE = "TritonUnavailable"
    LOAD_FAILED = "LoadFailed"
    NO_ROOM = "NoRoom"
    CONFIRM_FAILED = "ConfirmFailed"
    CONFIG_CONFLICT = "ConfigConflict"
    INVALID_DESIRED = "InvalidDesired"
    INTERNAL_ERROR = "InternalError"


TRANSIENT = frozenset({Reason.STORE_UNAVAILABLE, Reason.SOURCE_NOT_FOUND, Reason.DISK_FULL, Reason.TRITON_UNAVAILABLE})
"""Reasons that may pass without anybody doing something: tried again soon. The others are tried again slowly."""


class FactoryError(Exception):
    """An operation failed for a known reason.

    Args:
        reason: one of the closed list above.
        message: one sentence for the user; names the thing and the way out.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed soon with nothing changed by a person."""
        return self.reason in TRANSIENT

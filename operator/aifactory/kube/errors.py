"""What can go wrong between us and an API server, as types.

`ApiError` and its subclasses are answers of the server and carry its own words; `Unreachable` means that there was no
answer. Callers decide by type: `retryable` errors go away by waiting, the others need somebody to change something.
Reasons: https://github.com/kubernetes/apimachinery/blob/master/pkg/apis/meta/v1/types.go (StatusReason)
"""

from __future__ import annotations

import msgspec

from aifactory.kube.objects import Status, StatusDetails

_status_decoder = msgspec.json.Decoder(Status)


class KubeError(Exception):
    """Any failure of a call to the API server."""

    retryable = False
    retry_after: float | None = None
    """Seconds the server asks us to wait, when it does."""


class Unreachable(KubeError):
    """There was no answer: connection refused or lost, or it took too long. The call may have been carried out."""

    retryable = True

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent
        """Whether the request may have reached the server."""


class NotLeading(KubeError):
    """Nothing was sent: another replica may lead by now."""


class ApiError(KubeError):
    """The server answered with a failure."""

    def __init__(
        self,
        status: int,
        reason: str = "",
        message: str = "",
        details: StatusDetails | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{status} {reason or 'Unknown'}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details
        self.retry_after = retry_after


class BadRequest(ApiError):
    """400: the request makes no sense to the server."""


class Unauthorized(ApiError):
    """401: the credentials are not accepted. Retried, because tokens are rotated."""

    retryable = True


class Forbidden(ApiError):
    """403: RBAC, a quota, an admission policy or a namespace that is going away."""


class NotFound(ApiError):
    """404: no such object, or no such resource."""


class Conflict(ApiError):
    """409: the object is not in the state the request named (resource version, UID)."""


class AlreadyExists(ApiError):
    """409 on create: the name is taken."""


class Gone(ApiError):
    """410: the resource version asked for is no longer in the server's history."""


class Invalid(ApiError):
    """422: the object breaks a rule of its schema."""


class TooManyRequests(ApiError):
    """429: we are to slow down; nothing was carried out."""

    retryable = True


class ServerError(ApiError):
    """5xx: the server, or what it depends on, has a problem."""

    retryable = True


class ServerTimeout(ServerError):
    """500 ServerTimeout or 504: the server gave up waiting; the call may still be carried out."""


_BY_REASON: dict[str, type[ApiError]] = {
    "AlreadyExists": AlreadyExists,
    "Conflict": Conflict,
    "Expired": Gone,
    "Gone": Gone,
    "ServerTimeout": ServerTimeout,
    "Timeout": ServerTimeout,
    "TooManyRequests": TooManyRequests,
}
_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
    504: ServerTimeout,
}


def error_for(
    status: int, reason: str, message: str, details: StatusDetails | None = None, retry_after: float | None = None
) -> ApiError:
    """The typed error for what the server said."""
    type_ = _BY_REASON.get(reason) or _BY_STATUS.get(status) or (ServerError if status >= 500 else ApiError)
    if retry_after is None and details is not None and details.retry_after_seconds:
        retry_after = float(details.retry_after_seconds)
    return type_(status, reason, message, details, retry_after)


def error_from_response(status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """The typed error for an HTTP answer; the body may be a `metav1.Status` or anything a proxy made up."""
    seconds = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    try:
        answer = _status_decoder.decode(body)
    except msgspec.MsgspecError:
        text = body[:512].decode("utf-8", "replace").strip()
        return error_for(status, "", text, retry_after=seconds)
    return error_for(status, answer.reason, answer.message, answer.details, seconds)

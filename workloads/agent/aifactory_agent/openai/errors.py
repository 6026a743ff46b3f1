"""What is answered when there is no answer: OpenAI's error shape, with a sentence that names the field and the way out.

The `openai` package decides by the status: 408, 409, 429 and 5xx are tried again, after `Retry-After` if there is one.
"""

from __future__ import annotations

from typing import Any

RETRY_AFTER_SECONDS = 1
"""A restarted Triton has loaded its models again after seconds, and the other pods of the pool answer at once."""


class ApiError(Exception):
    """A request is answered with an error.

    Args:
        status: of the HTTP answer.
        message: one sentence for the client.
        param: the field of the request that is meant, if it is one.
        code: a word programs can rely on.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    @property
    def retry_after(self) -> int | None:
        """Seconds after which it may go better."""
        return RETRY_AFTER_SECONDS if self.status == 503 else None

    def as_json(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class ModelGone(ApiError):
    """Triton has no such version any more, or not yet: it may have another one."""

    def __init__(self, words: str) -> None:
        super().__init__(503, f"the model was unloaded meanwhile ({words}); ask again", code="model_not_loaded")


def bad(param: str, message: str, code: str | None = None) -> ApiError:
    """The client has to write something else in a field."""
    return ApiError(400, f"{param} {message}", param=param, code=code)


def unavailable(message: str, code: str = "unavailable") -> ApiError:
    """It may go better in a moment, or in another pod."""
    return ApiError(503, message, code=code)

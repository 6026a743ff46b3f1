"""Every answer that is a failure becomes the type that callers decide by, with the server's own words."""

from __future__ import annotations

import json

import pytest

from aifactory.kube import errors
from aifactory.kube.errors import ApiError, KubeError, NotLeading, Unreachable, error_for, error_from_response

BY_STATUS = [
    (400, errors.BadRequest, False),
    (401, errors.Unauthorized, True),
    (403, errors.Forbidden, False),
    (404, errors.NotFound, False),
    (409, errors.Conflict, False),
    (410, errors.Gone, False),
    (418, errors.ApiError, False),
    (422, errors.Invalid, False),
    (429, errors.TooManyRequests, True),
    (499, errors.ApiError, False),
    (500, errors.ServerError, True),
    (503, errors.ServerError, True),
    (504, errors.ServerTimeout, True),
]
BY_REASON = [
    ("AlreadyExists", 409, errors.AlreadyExists),
    ("Conflict", 400, errors.Conflict),
    ("Expired", 400, errors.Gone),
    ("Gone", 400, errors.Gone),
    ("ServerTimeout", 500, errors.ServerTimeout),
    ("Timeout", 500, errors.ServerTimeout),
    ("TooManyRequests", 500, errors.TooManyRequests),
    ("Unheard", 422, errors.Invalid),
]


@pytest.mark.parametrize(("status", "type_", "retryable"), BY_STATUS)
def test_a_status_without_a_reason(status: int, type_: type[ApiError], retryable: bool) -> None:
    found = error_for(status, "", "words")
    assert type(found) is type_
    assert found.retryable is retryable
    assert (found.status, found.message, str(found)) == (status, "words", f"{status} Unknown: words")


@pytest.mark.parametrize(("reason", "status", "type_"), BY_REASON)
def test_a_reason_says_more_than_the_status(reason: str, status: int, type_: type[ApiError]) -> None:
    found = error_for(status, reason, "words")
    assert type(found) is type_
    assert (found.status, found.reason, str(found)) == (status, reason, f"{status} {reason}: words")


def test_what_got_no_answer_may_pass_and_what_was_not_sent_may_not() -> None:
    assert Unreachable("lost").retryable
    assert Unreachable("lost").sent
    assert str(Unreachable("lost")) == "lost"
    assert not Unreachable("refused", sent=False).sent
    assert not NotLeading("second").retryable
    assert not KubeError().retryable
    assert KubeError().retry_after is None


def answer(**fields: object) -> bytes:
    return json.dumps({"kind": "Status", "message": "words", **fields}).encode()


def test_the_body_carries_reason_words_and_details() -> None:
    details = {"name": "a", "kind": "pods", "uid": "u", "retryAfterSeconds": 0, "causes": [{"field": "spec"}]}
    found = error_from_response(404, answer(reason="NotFound", details=details))
    assert type(found) is errors.NotFound
    assert (found.reason, found.message, found.retry_after) == ("NotFound", "words", None)
    assert found.details is not None
    assert (found.details.name, found.details.kind, found.details.uid) == ("a", "pods", "u")
    assert found.details.causes
    assert found.details.causes[0].field == "spec"


@pytest.mark.parametrize(
    ("header", "seconds", "wanted"),
    [("7", 3, 7.0), (None, 3, 3.0), ("soon", 3, 3.0), ("0", 3, 0.0), (None, 0, None), ("-1", 0, None)],
)
def test_how_long_to_wait_stands_in_the_header_or_in_the_body(
    header: str | None, seconds: int, wanted: float | None
) -> None:
    body = answer(reason="TooManyRequests", details={"retryAfterSeconds": seconds})
    assert error_from_response(429, body, header).retry_after == wanted
    assert error_for(429, "", "", retry_after=2.0).retry_after == 2.0


def test_a_proxy_answers_in_words_of_its_own() -> None:
    found = error_from_response(503, b"  upstream connect error \xff\n" + b"x" * 1000, "4")
    assert type(found) is errors.ServerError
    assert found.message.startswith("upstream connect error �\nx")
    assert 400 < len(found.message) <= 512
    assert (found.reason, found.retry_after) == ("", 4.0)

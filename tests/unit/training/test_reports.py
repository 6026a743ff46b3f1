"""The progress endpoint over real HTTP: who may report what, and where a standby sends reporters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from aifactory.kube.errors import Unreachable
from aifactory.kube.tokens import Reporter
from aifactory.training import reports as progress
from aifactory.training.reports import ProgressBook, ProgressEndpoint, ReportBody, ReportingPod

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
POD = Reporter(namespace="ns", pod="job-0-0", uid="pod-uid")


@dataclass
class Setting:
    """What surrounds the endpoint."""

    leading: bool = True
    leader: str | None = None
    reviews: int = 0
    woken: list[tuple[str, str, float]] = field(default_factory=list)
    book: ProgressBook = field(default_factory=ProgressBook)
    attempt: int = 0
    time: float = 0.0
    away: bool = False

    async def review(self, token: str) -> Reporter | None:
        self.reviews += 1
        if self.away:
            raise Unreachable("connection refused")
        return POD if token == "good" else None

    def endpoint(self) -> ProgressEndpoint:
        return ProgressEndpoint(
            book=self.book,
            review=self.review,
            find_pod=lambda reporter: ReportingPod("job", "job-uid", self.attempt) if reporter == POD else None,
            wake=lambda namespace, job, after: self.woken.append((namespace, job, after)),
            leading=lambda: self.leading,
            leader_address=lambda: self.leader,
            now=lambda: NOW,
            monotonic=lambda: self.time,
        )

    def application(self) -> web.Application:
        application, route = web.Application(), self.endpoint().route()
        application.router.add_route(route.method, route.path, route.handler)
        return application

    async def post(self, body: Any, *, token: str = "good", job: str = "job", times: int = 1) -> tuple[int, str, str]:
        """Status, text and Location of the last answer."""
        async with TestClient(TestServer(self.application())) as client:
            for _ in range(times):
                answer = await client.post(
                    f"/v1/progress/ns/{job}",
                    json=body,
                    headers={"Authorization": f"Bearer {token}"},
                    allow_redirects=False,
                )
            return answer.status, await answer.text(), answer.headers.get("Location", "")


async def test_a_report_is_kept_and_wakes_its_job() -> None:
    setting = Setting()
    status, _, _ = await setting.post({"step": 7, "totalSteps": 10, "metrics": {"loss": 2.5}})
    assert status == 204
    report = setting.book.get("job-uid")
    assert report is not None
    assert (report.step, report.total_steps, report.metrics) == (7, 10, (("loss", 2.5),))
    assert setting.woken == [("ns", "job", 0.0)]


async def test_a_token_is_reviewed_once_in_a_while() -> None:
    setting = Setting()
    await setting.post({"step": 1}, times=5)
    assert setting.reviews == 1


async def test_a_standby_sends_reporters_to_the_leader() -> None:
    setting = Setting(leading=False, leader="10.0.0.7:8082")
    status, _, location = await setting.post({"step": 1})
    assert (status, location) == (307, "http://10.0.0.7:8082/v1/progress/ns/job")
    assert setting.book.get("job-uid") is None
    assert setting.reviews == 0


async def test_without_a_leader_the_reporter_comes_again() -> None:
    assert (await Setting(leading=False).post({"step": 1}))[0] == 503


async def test_a_late_report_of_an_attempt_that_is_over_is_refused() -> None:
    setting = Setting(attempt=1)
    await setting.post({"step": 5})
    setting.attempt = 0
    status, words, _ = await setting.post({"step": 900})
    assert status == 403
    assert "is over" in words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"totalSteps": 3}, "step: is missing"),
        ({"step": -1}, "step: Expected int >= 0"),
        ({"step": 1, "metrics": {"accuracy": 1, "loss": "low"}}, "metrics.loss: Expected float, got str"),
        ({"step": 1, "metrics": {"x" * 65: 1}}, "metrics: Expected str of length <= 64"),
        ({"step": 1, "checkpoint": {"path": "here"}}, "checkpoint.step: is missing"),
        ({"step": 1, "checkpoint": {"step": 2**60}}, "checkpoint.step: Expected int <= 9007199254740992"),
        ({"step": 1, "resumedFromStep": 2**60}, "resumedFromStep: Expected int <="),
        ({"step": 1, "tokensPerSecond": float("nan")}, "body: JSON is malformed"),
        ([1], "body: Expected object"),
    ],
)
async def test_a_mistake_names_its_field(body: Any, words: str) -> None:
    status, text, _ = await Setting().post(body)
    assert status == 400
    assert words in text


async def test_a_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="out of range"):
        progress._decode(b'{"step": 1, "metrics": {"loss": 1e999}}')


async def test_a_job_is_woken_when_its_status_may_be_written_not_for_each_report() -> None:
    book = ProgressBook(share=lambda _: 0.0)

    def report(at: float, step: int = 1, attempt: int = 0) -> float:
        assert book.record("job-uid", attempt, ReportBody(step=step, total_steps=100), NOW + timedelta(seconds=at))
        return book.wake_after("job-uid", at)

    assert report(0) == 0, "the first one is told at once"
    assert [report(at) for at in (2, 4, 6, 8)] == [8, 6, 4, 2], "the same wake-up each time"
    assert report(11) == 9, "that of second 10 has been; the next is ten seconds after it"
    assert report(12, step=100) == 0, "the end is told at once"
    assert report(14, step=100) == 8, "but once"
    assert report(15, attempt=1) == 0, "so is the first of another attempt"
    book.forget("job-uid")
    assert report(61) == 0


async def test_jobs_that_begin_together_do_not_stay_together() -> None:
    """After a start a thousand jobs report within two seconds: written together they would be a herd each time."""
    book, woken = ProgressBook(), []
    for second in range(60):
        for number in range(200):
            uid = f"uid-{number}"
            assert book.record(uid, 0, ReportBody(step=second), NOW)
            if (after := book.wake_after(uid, float(second))) <= 1:
                woken.append(int(second + after))
    later = Counter(second for second in woken if 25 <= second < 55)
    assert max(later.values()) <= 45, "20 a second and what chance makes of it"
    assert len(later) == 30


async def test_after_a_long_silence_the_next_report_is_told_at_once() -> None:
    book = ProgressBook(share=lambda _: 0.0)
    for at, after in ((0.0, 0.0), (100.0, 0.0), (102.0, 8.0)):
        assert book.record("job-uid", 0, ReportBody(step=int(at)), NOW)
        assert book.wake_after("job-uid", at) == after


async def test_a_token_that_nobody_can_review_now_is_not_refused_for_good() -> None:
    setting = Setting(away=True)
    assert (await setting.post({"step": 1}))[0] == 503
    setting.away = False
    assert (await setting.post({"step": 1}))[0] == 204


async def test_tokens_that_are_refused_are_remembered_for_a_while_and_not_without_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting = Setting()
    await setting.post({"step": 1}, token="bad", times=5)
    assert setting.reviews == 1
    monkeypatch.setattr(progress, "TOKEN_CACHE_SIZE", 10)
    endpoint = setting.endpoint()
    for number in range(50):
        await endpoint._identify(f"bad-{number}")
    assert len(endpoint._tokens) == 10


async def test_strangers_are_refused() -> None:
    assert (await Setting().post({"step": 1}, token="bad"))[0] == 401
    assert (await Setting().post({"step": 1}, job="other"))[0] == 403

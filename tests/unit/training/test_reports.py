"""The progress endpoint over real HTTP: who may report what, and where a standby sends reporters."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from aifactory.kube.tokens import Reporter
from aifactory.training.reports import ProgressBook, ProgressEndpoint, ReportingPod

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
POD = Reporter(namespace="ns", pod="job-0-0", uid="pod-uid")


@dataclass
class Setting:
    """What surrounds the endpoint."""

    leading: bool = True
    leader: str | None = None
    reviews: int = 0
    woken: list[tuple[str, str]] = field(default_factory=list)
    book: ProgressBook = field(default_factory=ProgressBook)
    attempt: int = 0
    time: float = 0.0

    async def review(self, token: str) -> Reporter | None:
        self.reviews += 1
        return POD if token == "good" else None

    def endpoint(self) -> ProgressEndpoint:
        return ProgressEndpoint(
            book=self.book,
            review=self.review,
            find_pod=lambda reporter: ReportingPod("job", "job-uid", self.attempt) if reporter == POD else None,
            wake=lambda namespace, job: self.woken.append((namespace, job)),
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
    assert setting.woken == [("ns", "job")]


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
        ({"totalSteps": 3}, "step: Field required"),
        ({"step": -1}, "step: Input should be greater than or equal to 0"),
        ({"step": 1, "metrics": {"loss": "low"}}, "metrics.loss"),
        ([1], "body"),
    ],
)
async def test_a_mistake_names_its_field(body: Any, words: str) -> None:
    status, text, _ = await Setting().post(body)
    assert status == 400
    assert words in text


async def test_strangers_are_refused() -> None:
    assert (await Setting().post({"step": 1}, token="bad"))[0] == 401
    assert (await Setting().post({"step": 1}, job="other"))[0] == 403

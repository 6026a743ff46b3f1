"""The progress endpoint over real HTTP: who may report what, and where a standby sends reporters."""

from __future__ import annotations

import asyncio
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
from aifactory.training.state import ProgressReport

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
    assert report(16) == 0, "another job"
    assert report(16) == 10


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


def test_the_second_look_waits_for_the_place_of_the_job_and_the_others_come_ten_seconds_apart() -> None:
    book, waits = ProgressBook(share=lambda _: 0.5), []
    for at in (0.0, 0.0, 15.0, 25.0):
        assert book.record("job-uid", 0, ReportBody(step=int(at)), NOW)
        waits.append(book.wake_after("job-uid", at))
    assert waits == [0, 15, 10, 10]


def test_nothing_is_kept_of_a_job_that_is_gone() -> None:
    book = ProgressBook()
    assert book.record("job-uid", 0, ReportBody(step=1), NOW)
    book.wake_after("job-uid", 0.0)
    book.forget("job-uid")
    assert not any((book._reports, book._due, book._first))


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


EVERYTHING = ReportBody(
    step=7,
    total_steps=100,
    tokens_per_second=12.5,
    metrics={"loss": 2.5, "accuracy": 0.5},
    checkpoint=progress.CheckpointBody(step=5, path="checkpoints/5"),
    resumed_from_step=3,
)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_a_report_is_kept_with_all_that_it_says() -> None:
    book = ProgressBook()
    assert book.record("uid", 2, EVERYTHING, NOW)
    assert book.get("uid") == ProgressReport(
        attempt=2,
        time=NOW,
        step=7,
        total_steps=100,
        tokens_per_second=12.5,
        metrics=(("accuracy", 0.5), ("loss", 2.5)),
        checkpoint_step=5,
        checkpoint_path="checkpoints/5",
        checkpoint_time=NOW,
        resumed_from_step=3,
        first_time=NOW,
        first_step=7,
    )
    assert book.record("other", 0, ReportBody(step=1), NOW)
    assert book.get("other") == ProgressReport(attempt=0, time=NOW, step=1, first_time=NOW, first_step=1)


def test_where_an_attempt_began_is_remembered_as_long_as_it_lasts() -> None:
    book = ProgressBook()
    for attempt, step, seconds in ((0, 10, 0), (0, 20, 5), (1, 15, 30), (1, 16, 31)):
        assert book.record("uid", attempt, ReportBody(step=step), later(seconds))
    found = book.get("uid")
    assert found is not None
    assert (found.first_step, found.first_time, found.step) == (15, later(30), 16)


def test_a_checkpoint_is_as_old_as_the_first_report_of_it() -> None:
    book, times = ProgressBook(), []
    for attempt, step, seconds in ((0, 5, 0), (0, 5, 10), (0, 8, 20), (0, 8, 30), (1, 8, 40)):
        body = ReportBody(step=9, checkpoint=progress.CheckpointBody(step=step))
        assert book.record("uid", attempt, body, later(seconds))
        found = book.get("uid")
        assert found is not None
        times.append(found.checkpoint_time)
    assert times == [NOW, NOW, later(20), later(20), later(40)], "another attempt saves anew"


def test_the_end_is_told_at_once_also_by_a_program_that_goes_beyond_it() -> None:
    book = ProgressBook(share=lambda _: 0.0)
    waits = []
    for at, step in enumerate((98, 99, 101, 102)):
        assert book.record("uid", 0, ReportBody(step=step, total_steps=100), NOW)
        waits.append(book.wake_after("uid", float(at)))
    assert waits == [0, 9, 0, 9]


async def answer(setting: Setting, path: str, headers: dict[str, str], data: bytes = b'{"step": 1}') -> tuple[Any, ...]:
    """Status, text and Retry-After."""
    async with TestClient(TestServer(setting.application())) as client:
        found = await client.post(f"/v1/progress/{path}", data=data, headers=headers)
        return found.status, await found.text(), found.headers.get("Retry-After")


SEND = "send the pod's token: Authorization: Bearer <content of AIFACTORY_PROGRESS_TOKEN_FILE>\n"
STALE = "the token is not valid for audience aifactory.dev/progress or has expired\n"


@pytest.mark.parametrize(
    ("path", "token", "status", "words"),
    [
        ("ns/job", None, 401, SEND),
        ("ns/job", "good", 401, SEND),
        ("ns/job", "Basic good", 401, SEND),
        ("ns/job", "Bearer ", 401, SEND),
        ("ns/job", "Bearer bad", 401, STALE),
        ("ns/other", "Bearer good", 403, "pod ns/job-0-0 does not train for ns/other\n"),
        ("elsewhere/job", "Bearer good", 403, "pod ns/job-0-0 does not train for elsewhere/job\n"),
        ("ns/job", "bearer  good", 204, ""),
    ],
)
async def test_who_is_refused_is_told_why(path: str, token: str | None, status: int, words: str) -> None:
    headers = {} if token is None else {"Authorization": token}
    assert await answer(Setting(), path, headers) == (status, words, None)


async def test_a_token_of_a_pod_that_does_not_train_is_refused() -> None:
    setting = Setting()
    endpoint = setting.endpoint()
    endpoint._find_pod = lambda _: None
    setting.endpoint = lambda: endpoint  # type: ignore[method-assign]
    words = "pod ns/job-0-0 does not train for ns/job\n"
    assert await answer(setting, "ns/job", {"Authorization": "Bearer good"}) == (403, words, None)


async def test_who_comes_too_early_is_told_when_to_come_again() -> None:
    headers = {"Authorization": "Bearer good"}
    assert await answer(Setting(leading=False), "ns/job", headers) == (503, "no leader yet\n", "2")
    assert await answer(Setting(away=True), "ns/job", headers) == (503, "the token can not be reviewed now\n", "2")


async def test_a_late_report_is_told_which_attempt_is_over() -> None:
    setting = Setting(attempt=1)
    await setting.post({"step": 5})
    setting.attempt = 0
    headers = {"Authorization": "Bearer good"}
    assert await answer(setting, "ns/job", headers) == (403, "attempt 0 of ns/job is over\n", None)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"step": 1, "metrics": {"accuracy": 1, "on": true}}', "metrics.on: Expected float, got bool"),
        (b'{"step": 1, "metrics": {"a": 1.5, "loss": null}}', "metrics.loss: Expected float, got null"),
        (b'{"step": 1, "metrics": {"%s": 1}}' % (b"x" * 65), "metrics: Expected str of length <= 64"),
        (b'{"step": 1, "metrics": 3}', "metrics: Expected object, got int"),
        (b'{"step": "1"}', "step: Expected int, got str"),
        (b'{"step": 1, "checkpoint": {}}', "checkpoint.step: is missing"),
        (b'{"step": 1, "metrics": {"ok": 1, "loss": 1e999}}', "metrics.loss: Number out of range"),
        (b'{"step": 1, "metrics": {"ok": 1.5, "fast": true}}', "metrics.fast: Expected float, got bool"),
        (b"{}", "step: is missing"),
        (b'"', "body: Input data was truncated"),
        (b'{"step": 1, "other": ' + b"[" * 9000, "body: it nests too deeply"),
    ],
)
async def test_a_mistake_is_told_with_its_field_and_without_ornaments(data: bytes, words: str) -> None:
    headers = {"Authorization": "Bearer good"}
    assert await answer(Setting(), "ns/job", headers, data) == (400, f"{words}\n", None)


@pytest.mark.parametrize(("token", "seconds"), [("good", 300), ("bad", 10)])
async def test_what_a_review_said_holds_for_a_while(token: str, seconds: float) -> None:
    setting = Setting()
    endpoint = setting.endpoint()
    for time, reviews in ((0.0, 1), (seconds - 0.1, 1), (seconds, 2), (seconds + 1, 2)):
        setting.time = time
        assert await endpoint._identify(token) == (POD if token == "good" else None)
        assert setting.reviews == reviews


async def test_of_too_many_tokens_the_one_reviewed_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TOKEN_CACHE_SIZE", 2)
    setting = Setting()
    endpoint = setting.endpoint()
    for time, token in ((0.0, "a"), (1.0, "b"), (11.0, "a"), (11.0, "c")):
        setting.time = time
        await endpoint._identify(token)
    setting.time, setting.reviews = 12.0, 0
    for token in ("a", "c"):
        await endpoint._identify(token)
    assert setting.reviews == 0
    await endpoint._identify("b")
    assert setting.reviews == 1, "it had to go"


async def test_strangers_do_not_keep_the_api_server_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MAX_REVIEWS", 3)
    under_way, most, go_on = 0, 0, asyncio.Event()

    async def review(_: str) -> Reporter | None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await go_on.wait()
        under_way -= 1
        return None

    endpoint = Setting().endpoint()
    endpoint._review = review
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(endpoint._identify(f"token-{number}"))
        for _ in range(20):
            await asyncio.sleep(0)
        go_on.set()
    assert most == 3

"""Progress reports reach the operator, and nothing that happens to them reaches the training loop."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from aifactory_trainer.progress import Report, Reporter, Speed, leader
from conftest import Receiver, wait_until


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


def arrived(receiver: Receiver, count: int) -> None:
    wait_until(lambda: len(receiver.requests) >= count, f"{count} reports", lambda: receiver.requests, 30)


def test_a_report_carries_everything(receiver: Receiver, token: Path) -> None:
    reporter = Reporter(receiver.url, token)
    report = Report(
        step=120,
        total_steps=300,
        tokens_per_second=51234.56,
        metrics={"loss": torch.tensor(2.25), "lr": 0.5},
        checkpoint=(100, "checkpoints/step-100"),
        resumed_from=100,
    )
    reporter.submit(report)
    assert reporter.flush(5)
    path, authorization, body = receiver.requests[0]
    assert path == "/v1/progress/team/job"
    assert authorization == "Bearer first"
    assert body == {
        "step": 120,
        "totalSteps": 300,
        "tokensPerSecond": 51234.6,
        "metrics": {"loss": 2.25, "lr": 0.5},
        "checkpoint": {"step": 100, "path": "checkpoints/step-100"},
        "resumedFromStep": 100,
    }


def test_only_step_is_needed(receiver: Receiver) -> None:
    reporter = Reporter(receiver.url)
    reporter.submit(Report(step=0))
    assert reporter.flush(5)
    assert receiver.requests == [("/v1/progress/team/job", None, {"step": 0})]


def test_a_metric_that_is_no_number_is_left_out() -> None:
    metrics = {"loss": math.nan, "norm": torch.tensor(math.inf), "many": torch.ones(2), "good": 1}
    assert Report(step=1, metrics=metrics, tokens_per_second=math.inf).numbers() == {"good": 1.0}
    assert (
        Report(step=1, metrics=metrics, tokens_per_second=math.inf).to_json()
        == b'{"step": 1, "metrics": {"good": 1.0}}'
    )


def test_more_metrics_than_the_operator_takes_cost_no_report() -> None:
    metrics = {"x" * 65: 1.0, **{f"m{number}": number for number in range(40)}}
    assert list(Report(step=1, metrics=metrics).numbers()) == [f"m{number}" for number in range(32)]


def test_the_token_is_read_for_each_report(receiver: Receiver, token: Path) -> None:
    reporter = Reporter(receiver.url, token, interval=0.01)
    reporter.submit(Report(step=1))
    arrived(receiver, 1)
    token.write_text("second")
    reporter.submit(Report(step=2))
    arrived(receiver, 2)
    assert [authorization for _, authorization, _ in receiver.requests] == ["Bearer first", "Bearer second"]


def test_a_redirect_is_followed_with_body_and_token(receiver: Receiver, token: Path) -> None:
    receiver.answers = [(307, {"Location": "/leader?replica=1"}), (204, {})]
    reporter = Reporter(receiver.url, token)
    reporter.submit(Report(step=3))
    assert reporter.flush(5)
    assert [(path, authorization, body["step"]) for path, authorization, body in receiver.requests] == [
        ("/v1/progress/team/job", "Bearer first", 3),
        ("/leader?replica=1", "Bearer first", 3),
    ]


def test_redirects_in_a_circle_end(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answers = [(307, {"Location": receiver.url})]
    reporter = Reporter(receiver.url, interval=60)
    reporter.submit(Report(step=3))
    wait_until(lambda: "who leads" in caplog.text, "the complaint", lambda: caplog.text, 30)
    assert len(receiver.requests) == 2


OPERATOR = "http://operator.system.svc:8082/v1/progress/team/job"


@pytest.mark.parametrize("host", ["10.1.2.3", "172.20.0.9", "192.168.7.7", "100.64.3.4", "[fd00::1:2]", "240.0.0.5"])
def test_the_leader_is_another_pod(host: str) -> None:
    location = f"http://{host}:8082/v1/progress/team/job"
    assert leader(OPERATOR, location) == location


@pytest.mark.parametrize(
    "location",
    [
        "http://evil.example:8082/v1/progress/team/job",
        "http://operator.system.svc.evil.example:8082/v1/progress/team/job",
        "http://operator.system.svc@evil.example:8082/v1/progress/team/job",
        "//evil.example:8082/v1/progress/team/job",
        "http://8.8.8.8:8082/v1/progress/team/job",
        "http://[2606:4700::1111]:8082/v1/progress/team/job",
        "http://[::ffff:8.8.8.8]:8082/v1/progress/team/job",
        "http://169.254.169.254:8082/v1/progress/team/job",
        "http://127.0.0.1:8082/v1/progress/team/job",
        "http://0.0.0.0:8082/v1/progress/team/job",
        "http://10.1.2.3:80/v1/progress/team/job",
        "http://10.1.2.3:8082/elsewhere",
        "http://10.1.2.3:8082/v1/progress/team/job?x=1",
        "https://10.1.2.3:8082/v1/progress/team/job",
        "http://operator.system.svc:9999/v1/progress/team/job",
        "ftp://10.1.2.3:8082/v1/progress/team/job",
    ],
)
def test_the_token_is_sent_to_nobody_else(location: str) -> None:
    with pytest.raises(ValueError, match="is not followed: the token is for the operator alone"):
        leader(OPERATOR, location)


def test_a_redirect_to_another_host_is_not_even_tried(
    receiver: Receiver, token: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same machine by another name stands for it."""
    receiver.answers = [(307, {"Location": receiver.url.replace("127.0.0.1", "localhost")}), (204, {})]
    reporter = Reporter(receiver.url, token, interval=60)
    reporter.submit(Report(step=3))
    wait_until(lambda: "is not followed" in caplog.text, "the complaint", lambda: caplog.text, 30)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_said_once(receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answers = [(status, {})]
    reporter = Reporter(receiver.url, interval=0.01)
    for step in (1, 2, 3):
        reporter.submit(Report(step=step))
        arrived(receiver, step)
    assert reporter.flush(5)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert f"HTTP {status}" in caplog.text


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_operator_gets_the_next_report(receiver: Receiver, status: int) -> None:
    receiver.answers = [(status, {}), (204, {})]
    reporter = Reporter(receiver.url, interval=0.01)
    reporter.submit(Report(step=1))
    arrived(receiver, 1)
    reporter.submit(Report(step=2))
    arrived(receiver, 2)
    assert reporter.flush(5)
    assert receiver.reports[-1]["step"] == 2


def test_a_report_that_met_a_temporary_trouble_is_sent_again(receiver: Receiver) -> None:
    """The next one may be a long step away."""
    receiver.answers = [(503, {}), (204, {})]
    reporter = Reporter(receiver.url, interval=0.01)
    reporter.submit(Report(step=1))
    arrived(receiver, 2)
    assert [body["step"] for body in receiver.reports] == [1, 1]


def test_the_receiver_is_left_alone_as_long_as_it_asks(receiver: Receiver) -> None:
    receiver.answers = [(503, {"Retry-After": "1"}), (204, {})]
    reporter = Reporter(receiver.url, interval=0.01)
    start = time.monotonic()
    reporter.submit(Report(step=1))
    arrived(receiver, 2)
    assert time.monotonic() - start >= 1.0


def test_the_last_report_waits_as_asked_if_there_is_time(receiver: Receiver) -> None:
    receiver.answers = [(503, {"Retry-After": "1"}), (204, {})]
    reporter = Reporter(receiver.url)
    reporter.submit(Report(step=1))
    start = time.monotonic()
    assert reporter.flush(10)
    assert 1.0 <= time.monotonic() - start < 9.0
    assert len(receiver.requests) == 2


def test_a_new_token_is_tried_when_the_old_one_is_refused(receiver: Receiver, token: Path) -> None:
    receiver.answers = [(401, {}), (401, {}), (204, {})]
    reporter = Reporter(receiver.url, token)
    reporter.submit(Report(step=300))
    arrived(receiver, 1)
    token.write_text("second")
    assert reporter.flush(10)
    assert [authorization for _, authorization, _ in receiver.requests][-1] == "Bearer second"
    assert len(receiver.requests) == 3


def test_a_token_that_stays_refused_is_given_up(receiver: Receiver, token: Path) -> None:
    receiver.answers = [(401, {})]
    reporter = Reporter(receiver.url, token)
    reporter.submit(Report(step=300))
    assert reporter.flush(10)
    assert len(receiver.requests) == 3


def test_the_last_report_is_tried_again(receiver: Receiver) -> None:
    receiver.answers = [(503, {}), (503, {}), (204, {})]
    reporter = Reporter(receiver.url)
    reporter.submit(Report(step=300))
    assert reporter.flush(10)
    assert [body["step"] for body in receiver.reports] == [300, 300, 300]


def test_only_the_newest_is_sent(receiver: Receiver) -> None:
    receiver.hold.clear()
    reporter = Reporter(receiver.url, interval=0.01)
    reporter.submit(Report(step=1))
    arrived(receiver, 1)
    for step in range(2, 100):
        reporter.submit(Report(step=step))
    receiver.hold.set()
    assert reporter.flush(5)
    assert [body["step"] for body in receiver.reports] == [1, 99]


def test_no_more_often_than_the_interval(receiver: Receiver) -> None:
    reporter = Reporter(receiver.url, interval=0.5)
    end = time.monotonic() + 1.2
    step = 0
    while time.monotonic() < end:
        step += 1
        reporter.submit(Report(step=step))
    assert 2 <= len(receiver.requests) <= 4
    assert reporter.flush(5)
    assert receiver.reports[-1]["step"] == step


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


@pytest.fixture
def closed() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/"


@pytest.mark.parametrize("address", ["silent", "closed"])
def test_training_is_never_held_up(address: str, request: pytest.FixtureRequest) -> None:
    reporter = Reporter(request.getfixturevalue(address), interval=0.01, timeout=0.5)
    start = time.monotonic()
    for step in range(10_000):
        reporter.submit(Report(step=step))
    assert time.monotonic() - start < 1.0, "10,000 reports take well under a millisecond each"
    start = time.monotonic()
    assert not reporter.flush(0.3)
    assert time.monotonic() - start < 1.0


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "nonsense", "http://"])
def test_a_wrong_address_is_only_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    reporter = Reporter(url, interval=0.01)
    reporter.submit(Report(step=1))
    wait_until(lambda: "progress is not reported" in caplog.text, "the complaint", lambda: caplog.text, 30)


def test_speed_counts_the_last_seconds_only() -> None:
    speed = Speed(window_seconds=10)
    assert speed.add(999, 0.0) is None
    assert speed.add(100, 1.0) == 100
    for second in range(2, 30):
        latest = speed.add(200, float(second))
    assert latest == 200

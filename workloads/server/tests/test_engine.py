"""Continuous batching without Triton: who gets tokens when, and how answers end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from aifactory_server.causal_lm.engine import Engine, QueueFull
from aifactory_server.causal_lm.request import Request

from .test_network import Collected, network


class Meter:
    def __init__(self) -> None:
        self.prompt = self.generated = self.probes = 0

    def count(self, prompt: int, generated: int) -> None:
        self.prompt += prompt
        self.generated += generated

    def probed(self) -> None:
        self.probes += 1

    def flush(self) -> None: ...


class Watched(Collected):
    """Notes when pieces came, and cancels on order."""

    def __init__(self, clock: list[str], name: str, cancel_after: int = 10**9) -> None:
        super().__init__()
        self.clock, self.name, self.cancel_after, self.pieces = clock, name, cancel_after, 0
        self.over = threading.Event()

    def piece(self, text: str) -> None:
        super().piece(text)
        self.pieces += 1
        self.clock.append(self.name)

    def done(self, outcome: object) -> None:
        super().done(outcome)  # type: ignore[arg-type]
        self.over.set()

    def failed(self, message: str) -> None:
        super().failed(message)
        self.over.set()

    def cancelled(self) -> bool:
        return self.pieces >= self.cancel_after


@pytest.fixture
def make(gpt_folder: Path) -> Callable[..., Engine]:
    def build(slots: int = 2, waiting: int = 8, meter: Meter | None = None) -> Engine:
        return Engine(network(gpt_folder, slots), waiting, meter or Meter())

    return build


def ask(seed: int, tokens: int = 60, **more: object) -> Request:
    return Request(b"def ", max_tokens=tokens, seed=seed, **more)  # type: ignore[arg-type]


def test_a_late_request_does_not_wait_for_an_early_one(make: Callable[..., Engine]) -> None:
    engine, clock = make(slots=2), list[str]()
    long, short = Watched(clock, "long"), Watched(clock, "short")
    engine.submit(ask(1, tokens=400), long)
    engine.submit(ask(2, tokens=20), short)
    engine.start()
    assert short.over.wait(30)
    engine.stop(60)
    last_short = max(index for index, name in enumerate(clock) if name == "short")
    assert clock[:last_short].count("long") > 5, "they did not take turns"
    assert clock[last_short:].count("long") > 50, "the short one waited for the long one"


def test_more_requests_than_slots_are_served_in_order(make: Callable[..., Engine]) -> None:
    engine, meter = make(slots=2), Meter()
    engine = make(slots=2, meter=meter)
    answers = [Watched([], str(number)) for number in range(7)]
    for number, answer in enumerate(answers):
        engine.submit(ask(number, tokens=10), answer)
    engine.start()
    engine.stop(60)
    outcomes = [answer.outcome for answer in answers]
    assert all(outcome is not None and outcome.generated_tokens <= 10 for outcome in outcomes)
    assert meter.prompt == 7 * 4
    assert meter.generated == sum(outcome.generated_tokens for outcome in outcomes if outcome)


def test_an_answer_depends_on_its_seed_not_on_its_neighbours(make: Callable[..., Engine]) -> None:
    def texts(seeds: list[int], slots: int) -> list[str]:
        engine = make(slots=slots)
        answers = [Collected() for _ in seeds]
        for seed, answer in zip(seeds, answers, strict=True):
            engine.submit(ask(seed), answer)
        engine.start()
        engine.stop(60)
        return [answer.text for answer in answers]

    together = texts([1, 2, 3, 1], slots=4)
    assert together[0] == together[3]
    assert len(set(together)) == 3
    assert together[:3] == [texts([seed], slots=1)[0] for seed in (1, 2, 3)]


def test_without_a_seed_answers_differ(make: Callable[..., Engine]) -> None:
    engine, answers = make(slots=2), [Collected(), Collected()]
    for answer in answers:
        engine.submit(Request(b"x", max_tokens=40), answer)
    engine.start()
    engine.stop(60)
    assert answers[0].text != answers[1].text


def test_a_cancelled_request_makes_room(make: Callable[..., Engine]) -> None:
    engine = make(slots=1)
    gone, next_one = Watched([], "gone", cancel_after=3), Watched([], "next")
    engine.submit(ask(1, tokens=60_000), gone)
    engine.submit(ask(2, tokens=5), next_one)
    engine.start()
    assert next_one.over.wait(30)
    engine.stop(30)
    assert gone.outcome is None
    assert gone.pieces < 10


def test_a_full_queue_refuses_but_takes_the_agents_probe(make: Callable[..., Engine]) -> None:
    meter = Meter()
    engine = make(slots=1, waiting=2, meter=meter)
    for number in range(2):
        engine.submit(ask(number, tokens=1), Collected())
    with pytest.raises(QueueFull, match="2 requests are waiting"):
        engine.submit(ask(9), Collected())
    probe = Watched([], "probe")
    engine.submit(Request(b"def", max_tokens=1, probe=True), probe)
    engine.start()
    assert probe.over.wait(30)
    engine.stop(30)
    assert meter.prompt == 8, "the probe was counted"
    assert meter.probes == 1


def test_a_failed_step_is_told_and_the_engine_goes_on(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(slots=2)
    decode = engine._network.decode
    broken = threading.Event()

    def once(tokens: list[int], lengths: list[int]) -> object:
        if not broken.is_set():
            broken.set()
            raise RuntimeError("out of memory")
        return decode(tokens, lengths)

    monkeypatch.setattr(engine._network, "decode", once)
    first, second = Watched([], "first"), Watched([], "second")
    engine.submit(ask(1), first)
    engine.start()
    assert first.over.wait(30)
    assert "out of memory" in first.error
    engine.submit(ask(2, tokens=5), second)
    assert second.over.wait(30)
    assert second.outcome is not None
    engine.stop(30)


def test_stop_finishes_what_was_taken_and_takes_no_more(make: Callable[..., Engine]) -> None:
    engine, answers = make(slots=1), [Collected(), Collected()]
    engine.start()
    for answer in answers:
        engine.submit(ask(1, tokens=30), answer)
    engine.stop(60)
    assert all(answer.outcome is not None for answer in answers)
    with pytest.raises(QueueFull, match="unloaded"):
        engine.submit(ask(2), Collected())


def test_what_can_not_be_finished_in_time_is_told_so(make: Callable[..., Engine]) -> None:
    engine, answers = make(slots=1), [Collected(), Collected()]
    engine.start()
    for answer in answers:
        engine.submit(ask(1, tokens=60_000, temperature=0.0), answer)  # without chance it never comes to an end
    engine.stop(0.2)
    assert ["unloaded before" in answer.error for answer in answers] == [True, True]

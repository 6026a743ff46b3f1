"""Continuous batching without Triton: who gets tokens when, and how answers end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory_server.causal_lm import engine as module
from aifactory_server.causal_lm.engine import Engine, QueueFull, choose
from aifactory_server.causal_lm.request import BadRequest, Request

from .conftest import DEVICES
from .test_network import Collected, network


class Meter:
    def __init__(self) -> None:
        self.prompt = self.generated = self.probes = 0
        self.loads: list[tuple[int, int]] = []

    def count(self, prompt: int, generated: int) -> None:
        self.prompt += prompt
        self.generated += generated

    def probed(self) -> None:
        self.probes += 1

    def load(self, running: int, waiting: int) -> None:
        self.loads.append((running, waiting))

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


@pytest.fixture(params=DEVICES)
def make(gpt_folder: Path, request: pytest.FixtureRequest) -> Callable[..., Engine]:
    def build(slots: int = 2, waiting: int = 8, meter: Meter | None = None) -> Engine:
        return Engine(network(gpt_folder, slots, request.param), waiting, meter or Meter())

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


def test_an_odd_temperature_is_nobody_elses_business(make: Callable[..., Engine]) -> None:
    """1e-39 divides logits to infinity in float32; it means: always the likeliest token."""
    engine = make(slots=4)
    odd, plain, greedy = Watched([], "odd"), Watched([], "plain"), Watched([], "greedy")
    engine.submit(ask(1, temperature=1e-39), odd)
    engine.submit(ask(2), plain)
    engine.submit(ask(1, temperature=0.0), greedy)
    engine.start()
    engine.stop(60)
    assert (odd.error, plain.error) == ("", "")
    assert odd.text == greedy.text


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_end_that_sequence_only(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    engine = make(slots=2)
    decode = engine._network.decode

    def poisoned(tokens: list[int], lengths: list[int]) -> torch.Tensor:
        logits = decode(tokens, lengths).clone()
        logits[0, 7] = bad
        return logits

    monkeypatch.setattr(engine._network, "decode", poisoned)
    ill, well = Watched([], "ill"), Watched([], "well")
    engine.submit(ask(1), ill)
    engine.submit(ask(2), well)
    engine.start()
    assert ill.over.wait(30)
    assert well.over.wait(30)
    engine.stop(30)
    assert "not finite numbers" in ill.error
    assert well.outcome is not None


class Broken(Watched):
    """A client that can be told nothing, not even that."""

    def piece(self, text: str) -> None:
        raise RuntimeError("no space left in /dev/shm")

    def failed(self, message: str) -> None:
        super().failed(message)
        raise RuntimeError("gone")


def test_a_client_that_can_not_be_answered_hurts_nobody(make: Callable[..., Engine]) -> None:
    class BrokenMeter(Meter):
        def count(self, prompt: int, generated: int) -> None:
            raise RuntimeError("no metrics")

        flush = count  # type: ignore[assignment]

    engine = make(slots=2, meter=BrokenMeter())
    broken, well, late = Broken([], "broken"), Watched([], "well"), Watched([], "late")
    engine.submit(ask(1), broken)
    engine.submit(ask(2), well)
    engine.start()
    assert well.over.wait(30)
    assert broken.over.wait(30)
    assert "no space left in /dev/shm" in broken.error
    assert well.outcome is not None
    engine.submit(ask(3, tokens=3), late)
    assert late.over.wait(30), "the engine's thread has died"
    engine.stop(30)


def test_a_prompt_that_can_not_be_computed_fails_alone(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(slots=2)
    prefill = engine._network.prefill

    def out_of_memory(slot: int, tokens: list[int], start: int = 0) -> torch.Tensor:
        if tokens[-1] == ord("!"):
            raise RuntimeError("out of memory")
        return prefill(slot, tokens, start)

    monkeypatch.setattr(engine._network, "prefill", out_of_memory)
    large, small = Watched([], "large"), Watched([], "small")
    engine.submit(ask(2), small)
    engine.submit(Request(b"!", max_tokens=4), large)
    engine.start()
    engine.stop(60)
    assert "out of memory" in large.error
    assert small.outcome is not None


def test_prompts_of_about_one_length_are_read_together_and_no_others(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, together, alone = make(slots=5), list[list[int]](), list[int]()
    several, one = engine._network.prefill_together, engine._network.prefill
    monkeypatch.setattr(
        engine._network,
        "prefill_together",
        lambda texts: together.append(list(map(len, texts.values()))) or several(texts),
    )
    monkeypatch.setattr(
        engine._network, "prefill", lambda slot, text, start=0: alone.append(len(text)) or one(slot, text, start)
    )
    for length in (4, 30, 6, 5, 1):
        engine.submit(Request(b"x" * length, max_tokens=9, temperature=0.0), Collected())
    engine._step()
    assert (together, alone) == ([[5, 7, 6]], [31, 2])


def test_a_prompt_that_can_not_be_read_with_others_is_read_alone(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(slots=3)
    together, prefill = engine._network.prefill_together, engine._network.prefill

    def out_of_memory(slot: int, tokens: list[int], start: int = 0) -> torch.Tensor:
        if tokens[-1] == ord("!"):
            raise RuntimeError("out of memory")
        return prefill(slot, tokens, start)

    def all_of_them(texts: dict[int, list[int]]) -> torch.Tensor:
        for slot, text in texts.items():
            out_of_memory(slot, text)
        return together(texts)

    monkeypatch.setattr(engine._network, "prefill_together", all_of_them)
    monkeypatch.setattr(engine._network, "prefill", out_of_memory)
    answers = [Watched([], prompt) for prompt in ("one", "tw!", "six")]
    for answer in answers:
        engine.submit(Request(answer.name.encode(), max_tokens=4, temperature=0.0), answer)
    engine.start()
    engine.stop(60)
    assert [answer.error for answer in answers] == ["", "this request failed: out of memory", ""]
    assert all(answer.outcome is not None for answer in (answers[0], answers[2]))


def test_a_probe_waits_neither_for_a_place_in_the_queue_nor_for_a_slot(make: Callable[..., Engine]) -> None:
    engine = make(slots=1, waiting=1)
    forever = Watched([], "forever", cancel_after=10**6)
    engine.submit(ask(1, tokens=60_000, temperature=0.0), forever)
    engine.start()
    while not forever.pieces:
        time.sleep(0.01)
    engine.submit(ask(2), Collected())
    probe = Watched([], "probe")
    engine.submit(Request(b"def", max_tokens=1, probe=True), probe)
    assert probe.over.wait(20)
    assert probe.outcome is not None
    assert forever.outcome is None
    engine.stop(0.1)


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(make: Callable[..., Engine]) -> None:
    meter = Meter()
    engine = make(slots=1, meter=meter)
    with pytest.raises(BadRequest, match=r"text_input has 63 tokens, this model reads 62 at most"):
        engine.submit(Request(b"x" * 63), Collected())
    fits = Watched([], "fits")
    engine.submit(Request(b"x" * 62, max_tokens=2), fits)
    engine.start()
    engine.stop(30)
    assert fits.outcome is not None
    assert meter.prompt == fits.outcome.prompt_tokens == 62


def test_only_what_was_read_is_counted(make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_TOKENS", 8)
    monkeypatch.setattr(module, "STEP_TOKENS", 8)
    meter = Meter()
    engine = make(slots=1, meter=meter)

    class Leaves(Collected):
        asked = 0

        def cancelled(self) -> bool:
            self.asked += 1
            return self.asked > 2

    engine.submit(Request(b"x" * 62), Leaves())
    engine.start()
    engine.stop(30)
    assert meter.prompt == 8 * 2 - 1, "two chunks, of which one token is the start of the text"


def test_how_much_there_is_to_do_is_told_without_the_agents_requests(make: Callable[..., Engine]) -> None:
    meter = Meter()
    engine = make(slots=1, meter=meter)
    for _ in range(3):
        engine.submit(Request(b"x", max_tokens=2), Collected())
    engine.submit(Request(b"x", max_tokens=1, probe=True), Collected())
    engine.start()
    engine.stop(30)
    assert meter.loads[0] == (1, 2)
    assert meter.loads[-1] == (1, 0)
    assert {sum(load) for load in meter.loads} <= {1, 2, 3}


def test_a_long_prompt_stalls_nobody(make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_TOKENS", 4)
    monkeypatch.setattr(module, "STEP_TOKENS", 4)
    engine, clock = make(slots=2), list[str]()
    stream, long = Watched(clock, "stream"), Watched(clock, "long")
    engine.submit(ask(1, tokens=30, temperature=0.0), stream)
    engine.submit(Request(b"x" * 60, max_tokens=2, temperature=0.0), long)
    engine.start()
    engine.stop(60)
    assert clock[: clock.index("long")].count("stream") >= 10, "nobody got a token while the prompt was read"
    alone = Collected()
    engine = make(slots=1)
    engine.submit(ask(1, tokens=30, temperature=0.0), alone)
    engine.start()
    engine.stop(60)
    assert stream.text == alone.text


def test_several_prompts_are_read_in_one_step(make: Callable[..., Engine]) -> None:
    engine = make(slots=4)
    for number in range(4):
        engine.submit(ask(number), Collected())
    engine._step()
    assert [sequence.generated for sequence in engine._running.values()] == [2, 2, 2, 2]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=5, max_size=5), min_size=1, max_size=4),
    st.floats(0, 100),
    st.floats(0, 1, exclude_max=True),
)
def test_any_finite_logits_give_a_token(rows: list[list[float]], temperature: float, draw: float) -> None:
    count = len(rows)
    tokens = choose(torch.tensor(rows), [temperature] * count, [draw] * count)
    assert all(token is not None and 0 <= token < 5 for token in tokens)


def test_tokens_come_as_often_as_their_weights_say() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0, -1e30])
    draws = [(number + 0.5) / 10_000 for number in range(10_000)]
    tokens = choose(logits.expand(10_000, 4), [0.7] * 10_000, draws)
    expected = (logits.double() / 0.7).softmax(0).tolist()
    for token, share in enumerate(expected):
        assert tokens.count(token) / 10_000 == pytest.approx(share, abs=1e-3)

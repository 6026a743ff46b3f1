"""Who is computed for and how answers end, with a model that is made up: no transformers, no waiting for arithmetic."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from harness import wait_for
from kept import Kept

from aifactory_server.engines.engine import Engine, Limits
from aifactory_server.engines.meter import Meter
from aifactory_server.engines.model import END, Step
from aifactory_server.engines.request import BadRequest, Request, Unavailable
from aifactory_server.engines.sampling import Sampling

VOCABULARY = 128
END_OF_TEXT = 4
GREEDY = Sampling(temperature=0.0)


class Gives:
    """A structure that allows `a` only, and gives up after two of them."""

    over = False

    def __init__(self) -> None:
        self.taken = 0

    def allowed(self) -> torch.Tensor:
        if self.taken == 2:
            raise RuntimeError("too complex")
        return torch.arange(VOCABULARY) == ord("a")

    def take(self, token: int) -> None:
        self.taken += 1


class Letters:
    """After any letter comes the next one, over and over; a prompt with `!` comes to an end after five tokens.

    It steps as long as it may: `allow(n)` lets it make n steps more, or for ever with None.
    """

    context, room, page, vocabulary = 64, 160, 8, VOCABULARY

    def __init__(self) -> None:
        self.sequences: dict[str, list[int]] = {}
        self.prompts: dict[str, str] = {}
        self.most = 0
        """Sequences that were computed together."""
        self.starts = 0
        self.broken: str | None = None
        self.breaks: list[str] = []
        """What the next steps fail with."""
        self.start_fails: Exception | None = None
        self.refusals: list[tuple[str, str]] = []
        self._came: queue.SimpleQueue[tuple[str, list[int] | None]] = queue.SimpleQueue()
        self._steps: int | None = None
        self._changed = threading.Condition()
        self._over = False

    end_tokens = frozenset({END_OF_TEXT})

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(chr(token) for token in tokens)

    def structure(self, schema: str) -> Any:
        return Gives()

    def start(self, step: Step, cached: Callable[[str, int], None]) -> None:
        if self.start_fails is not None:
            raise self.start_fails
        self.starts += 1
        self.broken = None
        self.sequences = {}
        threading.Thread(target=self._run, args=(step,), daemon=True).start()

    def add(self, sequence: str, tokens: list[int]) -> None:
        self.prompts[sequence] = self.decode(tokens, False)
        with self._changed:
            self._came.put((sequence, tokens))
            self._changed.notify()

    def cancel(self, sequence: str) -> None:
        with self._changed:
            self._came.put((sequence, None))
            self._changed.notify()

    def refused(self) -> list[tuple[str, str]]:
        found, self.refusals = self.refusals, []
        return found

    def failure(self) -> str | None:
        return self.broken

    def stop(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()

    def allow(self, steps: int | None) -> None:
        with self._changed:
            self._steps = steps
            self._changed.notify()

    def _run(self, step: Step) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._over or not self._came.empty() or self._may())
                if self._over:
                    return
                self._take()
                if not self._may():
                    continue
                if self._steps is not None:
                    self._steps -= 1
                if self.breaks:
                    self.broken = self.breaks.pop(0)
                    return
                ids = list(self.sequences)
            self.most = max(self.most, len(ids))
            tokens = step(ids, torch.stack([self._logits(id_) for id_ in ids]))
            with self._changed:
                for id_, token in zip(ids, tokens, strict=True):
                    if token == END:
                        self.sequences.pop(id_, None)
                    else:
                        self.sequences[id_].append(token)

    def _may(self) -> bool:
        return bool(self.sequences) and self._steps != 0

    def _take(self) -> None:
        while not self._came.empty():
            id_, tokens = self._came.get()
            if tokens is None:
                self.sequences.pop(id_, None)
            else:
                self.sequences[id_] = list(tokens)

    def _logits(self, id_: str) -> torch.Tensor:
        said, prompt = self.sequences[id_], self.prompts[id_]
        logits = torch.zeros(VOCABULARY)
        if "?" in prompt:
            return logits * torch.nan
        if "!" in prompt and len(said) >= len(prompt) + 5:
            logits[END_OF_TEXT] = 9.0
        else:
            logits[97 + (said[-1] - 96) % 26 if said[-1] >= 97 else 97] = 9.0
        return logits


@pytest.fixture
def model() -> Letters:
    return Letters()


@pytest.fixture
def make(model: Letters) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def build(meter: Meter | None = None, **limits: Any) -> Engine:
        made.append(Engine(model, Limits(**limits), meter))
        made[-1].start()
        return made[-1]

    yield build
    for engine in made:
        engine.stop(0)


def ask(engine: Engine, text: str = "x", answer: Kept | None = None, **more: Any) -> Kept:
    answer = answer or Kept()
    engine.submit(Request(text, **{"sampling": GREEDY, **more}), answer)
    return answer


def test_an_answer_ends_by_its_length(make: Callable[..., Engine]) -> None:
    answer = ask(make(), "x", max_tokens=5).wait()
    assert (answer.text, answer.reason, answer.tokens, answer.prompt_tokens) == ("yzabc", "length", 5, 1)


def test_an_answer_ends_with_the_text(make: Callable[..., Engine]) -> None:
    """The end token counts as a token, as it does for vLLM, and is no text."""
    engine = make()
    answer = ask(engine, "!a", max_tokens=50).wait()
    assert (answer.text, answer.reason, answer.tokens) == ("bcdef", "stop", 6)
    assert ask(engine, "!a", max_tokens=9, ignore_eos=True).wait().reason == "length"
    assert ask(engine, "!a", max_tokens=50, min_tokens=8).wait().tokens == 9


def test_a_stop_string_ends_it_and_is_never_seen(make: Callable[..., Engine]) -> None:
    answer = ask(make(), "a", max_tokens=40, stop=("hi", "fx")).wait()
    assert (answer.text, answer.reason) == ("bcdefg", "stop")
    assert answer.tokens == 8


def test_a_stop_token_ends_it(make: Callable[..., Engine]) -> None:
    answer = ask(make(), "a", max_tokens=40, stop_token_ids=(ord("e"),)).wait()
    assert (answer.text, answer.reason) == ("bcd", "stop")


def test_the_same_seed_gives_the_same_answer(make: Callable[..., Engine]) -> None:
    engine = make(slots=4)
    hot = Sampling(temperature=5.0)
    texts = [ask(engine, seed=seed, sampling=hot, max_tokens=40).wait().text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    together = [ask(engine, seed=seed, sampling=hot, max_tokens=40) for seed in (2, 1, 3)]
    assert [answer.wait().text for answer in together[:2]] == [texts[2], texts[0]]
    unseeded = {ask(engine, sampling=hot, max_tokens=40).wait().text for _ in range(3)}
    assert len(unseeded) == 3


def test_no_more_run_than_there_are_slots_and_they_come_in_order(model: Letters, make: Callable[..., Engine]) -> None:
    engine = make(slots=2)
    model.allow(0)
    answers = [ask(engine, max_tokens=4) for _ in range(5)]
    assert engine.load == (2, 3)
    model.allow(None)
    for answer in answers:
        answer.wait()
    ends = [answer.times[-1] for answer in answers]
    assert ends == sorted(ends)
    assert model.most == 2


def test_one_is_let_in_only_when_the_cache_has_room_for_all_it_may_become(
    model: Letters, make: Callable[..., Engine]
) -> None:
    engine = make(slots=8)
    model.allow(0)
    long = ask(engine, max_tokens=60)  # 72 of the 160 tokens of room
    other = ask(engine, max_tokens=60)
    third, short = ask(engine, max_tokens=60), ask(engine, max_tokens=1)
    assert engine.load == (2, 2)
    assert model.most <= 1
    model.allow(None)
    assert [answer.wait().tokens for answer in (long, other, third, short)] == [60, 60, 60, 1]
    assert engine.load == (0, 0)


def test_a_probe_waits_for_nobody(model: Letters, make: Callable[..., Engine]) -> None:
    engine = make(slots=1)
    model.allow(0)
    busy = [ask(engine, max_tokens=60) for _ in range(3)]
    probe = ask(engine, max_tokens=1, probe=True)
    model.allow(1)
    assert probe.wait().tokens == 1
    assert not any(answer.over.is_set() for answer in busy)


def test_one_more_than_may_wait_is_refused(model: Letters, make: Callable[..., Engine]) -> None:
    engine = make(slots=1, waiting=2)
    model.allow(0)
    answers = [ask(engine) for _ in range(3)]
    with pytest.raises(Unavailable, match="2 requests are waiting already; ask again later"):
        ask(engine)
    model.allow(None)
    assert [answer.wait().reason for answer in answers] == ["length"] * 3


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        ("x" * 64, {}, "text_input has 64 tokens, this model reads 63 at most"),
        ("x" * 100_000, {}, "text_input has 100000 characters, this model reads 64 tokens at most"),
        ("", {}, "text_input has no token"),
        ("\u0400", {}, "text_input has token 1024, which the model does not know"),
        ("x", {"stop_token_ids": (128,)}, "stop_token_ids has token 128; this model has 0 to 127"),
        ("x", {"sampling": Sampling(logit_bias={500: 1.0})}, "logit_bias has token 500"),
    ],
)
def test_what_the_model_can_not_read_is_refused(
    make: Callable[..., Engine], text: str, more: dict[str, Any], words: str
) -> None:
    engine = make()
    with pytest.raises(BadRequest) as caught:
        ask(engine, text, **more)
    assert words in str(caught.value)
    assert ask(engine).wait().reason == "length"


def test_an_answer_ends_where_the_context_ends(make: Callable[..., Engine]) -> None:
    answer = ask(make(), "x" * 60, max_tokens=50).wait()
    assert (answer.tokens, answer.reason) == (4, "length")


def test_a_client_that_goes_away_frees_its_place(model: Letters, make: Callable[..., Engine]) -> None:
    engine = make(slots=1)
    model.allow(3)
    gone, waiting = Kept(), Kept()
    ask(engine, answer=gone, max_tokens=50)
    ask(engine, answer=waiting)
    patient = ask(engine, max_tokens=2)
    wait_for("some text has come", lambda: gone.pieces, 10)
    gone.gone = waiting.gone = True
    started = time.monotonic()
    gone.wait()
    waiting.wait()
    assert time.monotonic() - started < 0.5
    assert gone.left
    assert waiting.left
    wait_for("its cache is free", lambda: len(model.sequences) <= 1, 10)
    model.allow(None)
    assert patient.wait().tokens == 2


def test_an_answer_that_takes_too_long_is_an_error(model: Letters, make: Callable[..., Engine]) -> None:
    engine = make(slots=1, seconds=0.3)
    model.allow(2)
    slow = ask(engine, max_tokens=50)
    assert "no answer within 0 s, it was given up" in str(slow.wait().error)
    assert isinstance(slow.error, Unavailable)
    model.allow(None)
    assert ask(engine).wait().error is None


def test_a_clients_own_time_limit_counts(model: Letters, make: Callable[..., Engine]) -> None:
    engine = make(slots=1)
    model.allow(0)
    assert "no answer within" in str(ask(engine, seconds=0.1).wait(5).error)


def test_a_request_that_waits_too_long_is_sent_elsewhere(model: Letters, make: Callable[..., Engine]) -> None:
    engine = make(slots=1, waiting_seconds=0.2)
    model.allow(0)
    first, second = ask(engine), ask(engine)
    assert "for its turn; ask again later" in str(second.wait(5).error)
    assert not first.over.is_set()


def test_logits_that_are_no_numbers_end_one_request_only(model: Letters, make: Callable[..., Engine]) -> None:
    engine = make(slots=3)
    model.allow(0)
    bad, good = ask(engine, "?"), ask(engine)
    model.allow(None)
    assert "not finite numbers" in str(bad.wait().error)
    assert good.wait().tokens == 16


def test_a_schema_that_can_be_kept_no_longer_ends_one_request_only(model: Letters, make: Callable[..., Engine]) -> None:
    engine = make()
    strict, free = ask(engine, "b", max_tokens=9, structured_outputs="{}"), ask(engine, "b", max_tokens=9)
    model.allow(None)
    assert (strict.wait().text, str(strict.error)) == ("aa", "this request failed: too complex")
    assert free.wait().text == "cdefghijk"


def test_a_row_that_can_not_be_chosen_from_ends_one_request_only(model: Letters, make: Callable[..., Engine]) -> None:
    class Broken(dict[int, float]):
        def items(self) -> Any:
            raise OverflowError("no such number")

    engine = make(slots=3)
    model.allow(0)
    good, bad = ask(engine), ask(engine, sampling=Sampling(logit_bias=Broken({1: 2.0})))
    model.allow(None)
    assert "this request failed: no such number" in str(bad.wait().error)
    assert good.wait().tokens == 16


def test_a_client_that_can_not_be_answered_hurts_nobody(make: Callable[..., Engine]) -> None:
    class Broken(Kept):
        def piece(self, *_: Any) -> None:
            raise OSError("nobody there")

    engine = make(slots=3)
    ask(engine, answer=Broken())
    assert ask(engine).wait().tokens == 16


def test_what_the_model_refuses_is_told(model: Letters, make: Callable[..., Engine]) -> None:
    engine = make()
    model.allow(0)
    answer = ask(engine)
    model.refusals.append((max(model.prompts, key=int), "no such thing"))
    assert "this request failed: no such thing" in str(answer.wait().error)


def test_a_step_that_fails_is_told_and_the_model_starts_anew(model: Letters, make: Callable[..., Engine]) -> None:
    engine = make(slots=2)
    model.allow(0)
    running = [ask(engine), ask(engine)]
    waiting = ask(engine)
    model.breaks.append("no memory left")
    model.allow(None)
    for answer in running:
        assert "computing failed, ask again: no memory left" in str(answer.wait().error)
    assert waiting.wait().tokens == 16
    assert ask(engine).wait().tokens == 16
    assert model.starts == 2


def test_a_model_that_can_not_start_anew_refuses_all(model: Letters, make: Callable[..., Engine]) -> None:
    """The agent's probe fails too, and after that the agent loads the version anew."""
    engine = make(slots=1)
    model.allow(0)
    running, waiting = ask(engine), ask(engine)
    model.start_fails = RuntimeError("the device is gone")
    model.breaks.append("illegal address")
    model.allow(None)
    assert "ask again: illegal address" in str(running.wait().error)
    assert "illegal address; then: the device is gone" in str(waiting.wait().error)
    for probe in (True, False):
        with pytest.raises(Unavailable, match="can not be computed"):
            ask(engine, probe=probe)


def test_a_model_that_computes_nothing_is_not_loaded(model: Letters) -> None:
    model.breaks.append("not supported")
    engine = Engine(model, Limits())
    with pytest.raises(RuntimeError, match="the model can not be computed: computing failed"):
        engine.start()


def test_a_stop_lets_answers_finish(model: Letters, make: Callable[..., Engine]) -> None:
    engine = make(slots=1)
    model.allow(0)
    answers = [ask(engine), ask(engine)]
    stopping = threading.Thread(target=engine.stop, args=(20,))
    stopping.start()
    wait_for("nothing new is taken", lambda: _refused(engine), 10)
    model.allow(None)
    stopping.join()
    assert [answer.wait(0).tokens for answer in answers] == [16, 16]


def _refused(engine: Engine) -> bool:
    try:
        ask(engine, probe=True)
    except Unavailable as refused:
        return "being unloaded" in str(refused)
    return False


def test_a_stop_leaves_no_answer_open(model: Letters, make: Callable[..., Engine]) -> None:
    engine = make(slots=1)
    model.allow(0)
    answers = [ask(engine), ask(engine)]
    engine.stop(0.1)
    for answer in answers:
        assert "unloaded before the answer was finished" in str(answer.wait(5).error)


def test_log_probabilities_come_with_their_tokens(make: Callable[..., Engine]) -> None:
    answer = ask(make(), "a", max_tokens=6, sampling=Sampling(temperature=0.0, logprobs=2)).wait()
    likely = [one for piece in answer.pieces for one in piece.logprobs]
    assert [one[0].token for one in likely] == [ord(letter) for letter in "bcdefg"]
    assert all(len(one) == 2 and one[0].logprob < 0 for one in likely)


class Counting(Meter):
    def __init__(self) -> None:
        self.prompts, self.firsts, self.nexts, self.probes = 0, 0, 0, 0
        self.loads: set[tuple[int, int]] = set()

    def prompt(self, tokens: int) -> None:
        self.prompts += tokens

    def first_token(self, seconds: float) -> None:
        self.firsts += 1

    def next_token(self, seconds: float) -> None:
        self.nexts += 1

    def probed(self) -> None:
        self.probes += 1

    def load(self, running: int, waiting: int) -> None:
        self.loads.add((running, waiting))


def test_tokens_of_clients_are_counted_and_probes_are_not(model: Letters, make: Callable[..., Engine]) -> None:
    meter = Counting()
    engine = make(meter, slots=1)
    model.allow(0)
    answers = [ask(engine, "abc", max_tokens=5), ask(engine, "ab", max_tokens=5)]
    wait_for("the load is told", lambda: (1, 1) in meter.loads, 10)
    model.allow(None)
    for answer in answers:
        answer.wait()
    ask(engine, probe=True).wait()
    assert (meter.prompts, meter.firsts, meter.nexts) == (5, 2, 8)
    assert meter.probes == 2  # with the engine's own first one


def test_many_at_once_all_get_their_own(make: Callable[..., Engine]) -> None:
    engine = make(slots=5)
    prompts = [chr(97 + number % 26) for number in range(60)]
    answers = [ask(engine, prompt, max_tokens=1 + number % 7) for number, prompt in enumerate(prompts)]
    for number, answer in enumerate(answers):
        expected = [chr(97 + (number + step) % 26) for step in range(1, 2 + number % 7)]
        assert answer.wait().text == "".join(expected)
    assert engine.load == (0, 0)


def test_pieces_know_how_many_tokens_they_are(make: Callable[..., Engine]) -> None:
    """A stop string may hold text back; its tokens come with the text."""
    answer = ask(make(), "a", max_tokens=6, stop=("efx",)).wait()
    assert _pairs(answer.pieces) == [("b", 1), ("c", 1), ("d", 1), ("efg", 3)]


def _pairs(pieces: Sequence[Any]) -> list[tuple[str, int]]:
    return [(piece.text, piece.tokens) for piece in pieces]

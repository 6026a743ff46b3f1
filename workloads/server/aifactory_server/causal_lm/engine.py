"""Continuous batching: one thread computes a token for every running sequence at each step, and sequences join and
leave between steps.

What always holds
- A prompt is read in chunks, and a step reads a bounded number of tokens; whoever generates gets a token in each step,
  however long the prompts of others are.
- Waiting sequences get slots in the order they came. A probe of the agent has a slot of its own and waits for nobody.
- A sequence has one slot of the network's cache from its first chunk until it ends, for whatever reason.
- The past that does not fit the context is forgotten by halves: the last half of the context is read again, as
  `aifactory_trainer.model.generate` does.
- A sequence's tokens depend on its own request only, not on its neighbours (up to rounding of the arithmetic): chunks
  are cut by the prompt's own length, and chance comes from a generator of its own.
- What is wrong with one sequence ends that one: a prompt that can not be computed, logits that are no numbers, a client
  that can not be answered. Only a step that fails as a whole ends all that run.
- No answer is left open, and no exception ends the thread.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from aifactory_server.causal_lm.network import Network
from aifactory_server.causal_lm.request import BadRequest, Request
from aifactory_server.causal_lm.text import TextStream

_log = logging.getLogger(__name__)
_LAST_STEP_SECONDS = 10.0
CHUNK_TOKENS = 128
"""Of a prompt that is read at once: 20 ms for a model of 10 M weights on one core."""
STEP_TOKENS = 256
"""Prompt tokens that are read in one step at most, a chunk more or less."""
GREEDY_TEMPERATURE = 1e-5
"""Below this the likeliest token is the only one that float32 leaves any chance."""


class QueueFull(Exception):
    """More requests wait than the engine takes."""


@dataclass(frozen=True)
class Outcome:
    """How an answer ended: `stop` (end of text or a stop string) or `length` (max_tokens)."""

    finish_reason: str
    prompt_tokens: int
    generated_tokens: int


class Answer(Protocol):
    """Where a sequence's text goes. Called from the engine's thread; must not block for long."""

    def piece(self, text: str) -> None:
        """More text."""

    def done(self, outcome: Outcome) -> None:
        """The end; nothing follows."""

    def failed(self, message: str) -> None:
        """The end, by an error; nothing follows."""

    def cancelled(self) -> bool:
        """Whether nobody listens any more."""


class Meter(Protocol):
    """Counts tokens. Called from the engine's thread."""

    def count(self, prompt: int, generated: int) -> None:
        """Tokens that were read and generated."""

    def probed(self) -> None:
        """A request of the agent was answered."""

    def load(self, running: int, waiting: int) -> None:
        """So many requests of clients there are."""

    def flush(self) -> None:
        """There is nothing to do for a while."""


@dataclass
class _Sequence:
    request: Request
    answer: Answer
    tokens: list[int]
    """The prompt and what was generated."""
    chance: random.Random
    stream: TextStream
    prompt_tokens: int = field(init=False)
    unread: deque[int] = field(init=False)
    """Tokens that the cache must have before the next one can be generated; empty while it generates."""
    cached: int = 0
    """Tokens of it in the cache."""
    read: int = 0
    """Tokens of the prompt that were computed."""
    generated: int = 0

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens) - 1
        self.unread = deque(self.tokens)


class Engine:
    """Runs sequences on one network.

    Args:
        max_waiting: requests that may wait for a slot before new ones are refused.
    """

    def __init__(self, network: Network, max_waiting: int, meter: Meter) -> None:
        self._network = network
        self._max_waiting = max_waiting
        self._meter = meter
        self._waiting: deque[_Sequence] = deque()
        self._probes: deque[_Sequence] = deque()
        self._running: dict[int, _Sequence] = {}
        """By slot; the reading ones in the order of their turns."""
        self._changed = threading.Condition()
        self._stopping = False
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start computing."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Take nothing new, finish what runs and waits, and end; what is not done by then is told so."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_seconds)
        self._given_up = True
        self._thread.join(_LAST_STEP_SECONDS)

    def submit(self, request: Request, answer: Answer) -> None:
        """Queue a request. Raises BadRequest if the prompt is too long, and QueueFull; a probe is always taken."""
        # The start of the text and the first generated token need a position each.
        limit = self._network.config.context - 2
        prompt = request.prompt[-limit:] if request.probe and limit else request.prompt
        if len(prompt) > limit:
            raise BadRequest(
                f"text_input has {len(prompt)} tokens, this model reads {limit} at most; send a shorter one"
            )
        tokens = [self._network.config.end_of_text, *prompt]
        chance = random.Random(request.seed)  # None: from the system's randomness
        sequence = _Sequence(request, answer, tokens, chance, TextStream(request.stops))
        with self._changed:
            if self._stopping:
                raise QueueFull("the model is being unloaded; ask again, another version answers")
            if request.probe:
                self._probes.append(sequence)
            elif len(self._waiting) >= self._max_waiting:
                raise QueueFull(f"{len(self._waiting)} requests are waiting already; ask again later")
            else:
                self._waiting.append(sequence)
            self._changed.notify()

    @property
    def load(self) -> tuple[int, int]:
        """How many sequences run and how many wait."""
        with self._changed:
            return len(self._running), len(self._waiting) + len(self._probes)

    def _run(self) -> None:
        while self._wait_for_work():
            if self._given_up:
                self._fail_all("the model was unloaded before the answer was finished")
                return
            try:
                self._step()
            except Exception as error:
                _log.exception("a step failed")
                self._fail_running(f"computing failed: {error}")

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._waiting or self._probes or self._running):
                self._count(self._meter.flush)
                if self._stopping:
                    return False
                self._changed.wait()
            return True

    def _step(self) -> None:
        self._admit()
        for slot, sequence in list(self._running.items()):
            with self._only(slot, sequence):
                if sequence.answer.cancelled():
                    del self._running[slot]
        self._emit(self._read())
        self._emit(self._decode())

    def _admit(self) -> None:
        """Give the free slots to those that wait, the lowest first: steps are over the first slots only."""
        with self._changed:
            free = [slot for slot in range(self._network.slots) if slot not in self._running]
            for slots, waiting in (([self._network.probe_slot], self._probes), (free, self._waiting)):
                for slot in slots:
                    if waiting and slot not in self._running:
                        self._running[slot] = waiting.popleft()
            running, still = sum(slot != self._network.probe_slot for slot in self._running), len(self._waiting)
        self._count(self._meter.load, running, still)

    def _read(self) -> dict[int, Tensor]:
        """A chunk for each in turn, up to the step's limit; logits of those that are at their end."""
        budget, logits = STEP_TOKENS, dict[int, Tensor]()
        whole = defaultdict[int, dict[int, list[int]]](dict)
        """Prompts that are read at once, by about how long they are, so that none is filled up to twice its length."""
        while budget > 0:
            slot = next((slot for slot, sequence in self._running.items() if sequence.unread), None)
            if slot is None:
                break
            sequence = self._running.pop(slot)
            self._running[slot] = sequence  # at the end: the others' turn is next
            with self._only(slot, sequence):
                chunk = [sequence.unread.popleft() for _ in range(min(CHUNK_TOKENS, len(sequence.unread)))]
                budget -= len(chunk)
                if not sequence.cached and not sequence.unread:
                    whole[len(chunk).bit_length()][slot] = chunk
                    continue
                last = self._network.prefill(slot, chunk, sequence.cached)
                self._note_read(sequence, len(chunk))
                if not sequence.unread:
                    logits[slot] = last
        for chunks in whole.values():
            logits |= self._read_together(chunks)
        return logits

    def _read_together(self, chunks: Mapping[int, list[int]]) -> dict[int, Tensor]:
        """Whole prompts in one go; where that fails, each by itself, so that it is one of them that fails."""
        found = dict[int, Tensor]()
        if len(chunks) > 1:
            try:
                found = dict(zip(chunks, self._network.prefill_together(chunks), strict=True))
            except Exception:
                _log.exception("prompts could not be read together")
        for slot, chunk in chunks.items():
            with self._only(slot, self._running[slot]):
                if slot not in found:
                    found[slot] = self._network.prefill(slot, chunk)
                self._note_read(self._running[slot], len(chunk))
        return {slot: last for slot, last in found.items() if slot in self._running}

    def _note_read(self, sequence: _Sequence, count: int) -> None:
        """So much more is in the cache. A prompt's tokens count once, when computed; the start of the text is none."""
        sequence.cached += count
        before, sequence.read = sequence.read, min(sequence.read + count, len(sequence.tokens))
        new = min(sequence.read, sequence.prompt_tokens + 1) - max(before, 1)
        if new > 0 and not sequence.generated and not sequence.request.probe:
            self._count(self._meter.count, new, 0)

    def _decode(self) -> dict[int, Tensor]:
        """Logits of one more token for every sequence that is not reading."""
        context = self._network.config.context
        for sequence in self._running.values():
            if not sequence.unread and sequence.cached == context:
                # The newest token is not in the cache yet; reading the last half again takes it along.
                sequence.unread.extend(sequence.tokens[-max(1, context // 2) :])
                sequence.cached = 0
        active = {slot: sequence for slot, sequence in self._running.items() if not sequence.unread}
        if not active:
            return {}
        rows = max(active) + 1
        tokens, lengths = [0] * rows, [0] * rows
        for slot, sequence in active.items():
            tokens[slot], lengths[slot] = sequence.tokens[-1], sequence.cached
        # A row that is not asked for is written at a position of its own, which its sequence has not come to yet.
        for slot, sequence in self._running.items():
            if slot < rows and sequence.unread:
                lengths[slot] = sequence.cached
        logits = self._network.decode(tokens, lengths)
        for sequence in active.values():
            sequence.cached += 1
        return {slot: logits[slot] for slot in active}

    def _emit(self, logits: dict[int, Tensor]) -> None:
        """Choose the next token of each, let its text leave, and end the sequences that are at their end."""
        if not logits:
            return
        sequences = [self._running[slot] for slot in logits]
        temperatures = [sequence.request.temperature for sequence in sequences]
        draws = [sequence.chance.random() for sequence in sequences]
        tokens = choose(torch.stack(list(logits.values())).cpu(), temperatures, draws)
        for slot, sequence, token in zip(logits, sequences, tokens, strict=True):
            with self._only(slot, sequence):
                if token is None:
                    raise ArithmeticError("the model's logits are not finite numbers; publish one that is healthy")
                self._take(slot, sequence, token)

    def _take(self, slot: int, sequence: _Sequence, token: int) -> None:
        ended = token >= 256
        if not ended:
            sequence.tokens.append(token)
            sequence.generated += 1
            if not sequence.request.probe:
                self._count(self._meter.count, 0, 1)
            self._send(sequence, sequence.stream.push(bytes([token])))
        if ended or sequence.stream.stopped or sequence.generated >= sequence.request.max_tokens:
            self._send(sequence, sequence.stream.finish())
            finish_reason = "stop" if ended or sequence.stream.stopped else "length"
            sequence.answer.done(Outcome(finish_reason, sequence.prompt_tokens, sequence.generated))
            del self._running[slot]
            if sequence.request.probe:
                self._count(self._meter.probed)

    def _send(self, sequence: _Sequence, text: str) -> None:
        if text:
            sequence.answer.piece(text)

    def _count(self, call: Callable[..., None], *amounts: int) -> None:
        """Counting is for nobody's answer to fail by."""
        try:
            call(*amounts)
        except Exception:
            _log.exception("tokens were not counted")

    @contextmanager
    def _only(self, slot: int, sequence: _Sequence) -> Iterator[None]:
        """What fails in this block ends one sequence and nothing else."""
        try:
            yield
        except Exception as error:
            _log.exception("a request failed")
            self._running.pop(slot, None)
            _tell(sequence, f"this request failed: {error}")

    def _fail_all(self, message: str) -> None:
        self._fail_running(message)
        with self._changed:
            waiting = [*self._probes, *self._waiting]
            self._probes.clear()
            self._waiting.clear()
        for sequence in waiting:
            _tell(sequence, message)

    def _fail_running(self, message: str) -> None:
        failed, self._running = self._running, {}
        for sequence in failed.values():
            _tell(sequence, message)


def _tell(sequence: _Sequence, message: str) -> None:
    try:
        sequence.answer.failed(message)
    except Exception:
        _log.exception("a client could not be told that its request failed")


def choose(logits: Tensor, temperatures: Sequence[float], draws: Sequence[float]) -> list[int | None]:
    """A token for each row, or None where a logit is no finite number.

    Args:
        logits: on the CPU, a row a sequence.
        draws: one number from 0 to below 1 a row, the chance that goes into it.
    """
    values = logits.double()
    # The largest weight is 1 whatever the temperature is, so none overflows and their sum is never 0.
    divisors = torch.tensor([max(temperature, GREEDY_TEMPERATURE) for temperature in temperatures]).double()
    sums = ((values - values.amax(1, keepdim=True)) / divisors.unsqueeze(1)).exp().cumsum(1)
    wanted = torch.tensor(draws, dtype=torch.float64).unsqueeze(1) * sums[:, -1:]
    drawn = torch.searchsorted(sums, wanted, right=True).squeeze(1).clamp(max=values.shape[1] - 1).tolist()
    likeliest, healthy = values.argmax(1).tolist(), values.isfinite().all(1).tolist()
    return [
        (likeliest[row] if temperature <= GREEDY_TEMPERATURE else drawn[row]) if healthy[row] else None
        for row, temperature in enumerate(temperatures)
    ]

"""Continuous batching: one thread computes a token for every running sequence at each step, and sequences join and
leave between steps.

What always holds
- One new sequence is prefilled in a step, so those that run go on while others arrive.
- Waiting sequences are served in the order they came.
- A sequence has one slot of the network's cache from its prefill until it ends, for whatever reason.
- The past that does not fit the context is forgotten by halves: the slot is prefilled again with the last half of the
  context, as `aifactory_trainer.model.generate` does.
- A sequence's tokens depend on its own request only, not on its neighbours (up to rounding of the arithmetic).
- No answer is left open: when computing fails, everybody concerned is told.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from aifactory_server.causal_lm.network import Network
from aifactory_server.causal_lm.request import Request
from aifactory_server.causal_lm.text import TextStream

_log = logging.getLogger(__name__)
_LAST_STEP_SECONDS = 10.0


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

    def flush(self) -> None:
        """Nothing will be counted for a while."""


@dataclass
class _Sequence:
    request: Request
    answer: Answer
    tokens: list[int]
    """The prompt and what was generated."""
    generator: torch.Generator
    stream: TextStream
    cached: int = 0
    """Tokens of it in the cache."""
    generated: int = 0
    prompt_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens) - 1


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
        self._running: list[_Sequence | None] = [None] * network.slots
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
        """Queue a request. Raises QueueFull; a probe is always taken."""
        generator = torch.Generator()
        generator.manual_seed(secrets.randbits(63) if request.seed is None else request.seed)
        tokens = [self._network.config.end_of_text, *request.prompt]
        sequence = _Sequence(request, answer, tokens, generator, TextStream(request.stops))
        with self._changed:
            if self._stopping:
                raise QueueFull("the model is being unloaded; ask again, another version answers")
            if len(self._waiting) >= self._max_waiting and not request.probe:
                raise QueueFull(f"{len(self._waiting)} requests are waiting already; ask again later")
            self._waiting.append(sequence)
            self._changed.notify()

    @property
    def load(self) -> tuple[int, int]:
        """How many sequences run and how many wait."""
        with self._changed:
            return sum(sequence is not None for sequence in self._running), len(self._waiting)

    def _run(self) -> None:
        while self._wait_for_work():
            if self._given_up:
                self._fail_all("the model was unloaded before the answer was finished")
                return
            try:
                self._admit()
                self._decode()
            except Exception as error:
                _log.exception("a step failed")
                self._fail_running(f"computing failed: {error}")

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not self._waiting and not any(self._running):
                self._meter.flush()
                if self._stopping:
                    return False
                self._changed.wait()
            return True

    def _admit(self) -> None:
        """Prefill the first waiting sequence into a free slot, the lowest: steps are over the first slots only."""
        with self._changed:
            slot = next((slot for slot, sequence in enumerate(self._running) if sequence is None), None)
            if slot is None or not self._waiting:
                return
            sequence = self._waiting.popleft()
            self._running[slot] = sequence
        if sequence.answer.cancelled():
            self._running[slot] = None
            return
        if not sequence.request.probe:
            self._meter.count(sequence.prompt_tokens, 0)
        # One position is left for the first generated token.
        self._emit(slot, sequence, self._prefill(slot, sequence, self._network.config.context - 1))

    def _prefill(self, slot: int, sequence: _Sequence, window: int) -> Tensor:
        tokens = sequence.tokens[-window:]
        sequence.cached = len(tokens)
        return self._network.prefill(slot, tokens)

    def _decode(self) -> None:
        """One token for every running sequence."""
        context = self._network.config.context
        for slot, sequence in enumerate(self._running):
            if sequence is None:
                continue
            if sequence.answer.cancelled():
                self._running[slot] = None
            elif sequence.cached == context:
                # The newest token is not in the cache yet; prefilling the last half again takes it along.
                self._emit(slot, sequence, self._prefill(slot, sequence, max(1, context // 2)))
        active = [(slot, sequence) for slot, sequence in enumerate(self._running) if sequence is not None]
        if not active:
            return
        rows = active[-1][0] + 1
        tokens, lengths = [0] * rows, [0] * rows
        for slot, sequence in active:
            tokens[slot], lengths[slot] = sequence.tokens[-1], sequence.cached
        logits = self._network.decode(tokens, lengths)
        for slot, sequence in active:
            sequence.cached += 1
            self._emit(slot, sequence, logits[slot])

    def _emit(self, slot: int, sequence: _Sequence, logits: Tensor) -> None:
        """Sample the next token, let its text leave, and end the sequence if it is at its end."""
        token = _sample(logits, sequence.request.temperature, sequence.generator)
        ended = token >= 256
        if not ended:
            sequence.tokens.append(token)
            sequence.generated += 1
            if not sequence.request.probe:
                self._meter.count(0, 1)
            self._send(sequence, sequence.stream.push(bytes([token])))
        if ended or sequence.stream.stopped or sequence.generated >= sequence.request.max_tokens:
            self._running[slot] = None
            self._send(sequence, sequence.stream.finish())
            if sequence.request.probe:
                self._meter.probed()
            finish_reason = "stop" if ended or sequence.stream.stopped else "length"
            sequence.answer.done(Outcome(finish_reason, sequence.prompt_tokens, sequence.generated))

    def _send(self, sequence: _Sequence, text: str) -> None:
        if text:
            sequence.answer.piece(text)

    def _fail_all(self, message: str) -> None:
        self._fail_running(message)
        with self._changed:
            waiting, self._waiting = self._waiting, deque()
        for sequence in waiting:
            sequence.answer.failed(message)

    def _fail_running(self, message: str) -> None:
        with self._changed:
            failed, self._running = self._running, [None] * self._network.slots
        for sequence in failed:
            if sequence is not None:
                sequence.answer.failed(message)


def _sample(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    weights = (logits.cpu() / temperature).softmax(dim=-1)
    return int(torch.multinomial(weights, 1, generator=generator))

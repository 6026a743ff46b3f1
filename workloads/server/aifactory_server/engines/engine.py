"""Who is computed for, and how each answer ends.

What always holds
- Waiting requests come in the order they came. One is let in when a slot is free and the cache has room for the longest
  it may become, so nobody who runs is ever put off again. A probe of the agent waits for nobody.
- A sequence's cache is free in the step that ends it: by a stop, by its length, by a client that has gone, by a time
  limit, by an error of its own.
- What is wrong with one request ends that one. If a whole step fails, those that ran are told to ask again, and the
  model starts anew; if it can not, every request is refused, the agent's too, which then loads the version anew.
- No answer is left open, no exception ends a thread, nothing waits for ever, and no queue is without a limit.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aifactory_server.causal_lm.text import TextStream
from aifactory_server.engines.detokenizer import Detokenizer
from aifactory_server.engines.meter import Meter
from aifactory_server.engines.model import END, Model
from aifactory_server.engines.request import Answer, BadRequest, Piece, Request, Unavailable
from aifactory_server.engines.sampling import Choice, Likely, Row, Sampling, choose

if TYPE_CHECKING:
    from aifactory_server.engines.structure import Structure

_log = logging.getLogger(__name__)
_WATCH_SECONDS = 0.05
_ASKED_AT_ONCE = 32
"""Clients that are asked each time whether they have gone: a question costs a message to the server process."""
_OUTBOX = 4096
"""Pieces that may wait to be sent before computing waits for them."""
_LAST_SECONDS = 10.0
_FIRST_TEXT = "a"
_FIRST_SECONDS = 300.0
_LONGEST_TOKEN = 24
"""Characters of text a token can have on the average of any prompt that is worth reading."""


@dataclass(frozen=True)
class Limits:
    """How much at once, and for how long."""

    slots: int = 16
    """Requests that are computed together."""
    waiting: int = 256
    """Requests that may wait; one more is refused."""
    waiting_seconds: float = 60.0
    """How long a request may wait for a slot."""
    seconds: float = 1800.0
    """How long an answer may take in all."""


@dataclass
class _Sequence:
    id: str
    request: Request
    answer: Answer
    prompt: list[int]
    most: int
    """Tokens it may generate."""
    reserved: int
    """Room in the cache."""
    detokenizer: Detokenizer
    chance: random.Random
    stops: frozenset[int]
    """Tokens that end it."""
    structure: Structure | None
    """What it keeps to."""
    came: float = field(default_factory=time.monotonic)
    deadline: float = float("inf")
    generated: list[int] = field(default_factory=list)
    text: TextStream = field(init=False)
    last: float = 0.0
    """When its last token came."""
    told: int = 0
    """Tokens that are in the pieces sent so far."""
    logprobs: list[Sequence[Likely]] = field(default_factory=list)
    """Of the tokens since then."""

    def __post_init__(self) -> None:
        self.text = TextStream(self.request.stop)

    def row(self) -> Row:
        banned = sorted(self.stops) if len(self.generated) < self.request.min_tokens else ()
        allowed = None if self.structure is None else self.structure.allowed()
        return Row(self.request.sampling, self.chance.random(), self.prompt, self.generated, banned, allowed)


class Engine:
    """Answers requests with one model."""

    def __init__(self, model: Model, limits: Limits, meter: Meter | None = None) -> None:
        self._model, self._limits, self._meter = model, limits, meter or Meter()
        self._lock = threading.Lock()
        self._waiting: deque[_Sequence] = deque()
        self._running: dict[str, _Sequence] = {}
        self._reserved = 0
        self._ids = count()
        self._asked = 0
        self._stopping = False
        self._down = False
        """Between a failure of the model and its new start."""
        self._broken: str | None = None
        self._over = threading.Event()
        self._outbox: queue.Queue[Callable[[], None] | None] = queue.Queue(_OUTBOX)
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._send, "answers"), (self._watch, "watch"))
        ]

    def start(self) -> None:
        """Begin to compute. Raises RuntimeError if the model can not compute a token, which is the slow first one."""
        self._model.start(self._step, self._cached)
        for thread in self._threads:
            thread.start()
        first = _First()
        self.submit(Request(_FIRST_TEXT, max_tokens=1, sampling=Sampling(temperature=0.0), probe=True), first)
        if not first.over.wait(_FIRST_SECONDS):
            first.error = TimeoutError(f"it computed no token within {_FIRST_SECONDS:.0f} s")
        if first.error is not None:
            self.stop(0)
            raise RuntimeError(f"the model can not be computed: {first.error}") from first.error

    def submit(self, request: Request, answer: Answer) -> None:
        """Queue a request. Raises BadRequest or Unavailable; a probe is always taken."""
        sequence = self._sequence(request, answer)
        with self._lock:
            if self._broken is not None:
                raise Unavailable(f"the model can not be computed: {self._broken}")
            if self._stopping:
                raise Unavailable("the model is being unloaded; ask again, another version answers")
            if request.probe and self._down:
                raise Unavailable("the model starts anew after a failure; ask again")
            if request.probe:
                self._let_in(sequence)
            elif len(self._waiting) >= self._limits.waiting:
                raise Unavailable(f"{len(self._waiting)} requests are waiting already; ask again later")
            else:
                self._waiting.append(sequence)
                self._admit()

    def stop(self, seconds: float) -> None:
        """Take nothing new, finish what runs and waits, and end; what is not done by then is told so."""
        with self._lock:
            self._stopping = True
        deadline = time.monotonic() + seconds
        while self.load != (0, 0) and time.monotonic() < deadline:
            time.sleep(_WATCH_SECONDS)
        self._fail_all(Unavailable("the model was unloaded before the answer was finished"))
        self._over.set()
        self._model.stop()
        with suppress(queue.Full):
            self._outbox.put(None, timeout=_LAST_SECONDS)
        for thread in self._threads:
            thread.join(_LAST_SECONDS)

    @property
    def load(self) -> tuple[int, int]:
        """How many requests run and how many wait."""
        with self._lock:
            return len(self._running), len(self._waiting)

    # From a request to a sequence: in the thread of who asks.

    def _sequence(self, request: Request, answer: Answer) -> _Sequence:
        model = self._model
        # A text of many million characters would keep the tokenizer busy, only to be refused.
        if len(request.text) > _LONGEST_TOKEN * model.context:
            raise BadRequest(
                f"text_input has {len(request.text)} characters, this model reads {model.context} tokens at most; "
                "send a shorter one"
            )
        prompt = model.encode(request.text)
        if not prompt:
            raise BadRequest("text_input has no token; send some text")
        if len(prompt) >= model.context:
            raise BadRequest(
                f"text_input has {len(prompt)} tokens, this model reads {model.context - 1} at most and writes at "
                "least one; send a shorter one"
            )
        if max(prompt) >= model.vocabulary:
            raise BadRequest(f"text_input has token {max(prompt)}, which the model does not know; its tokenizer does")
        for name, tokens in (
            ("stop_token_ids", request.stop_token_ids),
            ("logit_bias", request.sampling.logit_bias),
        ):
            wrong = [token for token in tokens if not 0 <= token < model.vocabulary]
            if wrong:
                raise BadRequest(f"{name} has token {wrong[0]}; this model has 0 to {model.vocabulary - 1}")
        ends = frozenset() if request.ignore_eos else model.end_tokens
        schema = request.structured_outputs
        most = min(request.max_tokens, model.context - len(prompt))
        now = time.monotonic()
        return _Sequence(
            id=f"{next(self._ids)}",
            request=request,
            answer=answer,
            prompt=prompt,
            most=most,
            reserved=(-(-(len(prompt) + most) // model.page) + 1) * model.page,
            detokenizer=Detokenizer(lambda tokens: model.decode(tokens, request.skip_special_tokens), prompt),
            chance=random.Random(request.seed),  # None: from the system's randomness
            stops=ends.union(request.stop_token_ids),
            structure=None if schema is None else model.structure(schema),
            came=now,
            deadline=now + min(self._limits.seconds, request.seconds or self._limits.seconds),
        )

    def _admit(self) -> None:
        """Let those in that there is room for. Called with the lock held."""
        while self._waiting and self._taken() < self._limits.slots and not self._down:
            if self._running and self._reserved + self._waiting[0].reserved > self._model.room:
                return  # the first waits until it fits: if others went past it, a long one would never come
            self._let_in(self._waiting.popleft())

    def _taken(self) -> int:
        return sum(not sequence.request.probe for sequence in self._running.values())

    def _let_in(self, sequence: _Sequence) -> None:
        self._running[sequence.id] = sequence
        self._reserved += sequence.reserved
        self._model.add(sequence.id, sequence.prompt)

    def _leave(self, sequence: _Sequence) -> bool:
        """Take it out of those that run or wait; False if another thread did."""
        with self._lock:
            if self._running.pop(sequence.id, None) is not None:
                self._reserved -= sequence.reserved
            elif sequence in self._waiting:
                self._waiting.remove(sequence)
            else:
                return False
            self._admit()
            return True

    # Steps: in the model's thread.

    def _step(self, ids: Sequence[str], logits: Tensor) -> list[int]:
        with self._lock:
            found = [self._running.get(id_) for id_ in ids]
        live: list[tuple[int, _Sequence]] = []
        rows: list[Row] = []
        for index, sequence in enumerate(found):
            if sequence is not None:
                with self._only(sequence):
                    rows.append(sequence.row())
                    live.append((index, sequence))
        tokens = [END] * len(ids)
        if live:
            if len(live) < len(ids):
                logits = logits[torch.tensor([index for index, _ in live], device=logits.device)]
            try:
                choices: Sequence[Choice | None] | None = choose(logits, rows)
            except Exception:  # of one row; which one is seen when they are chosen one by one
                choices = None
            for row, (index, sequence) in enumerate(live):
                with self._only(sequence):
                    choice = choices[row] if choices else choose(logits[row : row + 1], rows[row : row + 1])[0]
                    tokens[index] = self._take(sequence, choice)
        return tokens

    def _take(self, sequence: _Sequence, choice: Choice | None) -> int:
        """A token more; returns it, or END."""
        if choice is None:
            raise ArithmeticError("the model's logits are not finite numbers; publish one that is healthy")
        request, token = sequence.request, choice.token
        self._note(sequence)
        sequence.generated.append(token)
        if choice.logprobs:
            sequence.logprobs.append(choice.logprobs)
        ended, structure = token in sequence.stops, sequence.structure
        if structure is not None and not ended:
            structure.take(token)
        text = "" if ended else self._text(sequence, sequence.detokenizer.push(token))
        if ended or sequence.text.stopped or (structure is not None and structure.over):
            reason = "stop"
        elif len(sequence.generated) >= sequence.most:
            reason = "length"
        else:
            if text:
                self._post(sequence, text)
            return token
        if not sequence.text.stopped:
            text += self._text(sequence, sequence.detokenizer.finish()) + sequence.text.finish()
            reason = "stop" if sequence.text.stopped else reason
        if self._leave(sequence):
            self._post(sequence, text, reason)
            if request.probe:
                self._meter.probed()
        return END

    def _text(self, sequence: _Sequence, text: str) -> str:
        return sequence.text.push(text.encode(errors="replace")) if text else ""

    def _post(self, sequence: _Sequence, text: str, reason: str | None = None) -> None:
        piece = Piece(text, len(sequence.generated) - sequence.told, sequence.logprobs, reason)
        sequence.told, sequence.logprobs = len(sequence.generated), []
        self._outbox.put(lambda: sequence.answer.piece(piece, len(sequence.prompt)))

    def _note(self, sequence: _Sequence) -> None:
        now = time.monotonic()
        if not sequence.request.probe:
            if sequence.generated:
                self._meter.next_token(now - sequence.last)
            else:
                self._meter.prompt(len(sequence.prompt))
                self._meter.first_token(now - sequence.came)
        sequence.last = now

    def _cached(self, sequence: str, tokens: int) -> None:
        with self._lock:
            found = self._running.get(sequence)
        if found is not None and not found.generated and not found.request.probe:
            self._meter.cached(tokens)

    @contextmanager
    def _only(self, sequence: _Sequence) -> Iterator[None]:
        """What fails in this block ends one sequence and nothing else."""
        try:
            yield
        except Exception as error:
            _log.exception("a request failed")
            self._fail(sequence, RuntimeError(f"this request failed: {error}"))

    # How answers end otherwise: in any thread.

    def _fail(self, sequence: _Sequence, error: Exception) -> None:
        if self._leave(sequence):
            self._outbox.put(lambda: sequence.answer.failed(error))

    def _fail_all(self, error: Exception, waiting: bool = True) -> None:
        with self._lock:
            failed = list(self._running.values()) + (list(self._waiting) if waiting else [])
            self._running.clear()
            self._reserved = 0
            if waiting:
                self._waiting.clear()
        for sequence in failed:
            self._outbox.put(lambda sequence=sequence: sequence.answer.failed(error))  # type: ignore[misc]

    def _send(self) -> None:
        """Sending takes as long as computing does for a small model, so it has a thread of its own."""
        while (send := self._outbox.get()) is not None:
            try:
                send()
            except Exception:
                _log.exception("a client could not be answered")

    # What nobody asks for: in the watching thread.

    def _watch(self) -> None:
        while not self._over.wait(_WATCH_SECONDS):
            try:
                self._look()
            except Exception:
                _log.exception("the engine could not be looked after; it is tried again")

    def _look(self) -> None:
        failure = self._model.failure()
        if failure is not None and not self._over.is_set() and self._broken is None:
            self._start_anew(failure)
        for id_, why in self._model.refused():
            with self._lock:
                sequence = self._running.get(id_)
            if sequence is not None:
                self._fail(sequence, RuntimeError(f"this request failed: {why}"))
        now = time.monotonic()
        with self._lock:
            running, waiting = list(self._running.values()), list(self._waiting)
        self._meter.load(len(running), len(waiting))
        for sequence in running:
            if now > sequence.deadline:
                self._cancel(sequence, Unavailable(f"no answer within {now - sequence.came:.0f} s, it was given up"))
        for sequence in waiting:
            if now > min(sequence.deadline, sequence.came + self._limits.waiting_seconds):
                self._fail(sequence, Unavailable(f"waited {now - sequence.came:.0f} s for its turn; ask again later"))
        self._ask_who_listens(running, waiting)

    def _ask_who_listens(self, running: list[_Sequence], waiting: list[_Sequence]) -> None:
        """Those that run each time, those that wait by turns."""
        self._asked = self._asked % len(waiting) if waiting else 0
        turn = [*waiting[self._asked :], *waiting[: self._asked]][: max(0, _ASKED_AT_ONCE - len(running))]
        self._asked += len(turn)
        for sequence in [*running, *turn]:
            if sequence.answer.cancelled():
                self._cancel(sequence, None)

    def _cancel(self, sequence: _Sequence, error: Exception | None) -> None:
        if self._leave(sequence):
            self._model.cancel(sequence.id)
            answer = sequence.answer
            self._outbox.put(answer.dropped if error is None else lambda: answer.failed(error))

    def _start_anew(self, failure: str) -> None:
        _log.error("computing failed, the model starts anew: %s", failure)
        with self._lock:
            self._down = True
        self._fail_all(Unavailable(f"computing failed, ask again: {failure}"), waiting=False)
        try:
            self._model.start(self._step, self._cached)
        except Exception as error:
            _log.exception("the model can not start anew")
            with self._lock:
                self._broken = f"{failure}; then: {error}"
            self._fail_all(Unavailable(f"the model can not be computed: {self._broken}"))
            return
        with self._lock:
            self._down = False
            self._admit()


class _First:
    """Who asks for the first token."""

    error: Exception | None = None

    def __init__(self) -> None:
        self.over = threading.Event()

    def piece(self, piece: Piece, prompt_tokens: int) -> None:
        self.over.set()

    def failed(self, error: Exception) -> None:
        self.error = error
        self.over.set()

    def dropped(self) -> None: ...

    def cancelled(self) -> bool:
        return False

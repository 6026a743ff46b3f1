"""What the engine is asked for, and how it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aifactory_server.engines.sampling import Likely, Sampling


class BadRequest(ValueError):
    """The request can not be answered; the message tells the client what to write instead."""


class Unavailable(Exception):
    """The request can not be answered here and now; the message tells the client so, and it may ask elsewhere."""


@dataclass(frozen=True)
class Request:
    """One text to go on with; names and defaults are those of vLLM's SamplingParams.

    Attributes:
        structured_outputs: a JSON schema or a structural tag (`tags`) that the answer is to keep to, None for any text.
        seconds: the client's own time limit, None for none.
        probe: the agent asks; it waits for nobody, and its tokens are not counted.
    """

    text: str
    max_tokens: int = 16
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    seed: int | None = None
    structured_outputs: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    seconds: float | None = None
    probe: bool = False


@dataclass(frozen=True)
class Piece:
    """Some more of an answer."""

    text: str
    tokens: int
    """Tokens that were generated since the last piece."""
    logprobs: Sequence[Sequence[Likely]] = ()
    """For each of those tokens: its own, then the likeliest; empty if they were not asked for."""
    finish_reason: str | None = None
    """In the last piece: `stop` (the end of the text, a stop string or a stop token) or `length`."""


class Answer(Protocol):
    """Where an answer goes. All but `cancelled` are called from one thread; none must block for long."""

    def piece(self, piece: Piece, prompt_tokens: int) -> None:
        """More text; nothing follows if it has a finish_reason."""

    def failed(self, error: Exception) -> None:
        """The end, by an error; nothing follows. Unavailable and BadRequest carry words for the client."""

    def dropped(self) -> None:
        """The end, for a client that has gone; nothing follows."""

    def cancelled(self) -> bool:
        """Whether nobody listens any more."""

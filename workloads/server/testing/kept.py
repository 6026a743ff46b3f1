"""Answers that are kept, for tests and measurements of engines."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from aifactory_server.engines.request import Piece


@dataclass
class Kept:
    """An answer that keeps its pieces and when they came."""

    gone: bool = False
    """Whether the client has gone."""
    pieces: list[Piece] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    error: Exception | None = None
    left: bool = False
    over: threading.Event = field(default_factory=threading.Event)
    prompt_tokens: int = 0

    def piece(self, piece: Piece, prompt_tokens: int) -> None:
        self.pieces.append(piece)
        self.times.append(time.monotonic())
        self.prompt_tokens = prompt_tokens
        if piece.finish_reason is not None:
            self.over.set()

    def failed(self, error: Exception) -> None:
        self.error = error
        self.over.set()

    def dropped(self) -> None:
        self.left = True
        self.over.set()

    def cancelled(self) -> bool:
        return self.gone

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces)

    @property
    def reason(self) -> str | None:
        return self.pieces[-1].finish_reason if self.pieces else None

    def wait(self, seconds: float = 30.0) -> Kept:
        assert self.over.wait(seconds), f"no end within {seconds:.0f} s; so far {self.text!r}"
        return self

"""What the engine needs of a model. `paged` is the one for real models, tests have others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:  # llguidance is there where a model answers by a schema; the small one does not
    from aifactory_server.engines.structure import Structure

END: int = -1
"""In place of a token: the sequence is over, its cache is free."""

Step = Callable[[Sequence[str], Tensor], Sequence[int]]
"""Gets the ids of sequences and their logits, a row each, and gives their next tokens or END."""


class Model(Protocol):
    """Computes sequences together. It calls `Step` from a thread of its own, all other calls come from others."""

    context: int
    """Tokens of the longest sequence, prompt and answer together."""
    room: int
    """Tokens that all sequences together may have; what is reserved for a sequence is rounded up by `page`."""
    page: int
    vocabulary: int

    def encode(self, text: str) -> list[int]:
        """Tokens of a prompt."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        """Text of tokens."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens with which a text ends."""

    def structure(self, schema: str) -> Structure:
        """What keeps an answer to a JSON schema. Raises BadRequest if it can not be kept."""

    def start(self, step: Step, cached: Callable[[str, int], None]) -> None:
        """Begin to compute; again after it failed, with an empty cache. `cached` is told how many tokens of a prompt
        were in the cache already."""

    def add(self, sequence: str, tokens: list[int]) -> None:
        """Compute a sequence from now on."""

    def cancel(self, sequence: str) -> None:
        """No longer compute it; nothing happens if it is over."""

    def refused(self) -> list[tuple[str, str]]:
        """Sequences that could not be computed since the last call, and why."""

    def failure(self) -> str | None:
        """Why nothing is computed any more; None if all is well."""

    def stop(self) -> None:
        """End the thread."""

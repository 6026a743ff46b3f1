"""Telling an answer's reasoning from the answer, while it comes in pieces that may end anywhere."""

from __future__ import annotations

from enum import Enum

from aifactory_agent.openai.marks import part_of
from aifactory_agent.openai.text import THINK

THINK_END = "</think>"


class _Place(Enum):
    BEFORE = "nothing has come but space, or a part of <think>"
    INSIDE = "reasoning"
    GAP = "space after </think>"
    AFTER = "the answer"


class Reasoning:
    """One answer's state. Space at the seams belongs to neither part.

    Args:
        inside: the prompt has opened the reasoning.
    """

    def __init__(self, inside: bool) -> None:
        self._place = _Place.INSIDE if inside else _Place.BEFORE
        self._begun = False
        self._held = ""

    def feed(self, text: str) -> tuple[str, str]:
        """Reasoning and answer that can be told now, after this piece."""
        if self._is(_Place.AFTER):
            return "", text
        self._held += text
        if self._is(_Place.BEFORE) and not self._opened():
            return "", self._rest() if self._is(_Place.AFTER) else ""
        reasoning = self._reasoning() if self._is(_Place.INSIDE) else ""
        answer = ""
        if self._is(_Place.GAP) and (answer := self._held.lstrip()):
            self._place, self._held = _Place.AFTER, ""
        return reasoning, answer

    def end(self) -> tuple[str, str]:
        """What was held back, when nothing more comes."""
        if self._is(_Place.INSIDE):
            return self._rest().rstrip(), ""
        return "", self._rest() if self._is(_Place.BEFORE) else ""

    def _is(self, place: _Place) -> bool:
        return self._place is place

    def _opened(self) -> bool:
        """Whether it is decided that the answer begins with reasoning; it may also be decided that it does not."""
        begin = self._held.lstrip()
        if begin.startswith(THINK):
            self._place, self._held = _Place.INSIDE, begin[len(THINK) :]
            return True
        if not THINK.startswith(begin):
            self._place = _Place.AFTER
        return False

    def _reasoning(self) -> str:
        if not self._begun:
            self._held = self._held.lstrip()
            self._begun = bool(self._held)
        inner, end, rest = self._held.partition(THINK_END)
        if end:
            self._place, self._held = _Place.GAP, rest
            return inner.rstrip()
        # A part of the end mark may come, and space before it would be the seam's.
        told = self._held[: len(self._held) - part_of(self._held, THINK_END)].rstrip()
        self._held = self._held[len(told) :]
        return told

    def _rest(self) -> str:
        rest, self._held = self._held, ""
        return rest

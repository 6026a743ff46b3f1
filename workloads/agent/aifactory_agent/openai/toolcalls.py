"""Calls of tools in an answer's text, as models of the Hermes and Qwen families write them, while it comes in pieces.

    <tool_call>
    {"name": "weather", "arguments": {"city": "Paris"}}
    </tool_call>

What is not such a call stays text. A call is told when it is whole.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

from aifactory_agent.openai.marks import part_of
from aifactory_contract.userjson import parse_json

BEGIN, END = "<tool_call>", "</tool_call>"
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_MOST_HELD = 64 * 1024
"""Characters of a call behind which the next mark ends it, wherever it stands."""
_OTHERS = ("<function=", "<parameter=", "<arg_key>")
"""Marks of families that write the same tags around something else."""


@dataclass(frozen=True)
class Call:
    """One call."""

    name: str
    arguments: str
    """JSON."""
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")

    def as_json(self) -> dict[str, Any]:
        """OpenAI's object."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def speaks_of_calls(template: str) -> bool:
    """Whether a chat template makes its model write calls in this form."""
    return BEGIN in template and END in template and not any(mark in template for mark in _OTHERS)


class Calls:
    """One answer's state. Space at the seams belongs to neither part.

    Args:
        inside: the prompt has opened the first call.
        most: calls that are told; what follows is dropped.
        alone: an answer with calls begins with one; in another the marks mean nothing.
    """

    def __init__(self, inside: bool = False, most: int | None = None, *, alone: bool = False) -> None:
        self._inside = inside
        self._most = most
        self._may_be_plain, self._is_plain = alone and not inside, False
        self._held = ""
        self._gap = False
        """Nothing but space has come since a call."""
        self._came = 0
        """Calls so far."""
        self._searched, self._in_string = 0, False
        """So far no mark ends the call that is held: those there are stand in a string of it. Whether one is open."""
        self._is_over = False

    def feed(self, text: str) -> tuple[str, list[Call]]:
        """Text and calls that can be told now, after this piece."""
        self._held += text
        if self._may_be_plain and (begun := self._held.lstrip()):
            self._is_plain = not begun.startswith(BEGIN[: len(begun)])
            self._may_be_plain = not self._is_plain and len(begun) < len(BEGIN)
        if self._is_plain:
            text, self._held = self._held, ""
            return text, []
        said, calls = "", list[Call]()
        while True:
            mark = END if self._inside else BEGIN
            place = self._held.find(mark, self._searched)
            if place < 0:
                break
            before, rest = self._held[:place], self._held[place + len(mark) :]
            if self._inside and not self._is_over and place < _MOST_HELD:
                self._in_string ^= _quotes(before[self._searched :]) % 2 == 1
                if self._in_string:
                    self._searched = place + len(mark)
                    continue
            self._searched, self._in_string = 0, False
            if self._inside:
                call = _read(before)
                calls += [call] if call and self._wanted() else []
                said += "" if call else BEGIN + before + END
                self._held, self._gap = rest, call is not None
            else:
                said, self._held = said + self._seam(before).rstrip(), rest
            self._inside = not self._inside
        if not self._inside:
            # A part of the mark may come, and space before it would be the seam's.
            told = self._held[: len(self._held) - part_of(self._held, BEGIN)].rstrip()
            self._held = self._held[len(told) :]
            said += self._seam(told)
        return said, calls

    def end(self) -> tuple[str, list[Call]]:
        """What was held back, when nothing more comes."""
        said, calls = "", list[Call]()
        if self._searched and _read(self._held) is None:
            # It was no string, or one that never ended: then the first mark was the end.
            self._is_over, self._searched = True, 0
            said, calls = self.feed("")
        held, self._held = self._held, ""
        if not self._inside:
            return said + self._seam(held), calls
        call = _read(held)
        if call:
            return said, [*calls, call] if self._wanted() else calls
        return said + BEGIN + held, calls

    def _seam(self, text: str) -> str:
        """Without the space after a call."""
        if self._gap:
            text = text.lstrip()
            self._gap = not text
        return text

    def _wanted(self) -> bool:
        self._came += 1
        return self._most is None or self._came <= self._most


def _quotes(text: str) -> int:
    """Those that begin and end strings in JSON."""
    return _ESCAPED.sub("", text).count('"')


def _read(text: str) -> Call | None:
    try:
        found = parse_json(text.strip())
    except ValueError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    arguments = found.get("arguments", found.get("parameters", {}))
    if not isinstance(arguments, dict):
        return None
    return Call(found["name"], json.dumps(arguments, ensure_ascii=False))

"""Protobuf's text format, as config.pbtxt has it: reading it into plain values, and writing them.

Names of fields are not known here; `triton` says which there may be and what they hold.
Source: protobuf.dev, "Text Format Language Specification". Left out: extensions and Any, which Triton has no use for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Message = dict[str, list[Any]]
"""The values of each field in their order: messages, `Word` or str (what stood in quotes)."""

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)|(?P<text>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')"""
    r"""|(?P<word>[-+]?[\w.][\w.+-]*)|(?P<sign>[{}<>:,;\[\]])""",
    re.ASCII,
)
_ENDS = {"{": "}", "<": ">"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_MAX_DEPTH = 16
_PLAIN = re.compile(r"[ -~]*")


class Word(str):
    """A value without quotes: a number, true, or the name of a constant."""


def parse(text: str) -> Message:
    """Raises ValueError with the line if it is not in the text format."""
    return _Parser(text).message("", 0)


def render(message: Mapping[str, list[Any]], indent: str = "") -> str:
    """The text of a message, a line for each value. Raises ValueError if a text has other signs than ASCII's."""
    lines = []
    for name, values in message.items():
        for value in values:
            if isinstance(value, dict):
                lines.append(f"{indent}{name} {{\n{render(value, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {value if isinstance(value, Word) else quoted(value)}\n")
    return "".join(lines)


def quoted(text: str) -> str:
    """A text as a value. Raises ValueError if it has other signs than ASCII's."""
    if not _PLAIN.fullmatch(text):
        raise ValueError(f"{text!r} has other signs than those of ASCII")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split()
        self._at = 0
        self._next()

    def _split(self) -> Iterator[tuple[str, str, int]]:
        at = 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None:
                self._at = at
                raise self._wrong(f"{self._text[at : at + 20]!r} is not expected")
            if match.lastgroup != "space":
                yield str(match.lastgroup), match[0], at
            at = match.end()

    def _next(self) -> None:
        self._kind, self._token, self._at = next(self._tokens, ("end", "", len(self._text)))

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"line {self._text.count(chr(10), 0, self._at) + 1}: {what}")

    def _unexpected(self) -> ValueError:
        return self._wrong(f"{self._token!r} is not expected" if self._token else "it ends too soon")

    def _skip(self, *signs: str) -> bool:
        found = self._kind == "sign" and self._token in signs
        if found:
            self._next()
        return found

    def message(self, end: str, depth: int) -> Message:
        """The fields up to a closing sign, or to the end of the text."""
        if depth > _MAX_DEPTH:
            raise self._wrong("it is nested too deep")
        found: Message = {}
        while not (self._skip(end) if end else self._kind == "end"):
            if self._kind != "word" or not self._token.isidentifier():
                raise self._unexpected()
            values = found.setdefault(self._token, [])
            self._next()
            colon = self._skip(":")
            if self._skip("["):
                while not self._skip("]"):
                    values.append(self._value(True, depth))
                    if not self._skip(",") and self._token != "]":
                        raise self._unexpected()
            else:
                values.append(self._value(colon, depth))
            self._skip(",", ";")
        return found

    def _value(self, scalar: bool, depth: int) -> Any:
        kind, token = self._kind, self._token
        if kind == "sign" and token in _ENDS:
            self._next()
            return self.message(_ENDS[token], depth + 1)
        if not scalar or kind not in ("text", "word"):
            raise self._unexpected()
        if kind == "word":
            self._next()
            return Word(token)
        parts = []
        while self._kind == "text":  # texts side by side are one
            parts.append(re.sub(r"\\(.)", self._unescaped, self._token[1:-1]))
            self._next()
        return "".join(parts)

    def _unescaped(self, match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            raise self._wrong(f"\\{match[1]} in a text is not known here")
        return _ESCAPES[match[1]]

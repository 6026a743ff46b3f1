"""Objects that nest deeper than a program can read.

An API server takes JSON of up to ten thousand levels wherever a schema leaves room for fields it does not know. Every
parser we use calls itself for each level and gives up at some hundreds to a thousand (RecursionError), and so does
what hashes, compares or writes such a value later. So what comes from users is made shallow before anything reads it:
what lies deeper than `MAX_DEPTH` is cut out, and `CUT` stands in its place. Nothing here calls itself.
"""

from __future__ import annotations

import re
from typing import Final

MAX_DEPTH: Final = 64
"""Levels that are read. The deepest fields of a pod template lie some fifteen levels down in a TrainingJob."""
CUT: Final = "aifactory.dev/nested-too-deep"
"""The string that stands for what was cut out. Who writes it himself is told the same."""

_tokens = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
_OPEN, _CLOSED = b"{[", b"}]"
_TO_BRACES: Final = bytes.maketrans(b"[]", b"{}")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(_OPEN + _CLOSED))


def is_deep(raw: bytes) -> bool:
    """Whether JSON nests deeper than `MAX_DEPTH`."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    unescaped = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    # Between quotes that are left, every other piece is a string.
    brackets = b"".join(unescaped.split(b'"')[::2]).translate(_TO_BRACES, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"{}", b"")  # the innermost level, of all branches
    return bool(brackets)


def shallow(raw: bytes) -> bytes:
    """The same JSON with `CUT` in the place of every value below `MAX_DEPTH` levels; mostly that is the same bytes."""
    if not is_deep(raw):
        return raw
    pieces: list[bytes] = []
    depth = kept = 0
    for token in _tokens.finditer(raw):
        first = raw[token.start()]
        if first in _OPEN:
            depth += 1
            if depth == MAX_DEPTH + 1:
                pieces += (raw[kept : token.start()], b'"%b"' % CUT.encode())
        elif first in _CLOSED:
            if depth == MAX_DEPTH + 1:
                kept = token.end()
            depth -= 1
    return b"".join((*pieces, raw[kept:]))

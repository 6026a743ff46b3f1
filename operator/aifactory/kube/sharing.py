"""Equal values kept once: a hundred thousand pods say the same few things.

Decoding makes a new string and a new struct for everything it meets. Most of what a pod says, its siblings say too: the
namespace, the labels, the owner, the image, that it is Ready. Kept once, that is half of a cached pod.

What always holds: sharing never changes what a value says, and forgets by itself. Strings are interned by the
interpreter, which drops them with their last user; structs are remembered in a table of bounded size that starts anew
when it is full. Lists come sorted by name, so siblings come together and a small table finds nearly all of them.
"""

from __future__ import annotations

from collections.abc import Hashable
from sys import intern
from typing import Final, TypeVar

T = TypeVar("T", bound=Hashable)

TABLE_SIZE: Final = 4096
"""Values remembered: about a megabyte, since only short ones are offered."""
MAX_TEXT: Final = 256
"""Longer strings are hardly ever the same twice."""

_table: dict[Hashable, Hashable] = {}


def shared_text(text: str) -> str:
    """The same text, once."""
    return intern(text) if len(text) <= MAX_TEXT else text


def shared_labels(labels: dict[str, str]) -> dict[str, str]:
    """The same labels, each key and value once. Labels differ from pod to pod, their words do not."""
    return {intern(key): intern(value) for key, value in labels.items()}


def shared(value: T, unique: bool = False) -> T:
    """The same value, once; `unique` says that there is no use in looking for it."""
    if unique:
        return value
    found = _table.get(value)
    if found is not None:
        return found  # type: ignore[return-value] # equal values of these structs are of the same type
    if len(_table) >= TABLE_SIZE:
        _table.clear()
    _table[value] = value
    return value

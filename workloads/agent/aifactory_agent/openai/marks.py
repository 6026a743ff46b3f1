"""Marks in a text that comes in pieces, which may end anywhere."""

from __future__ import annotations


def part_of(text: str, mark: str) -> int:
    """How many characters at the text's end are the beginning of the mark."""
    return next((size for size in range(len(mark) - 1, 0, -1) if text.endswith(mark[:size])), 0)

"""JSON merge patches (RFC 7396)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merge_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch that turns `old` into `new`. Neither may hold None: a merge patch can not say it."""
    patch: dict[str, Any] = {}
    for name, value in new.items():
        if name not in old:
            patch[name] = value
        elif (before := old[name]) != value:
            both = isinstance(before, Mapping) and isinstance(value, Mapping)
            patch[name] = merge_difference(before, value) if both else value
    patch.update((name, None) for name in old if name not in new)
    return patch

"""Errors as values, where one request of many must not fail the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def attempt(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T | Exception:
    """The result, or what was raised instead."""
    try:
        return work(*arguments, **options)
    except Exception as error:
        return error

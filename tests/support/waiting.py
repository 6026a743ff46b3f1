"""Waiting on conditions: a deadline, and what was seen when it passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    what: str,
    look: Callable[[], T],
    until: Callable[[T], object],
    *,
    seconds: float = 60.0,
    every: float = 0.2,
    never: Callable[[T], object] = lambda _: False,
) -> T:
    """Look until `until` holds for what is seen, and return it.

    Raises:
        AssertionError: the deadline passed, or `never` held; the message shows what was seen last.
    """
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if until(seen):
            return seen
        if never(seen):
            raise AssertionError(f"waiting for {what}: this must not be seen:\n{seen}")
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for {what}; seen last:\n{seen}")
        time.sleep(every)

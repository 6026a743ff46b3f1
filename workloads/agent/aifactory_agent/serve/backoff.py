"""How long to wait before the next try."""

from __future__ import annotations

TRANSIENT_BASE_SECONDS = 1.0
TRANSIENT_LIMIT_SECONDS = 60.0
LASTING_BASE_SECONDS = 30.0
"""A digest that does not match or a model that does not load seldom gets better by itself: ask rarely."""
LASTING_LIMIT_SECONDS = 600.0


def next_try(transient: bool, attempts: int) -> float:
    """Seconds to wait after the given number of failed attempts in a row: doubling from a base to a limit."""
    base = TRANSIENT_BASE_SECONDS if transient else LASTING_BASE_SECONDS
    limit = TRANSIENT_LIMIT_SECONDS if transient else LASTING_LIMIT_SECONDS
    return float(min(limit, base * 2.0 ** min(attempts - 1, 16)))

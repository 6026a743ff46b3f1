"""How long to wait before the next try."""

from __future__ import annotations

from aifactory_contract.errors import TRANSIENT, Reason

SOON_SECONDS, SOON_LIMIT_SECONDS = 1.0, 60.0
SELDOM_SECONDS, SELDOM_LIMIT_SECONDS = 30.0, 600.0
"""A digest that does not match or a model that does not load seldom gets better by itself."""

UPKEEP_LIMIT_SECONDS = 60.0

_BY_A_PROCESS = frozenset({Reason.LOAD_FAILED, Reason.CONFIRM_FAILED})
_BY_ACCIDENT = _BY_A_PROCESS | {Reason.TRITON_UNAVAILABLE}


def next_try(reason: Reason, attempts: int, answered_before: bool) -> float:
    """Seconds to wait after a failure, doubling from a base to a limit.

    Args:
        attempts: failures in a row, this one included.
        answered_before: the version has answered since it was fetched, so it is a good one.

    A load or an answer can fail because a process was killed at the wrong moment. That is told from a bad model by one
    more try at once; a model that was good before is brought back soon in any case.
    """
    by_accident = reason in _BY_A_PROCESS and (attempts == 1 or answered_before)
    soon = reason in TRANSIENT or by_accident
    base, limit = (SOON_SECONDS, SOON_LIMIT_SECONDS) if soon else (SELDOM_SECONDS, SELDOM_LIMIT_SECONDS)
    return float(min(limit, base * 2.0 ** min(attempts - 1, 16)))


def may_be_an_accident(reason: Reason, attempts: int) -> bool:
    """Whether a failure says nothing yet: the next try, which is made at once, will."""
    return attempts == 1 and reason in _BY_ACCIDENT


def next_upkeep(attempts: int) -> float:
    """Seconds until something is taken out again after this many failures in a row; nobody waits for it."""
    return float(min(UPKEEP_LIMIT_SECONDS, SOON_SECONDS * 2.0 ** min(attempts - 1, 16)))

"""Time, as a thing that is handed in.

Timers run on the event loop; a simulator replaces the loop's time and this clock together. Nothing else in `kube` or
`engine` may ask the operating system what time it is.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What time it is."""

    def now(self) -> datetime:
        """Wall-clock time in UTC: for what is written into objects."""

    def monotonic(self) -> float:
        """Seconds that never go back, the same scale as the event loop's timers: for measuring how long."""


class SystemClock:
    """The real time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

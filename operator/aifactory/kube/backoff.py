"""The one way in which something that failed is tried again: delays that double, up to a limit, spread by chance.

All numbers of the process stand here, so that they can be read beside each other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that double from `base` to `limit` seconds, each spread by up to `jitter` of itself."""

    base: float
    limit: float
    jitter: float = 0.2

    def delay(self, failures: int, rng: random.Random | None = None, *, at_least: float = 0.0) -> float:
        """Seconds to wait after this many failures (1 for the first), starting at no less than `at_least`.

        Without `rng` there is no jitter: for delays that are told to people before they have passed.
        """
        delay = min(max(self.base, at_least) * 2.0 ** min(failures - 1, 64), self.limit)
        return delay if rng is None else delay * (1.0 + self.jitter * rng.random())


REQUEST: Final = Backoff(base=0.1, limit=30.0, jitter=0.25)
"""One call to the API server, a few times; after that the caller's own delay decides. A longer `Retry-After` is cut."""
WATCH: Final = Backoff(base=0.1, limit=10.0, jitter=0.5)
"""Lists and watches, for ever. The limit decides how late the end of an outage is noticed."""
READ: Final = Backoff(base=2.0, limit=5.0)
"""What the process needs before it can go on: the first answer, a complete view."""
RECONCILE: Final = Backoff(base=0.005, limit=50.0)
"""An object whose reconcile failed: with what chance adds, it is tried once a minute at least."""
PROBE: Final = Backoff(base=5.0, limit=120.0, jitter=0.0)
"""A serving pod that does not answer."""
TASK: Final = Backoff(base=10.0, limit=300.0, jitter=0.0)
"""A pod that runs to an end and did not reach it: each try costs a pod."""
STORE: Final = Backoff(base=30.0, limit=45.0, jitter=0.0)
"""A store that refuses, or does not answer: somebody has to put it right, and a minute later all has to go on."""
ROLLOUT: Final = Backoff(base=60.0, limit=3600.0, jitter=0.0)
"""A version that was taken back: each try costs a pod, and a person may be at work on the cause."""

"""A number of places that namespaces share, so that none keeps the others out.

What hangs (a webhook that does not answer) holds its places until it is given up, so a namespace gets another place
only while it has fewer than `SHARE` times those that are free: alone it has three quarters of them, and each one more
finds some left. So do switches share buffers: https://doi.org/10.1109/90.664262 (dynamic queue length thresholds).

Who has to wait is for the caller to remember: `engine.gate` does for writes, `queue` for workers.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 3
"""Times the free places that one namespace may have. More leaves less to the others, fewer slows one that is alone."""


class Places:
    """Places for `size` at a time."""

    def __init__(self, size: float) -> None:
        self.free = size
        self._held: dict[str, int] = {}
        """By namespace; none that has none."""

    def enter(self, namespace: str) -> bool:
        """Take a place if the namespace may have another one; whether it did."""
        held = self._held.get(namespace, 0)
        if held >= SHARE * self.free:
            return False
        self.free -= 1
        self._held[namespace] = held + 1
        return True

    def leave(self, namespace: str) -> None:
        """Give a place back: somebody who waits may now have one, of whatever namespace."""
        self.free += 1
        held = self._held[namespace] - 1
        if held:
            self._held[namespace] = held
        else:
            del self._held[namespace]

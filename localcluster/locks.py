"""Locks between processes: two ``make cluster`` at once, from two clones, must end as one did.

The kernel drops a lock with the process that held it, so a killed run never blocks the next one.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcluster.console import say


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file at ``path``; says what it waits for when somebody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that is busy with {what}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield

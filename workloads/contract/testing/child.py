"""Work in a process that may be killed, or that may not do everything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def in_child(work: Callable[[], object]) -> int:
    """Run in a forked process; returns the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@contextmanager
def as_anybody() -> Iterator[None]:
    """With the rights of a user who owns nothing, also where tests run as root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)

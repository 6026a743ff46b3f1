"""What the tool says to a person: progress on stderr, answers on stdout, and one line when it cannot go on."""

from __future__ import annotations

import os
import sys
import time

_BEGAN = time.monotonic()


class CannotRun(Exception):
    """This machine, or something on it, does not let the cluster run. The message is one line that says what to do."""


def say(message: str) -> None:
    """One line of progress. Quiet with AIFACTORY_QUIET=1."""
    if os.environ.get("AIFACTORY_QUIET") != "1":
        print(f"[{time.monotonic() - _BEGAN:5.1f}s] {message}", file=sys.stderr, flush=True)


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)

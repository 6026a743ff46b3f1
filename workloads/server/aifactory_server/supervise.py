"""Being process 1 of the container for tritonserver, which is not made for it.

The kernel gives process 1 no signal that it has no handler for, and tritonserver sets its handlers only when it has
started: a pod that is deleted before lived on for its whole grace period. As a child it ends at once. Process 1 also
has to wait for the workers that outlive their parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence


def supervise(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a program, hand SIGTERM and SIGINT on to it, and return its exit code, as a shell would write it."""
    came: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, _: object) -> None:
        came.append(number)
        if child is not None:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hand_on)
    child = subprocess.Popen(arguments, env=environ)
    for early in came:  # before it was there; once more does no harm
        child.send_signal(early)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child.pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode if child.returncode >= 0 else 128 - child.returncode

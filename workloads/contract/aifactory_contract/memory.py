"""How much memory the server of a pod has taken, in its own words, on the volume that it shares with the agent.

The agent is another container, and sees neither the other's processes nor its cgroup. The server tells it only where it
is asked to: while a version is tried before it is Ready.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path

from aifactory_contract.cgroup import memory_taken

TELL = "AIFACTORY_TELL_MEMORY"
"""Environment variable of the server's container: anything but "" has it told."""
PERIOD_SECONDS = 0.1
_FILE = "memory.json"
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Bytes that can not be dropped: of processes and shared memory, not of files that were read."""

    now: int
    most: int
    """Since the container was started."""


def tell_memory(repository: Path, stop: threading.Event, root: Path = _CGROUP) -> None:
    """Tell it ten times a second until `stop`; nothing where the kernel does not say how much it is."""
    most, path = 0, repository / _FILE
    aside = path.with_name(f".{_FILE}")
    while (taken := memory_taken(root)) is not None:
        most = max(most, taken)
        try:
            aside.write_text(json.dumps({"now": taken, "most": most}))
            aside.replace(path)
        except OSError:  # a full volume is told by those who have to write there
            return
        if stop.wait(PERIOD_SECONDS):
            return


def read_memory(repository: Path) -> Memory | None:
    """What the server has told last; None if nothing."""
    try:
        told = json.loads((repository / _FILE).read_bytes())
        return Memory(int(told["now"]), int(told["most"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None

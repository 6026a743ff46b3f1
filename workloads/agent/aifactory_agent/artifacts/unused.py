"""Which inputs on a claim nobody needs any more, and their end.

Who needs what is the operator's to say: it gives each fetch the digests that jobs which have not ended need. That list
is true of one moment, so what any fetch has found or brought since then, or shortly before, counts as needed too: each
of them touches its directory. A directory is renamed before it is removed, and looked at again: one that was touched
between the two gets its name back, and one whose name is gone is not found by anybody.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path

from aifactory_agent.logs import fields
from aifactory_contract.fetchspec import InUse

_log = logging.getLogger(__name__)
KEPT_SECONDS = 7 * 24 * 3600.0
"""What nobody has needed for this long goes; earlier only if its room is needed."""
_MARGIN_SECONDS = 3600.0
"""Clocks differ, and the operator may have seen a little less than there was."""


def touch(folder: Path) -> bool:
    """Note that an input is needed; whether it is there. Raises OSError."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    return True


def remove_unused(root: Path, in_use: InUse, room: int, aside: str) -> None:
    """Remove inputs that nobody needs: all that were not needed for long, and the others, those first that were needed
    longest ago, until so many bytes are free.

    Args:
        root: the directory that they are in.
        in_use: which ones are needed.
        room: bytes.
        aside: how names begin of what is being removed; what is left of one is for the caller to remove later.
    """
    kept = tuple(f"sha256-{digest}" for digest in in_use.digests)
    unused = []
    for folder in root.glob("sha256-*"):
        with suppress(OSError):  # another fetch removes it
            if folder.name.startswith(kept):
                touch(folder)
            elif (needed := folder.stat().st_mtime) < in_use.time - _MARGIN_SECONDS:
                unused.append((needed, folder))
    for needed, folder in sorted(unused):
        if time.time() - needed > KEPT_SECONDS or shutil.disk_usage(root).free < room:
            with suppress(OSError):
                _remove(folder, needed, root / f"{aside}{uuid.uuid4().hex}")


def _remove(folder: Path, needed: float, aside: Path) -> None:
    folder.rename(aside)
    if aside.stat().st_mtime != needed:
        aside.rename(folder)
        return
    _log.info("removed an input that no job needs", extra=fields(path=str(folder)))
    shutil.rmtree(aside, ignore_errors=True)

"""Files and directories that are there whole or not at all, whenever the process is killed or the power fails.

The way is always the same: write aside, push it to the disk, rename, push the new name to the disk.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a file, or replace one. Raises OSError; then what was there before is still there."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        aside.write_text(text)
        fsync(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def new_directory(target: Path, aside: Path, *, replace: bool) -> Iterator[Path]:
    """A directory to write into. It becomes `target` when the block ends well, and vanishes otherwise.

    Args:
        aside: where it is until then: absent, beside the target. What a killed process leaves there and at
            `<aside>-old` is for the caller to remove.
        replace: whether a directory at `target` makes room. If not it stays and the new one vanishes, which is for
            targets named after their contents: whoever came first has written the same.

    Raises OSError; then what was at `target` before is still there.
    """
    old = aside.with_name(f"{aside.name}-old")
    aside.mkdir()
    try:
        yield aside
        _sync_tree(aside)
        if replace and target.exists():
            target.rename(old)
        try:
            aside.rename(target)
        except OSError as error:
            if old.exists():
                old.rename(target)
            if replace or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        fsync(target.parent)
    finally:
        for left in (aside, old):
            shutil.rmtree(left, ignore_errors=True)


def fsync(path: Path) -> None:
    """Push a file's bytes, or a directory's names, to the disk.

    Some network file systems know no fsync of a directory; that is no error (as in PostgreSQL's fsync_fname).
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EBADF, errno.EINVAL)):
            raise
    finally:
        os.close(handle)


def syncfs(path: Path) -> bool:
    """Push everything of the file system that a path is on to the disk, in one go: see syncfs(2).

    False where that can not be had. Raises OSError if something could not be written.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        if call(handle) == 0:
            return True
        if (error := ctypes.get_errno()) in (errno.ENOSYS, errno.EPERM):
            return False
        raise OSError(error, os.strerror(error), str(path))
    finally:
        os.close(handle)


def _sync_tree(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for name in files:
            fsync(Path(folder, name))
        fsync(Path(folder))

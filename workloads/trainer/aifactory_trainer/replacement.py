"""A directory that takes the place of another, of which one or the other is always there.

Role: what checkpoints and exports have in common, above `new_directory`, which makes directories that are new.

What always holds: the directory that was there is removed only when the new one is in its place. Whatever happens in
between (a kill, an exception, a rename that fails both ways), it is still there, at its own name or at one from which
`recover` brings it back.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aifactory_contract.files import fsync, new_directory

_OLD = "-replaced"


@contextmanager
def replacement(target: Path, prefix: str) -> Iterator[Path]:
    """A directory to write into. It becomes `target` when the block ends well, and vanishes otherwise.

    Args:
        prefix: of the names, beside the target, that are used meanwhile; `recover` is to be given the same.

    Raises:
        OSError: it can not be written or put in place. What was at `target` before is still there.
    """
    aside = target.with_name(f"{prefix}{target.name}-{secrets.token_hex(4)}")
    whole, old = aside.with_name(f"{aside.name}-whole"), aside.with_name(f"{aside.name}{_OLD}")
    if not target.exists():
        with new_directory(target, aside, replace=False) as directory:
            yield directory
        return
    with new_directory(whole, aside, replace=False) as directory:
        yield directory
    try:
        target.rename(old)
        whole.rename(target)
    except BaseException:
        if not target.exists():
            old.rename(target)
        shutil.rmtree(whole, ignore_errors=True)
        raise
    fsync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path, prefix: str) -> None:
    """Put back what a killed process had moved away to replace it, and remove what it left half done.

    Never to be called while another process writes there.
    """
    left = sorted(folder.glob(f"{prefix}*"))
    for path in left:
        name = path.name.removeprefix(prefix)
        if name.endswith(_OLD):
            target = folder / name.removesuffix(_OLD).rpartition("-")[0]
            if not target.exists():
                path.rename(target)
    for path in left:
        shutil.rmtree(path, ignore_errors=True)

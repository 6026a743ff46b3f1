"""The local cluster's command line: see README.md beside this file, or run it without arguments."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (an older Python runs this line and no other)
    sys.exit(f"error: needs Python 3.11 or newer, this is {sys.version.split()[0]}")

# As a script, Python would look for modules beside this file; they are a package, so look one directory up instead.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from localcluster.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#!/usr/bin/env python3
"""Build the project's images and load them into the local cluster; see localcluster/imagebuild, or run it with -h."""

import sys
from pathlib import Path

# As a script, Python would look for modules beside this file; they are a package, so look one directory up instead.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from localcluster.imagebuild.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())

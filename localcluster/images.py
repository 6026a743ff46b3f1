#!/usr/bin/env python3
"""`python3 localcluster/images.py build|load [image ...]`: see localcluster/imagebuild."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from localcluster.imagebuild.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())

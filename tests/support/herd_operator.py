"""The operator with a fourth kind: `python -m tests.support.herd_operator`. This is the one line that a kind costs."""

from __future__ import annotations

import sys

from aifactory.app.domains import DOMAINS
from aifactory.app.main import main
from tests.support.herd import Herds

if __name__ == "__main__":
    sys.exit(main((*DOMAINS, Herds)))

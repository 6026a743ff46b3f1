"""`python -m aifactory.app`."""

import sys

from aifactory.app.main import main

sys.exit(main())

"""`python3 -m aifactory_agent`: what the image runs, where no console script is installed."""

import sys

from aifactory_agent.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python3 -m aifactory_agent`: what the image runs, where no console script is installed.

In a container this is process 1, and the kernel gives process 1 no signal that it has no handler for: without one from
the first moment, a pod that is deleted while Python still imports lives on for its whole grace period.
"""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from aifactory_agent.cli import main

    sys.exit(main())

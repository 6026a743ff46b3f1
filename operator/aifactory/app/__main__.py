"""`python -m aifactory.app`, and the command `aifactory-operator`."""

import signal
import sys


def main() -> int:
    """Run the operator; returns the exit code."""
    # Loading takes a second, and PID 1 ignores a signal that it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from aifactory.app.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())

"""The tests of the trainer and the server that are marked `gpu`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gpu_check.parts import Outcome, Place

WORKLOADS = Path(__file__).resolve().parents[2]
# Of the server's, those that can be imported without Triton.
SUITES = {
    "trainer": ("tests",),
    "server": (
        "tests/test_network.py",
        "tests/test_engine.py",
        "tests/test_pt2.py",
        "tests/test_paged.py",
        "tests/test_attention.py",
        "tests/test_encoder.py",
    ),
}


def tests(place: Place) -> Outcome:
    """Run them; where there is no GPU, see that they are all skipped."""
    outcome = Outcome()
    for suite, files in SUITES.items():
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files],
            cwd=WORKLOADS / suite,
            capture_output=True,
            text=True,
            check=False,
        )
        last = next(reversed(done.stdout.strip().splitlines()), "")
        outcome.figures[suite] = last
        wanted = "passed" if place.on_gpu else "skipped"
        holds = done.returncode == 0 and wanted in last
        outcome.check(f"{suite}: {wanted}", holds, last if holds else (done.stdout + done.stderr)[-4000:])
    return outcome

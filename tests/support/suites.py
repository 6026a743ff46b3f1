"""`make test`: every suite, some side by side, each with its output in a file; at the end one line for each.

Suites that wait for a cluster and suites that compute share a machine well. Those of a group have something in common
and run one after another. What fails is told at once, with the end of its output; the others go on to their end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "test"
LOCAL_CLUSTER = ("test-localcluster", "test-cluster")
GROUPS = (
    LOCAL_CLUSTER,  # the longest, so the first
    ("verify",),
    ("test-unit",),
    ("workloads/test-trainer",),
    ("workloads/test-agent",),
    ("test-component",),
    ("test-sim",),
    ("workloads/test-server",),
    ("workloads/test-gpu",),
    ("workloads/test-contract",),
)
"""In the order in which they begin. A suite is a target of a Makefile, after the Makefile's folder."""
TOLD_LINES = 80
TOLD_CHARACTERS = 500
"""Of a failed test among those told at the end."""

_printing = Lock()
_stopped = Event()


@dataclass(frozen=True)
class Result:
    """Of a suite."""

    suite: str
    code: int
    seconds: float
    cpu_seconds: float
    """Of its processes and theirs; a cluster's pods are not among them."""

    @property
    def log(self) -> Path:
        """All that it said."""
        return log_of(self.suite)

    def __str__(self) -> str:
        said = [line for line in self.log.read_text(errors="replace").splitlines() if " passed" in line]
        words = "ok" if self.code == 0 else "FAILED"
        told = f"{words:<7} {self.suite:<24} {self.seconds:5.0f} s, {self.cpu_seconds:4.0f} s of CPU time"
        return f"{told}  {said[-1].strip('= ')}" if said else told


def failures(result: Result) -> list[str]:
    """The tests of a suite that failed, a line each, as pytest sums them up."""
    lines = result.log.read_text(errors="replace").splitlines()
    return [line for line in lines if line.startswith(("FAILED ", "ERROR "))]


def log_of(suite: str) -> Path:
    """Where a suite's output goes."""
    return OUTPUT / f"{suite.replace('/', '-')}.log"


def run(suite: str) -> Result:
    """Run a suite to its end."""
    folder, _, target = suite.rpartition("/")
    # A cluster's deadlines are nearer than those of what computes here.
    first = [] if suite in LOCAL_CLUSTER else ["nice", "-n", "5"]
    begin = time.monotonic()
    command = [*first, "make", "--no-print-directory", "-C", str(ROOT / folder), target]
    settings = {**os.environ, "PYTEST_ADDOPTS": f"--durations=20 {os.environ.get('PYTEST_ADDOPTS', '')}"}
    with log_of(suite).open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=settings)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Result(suite, process.returncode, time.monotonic() - begin, used.ru_utime + used.ru_stime)


def run_group(group: tuple[str, ...]) -> list[Result]:
    """One after another."""
    results: list[Result] = []
    for suite in group:
        if _stopped.is_set():
            return results
        say(f"begins  {suite}")
        results.append(result := run(suite))
        if result.code != 0:
            lines = result.log.read_text(errors="replace").splitlines()[-TOLD_LINES:]
            say("\n".join(f"  {suite} | {line}" for line in lines))
        say(str(result))
    return results


def say(words: str) -> None:
    """A line of one suite's does not get among those of another."""
    with _printing:
        print(words, flush=True)


def main() -> int:
    """0 when all of them passed."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with ThreadPoolExecutor(int(sys.argv[1])) as pool:
        running = [pool.submit(run_group, group) for group in GROUPS]
        try:
            results = [result for future in as_completed(running) for result in future.result()]
        except KeyboardInterrupt:  # make and pytest, which have got it too, end by themselves
            _stopped.set()
            return 130
    minutes = (time.monotonic() - begin) / 60
    print(f"\n{minutes:.1f} minutes; what each suite said is in {OUTPUT.relative_to(ROOT)}:")
    print("\n".join(f"  {result}" for result in results))
    failed = [result.suite for result in results if result.code != 0]
    if failed:
        print("\n".join(line[:TOLD_CHARACTERS] for result in results if result.code for line in failures(result)))
        print(f"FAILED: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

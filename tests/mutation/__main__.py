"""`make mutate`: which changes to the code no test notices. See README.md; `--help` tells the options."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutation import runner
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.runner import PACKAGE, ROOT, Baseline

HOME = ROOT / "build/mutation"
LIST = Path(__file__).with_name("accepted.toml")
PACKAGES = ("kube", "engine", "training", "models", "serving")
WITHOUT = ("kube/metrics", "kube/api")
"""Declarations only."""
WANTED = 0.90


@dataclass(frozen=True)
class Result:
    """What became of a mutant."""

    where: str
    change: str
    line: int
    by: str
    """What noticed it; empty when nothing did."""
    stage: str
    """The last stage that ran."""
    tests: str
    """The state of the tests it survived."""
    scope: str
    """The state of its function."""

    @property
    def name(self) -> tuple[str, str, str]:
        """What a mutant is known by."""
        return self.where, self.change, self.scope


class Accepted:
    """The survivors that are listed with a reason."""

    def __init__(self) -> None:
        self._entries = [
            (module, self._pattern(entry.get("where", "*")), self._pattern(entry["change"]), entry["reason"])
            for module, entries in tomllib.loads(LIST.read_text()).items()
            for entry in entries
        ]

    @staticmethod
    def _pattern(text: str) -> re.Pattern[str]:
        return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)

    def reason(self, module: str, mutant: Mutant | Result) -> str:
        """Why a mutant may survive; empty when it is not listed."""
        for known, where, change, reason in self._entries:
            if known == module and where.fullmatch(mutant.where) and change.fullmatch(mutant.change):
                return str(reason)
        return ""


class Book:
    """Results of one module, kept between runs; each counts for as long as its function does not change."""

    def __init__(self, module: str) -> None:
        self._path = HOME / f"{module.replace('/', '.')}.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._results = {result.name: result for result in (Result(**json.loads(line)) for line in lines)}

    def of(self, mutant: Mutant) -> Result | None:
        """What is known about a mutant."""
        return self._results.get((mutant.where, mutant.change, mutant.scope))

    def by(self, mutant: Mutant) -> str:
        """What noticed a mutant; empty when nothing did, or it was not tried."""
        known = self.of(mutant)
        return known.by if known is not None else ""

    def add(self, result: Result) -> None:
        self._results[result.name] = result
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")


def modules(chosen: Iterable[str]) -> list[str]:
    """Modules such as `kube/queue`, from names of packages and modules."""
    every = [f"{package}/{path.stem}" for package in PACKAGES for path in sorted((PACKAGE / package).glob("[a-z]*.py"))]
    every = [module for module in every if module not in WITHOUT]
    names = [name.removesuffix(".py").strip("/").replace(".", "/") for name in chosen]
    found = [module for module in every if not names or any(f"{module}/".startswith(f"{name}/") for name in names)]
    if not found:
        sys.exit(f"no such module: {' '.join(chosen)}; there are: {' '.join(every)}")
    return found


def tests_state() -> str:
    """Changes with every file under tests and operator."""
    digest = hashlib.sha256()
    for folder in ("tests/unit", "tests/sim", "tests/support", "operator"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


class Stages:
    """The tests a mutant has to pass, one stage after another: its unit folder, the other unit tests, the simulator."""

    def __init__(self, accepted: Accepted, state: str, steps: int, jobs: int) -> None:
        self._accepted, self._state, self._steps, self._jobs = accepted, state, steps, jobs
        self._baselines: dict[str, Baseline] = {}

    def check(self, module: str, book: Book, *, quick: bool) -> None:
        """Try every mutant of a module that has no result that still counts.

        Of those that are listed as accepted only the first stage asks again, which is cheap.
        """
        stages = [f"tests/unit/{module.partition('/')[0]}", "tests/unit", "sim"]
        left = [mutant for mutant in mutants((PACKAGE / f"{module}.py").read_text()) if not book.by(mutant)]
        for number, stage in enumerate(stages[: 1 if quick else 3 if self._steps else 2]):
            self._run(stage, module, [m for m in left if self._passed(m, book, stages) < number], book)
            left = [mutant for mutant in left if not book.by(mutant) and not self._accepted.reason(module, mutant)]

    def _passed(self, mutant: Mutant, book: Book, stages: list[str]) -> int:
        """The number of the last stage that a mutant has survived with the tests as they are; -1 for none."""
        known = book.of(mutant)
        return stages.index(known.stage) if known is not None and known.tests == self._state else -1

    def _run(self, stage: str, module: str, left: list[Mutant], book: Book) -> None:
        if not left:
            return
        if stage != "sim" and stage not in self._baselines:
            paths = [stage]
            if stage == "tests/unit":  # what the first stage ran needs no second time
                own = f"tests/unit/{module.partition('/')[0]}"
                paths = [p for p in _folders() if p != own]
            self._baselines[stage] = runner.measure(paths, HOME / f"measure.{os.getpid()}")
        running: dict[Mutant, runner.Child] = {}
        try:
            self._loop(stage, module, left, book, running)
        finally:
            for child in running.values():
                child.kill()
        survived = sum(not book.by(mutant) for mutant in left)
        print(f"  {module}: {survived} of {len(left)} survive {stage}", flush=True)

    def _loop(
        self, stage: str, module: str, left: list[Mutant], book: Book, running: dict[Mutant, runner.Child]
    ) -> None:
        waiting = left[::-1]
        while waiting or running:
            if waiting and len(running) < self._jobs:
                mutant = waiting.pop()
                child = self._start(stage, module, mutant)
                if child is None:
                    book.add(self._result(mutant, "", stage))
                else:
                    running[mutant] = child
                continue
            for mutant, child in list(running.items()):
                outcome = child.poll()
                if outcome is None:
                    continue
                del running[mutant]
                book.add(self._result(mutant, "" if outcome.ok else outcome.by, stage))
            time.sleep(0.01)

    def _start(self, stage: str, module: str, mutant: Mutant) -> runner.Child | None:
        output = HOME / f"output.{mutant.number % self._jobs}"
        if stage == "sim":
            return runner.start_simulation(self._steps, module, mutant, output)
        baseline = self._baselines[stage]
        tests = baseline.tests(PACKAGE / f"{module}.py", mutant)
        return runner.start_tests(tests, baseline, module, mutant, output) if tests else None

    def _result(self, mutant: Mutant, by: str, stage: str) -> Result:
        return Result(mutant.where, mutant.change, mutant.line, by, stage, self._state, mutant.scope)


def _folders() -> list[str]:
    return [
        f"tests/unit/{path.name}" for path in sorted((ROOT / "tests/unit").iterdir()) if list(path.glob("test_*.py"))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutate", description=__doc__)
    parser.add_argument("modules", nargs="*", help="packages or modules such as kube or kube/queue; default: all")
    parser.add_argument("--quick", action="store_true", help="only the unit folder of each module")
    parser.add_argument("--steps", type=int, default=int(os.environ.get("AIFACTORY_SIM_STEPS", "1500")))
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--report", action="store_true", help="only tell what earlier runs found")
    args = parser.parse_args()
    HOME.mkdir(parents=True, exist_ok=True)
    chosen = modules(args.modules)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    runner.warm_up()
    accepted, state = Accepted(), tests_state()
    stages = Stages(accepted, state, args.steps, args.jobs)
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    unlisted = []
    package = ""
    for module in chosen:
        if module.partition("/")[0] != package:
            stages = Stages(accepted, state, args.steps, args.jobs)  # each package has other tests of its own
            package = module.partition("/")[0]
        source = (PACKAGE / f"{module}.py").read_text()
        book = Book(module)
        if not args.report:
            stages.check(module, book, quick=args.quick)
        results = [result for mutant in mutants(source) if (result := book.of(mutant)) is not None]
        killed = sum(bool(result.by) for result in results)
        for key in (module, package):
            counts[key][0] += killed
            counts[key][1] += len(results)
        survivors = [result for result in results if not result.by]
        reasons = [(result, accepted.reason(module, result)) for result in survivors]
        _print_module(module, killed, len(results), reasons)
        unlisted += [result for result, reason in reasons if not reason]
    below = _print_packages(counts)
    return 1 if below or (unlisted and not args.quick) else 0


def _print_module(module: str, killed: int, total: int, reasons: list[tuple[Result, str]]) -> None:
    if not total:
        return
    accepted = sum(bool(reason) for _, reason in reasons)
    print(f"{module}: {killed} of {total} killed ({killed / total:.0%}), {accepted} survivors accepted")
    for result, reason in reasons:
        if not reason:
            print(f"  operator/aifactory/{module}.py:{result.line} {result.where}\n      {result.change}", flush=True)


def _print_packages(counts: dict[str, list[int]]) -> bool:
    """Returns whether one is below what is wanted."""
    below = False
    print()
    for name in PACKAGES:
        killed, total = counts.get(name, (0, 0))
        if total:
            below |= killed < WANTED * total
            print(f"{name}: {killed} of {total} killed ({killed / total:.1%}; wanted {WANTED:.0%})")
    return below


if __name__ == "__main__":
    sys.exit(main())

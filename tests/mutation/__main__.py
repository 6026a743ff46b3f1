"""`make mutate`: which changes to the code no test notices. See README.md; `--help` tells the options."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutation import runner
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.runner import PACKAGE, ROOT

HOME = ROOT / "build/mutation"
LIST = Path(__file__).with_name("accepted.toml")
PACKAGES = ("kube", "engine", "training", "models", "serving")
WITHOUT = ("kube/metrics", "kube/api")
"""Declarations only."""
WANTED = 0.90
QUICK_SECONDS = 0.1
"""Tests that take longer are asked when all others have noticed nothing."""
NURSERY_FROM = 5
"""For fewer mutants it is not worth to collect all tests."""


Try = tuple[str, Mutant]
"""A module and a change to it."""


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
        self._results: dict[tuple[str, str, str], Result] = {}
        self.read()

    def read(self) -> None:
        """Read the file, into which another process may have written."""
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


def found(module: str, since: str) -> list[Mutant]:
    """The mutants of a module; of those alone that a commit has not, where one is given."""
    path = PACKAGE / f"{module}.py"
    every = mutants(path.read_text())
    if not since:
        return list(every)
    command = ["git", "show", f"{since}:{path.relative_to(ROOT)}"]
    then = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # a new file is in none
    known = {(each.where, each.change, each.scope) for each in (mutants(then.stdout) if then.stdout else ())}
    return [each for each in every if (each.where, each.change, each.scope) not in known]


def _commit(name: str) -> str:
    """For argparse: a commit that there is."""
    command = ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    if not (seen := subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()):
        raise argparse.ArgumentTypeError(f"no such commit: {name}")
    return seen


def tests_state() -> str:
    """Changes with every file under tests and operator."""
    digest = hashlib.sha256()
    for folder in ("tests/unit", "tests/sim", "tests/support", "operator"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


class Stages:
    """The tests a mutant has to pass, one stage after another.

    The quick ones of its unit folder, the others there, the other unit tests, the simulator.
    """

    def __init__(self, package: str, accepted: Accepted, state: str, steps: int, jobs: int) -> None:
        self._accepted, self._state, self._steps, self._jobs = accepted, state, steps, jobs
        self._own = f"tests/unit/{package}"
        self._noticed: deque[str] = deque(maxlen=5)
        """Tests that have noticed the last mutants: they may well notice the next one."""
        others = [path for path in _folders() if path != self._own]
        self._paths = {"quick": [self._own], self._own: [self._own], "tests/unit": others, "sim": []}

    def check(self, books: dict[str, Book], last: int, since: str) -> None:
        """Try every mutant of some modules that has no result that still counts, by the stages up to a number.

        Of those that are listed as accepted only the first stage asks again, which is cheap.
        """
        stages = list(self._paths)
        left = [
            (module, mutant) for module, book in books.items() for mutant in found(module, since) if not book.by(mutant)
        ]
        for number, stage in enumerate(stages[:last]):
            self._run(
                stage, [(m, mutant) for m, mutant in left if self._passed(mutant, books[m], stages) < number], books
            )
            left = [
                (module, mutant)
                for module, mutant in left
                if not books[module].by(mutant) and not self._accepted.reason(module, mutant)
            ]

    def measured(self, stage: str) -> Path:
        """Where it is kept what the tests of a stage do: the other unit tests are others for each package."""
        which = self._own if self._paths[stage] == [self._own] else f"all.but.{self._own}"
        return HOME / f"measure.{which.replace('/', '.')}.{self._state}.json"

    def _passed(self, mutant: Mutant, book: Book, stages: list[str]) -> int:
        """The number of the last stage that a mutant has survived with the tests as they are; -1 for none."""
        known = book.of(mutant)
        return stages.index(known.stage) if known is not None and known.tests == self._state else -1

    def _run(self, stage: str, left: list[Try], books: dict[str, Book]) -> None:
        if not left:
            return
        if stage == "sim":
            self._loop(stage, left, books, lambda t, output: runner.start_simulation(self._steps, *t, output))
        else:
            self._run_tests(stage, left, books)
        for module, book in books.items():
            tried = [mutant for m, mutant in left if m == module]
            survived = sum(not book.by(mutant) for mutant in tried)
            if tried:
                print(f"  {module}: {survived} of {len(tried)} survive {stage}", flush=True)

    def _run_tests(self, stage: str, left: list[Try], books: dict[str, Book]) -> None:
        """In forks of a nursery what can be tried there, then the others."""
        paths = self._paths[stage]
        for old in HOME.glob("measure.*"):
            if self._state not in old.name:
                old.unlink()
        baseline = runner.measure(paths, self.measured(stage))
        files = {tried: PACKAGE / f"{tried[0]}.py" for tried in left}

        def tests(tried: Try) -> list[str]:
            found = baseline.tests(files[tried], tried[1])
            if paths == [self._own]:
                found = [test for test in found if (baseline.seconds[test] <= QUICK_SECONDS) == (stage == "quick")]
            return sorted(found, key=lambda test: test not in self._noticed)

        def work(nursery: runner.Nursery) -> None:
            changes: dict[Try, runner.Changes] = {}

            def fitting() -> Iterator[Try]:
                for tried in late:
                    if (found := nursery.changes(*tried)) is not None:
                        changes[tried] = found
                        yield tried

            self._loop(
                stage, fitting(), books, lambda t, output: nursery.start(tests(t), baseline, changes.pop(t), output)
            )

        def start(tried: Try, output: Path) -> runner.Child | None:
            found = tests(tried)
            return runner.start_tests(found, baseline, *tried, output) if found else None

        late = [tried for tried, path in files.items() if not baseline.is_early(path, tried[1]) and tests(tried)]
        if len(late) >= NURSERY_FROM:
            child = runner.start_nursery(paths, work, HOME / f"nursery.{os.getpid()}")
            try:
                outcome = runner.wait(child)
            except BaseException:
                child.end()  # which kills those that it has started
                raise
            if not outcome.ok:
                raise RuntimeError(f"the nursery failed: {outcome.by}; see {HOME}/nursery.{os.getpid()}")
            for book in books.values():
                book.read()
        self._loop(stage, [tried for tried in left if not self._was_tried(stage, tried, books)], books, start)

    def _was_tried(self, stage: str, tried: Try, books: dict[str, Book]) -> bool:
        known = books[tried[0]].of(tried[1])
        return known is not None and (known.stage, known.tests) == (stage, self._state)

    def _loop(
        self,
        stage: str,
        left: Iterable[Try],
        books: dict[str, Book],
        start: Callable[[Try, Path], runner.Child | None],
    ) -> None:
        waiting, running = iter(left), dict[Try, runner.Child]()
        try:
            while True:
                if len(running) < self._jobs and (tried := next(waiting, None)) is not None:
                    child = start(tried, HOME / f"output.{len(running)}")
                    if child is None:
                        books[tried[0]].add(self._result(tried[1], "", stage))
                    else:
                        running[tried] = child
                    continue
                if not running:
                    return
                for tried, child in list(running.items()):
                    outcome = child.poll()
                    if outcome is None:
                        continue
                    del running[tried]
                    if outcome.by not in self._noticed:
                        self._noticed.append(outcome.by)
                    books[tried[0]].add(self._result(tried[1], "" if outcome.ok else outcome.by, stage))
                time.sleep(0.01)
        finally:
            for child in running.values():
                child.kill()

    def _result(self, mutant: Mutant, by: str, stage: str) -> Result:
        return Result(mutant.where, mutant.change, mutant.line, by, stage, self._state, mutant.scope)


def _folders() -> list[str]:
    return [
        f"tests/unit/{path.name}" for path in sorted((ROOT / "tests/unit").iterdir()) if list(path.glob("test_*.py"))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutate", description=__doc__)
    parser.add_argument("modules", nargs="*", help="packages or modules such as kube or kube/queue; default: all")
    parser.add_argument("--quick", action="store_true", help="only the quick tests in the unit folder of each module")
    parser.add_argument("--own", action="store_true", help="only the tests in the unit folder of each module")
    parser.add_argument(
        "--since", type=_commit, default="", metavar="COMMIT", help="only what has changed since a commit"
    )
    parser.add_argument("--steps", type=int, default=int(os.environ.get("AIFACTORY_SIM_STEPS", "1500")))
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--report", action="store_true", help="only tell what earlier runs found")
    args = parser.parse_args()
    last = 1 if args.quick else 2 if args.own else 4 if args.steps else 3
    HOME.mkdir(parents=True, exist_ok=True)
    chosen = modules(args.modules)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    runner.warm_up()
    accepted, state = Accepted(), tests_state()
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    unlisted = []
    for package, group in itertools.groupby(chosen, lambda module: module.partition("/")[0]):
        books = {module: Book(module) for module in group}
        if not args.report:
            Stages(package, accepted, state, args.steps, args.jobs).check(books, last, args.since)
        for module, book in books.items():
            results = [result for mutant in found(module, args.since) if (result := book.of(mutant)) is not None]
            killed = sum(bool(result.by) for result in results)
            for key in (module, package):
                counts[key][0] += killed
                counts[key][1] += len(results)
            survivors = [result for result in results if not result.by]
            reasons = [(result, accepted.reason(module, result)) for result in survivors]
            _print_module(module, killed, len(results), reasons)
            unlisted += [result for result, reason in reasons if not reason]
    below = _print_packages(counts)
    return 1 if below or (unlisted and last > 2) else 0


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

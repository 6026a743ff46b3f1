"""Running tests on one mutant, in a process of its own that is forked from one that has imported what takes long.

There are two such parents. One, the nursery, has collected the tests; in its children the functions that a mutant
changes get other code. For what matters already while modules and tests are imported the other one has imported pytest,
hypothesis and other people's libraries, and nothing of ours; a child puts the mutant into place where Python would read
the module. So no file is changed and no copy of the tree is needed. A child runs the tests that ran the changed lines
when nothing was changed, and is killed when it takes much more CPU than they took then; time on the clock says little
on a shared machine.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import inspect
import json
import os
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import hypothesis
import pytest

from tests.mutation.mutants import Module, Mutant, mutated

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "operator/aifactory"
LIBRARIES = (
    "aiohttp.web",
    "coverage",
    "kopf",
    "kubernetes.aio.config",
    "kubernetes.client.models.v1_deployment",
    "msgspec",
    "prometheus_client",
    "pydantic",
    "pytest_asyncio.plugin",
    "yaml",
)
"""Imported once, in the parent."""

MEMORY_BYTES = 4 << 30
"""A mutant that never stops adding to a list must not take the machine with it."""


@dataclass
class Baseline:
    """What the tests of one stage do without any change."""

    seconds: dict[str, float]
    """CPU seconds of each test."""
    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    """The tests that ran each line of each file; "" stands for the import of the module."""

    def tests(self, path: Path, mutant: Mutant) -> list[str]:
        """Tests that may notice a mutant, the quickest first."""
        found = self._ran(path, mutant)
        if mutant.always or "" in found:
            # What only reads a constant has run no line of the module: take the neighbours of those that have.
            files = {test.partition("::")[0] for tests in self.lines.get(str(path), {}).values() for test in tests}
            found = {test for test in self.seconds if test.partition("::")[0] in files}
        return sorted(found - {""}, key=lambda test: self.seconds[test])

    def is_early(self, path: Path, mutant: Mutant) -> bool:
        """Whether a mutant makes a difference before the first test runs: while modules and tests are imported."""
        return mutant.always or "" in self._ran(path, mutant)

    def _ran(self, path: Path, mutant: Mutant) -> set[str]:
        lines = self.lines.get(str(path), {})
        return {test for line in mutant.lines for test in lines.get(line, ())}


@dataclass(frozen=True)
class Outcome:
    """What became of a child."""

    ok: bool
    """Nothing failed."""
    by: str = ""
    """The test that failed, or what else ended the child."""


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module, changed."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self._name, self._path, self._tree = name, path, tree

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        loader = _Loader(fullname, str(self._path))
        loader.tree = self._tree
        return importlib.machinery.ModuleSpec(fullname, loader, origin=str(self._path))


class _Loader(importlib.machinery.SourceFileLoader):
    tree: ast.Module

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.tree, self.path, "exec", dont_inherit=True)


class _Reporter:
    """A pytest plugin that tells the parent which test failed, and ends one that takes far too long."""

    def __init__(self, tell: Callable[[str], object], seconds: Mapping[str, float]) -> None:
        self._tell = tell
        self._seconds = seconds

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if nodeid in self._seconds:
            _limit_cpu(2 + 5 * self._seconds[nodeid], lambda: self._tell(f"{nodeid} (took too long)"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._tell(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._tell(f"import for {report.nodeid}")


class _Measure:
    """A pytest plugin that notes what each test runs and takes."""

    def __init__(self, coverage: Any) -> None:
        self._coverage = coverage
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self._coverage.switch_context(item.nodeid)
        started = time.process_time()
        result = yield
        self.seconds[item.nodeid] = time.process_time() - started
        self._coverage.switch_context("")
        return result


def warm_up() -> None:
    """Import what children need, once; call it before anything else here."""
    for name in LIBRARIES:
        importlib.import_module(name)
    # The first failure counts; nobody reads a smaller one, and looking for it takes minutes. No test waits for a clock.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    checks = list(hypothesis.HealthCheck)
    hypothesis.settings.register_profile(
        "mutation", deadline=None, database=None, phases=phases, suppress_health_check=checks, print_blob=False
    )
    gc.freeze()  # a child collects garbage when it ends, and need not look at all of this


def measure(paths: Sequence[str], answer: Path) -> Baseline:
    """Run the tests in these paths on the code as it is; the answer is kept. Raises RuntimeError when one fails."""

    def child(_: Callable[[str], object]) -> int:
        from coverage import Coverage

        coverage = Coverage(data_file=None, config_file=False, include=[f"{PACKAGE}/*"])
        plugin = _Measure(coverage)
        coverage.start()
        code = _pytest(paths, plugin)
        coverage.stop()
        data = coverage.get_data()
        lines = {file: data.contexts_by_lineno(file) for file in data.measured_files()}
        if code == 0:
            answer.write_text(json.dumps({"seconds": plugin.seconds, "lines": lines}))
        return code

    if not answer.exists():
        output = answer.with_suffix(".output")
        outcome = wait(start(child, output, cpu_seconds=3600))
        if not outcome.ok:
            raise RuntimeError(f"the tests fail without any change: {outcome.by}; see {output}")
    found = json.loads(answer.read_text())
    return Baseline(
        found["seconds"],
        {file: {int(line): tests for line, tests in lines.items()} for file, lines in found["lines"].items()},
    )


def start_tests(tests: Sequence[str], baseline: Baseline, module: str, mutant: Mutant, output: Path) -> Child:
    """Run some tests on a mutant."""

    def child(tell: Callable[[str], object]) -> int:
        _put_in_place(module, mutant)
        return _pytest(["-x", *tests], _Reporter(tell, baseline.seconds))

    return start(child, output, cpu_seconds=_limit(tests, baseline))


def _limit(tests: Sequence[str], baseline: Baseline) -> float:
    return 5 + 4 * sum(baseline.seconds[test] for test in tests)


Changes = list[tuple[FunctionType, CodeType]]


class Nursery:
    """Tests that have been collected, and all our code with them: a fork needs only to run them.

    In a fork the functions that a mutant changes get the code that they have then, which is as good as importing the
    changed module for whatever happens after the import.
    """

    def __init__(self, items: Iterable[pytest.Item]) -> None:
        self._items = {item.nodeid: item for item in items}
        functions = [found for found in gc.get_objects() if type(found) is FunctionType]
        self._functions = [found for found in functions if found.__code__.co_filename.startswith(f"{PACKAGE}/")]
        self._modules: dict[Path, tuple[Module, Mapping[_Key, list[CodeType]], set[_Key]]] = {}

    def changes(self, module: str, mutant: Mutant) -> Changes | None:
        """The functions that a mutant changes, with their new code; None when they can not be told for certain."""
        path = PACKAGE / f"{module}.py"
        if path not in self._modules:
            original = Module(path.read_text())
            self._modules[path] = (original, *_codes(compile(original.tree, str(path), "exec", dont_inherit=True)))
        known, before, outer = self._modules[path]
        after, _ = _codes(known.compiled(mutant, str(path)))
        live = [found for found in self._functions if found.__code__.co_filename == str(path)]
        changed = [found for found in live if before[_key(found.__code__)] != after[_key(found.__code__)]]
        if {key for key in outer if before[key] != after[key]} - {_key(found.__code__) for found in changed}:
            return None  # one is not there, or is there in another form
        changes = [(found, code) for found in changed for code in after[_key(found.__code__)]]
        fits = all(found.__code__.co_freevars == code.co_freevars for found, code in changes)
        return changes if changes and len(changes) == len(changed) and fits else None

    def start(self, tests: Sequence[str], baseline: Baseline, changes: Changes, output: Path) -> Child:
        """Run some tests on a mutant."""
        items = [self._items[test] for test in tests]

        def child(tell: Callable[[str], object]) -> int:
            for function, code in changes:
                function.__code__ = code
            items[0].config.pluginmanager.register(_Reporter(tell, baseline.seconds))
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if item.session.testsfailed:
                    return 1
            return 0

        return start(child, output, cpu_seconds=_limit(tests, baseline))


class _Collected:
    """A pytest plugin that does something else with the tests than to run them."""

    def __init__(self, work: Callable[[Nursery], object]) -> None:
        self._work = work

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        nursery = Nursery(session.items)
        gc.freeze()  # what is here already need not be looked through in each child
        self._work(nursery)
        return True


def start_nursery(paths: Sequence[str], work: Callable[[Nursery], object], output: Path) -> Child:
    """Collect the tests in these paths and do `work` there."""
    return start(lambda _: _pytest(["-s", *paths], _Collected(work)), output, cpu_seconds=6 * 3600)


_Key = tuple[str, int]


def _key(code: CodeType) -> _Key:
    return code.co_qualname, code.co_firstlineno


def _codes(module: CodeType) -> tuple[Mapping[_Key, list[CodeType]], set[_Key]]:
    """The code of every function of a module, and which of them are inside of no other."""
    found: defaultdict[_Key, list[CodeType]] = defaultdict(list)
    outer: set[_Key] = set()

    def look(code: CodeType, *, inside: bool) -> None:
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                is_function = bool(inner.co_flags & inspect.CO_OPTIMIZED)  # and no body of a class
                if is_function:
                    found[_key(inner)].append(inner)
                if is_function and not inside:
                    outer.add(_key(inner))
                look(inner, inside=inside or is_function)

    look(module, inside=False)
    return found, outer


def start_simulation(steps: int, module: str, mutant: Mutant | None, output: Path) -> Child:
    """Run the simulator's stories and a short campaign, on a mutant or on the code as it is."""

    def child(tell: Callable[[str], object]) -> int:
        if mutant is not None:
            _put_in_place(module, mutant)
        if code := _pytest(["-x", "tests/sim/test_regressions.py"], _Reporter(tell, {})):
            return code
        campaign = importlib.import_module("tests.sim.campaign")
        failure = campaign.shard(0, steps).failure
        if failure:
            print(failure)
            tell("tests/sim campaign")
        return 1 if failure else 0

    return start(child, output, cpu_seconds=20 + steps / 50)


@dataclass
class Child:
    """A process that runs tests."""

    pid: int
    pipe: int
    ends: float
    """When it is killed, by the monotonic clock."""

    def kill(self) -> None:
        """End it and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Ask it to end, with what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def poll(self) -> Outcome | None:
        """What became of it; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            if time.monotonic() < self.ends:
                return None
            self.kill()
            _, status = os.waitpid(self.pid, 0)
        said = os.read(self.pipe, 4000).decode().partition("\n")[0]
        os.close(self.pipe)
        if os.WIFSIGNALED(status):
            return Outcome(False, said or ("time" if os.WTERMSIG(status) == signal.SIGKILL else "crash"))
        code = os.WEXITSTATUS(status)
        if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED) and not said:
            raise RuntimeError(f"pytest did not run (exit status {code})")
        return Outcome(code == 0, said or ("" if code == 0 else f"exit status {code}"))


def wait(child: Child) -> Outcome:
    """Wait for a child."""
    while (outcome := child.poll()) is None:
        time.sleep(0.02)
    return outcome


def start(work: Callable[[Callable[[str], object]], int], output: Path, *, cpu_seconds: float) -> Child:
    """Fork a child that does `work` and ends with the exit status it returns; what it prints goes to a file.

    One that waits for what will not come uses no CPU: on the clock it has four times as long.
    """
    sys.stdout.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        with contextlib.suppress(OSError):  # the child does the same; whoever comes first
            os.setpgid(pid, pid)
        return Child(pid, reader, time.monotonic() + 4 * cpu_seconds)
    code = 70
    try:
        os.setpgid(0, 0)
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds) + 10, int(cpu_seconds) + 10))
        target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, 1)
        os.dup2(target, 2)
        _limit_cpu(cpu_seconds, lambda: None)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        os.chdir(ROOT)
        code = work(lambda text: os.write(writer, f"{text}\n".encode()[:4000]))
    except BaseException as error:
        os.write(writer, f"{type(error).__name__}: {error}\n".encode()[:4000])
    finally:
        sys.stdout.flush()
        os._exit(code)


def _limit_cpu(seconds: float, before: Callable[[], object]) -> None:
    """End this process when it has used so much more CPU; one that hears no signals, a little later."""

    def end(*_: object) -> None:
        before()
        os._exit(71)

    signal.signal(signal.SIGXCPU, end)
    used, hard = int(time.process_time() + seconds) + 1, resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (used, hard))


def _put_in_place(module: str, mutant: Mutant) -> None:
    path = PACKAGE / f"{module}.py"
    name = f"aifactory.{module.replace('/', '.')}"
    assert name not in sys.modules, "the parent has imported our code"
    sys.meta_path.insert(0, _Finder(name, path, mutated(path.read_text(), mutant)))


def _pytest(args: Sequence[str], plugin: object) -> int:
    options = ("-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-o", "timeout=0")
    choices = ("--hypothesis-profile=mutation", "--hypothesis-seed=0")
    return int(pytest.main([*options, *choices, *args], plugins=[plugin]))

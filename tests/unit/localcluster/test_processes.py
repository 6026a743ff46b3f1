"""Starting, recognising and stopping programs: real processes, since this is where mistakes kill the wrong one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster import processes
from localcluster.console import CannotRun
from localcluster.processes import Program, Supervisor, start_ticks
from tests.support.waiting import wait_for

SLEEP = Program("sleeper", ("sleep", "300"))


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    found = Supervisor(tmp_path)
    yield found
    found.stop("sleeper", kill=True)


def _pid(supervisor: Supervisor) -> int:
    record = supervisor.record("sleeper")
    assert record is not None
    return record.pid


def test_a_running_program_is_not_started_twice(supervisor: Supervisor) -> None:
    assert supervisor.start(SLEEP)
    pid = _pid(supervisor)
    assert not Supervisor(supervisor.directory).start(SLEEP)  # nor by another run of the tool
    assert _pid(supervisor) == pid


def test_other_arguments_or_files_replace_the_process(supervisor: Supervisor, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("a")
    program = Program("sleeper", ("sleep", "300"), files=(config,))
    supervisor.start(program)
    first = _pid(supervisor)
    config.write_text("b")
    assert supervisor.start(program)
    assert _pid(supervisor) != first
    assert start_ticks(first) is None


def test_a_killed_process_is_noticed_although_nobody_collected_it(supervisor: Supervisor) -> None:
    supervisor.start(SLEEP)
    pid = _pid(supervisor)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie now
    assert start_ticks(pid) is None
    assert supervisor.record("sleeper") is None


def test_a_recycled_process_id_is_never_signalled(supervisor: Supervisor) -> None:
    supervisor.start(SLEEP)
    path = supervisor.directory / "run" / "sleeper.json"
    record = json.loads(path.read_text())
    foreign = subprocess.Popen(["sleep", "300"])
    try:
        # The pid file tells of a process that started at another time than the one that has its id now.
        path.write_text(json.dumps(record | {"pid": foreign.pid, "ticks": record["ticks"] - 1}))
        Supervisor(supervisor.directory).stop("sleeper", kill=True)
        assert foreign.poll() is None
        path.write_text(json.dumps(record | {"boot": "another"}))
        assert supervisor.record("sleeper") is None
    finally:
        foreign.kill()
        foreign.wait()
    processes.end({record["pid"]: record["ticks"]}, kill=True)


def test_a_process_without_a_pid_file_is_found_by_its_mark(supervisor: Supervisor) -> None:
    supervisor.start(SLEEP)
    pid = _pid(supervisor)
    (supervisor.directory / "run" / "sleeper.json").unlink()
    # The kernel shows a program's environment a moment after the program was started.
    wait_for("the mark to be seen", supervisor.orphans, lambda found: pid in found, seconds=20)
    assert pid not in Supervisor(supervisor.directory / "other").orphans()
    processes.end(supervisor.orphans(), kill=True)


def test_a_child_without_a_pid_file_is_stopped_too(supervisor: Supervisor) -> None:
    supervisor.start(SLEEP)
    pid = _pid(supervisor)
    (supervisor.directory / "run" / "sleeper.json").unlink()
    supervisor.stop("sleeper", kill=True)
    assert start_ticks(pid) is None


def test_a_program_that_ends_early_is_reported_with_its_last_words(supervisor: Supervisor) -> None:
    supervisor.start(Program("sleeper", ("sh", "-c", "echo no such port >&2; exit 1")))
    with pytest.raises(CannotRun, match=r"sleeper ended before ready.*\n.*no such port"):
        supervisor.wait("sleeper", "ready", lambda: False, 20)


def test_programs_of_a_caller_that_is_killed_die_with_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from localcluster.processes import *;"
        f"s = Supervisor(Path({str(tmp_path)!r}), die_with_caller=True); s.start(Program('x', ('sleep', '300')));"
        "print(s.record('x').pid, flush=True); time.sleep(300)"
    )
    root = Path(__file__).resolve().parents[3]
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    ticks = start_ticks(pid)
    assert ticks is not None
    # Until the program itself runs, the kernel may not have been asked yet.
    name = Path(f"/proc/{pid}/comm")
    wait_for("the program to run", name.read_text, lambda found: found == "sleep\n", seconds=20)
    caller.kill()
    caller.wait()
    caller.stdout.close()
    assert processes._all_ended({pid: ticks}, patience=10)

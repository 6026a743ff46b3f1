"""Start, recognise and stop long-running programs, across runs of this tool and across its violent ends.

A program is ours only if its process id, its start time and the boot of the machine are those we wrote down, or if it
carries our mark in its environment: a recycled process id is never signalled. A running program that was started with
other arguments, another version or another configuration is not the one asked for. Must not know what the programs
do.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from localcluster.console import CannotRun

MARK = "AIFACTORY_LOCALCLUSTER"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOG_LIMIT = 32 << 20


@dataclass(frozen=True)
class Program:
    """What to run. ``files`` are read at its start only: if their content changes, it is started again."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.command, sorted(self.environment.items()))).encode())
        for path in self.files:
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Record:
    """A process we started, as written to its pid file. ``ticks`` is its start time in clock ticks since ``boot``."""

    pid: int
    ticks: int
    boot: str
    fingerprint: str
    started: float

    def is_alive(self) -> bool:
        return self.boot == boot_id() and start_ticks(self.pid) == self.ticks


class Supervisor:
    """The programs of one cluster, with their pid files and logs under ``directory``.

    With ``die_with_caller``, the kernel ends them when the thread that started them ends, however that happens.
    """

    def __init__(self, directory: Path, die_with_caller: bool = False) -> None:
        self.directory = directory
        self._pids = directory / "run"
        self._logs = directory / "logs"
        self._die_with_caller = die_with_caller
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def logs(self) -> list[Path]:
        return sorted(self._logs.glob("*.log"))

    def record(self, name: str) -> Record | None:
        """What is known of the process, if it is alive."""
        child = self._children.get(name)
        if child is not None:
            child.poll()  # else a child that ended stays a zombie and looks alive
        try:
            found = Record(**json.loads((self._pids / f"{name}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.is_alive() else None

    def runs(self, program: Program) -> bool:
        """Whether exactly this program runs: this version, these arguments, this configuration."""
        record = self.record(program.name)
        return record is not None and record.fingerprint == program.fingerprint()

    def start(self, program: Program) -> bool:
        """Make it run; returns whether it had to be started."""
        if self.runs(program):
            return False
        self.stop(program.name)
        for directory in (self._pids, self._logs):
            directory.mkdir(parents=True, exist_ok=True)
        log = self.log(program.name)
        if log.exists() and log.stat().st_size > _LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))
        prefix = ("setpriv", "--pdeathsig", "KILL", "--") if self._die_with_caller else ()
        environment = {"PATH": _SYSTEM_PATH, "HOME": str(self.directory), "LANG": "C.UTF-8", MARK: str(self.directory)}
        with log.open("ab") as output:
            child = subprocess.Popen(
                (*prefix, *program.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                env=environment | dict(program.environment),
                start_new_session=True,
            )
        self._children[program.name] = child
        self._write(program, child.pid)
        return True

    def _write(self, program: Program, pid: int) -> None:
        record = Record(pid, start_ticks(pid) or 0, boot_id(), program.fingerprint(), time.time())
        staging = self._pids / f".{program.name}.new"
        staging.write_text(json.dumps(asdict(record)))
        staging.replace(self._pids / f"{program.name}.json")

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process is gone."""
        record = self.record(name)
        if record is not None:
            _send(record.pid, record.ticks, number)

    def stop(self, name: str, grace: float = 10.0, kill: bool = False) -> None:
        """End it: asked first, unless ``kill``, and forced after ``grace`` seconds."""
        record = self.record(name)
        child = self._children.pop(name, None)
        found = {record.pid: record.ticks} if record is not None else {}
        if child is not None and (ticks := start_ticks(child.pid)) is not None:
            found[child.pid] = ticks  # also if somebody removed its pid file
        if found:
            end(found, grace, kill)
        if child is not None:
            child.wait()
        (self._pids / f"{name}.json").unlink(missing_ok=True)

    def orphans(self) -> dict[int, int]:
        """Processes with our mark, whether a pid file tells of them or not: process id to start time."""
        mark = f"{MARK}={self.directory}\0".encode()
        found = {}
        for pid in process_ids():
            try:
                if mark in Path(f"/proc/{pid}/environ").read_bytes() and (ticks := start_ticks(pid)) is not None:
                    found[pid] = ticks
            except OSError:
                continue
        return found

    def wait(self, name: str, what: str, check: Callable[[], bool], seconds: float) -> None:
        """Until ``check`` holds.

        Raises CannotRun with the end of the log if the program ends first or time runs out.
        """
        deadline = time.monotonic() + seconds
        while not check():
            if self.record(name) is None:
                raise CannotRun(f"{name} ended before {what}; its log {self.log(name)} ends with:\n{self.tail(name)}")
            if time.monotonic() > deadline:
                raise CannotRun(
                    f"{name}: not {what} after {seconds:.0f} s; its log {self.log(name)}:\n{self.tail(name)}"
                )
            time.sleep(0.05)

    def tail(self, name: str, lines: int = 8) -> str:
        return "\n".join(last_lines(self.log(name), lines))


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process_ids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it has ended, collected by its parent or not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in parentheses, and may itself hold blanks and parentheses.
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX" and not _has_threads(pid):
        return None
    return int(fields[19])


def _has_threads(pid: int) -> bool:
    """The first thread may have ended while others still hold the files and ports of the process."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def end(processes: Mapping[int, int], grace: float = 5.0, kill: bool = False) -> None:
    """End processes given by id and start time: together, politely unless ``kill``, then by force."""
    steps = [(signal.SIGKILL, 5.0)] if kill else [(signal.SIGTERM, grace), (signal.SIGKILL, 5.0)]
    for number, patience in steps:
        for pid, ticks in processes.items():
            _send(pid, ticks, number)
        if _all_ended(processes, patience):
            return
    left = [pid for pid, ticks in processes.items() if start_ticks(pid) == ticks]
    raise CannotRun(f"processes {left} do not end, not even by SIGKILL: the kernel holds them (see dmesg)")


def _send(pid: int, ticks: int, number: signal.Signals) -> None:
    """Signal the process that has this id and this start time, and no other that may have got the id meanwhile."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if start_ticks(pid) == ticks:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _all_ended(processes: Mapping[int, int], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while any(start_ticks(pid) == ticks for pid, ticks in processes.items()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def last_lines(path: Path, lines: int) -> Iterable[str]:
    """The end of a text file, without reading all of it."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - 400 * lines))
            return handle.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return ["(no log)"]


def answers(socket_path: Path, question: bytes = b"", expected: bytes = b"") -> bool:
    """Whether somebody listens on a UNIX socket and, if asked a question, says what is expected.

    A file that a killed process left behind does not answer.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(socket_path))
            if not question:
                return True
            probe.sendall(question)
            return expected in b"".join(iter(partial(probe.recv, 4096), b""))
        except OSError:
            return False


def raise_open_file_limit() -> None:
    """Children inherit it: container runtimes and API servers keep many connections and watches open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

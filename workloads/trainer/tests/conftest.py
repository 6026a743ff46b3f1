"""What the trainer's tests share: processes started as in a pod, and a receiver for progress reports."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = (
    *("-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"),
    "--local-addr=127.0.0.1",  # else the machine's name has to resolve, which it need not on a bare one
)

torch.set_num_threads(1)

NIGHT = pytest.mark.skipif(os.environ.get("AIFACTORY_LONG") != "1", reason="long: make test-night runs it")
"""Heavy, and of code that another test goes through too."""

DEVICES = [
    torch.device("cpu"),
    pytest.param(
        torch.device("cuda", 0),
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")],
    ),
]
"""For parametrize: what is to hold on each of them."""


def wait_until(condition: Callable[[], Any], what: str, seen: Callable[[], Any], seconds: float = 300.0) -> None:
    """Wait for a condition; on time-out fail with what was seen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s for {what}; seen: {seen()}")
        time.sleep(0.01)


@dataclass
class Pod:
    """A directory that stands for a pod's mounts, and the processes started in it."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def error_file(self) -> Path:
        return self.root / "error.json"

    @property
    def termination_log(self) -> Path:
        return self.root / "termination-log"

    def start(self, *command: str, **env: str) -> subprocess.Popen[str]:
        """Start `python <command>` with the environment that the operator gives a trainer container."""
        self.termination_log.write_text("")
        self.error_file.unlink(missing_ok=True)
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        given = {
            "PYTHONPATH": f"{ROOT}:{ROOT.parent / 'contract'}",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "AIFACTORY_CHECKPOINTS": str(self.checkpoints),
            "AIFACTORY_OUTPUT": str(self.output),
            "AIFACTORY_TERMINATION_LOG": str(self.termination_log),
            "TORCHELASTIC_ERROR_FILE": str(self.error_file),
        }
        log = (self.root / f"log-{len(self.processes)}").open("w")
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**inherited, **given, **self.env, **env},
            cwd=self.root,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        log.close()
        self.processes.append(process)
        return process

    def log(self, process: subprocess.Popen[str]) -> str:
        return (self.root / f"log-{self.processes.index(process)}").read_text(errors="replace")

    def run(self, *command: str, expect: int | None = 0, seconds: float = 180.0, **env: str) -> str:
        """Start, wait, check the exit code, and return what it printed."""
        process = self.start(*command, **env)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{command} did not end in {seconds:.0f} s:\n{self.log(process)}")
        if expect is not None and code != expect:
            pytest.fail(f"{command} ended with {code}, not {expect}:\n{self.log(process)}")
        return self.log(process)

    def script(self, text: str) -> str:
        path = self.root / "script.py"
        path.write_text(text)
        return str(path)

    def steps_saved(self) -> list[int]:
        return sorted(int(path.name[5:]) for path in self.checkpoints.glob("step-*") if path.name[5:].isdigit())

    def termination_message(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.termination_log.read_text())["message"]
        return message

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill a process and its descendants at once, as the loss of a pod does; torchrun's workers too, which have
        sessions of their own and would train on."""
        for pid in [process.pid, *descendants(process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()

    def stop_all(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                self.kill(process)


def descendants(root: int) -> list[int]:
    """Process ids below one, by the parents in /proc."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    pod = Pod(tmp_path)
    yield pod
    pod.stop_all()


@dataclass
class Receiver:
    """A real HTTP server in the operator's place; `answers` decides, the last answer repeats."""

    answers: list[tuple[int, dict[str, str]]] = field(default_factory=lambda: [(204, {})])
    requests: list[tuple[str, str | None, dict[str, Any]]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [body for _, _, body in self.requests]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    state = Receiver()
    state.hold.set()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.requests.append((self.path, self.headers.get("Authorization"), body))
                status, headers = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            state.hold.wait(20)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1/progress/team/job"
    yield state
    state.hold.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """The inputs `base` and `chat` of a job."""
    import chatmodel  # by transformers, which not every Python has that runs other tests

    chatmodel.write(tmp_path / "inputs" / "base")
    chatmodel.write_lines(tmp_path / "inputs" / "chat" / "fruit.jsonl", chatmodel.conversations(40))
    return tmp_path / "inputs"


@pytest.fixture
def job(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """The environment of a job, for the program run in this process."""
    for name in ("WORLD_SIZE", "RANK", "TORCHELASTIC_ERROR_FILE", "AIFACTORY_PROGRESS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("AIFACTORY_INPUTS", str(inputs))
    monkeypatch.setenv("AIFACTORY_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("AIFACTORY_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("AIFACTORY_TERMINATION_LOG", str(tmp_path / "termination-log"))
    (tmp_path / "termination-log").write_text("")
    caplog.set_level(logging.INFO, "aifactory")
    return tmp_path


def refused(main: Callable[[tuple[str, ...]], None], job: Path, *arguments: str) -> str:
    """What the job's status says of a program that ends before it begins its work."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 93
    assert not list(job.glob("checkpoints/step-*"))
    assert not (job / "output").exists()
    message = json.loads((job / "termination-log").read_text())["message"]
    assert message["errorCode"] == 93
    said = str(message["message"])
    assert said.startswith("NoRestart: ")
    return said.removeprefix("NoRestart: ")

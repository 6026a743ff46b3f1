"""Real processes for tests: tritonserver started as the image starts it, and the agent beside it.

Everything listens on loopback with ports of its own. Waiting is on conditions with a deadline; what was last seen is in
the failure's message.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from aifactory_contract.control import control_key
from aifactory_contract.engines import BYTES
from aifactory_contract.files import write_atomically
from aifactory_contract.server import write_server
from aifactory_server.backends import available, write_backends
from aifactory_server.distribution import find_triton
from aifactory_server.launch import Settings, command, environment, remove_leftovers

T = TypeVar("T")
WORKLOADS = Path(__file__).resolve().parents[2]
LIGHT_BACKEND = Path(__file__).with_name("light_backend.py")


def wait_for(what: str, probe: Callable[[], T], seconds: float = 30.0, failed: Callable[[], str] = str) -> T:
    """Call `probe` until it gives something true; AssertionError with what was seen last if it does not in time."""
    deadline = time.monotonic() + seconds
    seen: object = None
    while time.monotonic() < deadline:
        try:
            seen = probe()
        except (OSError, urllib.error.URLError) as error:
            seen = repr(error)
        else:
            if seen:
                return seen
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds:.0f} s; last seen: {seen!r}\n{failed()}")


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def http(url: str, body: Any = None, seconds: float = 10.0, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and text of a GET, or of a POST of JSON."""
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, data, headers or {})
        with urllib.request.urlopen(request, timeout=seconds) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def as_process_one(*arguments: str, **environ: str) -> subprocess.Popen[bytes]:
    """Run as a container does: as process 1, to which the kernel gives no signal that it has no handler for."""
    if os.geteuid() != 0:
        pytest.skip("needs the right to make a PID namespace")
    paths = os.pathsep.join(str(WORKLOADS / name) for name in ("server", "agent", "contract"))
    env = {**os.environ, "PYTHONPATH": paths, **environ}
    outer = ["unshare", "--pid", "--fork", "--kill-child", *arguments]
    return subprocess.Popen(outer, env=env, start_new_session=True, stderr=subprocess.PIPE)


def ended_by_sigterm(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Ask process 1 to end; its exit code and the seconds it took."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    (inner,) = wait_for("process 1 is there", lambda: children.read_text().split(), 10)
    started = time.monotonic()
    os.kill(int(inner), signal.SIGTERM)
    try:
        code = process.wait(10)
    finally:
        process.kill()
    return code, time.monotonic() - started


@contextmanager
def running(command: list[str], port: int, **env: str) -> Iterator[None]:
    """A server that answers at `port` when this begins, and is ended afterwards."""
    server = subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def listens() -> bool:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True

        wait_for(f"{command[0]} answers", listens, 60)
        yield
    finally:
        server.terminate()
        server.wait()


@dataclass
class TritonProcess:
    """One tritonserver. With `light`, language models have a small back end without torch: loads take milliseconds."""

    root: Path
    light: bool = False
    light_backend: Path = LIGHT_BACKEND
    exit_timeout_seconds: int = 10
    environ: dict[str, str] = field(default_factory=dict)
    gpus: int = 0
    """As it says; there are none."""
    vllm_backend: Path | None = None
    """Directory with what stands in for Triton's vLLM back end."""
    packages: Path | None = None
    """Where models' workers find packages; None: where this process does."""
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self.repository = self.root / "repository"
        self.log = self.root / "triton.log"
        self._prefix = f"aifactory-test-{self.grpc_port}-"
        self._starts = 0

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def start(self) -> None:
        """Start it and wait until it is live."""
        triton = replace(find_triton(os.environ), vllm_backend=self.vllm_backend)
        (self.repository / "models").mkdir(parents=True, exist_ok=True)
        self._starts += 1
        names = available(triton, self.environ)
        backends = write_backends(triton, self.root / f"backends-{self._starts}", names)
        write_server(self.repository, names, self.gpus, self.environ)
        if self.light and BYTES.name in names:
            (backends / BYTES.name / "model.py").write_text(
                "import os, sys\nsys.path[:0] = os.environ['AIFACTORY_PYTHONPATH'].split(':')\n"
                + self.light_backend.read_text()
            )
        settings = Settings(
            repository=self.repository,
            address="127.0.0.1",
            http_port=self.http_port,
            grpc_port=self.grpc_port,
            metrics_port=self.metrics_port,
            exit_timeout_seconds=self.exit_timeout_seconds,
            shm_prefix=self._prefix,
        )
        arguments = command(triton, settings, backends, control_key(self.repository), [])
        with self.log.open("ab") as log:
            env = environment(triton, {**os.environ, **self.environ})
            if self.packages is not None:
                ours = [str(WORKLOADS / part) for part in ("server", "contract")]
                env["AIFACTORY_PYTHONPATH"] = os.pathsep.join([*ours, str(self.packages)])
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log, env=env, start_new_session=True)
        wait_for("Triton is live", lambda: http(f"{self.url}/v2/health/live")[0] == 200, 30, self.tail)

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out; its workers go with it, as in a container."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
        remove_leftovers(self._prefix)

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.kill()
        return code

    def workers(self) -> list[int]:
        """Process ids of the models' workers."""
        assert self.process is not None
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
                command_line = (path.parent / "cmdline").read_bytes()
            except OSError:
                continue
            if (
                int(fields[1]) == self.process.pid
                and b"triton_python_backend_stub" in command_line
                and fields[0] != "Z"
            ):
                found.append(int(path.parent.name))
        return found

    def metric(self, name: str, **labels: str) -> float:
        """A value from the metrics endpoint; 0 if it is not there."""
        _, text = http(f"http://127.0.0.1:{self.metrics_port}/metrics")
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        for line in text.splitlines():
            if line.startswith(name + "{") and all(label in line for label in wanted):
                return float(line.rpartition(" ")[2])
        return 0.0

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:]) if self.log.exists() else ""


@dataclass
class AgentProcess:
    """`aifactory-agent serve` beside a TritonProcess."""

    triton: TritonProcess
    claims: Path
    secrets: Path = Path("/nonexistent")
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        (self.port,) = free_ports(1)
        self.desired = self.triton.root / "desired" / "desired.json"
        self.desired.parent.mkdir(exist_ok=True)
        self.log = self.triton.root / "agent.log"

    def start(self) -> None:
        arguments = [sys.executable, "-m", "aifactory_agent", "serve", "--desired", str(self.desired)]
        arguments += [
            "--repository",
            str(self.triton.repository),
            "--triton",
            self.triton.grpc,
            "--port",
            str(self.port),
        ]
        arguments += ["--claims", str(self.claims), "--secrets", str(self.secrets)]
        env = {**os.environ, "PYTHONPATH": f"{WORKLOADS / 'agent'}:{WORKLOADS / 'contract'}"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log, env=env)
        wait_for("the agent listens", lambda: self.get("/healthz")[0] == 200, 30, self.tail)

    def want(self, *models: dict[str, Any], revision: str = "r") -> None:
        """Swap desired.json in one step, as the kubelet does with a ConfigMap."""
        self.write(json.dumps({"pool": "chat", "revision": revision, "models": list(models)}))

    def write(self, text: str) -> None:
        write_atomically(self.desired, text)

    def get(self, path: str) -> tuple[int, str]:
        return http(f"http://127.0.0.1:{self.port}{path}")

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.get("/v1/status")[1])
        return document

    def model(self, name: str, version: int) -> dict[str, Any]:
        """Reported state of a version; empty if it is not reported."""
        return next((m for m in self.status()["models"] if (m["name"], m["version"]) == (name, version)), {})

    def wait_ready(self, revision: str = "r", seconds: float = 60.0) -> dict[str, Any]:
        def probe() -> dict[str, Any] | None:
            status = self.status()
            return status if status["ready"] and status["revision"] == revision else None

        status = wait_for("the agent is ready", probe, seconds, self.tail)
        assert status is not None
        return status

    def wait_state(self, name: str, version: int, state: str, seconds: float = 60.0) -> dict[str, Any]:
        def probe() -> dict[str, Any] | None:
            model = self.model(name, version)
            return model if model.get("state") == state else None

        model = wait_for(f"{name} version {version} is {state}", probe, seconds, self.tail)
        assert model is not None
        return model

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        self.process = None
        return code

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def tail(self) -> str:
        """The ends of both logs."""
        mine = self.log.read_text().splitlines()[-25:] if self.log.exists() else []
        return "\n".join([*mine, "-- triton:", self.triton.tail()])

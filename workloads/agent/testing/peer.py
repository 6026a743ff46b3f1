"""Other servers of OpenAI's API, to compare the port of ours with.

`transformers serve` is of the release that the engine `transformers` is made for. vLLM has a Python of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from harness import free_ports, http, wait_for


class Peer:
    """One server with one model.

    Args:
        model: a Hugging Face directory; its path is the model's name.
        root: where its log goes.
        options: more of the command line.
    """

    title: str
    start_seconds: float = 180

    def __init__(self, model: Path, root: Path, *options: str) -> None:
        self.name = str(model)
        (self.port,) = free_ports(1)
        self.log = root / f"{self.title.replace(' ', '-')}.log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Start it and wait until it listens, with the model loaded."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it."""
        arguments = [*self.command(), *self._options, "--host", "127.0.0.1", "--port", str(self.port)]
        hub = self.log.with_name("hub")  # what /v1/models lists
        hub.mkdir(exist_ok=True)
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub), **self.environ()}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log, env=env, start_new_session=True)

    def command(self) -> list[str]:
        raise NotImplementedError

    def environ(self) -> dict[str, str]:
        return {}

    def wait(self) -> None:
        """Until it listens."""
        wait_for(f"{self.title} listens", self._listens, self.start_seconds, self.tail)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.title} has ended:\n{self.tail()}"
        return http(f"{self.url}/health")[0] == 200

    def processes(self) -> list[int]:
        """It and all that it has started."""
        assert self._process is not None
        found = [self._process.pid]
        for pid in found:  # which grows meanwhile
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += [int(child) for child in children.read_text().split()]
        return found

    def close(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""


class TransformersServe(Peer):
    """With continuous batching."""

    title = "transformers serve"

    def command(self) -> list[str]:
        program = Path(sys.executable).with_name("transformers")
        return [str(program), "serve", self.name, "--continuous-batching", "--device", "cpu"]


class VllmServe(Peer):
    """vLLM's own server, on all CPUs that this process may use; the first start compiles, which takes minutes.

    Args:
        python: of an environment with vLLM for CPUs.
    """

    title = "vllm"
    start_seconds = 900

    def __init__(self, python: Path, model: Path, root: Path, *options: str) -> None:
        super().__init__(model, root, *options)
        self._python = python

    def command(self) -> list[str]:
        # What `vllm serve` runs; that program asks for a package `vllm`, which those for CPUs are not.
        return [str(self._python), "-m", "vllm.entrypoints.openai.api_server", "--model", self.name]

    def environ(self) -> dict[str, str]:
        folder = self._python.parent
        cpus = ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0)))
        made = {"VLLM_NO_USAGE_STATS": "1", "PATH": f"{folder}:{os.environ['PATH']}"}
        # Left to itself it leaves a CPU idle. Its threads spin where they wait: one is better on a machine in use.
        made["VLLM_CPU_OMP_THREADS_BIND"] = os.environ.get("VLLM_CPU_OMP_THREADS_BIND", cpus)
        openmp = folder.parent / "lib/libiomp5.so"
        return {**made, "LD_PRELOAD": str(openmp)} if openmp.exists() else made  # as its makers advise

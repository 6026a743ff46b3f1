"""`transformers serve`, of the release that the engine `transformers` is made for, to compare the OpenAI port with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness import free_ports, http, wait_for


class TransformersServe:
    """One server with one model, continuously batched.

    Args:
        model: a Hugging Face directory; its path is the model's name.
        root: where its log goes.
        options: more of the command line.
    """

    def __init__(self, model: Path, root: Path, *options: str) -> None:
        self.name = str(model)
        (self.port,) = free_ports(1)
        self.log = root / "transformers-serve.log"
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
        program = Path(sys.executable).with_name("transformers")
        arguments = [str(program), "serve", self.name, "--continuous-batching", "--device", "cpu", *self._options]
        arguments += ["--host", "127.0.0.1", "--port", str(self.port)]
        hub = self.log.with_name("hub")  # what /v1/models lists
        hub.mkdir(exist_ok=True)
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log, env=env)

    def wait(self) -> None:
        """Until it listens."""
        wait_for("transformers serve listens", lambda: http(f"{self.url}/health")[0] == 200, 180, self.tail)

    def processes(self) -> list[int]:
        assert self._process is not None
        return [self._process.pid]

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

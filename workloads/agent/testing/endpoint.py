"""A serving pod without containers, with nothing stood in for: Triton, the server's engines, and the OpenAI port."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import tritonclient.grpc as grpc
from harness import TritonProcess, wait_for
from pod import Pod

from aifactory_agent.serve.tritonconfig import render
from aifactory_contract.control import HEADER, control_key
from aifactory_contract.formats.huggingface import HUGGINGFACE


class Endpoint(Pod):
    """Serves Hugging Face directories.

    Args:
        root: an empty directory.
        environ: settings of the engines.
    """

    def __init__(self, root: Path, **environ: str) -> None:
        (root / "repository").mkdir()
        super().__init__(root / "repository")
        self.real = TritonProcess(root, environ=environ)
        self.triton.port = self.real.grpc_port

    def open(self) -> None:
        """Start everything; no model is loaded yet."""
        self.real.start()
        self.start()

    def load(self, name: str, folder: Path) -> None:
        """Serve a directory as version 1 of a model."""
        model = self.models / name
        shutil.copytree(folder, model / "1")
        config = json.loads((folder / "config.json").read_text())
        (model / "config.pbtxt").write_text(render(HUGGINGFACE.serving(config), name, [1]))
        with grpc.InferenceServerClient(self.real.grpc) as client:
            client.load_model(name, headers={HEADER: control_key(self.repository)}, client_timeout=300)
        wait_for("the model is offered", lambda: name in self.listed(), 60, self.tail)

    def processes(self) -> list[int]:
        """Of the pod."""
        assert self.real.process is not None
        assert self.pid is not None
        return [self.pid, self.real.process.pid, *self.real.workers()]

    def close(self) -> None:
        self.end()
        self.real.kill()

    def tail(self) -> str:
        return "\n".join([super().tail()[-4000:], "-- triton:", self.real.tail()])

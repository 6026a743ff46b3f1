"""What the server of a pod can do, in its own words.

The agent writes how each model is to be served, but the back ends, the GPUs and the settings are those of another
container. So the server says at each start what it has, in a file on the volume that both mount; the agent reads it
when it sees Triton come up, which is later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aifactory_contract.files import write_atomically

ONNXRUNTIME = "onnxruntime"
"""Ours for models in ONNX; its name is that of Triton's own, so the same config.pbtxt is good for both."""
OURS = ("bytes", "embeddings", ONNXRUNTIME, "torch-export", "transformers")
"""Back ends of the image `aifactory/server`."""
VLLM = "vllm"
"""Triton's own vLLM back end, in images made from NVIDIA's that have it."""

_FILE = "server.json"
SETTINGS = ("AIFACTORY_ENGINE_", "AIFACTORY_VLLM_")
"""Beginnings of the environment variables that are settings of engines."""
_WAYS_OUT = {VLLM: "give container triton an image made by workloads/server/Containerfile.vllm"}
_WAY_OUT = "give container triton the image aifactory/server, or one made from it"


@dataclass(frozen=True)
class Server:
    """A server; without arguments one of the image `aifactory/server` without a GPU."""

    backends: frozenset[str] = frozenset(OURS)
    """Names of the back ends it has, as in config.pbtxt."""
    gpus: int = 0
    """GPUs that CUDA shows to it."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the container that are settings of engines."""

    def lack(self, backend: str) -> str:
        """What to do if it has no such back end, in words; "" if it has it."""
        if backend in self.backends:
            return ""
        has, way_out = ", ".join(sorted(self.backends)), _WAYS_OUT.get(backend, _WAY_OUT)
        return f"the server of this pod has no back end {backend} (it has {has}): {way_out}"


ANY = Server(frozenset((*OURS, VLLM)), gpus=1)
"""A server that has everything: what it can not serve, none can."""


def read_server(repository: Path) -> Server:
    """What the pod's server has said; before it has said anything, and of one that does not, what `Server` is."""
    try:
        said = json.loads((repository / _FILE).read_bytes())
        return Server(frozenset(map(str, said["backends"])), int(said["gpus"]), dict(said["settings"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Server()


def write_server(repository: Path, backends: Iterable[str], gpus: int, environ: Mapping[str, str]) -> None:
    """Say what this server has.

    Args:
        environ: its environment variables, of which those of SETTINGS are told if they are not empty.
    """
    settings = {name: value for name, value in sorted(environ.items()) if value and name.startswith(SETTINGS)}
    said = {"backends": sorted(backends), "gpus": gpus, "settings": settings}
    write_atomically(repository / _FILE, json.dumps(said, indent=1))

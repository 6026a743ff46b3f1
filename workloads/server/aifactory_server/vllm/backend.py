"""Triton's vLLM back end, unchanged but for one counter: how many of the requests were the agent's.

vLLM counts those like all others, one generated token each. Whoever reads the counters subtracts them, as of every
other back end. Nothing else of vLLM's is touched here, and nothing of it is imported, so any of its releases will do.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb  # provided by Triton's worker process

from aifactory_contract.control import is_probe, probe_sign
from aifactory_contract.names import PROBE_REQUESTS
from aifactory_server.counters import Counters


def _theirs(folder: Path) -> Any:
    """The class in Triton's own model.py, whose helpers lie beside it."""
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("triton_vllm_backend", folder / "model.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} has no model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.TritonPythonModel


_Theirs: Any = _theirs(Path(os.environ["AIFACTORY_VLLM_BACKEND"]))


class TritonPythonModel(_Theirs):
    """One loaded model version; Triton makes it and calls these methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's files. An exception fails the load, and its text is what the operator reports."""
        self._agents_sign = probe_sign(Path(args["model_repository"]).parents[1])
        self._agents_requests = Counters(pb, args, PROBE_REQUESTS)
        super().initialize(args)

    def execute(self, requests: list[Any]) -> None:
        """Count the agent's requests before any is answered, and hand all on."""
        probes = sum(is_probe(json.loads(request.parameters() or "{}"), self._agents_sign) for request in requests)
        if probes:
            self._agents_requests.add(PROBE_REQUESTS, probes)
            self._agents_requests.flush()
        super().execute(requests)

"""Triton's vLLM back end, unchanged but for what it counts: that is told by the names of all engines as well.

Nothing else of vLLM's is touched here, and nothing of it is imported.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb  # provided by Triton's worker process

from aifactory_contract.control import is_probe, probe_sign
from aifactory_server.vllm.statistics import Statistics

_log = logging.getLogger(__name__)


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
        self._statistics = Statistics(pb, args)
        super().initialize(args)
        if self._statistics not in getattr(self, "_vllm_metrics", ()):
            _log.warning("Triton's vLLM back end counts otherwise than is known here: its pool tells no tokens")

    def _setup_metrics(self) -> None:
        """Theirs: the loggers of statistics that vLLM is made with."""
        super()._setup_metrics()
        self._vllm_metrics.append(self._statistics)

    def execute(self, requests: list[Any]) -> None:
        """Note which are the agent's before any is answered, and hand all on."""
        probes = sum(is_probe(json.loads(request.parameters() or "{}"), self._agents_sign) for request in requests)
        self._statistics.probed(probes)
        super().execute(requests)

"""The directory Triton takes back ends from.

Triton knows a back end written in Python by a directory with a `model.py` ("Python-based backends", python_backend's
README); it runs it with the Python back end's library and worker program, which must lie in the same directory tree:
links that lead out of it are refused, so they are copied (3 MB).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from aifactory_contract.engines import BYTES, EMBEDDINGS, TRANSFORMERS, VLLM
from aifactory_contract.formats import TORCH_EXPORT
from aifactory_contract.server import ONNXRUNTIME
from aifactory_server.distribution import Distribution

BACKENDS = {
    BYTES.name: "aifactory_server.causal_lm.backend",
    EMBEDDINGS.name: "aifactory_server.embeddings.backend",
    ONNXRUNTIME: "aifactory_server.onnx.backend",
    TORCH_EXPORT.name: "aifactory_server.torch_export.backend",
    TRANSFORMERS.name: "aifactory_server.generate.backend",
    VLLM.name: "aifactory_server.vllm.backend",
}
"""Name in config.pbtxt, of the engine or the format but for ONNX, and the module that has its TritonPythonModel."""

_MODEL_PY = '''"""Written by aifactory-triton at every start. Workers ignore PYTHONPATH, so the paths come in here."""
import os
import sys

sys.path[:0] = [path for path in os.environ["AIFACTORY_PYTHONPATH"].split(os.pathsep) if path not in sys.path]
from {module} import TritonPythonModel
'''


def available(triton: Distribution, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the back ends that this image has: ours, and Triton's own for vLLM if it is there.

    $AIFACTORY_BACKENDS names those that an image is made for, separated by commas; that of vLLM has other releases of
    PyTorch and transformers than ours need. Raises SystemExit with the way out.
    """
    found = [name for name in BACKENDS if name != VLLM.name or triton.vllm_backend is not None]
    given = [name.strip() for name in environ.get("AIFACTORY_BACKENDS", "").split(",") if name.strip()]
    missing = ", ".join(name for name in given if name not in found)
    if missing:
        raise SystemExit(f"aifactory-triton: AIFACTORY_BACKENDS: {missing} is not here; there are {', '.join(found)}")
    return tuple(given or found)


def write_backends(triton: Distribution, target: Path, names: tuple[str, ...]) -> Path:
    """Fill an empty directory with these back ends; returns it."""
    python = target / "python"
    python.mkdir(parents=True)
    for file in triton.python_backend:
        shutil.copy2(file, python / file.name)
    for name in names:
        (target / name).mkdir()
        (target / name / "model.py").write_text(_MODEL_PY.format(module=BACKENDS[name]))
    return target

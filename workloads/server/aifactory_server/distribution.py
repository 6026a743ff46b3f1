"""Where Triton is installed: its server, its Python back end, and the libraries they need."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_NVIDIA = Path("/opt/tritonserver")
"""NVIDIA's Triton images have it here."""


@dataclass(frozen=True)
class Distribution:
    """An installed Triton."""

    server: Path
    python_backend: tuple[Path, ...]
    """Files that make up the Python back end: library, helper module and worker program."""
    libraries: Path | None
    """Directory for LD_LIBRARY_PATH; None if the loader finds everything by itself."""
    vllm_backend: Path | None = None
    """Directory of Triton's vLLM back end, if it has that."""


def find_triton(environ: Mapping[str, str]) -> Distribution:
    """Look in $AIFACTORY_TRITONSERVER, in NVIDIA's place, then in the wheel. Raises SystemExit with the way out."""
    given = environ.get("AIFACTORY_TRITONSERVER")
    for root in [Path(given)] if given else [_NVIDIA]:
        if (root / "bin/tritonserver").is_file():
            vllm = root / "backends/vllm"
            found = vllm if (vllm / "model.py").is_file() else None
            return Distribution(root / "bin/tritonserver", _files(root / "backends/python"), None, found)
    wheel = _wheel()
    if given or wheel is None:
        looked = given or f"{_NVIDIA} and in the package nvidia-pytriton"
        raise SystemExit(f"aifactory-triton: no tritonserver in {looked}; use an image that has one")
    return wheel


def _wheel() -> Distribution | None:
    spec = find_spec("pytriton")  # found, not imported: importing it would start things
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(next(iter(spec.submodule_search_locations)))
    root = package / "tritonserver"
    worker = root / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    if not worker.is_dir():
        known = ", ".join(sorted(path.name for path in worker.parent.glob("*")))
        raise SystemExit(
            f"aifactory-triton: this Triton serves Python {known}, not {worker.name}; use another base image"
        )
    files = _files(root / "backends/python") + _files(worker)
    return Distribution(root / "bin/tritonserver", files, package.parent / "nvidia_pytriton.libs")


def _files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.is_file()))

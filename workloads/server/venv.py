#!/usr/bin/env python3
"""Print the path of a Python with everything the agent's and the server's tests need; make it first if it is missing.

The torch layer itself is not installed again: its environment is seen through a .pth file, so tests run against the
very files that the images get. See `workloads/torch/venv.py`, whose rules hold here too.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
LOCK = HERE / "requirements-test.lock"


def ensure() -> Path:
    """The Python of the test environment."""
    _ensure_libpython()
    torch = _torch_venv()
    base = torch.ensure_runtime().parent.parent
    directory = torch.venv_path("serving-test", [torch.LOCK, LOCK])
    return Path(torch.ensure(directory, LOCK, compile_bytecode=True, packages_of=base))


def _ensure_libpython() -> None:
    """Triton's Python back end embeds the interpreter, as a library that a bare system does not have."""
    if ctypes.util.find_library("python3.11") is None:
        sys.path.insert(0, str(HERE.parent.parent))
        from localcluster import debian

        debian.ensure_packages(["libpython3.11"])


def _torch_venv() -> ModuleType:
    spec = importlib.util.spec_from_file_location("torch_venv", HERE.parent / "torch" / "venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    try:
        print(ensure())
    except Exception as error:
        sys.exit(f"venv.py: {error}")

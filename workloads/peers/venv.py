#!/usr/bin/env python3
"""Print the path of a Python with what a pod's endpoint is measured beside, or by; make it first if it is missing.

    python3 workloads/peers/venv.py vllm    # vLLM for CPUs, 6 GB
    python3 workloads/peers/venv.py load    # AIPerf

Each is an environment of its own: they want other releases than the images have. See `workloads/torch/venv.py`, whose
rules hold here too.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
LOCKS = {name: HERE / f"{name}.lock" for name in ("vllm", "load")}


def ensure(name: str) -> Path:
    """The Python of an environment."""
    torch, lock = _torch_venv(), LOCKS[name]
    return Path(torch.ensure(torch.venv_path(f"peers-{name}", [lock]), lock))


def _torch_venv() -> ModuleType:
    spec = importlib.util.spec_from_file_location("torch_venv", HERE.parent / "torch" / "venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in LOCKS:
        sys.exit(f"venv.py: say which: {' or '.join(LOCKS)}")
    try:
        print(ensure(sys.argv[1]))
    except Exception as error:
        sys.exit(f"venv.py: {error}")

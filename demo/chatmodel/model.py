"""The model's directory, made once on this machine, in the cache beside everything else that is built."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

from demo.tools import ROOT, DemoError
from localcluster.locks import exclusive
from localcluster.paths import cache_dir

HERE = Path(__file__).resolve().parent
LOCK = HERE / "requirements.lock"
CONVERT = HERE / "convert.py"
NAME = "smollm2-135m-instruct"


def ensure() -> Path:
    """Path of the directory; it is made if it is missing.

    Raises:
        DemoError: it can not be made.
    """
    folder = _folder()
    if folder.exists():
        return folder
    with exclusive(folder.with_name(f".{folder.name}.lock"), f"making {NAME}"):
        if not folder.exists():
            _make(folder)
    return folder


def _folder() -> Path:
    """Another lock file or another program makes another directory."""
    made_by = hashlib.sha256(LOCK.read_bytes() + CONVERT.read_bytes()).hexdigest()[:16]
    return cache_dir() / "models" / f"{NAME}-{made_by}"


def _make(folder: Path) -> None:
    print(f"  making {NAME} in {folder} (once; the packages with the weights are 0.1 GB)", flush=True)
    making = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    done = subprocess.run([str(_python()), str(CONVERT), str(making)], capture_output=True, text=True)
    if done.returncode != 0:
        raise DemoError(f"{CONVERT.name} failed:\n{done.stderr[-2000:]}")
    making.rename(folder)


def _python() -> Path:
    """A Python with the packages of the lock file; PyTorch it sees in the environment of the torch layer."""
    torch = _torch_venv()
    try:
        base = torch.ensure_runtime().parent.parent
        directory = torch.venv_path("chat-model", [torch.LOCK, LOCK])
        return Path(torch.ensure(directory, LOCK, packages_of=base))
    except torch.VenvError as error:
        raise DemoError(str(error)) from error


def _torch_venv() -> ModuleType:
    spec = importlib.util.spec_from_file_location("torch_venv", ROOT / "workloads/torch/venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

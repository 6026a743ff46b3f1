"""The models' directories, made once on this machine, in the cache beside everything else that is built."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from demo.tools import ROOT, DemoError
from localcluster.locks import exclusive
from localcluster.paths import cache_dir

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Model:
    """A pretrained model out of a Python package."""

    name: str
    claim: str
    maker: Path
    """The directory with the lock file and the program that makes it, convert.py."""

    @property
    def lock(self) -> Path:
        """What is installed to make it."""
        return self.maker / "requirements.lock"

    @property
    def convert(self) -> Path:
        """What makes it."""
        return self.maker / "convert.py"


MODELS = {
    "chat-model": Model("smollm2-135m-instruct", "chat-models", HERE / "smollm2"),
    "embedding-model": Model("all-minilm-l6-v2", "embedding-models", HERE / "minilm"),
}
"""By the example that serves it."""


def ensure(model: Model) -> Path:
    """Path of a model's directory; it is made if it is missing.

    Raises:
        DemoError: it can not be made.
    """
    folder = _folder(model)
    if folder.exists():
        return folder
    with exclusive(folder.with_name(f".{folder.name}.lock"), f"making {model.name}"):
        if not folder.exists():
            _make(model, folder)
    return folder


def _folder(model: Model) -> Path:
    """Another lock file or another program makes another directory."""
    made_by = hashlib.sha256(model.lock.read_bytes() + model.convert.read_bytes()).hexdigest()[:16]
    return cache_dir() / "models" / f"{model.name}-{made_by}"


def _make(model: Model, folder: Path) -> None:
    print(f"  making {model.name} in {folder} (once; the packages with the weights are 0.1 GB)", flush=True)
    making = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    done = subprocess.run([str(_python(model)), str(model.convert), str(making)], capture_output=True, text=True)
    if done.returncode != 0:
        raise DemoError(f"{model.convert.relative_to(ROOT)} failed:\n{done.stderr[-2000:]}")
    making.rename(folder)


def _python(model: Model) -> Path:
    """A Python with the packages of the lock file; PyTorch it sees in the environment of the torch layer."""
    torch = _torch_venv()
    try:
        base = torch.ensure_runtime().parent.parent
        directory = torch.venv_path(model.maker.name, [torch.LOCK, model.lock])
        return Path(torch.ensure(directory, model.lock, packages_of=base))
    except torch.VenvError as error:
        raise DemoError(str(error)) from error


def _torch_venv() -> ModuleType:
    spec = importlib.util.spec_from_file_location("torch_venv", ROOT / "workloads/torch/venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

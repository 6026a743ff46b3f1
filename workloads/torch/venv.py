#!/usr/bin/env python3
"""Print the path of a Python that has exactly the packages of the torch layer; make it first if it is missing.

Role: the place where the workloads' tests run, with the same packages as the images, and where a person may start
the training program without a cluster:

    export PYTHONPATH=workloads/trainer:workloads/contract
    $(python3 workloads/torch/venv.py) -m aifactory_trainer.pretrain --help

What always holds:
- The directory's name carries the hash of the lock file and of the Python version, so a changed lock makes a new
  environment and an old one is never altered. It appears by one rename: a killed run leaves no half environment.
- `--test` gives a second, small environment: the test packages, and the first one's packages through a .pth file.
  No test package can reach an image, and tests run against the very files that the image gets.
- Only the path goes to standard output. Several callers at once wait for one another (flock).

Bytecode is compiled at once: tests start many processes, and each would spend seconds on it until all of it is there.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENSURE_UV = HERE.parent.parent / "localcluster" / "ensure_uv.py"
PYTHON_VERSION = "3.11"
LOCK = HERE / "requirements.lock"
TEST_LOCK = HERE / "requirements-test.lock"


class VenvError(Exception):
    """The environment can not be made; the message says why and what to do."""


def cache_root() -> Path:
    """Where everything built is kept: $AIFACTORY_CACHE, else aifactory/ in the user's cache directory."""
    explicit = os.environ.get("AIFACTORY_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aifactory"


def venv_path(name: str, locks: Sequence[Path]) -> Path:
    """Directory of the environment with the packages of these lock files."""
    digest = hashlib.sha256(PYTHON_VERSION.encode())
    for lock in locks:
        digest.update(b"\0" + lock.read_bytes())
    return cache_root() / "venvs" / f"{name}-{digest.hexdigest()[:16]}"


def ensure_runtime() -> Path:
    """The Python of the torch layer."""
    return ensure(venv_path("torch", [LOCK]), LOCK, compile_bytecode=True)


def ensure_test() -> Path:
    """A Python with the torch layer's packages and the test packages."""
    base = ensure_runtime().parent.parent
    return ensure(venv_path("torch-test", [LOCK, TEST_LOCK]), TEST_LOCK, packages_of=base)


def ensure(directory: Path, lock: Path, *, compile_bytecode: bool = False, packages_of: Path | None = None) -> Path:
    """The Python of an environment with the packages of a lock file, made if missing.

    Args:
        directory: from `venv_path`, so that it is named after what is in it.
        lock: a lock file with hashes.
        compile_bytecode: compile all modules at once.
        packages_of: another environment, whose packages can be imported here too.
    """
    python = directory / "bin" / "python"
    if python.exists():
        return python
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _locked(directory.with_name(f".{directory.name}.lock")):
        if not python.exists():
            _create(directory, lock, compile_bytecode=compile_bytecode, packages_of=packages_of)
    return python


def _create(directory: Path, lock: Path, *, compile_bytecode: bool, packages_of: Path | None) -> None:
    """Build next to the final place and rename. `--relocatable` keeps the console scripts right after the rename."""
    building = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(building, ignore_errors=True)
    uv = _uv()
    print(f"making {directory} from {lock.name} (once)", file=sys.stderr)
    _run([uv, "venv", "--quiet", "--no-project", "--relocatable", "--python", PYTHON_VERSION, str(building)])
    sync = [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(building / "bin" / "python"), str(lock)]
    _run([*sync, "--compile-bytecode"] if compile_bytecode else sync)
    if packages_of is not None:
        site = f"lib/python{PYTHON_VERSION}/site-packages"
        (building / site / "_torch_layer.pth").write_text(f"{packages_of / site}\n")
    building.rename(directory)


def _uv() -> str:
    """uv on the PATH, else as `localcluster/ensure_uv.py` finds or installs it."""
    found = shutil.which("uv")
    if found:
        return found
    if ENSURE_UV.exists():
        printed = subprocess.run([sys.executable, str(ENSURE_UV)], stdout=subprocess.PIPE, text=True, check=False)
        if printed.returncode == 0 and printed.stdout.strip():
            return printed.stdout.strip()
    raise VenvError("uv is not installed: run `pip install uv`, then try again")


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise VenvError(f"`{' '.join(command)}` ended with {done.returncode}: see its message above")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Command line: print the path of the wanted Python."""
    parser = argparse.ArgumentParser(description="Print the Python of the torch layer, made first if missing.")
    parser.add_argument("--test", action="store_true", help="the one that has the test packages too")
    args = parser.parse_args()
    try:
        print(ensure_test() if args.test else ensure_runtime())
    except VenvError as error:
        print(f"venv.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

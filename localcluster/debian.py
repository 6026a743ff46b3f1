"""Debian packages and kernel modules the cluster needs from its host. Installs what is missing, never removes.

The caller's apt configuration and environment are used as they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from localcluster.console import CannotRun, say, warn

CLUSTER_PACKAGES = (
    "runc",
    "containernetworking-plugins",
    "iptables",
    "iproute2",
    "openssl",
    "ca-certificates",
    "kmod",
)


def ensure_packages(names: Sequence[str]) -> None:
    """Install those of ``names`` that are not installed. Needs root and apt."""
    missing = [name for name in names if not _is_installed(name)]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise CannotRun(f"needs {', '.join(missing)}, and this system has no apt-get: use Debian or Ubuntu")
    say(f"installing Debian packages: {' '.join(missing)}")
    if _apt("install", *missing).returncode == 0:
        return
    # The package index is old or absent. An index of somebody else's that fails to update is not our concern as long as
    # the packages can be had.
    update = _apt("update")
    result = _apt("install", *missing)
    if result.returncode:
        reason = last_line(result.stderr) or last_line(update.stderr)
        raise CannotRun(f"cannot install {' '.join(missing)}: {reason} (try: apt-get install {' '.join(missing)})")


def _is_installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f", "${Status}", package]
    try:
        return subprocess.run(query, capture_output=True, text=True).stdout == "install ok installed"
    except FileNotFoundError:
        return False


def _apt(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=2", "-q", "-y"]
    if verb == "install":
        options.append("--no-install-recommends")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(["apt-get", *options, verb, *arguments], env=environment, capture_output=True, text=True)


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "apt-get gave no reason"


def load_kernel_modules(names: Sequence[str]) -> None:
    """Best effort: a module may be built in, and a container may not be allowed to load any."""
    for name in names:
        if (
            subprocess.run(["modprobe", name], capture_output=True).returncode
            and not Path(f"/sys/module/{name}").exists()
        ):
            warn(f"kernel module {name} could not be loaded; continuing in case it is built in")

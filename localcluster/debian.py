"""Debian packages the cluster needs on its host. Installs what is missing, never removes.

The caller's apt configuration and environment are used as they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from localcluster.console import CannotRun, say
from localcluster.locks import exclusive
from localcluster.paths import binaries_dir

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


def unpacked(package: str) -> Path:
    """The directory of a package's files, fetched now if nobody has: nothing is installed or started. Needs no root."""
    target = binaries_dir() / f"debian-{package}"
    if target.is_dir():
        return target
    with exclusive(binaries_dir() / f".debian-{package}.lock", f"fetching {package}"):
        if not target.is_dir():
            _unpack(package, target)
    return target


def _unpack(package: str, target: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise CannotRun(f"needs {package}, and this system has no apt-get: use Debian or Ubuntu")
    say(f"fetching Debian package {package}, kept in {target}")
    with tempfile.TemporaryDirectory(prefix=f".debian-{package}-", dir=target.parent) as folder:
        staging = Path(folder)
        found = subprocess.run(["apt-get", "-q", "download", package], cwd=staging, capture_output=True, text=True)
        archives = sorted(staging.glob("*.deb"))
        if found.returncode or not archives:
            raise CannotRun(f"cannot fetch {package}: {last_line(found.stderr)} (try: apt-get update)")
        subprocess.run(["dpkg-deb", "-x", str(archives[0]), str(staging / "files")], check=True)
        (staging / "files").rename(target)


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

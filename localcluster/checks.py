"""Can the cluster run here? Each check answers nothing, or one line that says what is wrong and what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from localcluster import network, remains
from localcluster.console import CannotRun
from localcluster.layout import LISTENERS, Layout

_GIB = 1 << 30
FIRST_DISK = 25 * _GIB
LATER_DISK = 3 * _GIB
MEMORY = 6 * _GIB
# Seconds. The kernel may still be ending a process that was killed a moment ago.
PATIENCE = 3.0
# A UNIX socket's path has at most 107 bytes; the longest we need is the containerd socket with ".ttrpc" after it.
_LONGEST_ROOT = 107 - len("/containerd/containerd.sock.ttrpc")


def machine(layout: Layout) -> None:
    """What can be seen before anything is installed. Raises CannotRun."""
    rights()
    distribution(Path("/etc/os-release"))
    memory(Path("/proc/meminfo").read_text())
    disk(layout)
    if len(str(layout.root)) > _LONGEST_ROOT:
        raise CannotRun(f"{layout.root} is too long a path for sockets: set AIFACTORY_CACHE to a shorter one")
    if not remains.cgroup_hierarchies():
        raise CannotRun(
            "no control groups are mounted at /sys/fs/cgroup: run on a machine or in a privileged container"
        )


def rights() -> None:
    if not sys.platform.startswith("linux"):
        raise CannotRun(
            f"the local cluster needs Linux, this is {sys.platform}: use a Linux machine, or a cluster you have"
        )
    if os.geteuid() != 0:
        raise CannotRun(
            "the local cluster needs root, to run containers: use sudo, or a cluster you have (KUBECONFIG=...)"
        )


def distribution(os_release: Path) -> None:
    text = os_release.read_text() if os_release.exists() else ""
    family = set(re.findall(r'^ID(?:_LIKE)?="?([^"\n]*)"?$', text, re.MULTILINE))
    words = {word for value in family for word in value.split()}
    if "debian" not in words or shutil.which("apt-get") is None:
        name = " or ".join(sorted(words)) or "an unknown system"
        raise CannotRun(f"the local cluster installs Debian packages, and this is {name}: use Debian or Ubuntu")


def memory(meminfo: str) -> None:
    total = int(meminfo.split("MemTotal:")[1].split()[0]) * 1024
    if total < MEMORY:
        raise CannotRun(f"{total / _GIB:.1f} GiB of memory; the local cluster and its images need {MEMORY // _GIB} GiB")


def disk(layout: Layout) -> None:
    """More is needed before the images are there than after."""
    place = next(path for path in (layout.root, *layout.root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    needed = LATER_DISK if layout.containerd_root.exists() else FIRST_DISK
    if free < needed:
        raise CannotRun(
            f"{free / _GIB:.0f} GiB free at {place}, {needed // _GIB} needed: free some, or move AIFACTORY_CACHE"
        )


def kernel() -> None:
    """File systems and networks. Needs the Debian packages."""
    if not _has_overlay():
        subprocess.run(["modprobe", "overlay"], capture_output=True)
    if not _has_overlay():
        raise CannotRun("this kernel has no overlay file system, which container images need (try: modprobe overlay)")
    other = network.in_use_by_others()
    if other is not None:
        raise CannotRun(
            f"the cluster's addresses are in use on this machine: {other}; remove it or use another machine"
        )


def _has_overlay() -> bool:
    return "\toverlay\n" in Path("/proc/filesystems").read_text()


def ports(alive: set[str]) -> None:
    """Whether what is not running yet can listen. ``alive``: the programs of ours that run."""
    deadline = time.monotonic() + PATIENCE
    for address, port, program in LISTENERS:
        while not (is_free := program in alive or _is_free(address, port)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not is_free:
            raise CannotRun(
                f"port {port} on {address}, which {program} needs, is in use by {_holder(port)}: stop that first"
            )


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE  # before the first start, the address does not even exist
        return True


def _holder(port: int) -> str:
    listed = subprocess.run(["ss", "-Hltnp", f"sport = :{port}"], capture_output=True, text=True).stdout
    found = re.search(r'\("([^"]+)",pid=(\d+)', listed)
    return f"{found[1]} (process {found[2]})" if found else "another process"

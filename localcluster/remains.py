"""What containers leave behind when everything around them was killed, and how it goes away.

Processes without a supervisor, mounts, network namespaces, sockets, address leases. Everything is found by where it is
(our directory, our control group), never by a name that somebody else's could share. Images and etcd's data stay.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from localcluster.console import CannotRun
from localcluster.layout import CGROUP, Layout
from localcluster.processes import end, start_ticks

_CGROUPS = Path("/sys/fs/cgroup")
# The kubelet's links to the logs of containers, for collectors of logs: its name is the same everywhere.
_CONTAINER_LOGS = Path("/var/log/containers")
_CONTROLLERS = ("cpu", "cpuset", "hugetlb", "io", "memory", "pids")
_WEIGHT = {"cpu.shares": 8 * 1024, "cpu.weight": 8 * 100}
"""Of both versions. All pods together are one group, which by itself gets as much as a single process beside it: what
else the machine computes would take the pods' time, and a cluster has deadlines."""
_SHIM = "containerd-shim-runc-v2"


def shims(processes: Iterable[int]) -> list[int]:
    """Those of ``processes`` that look after a container."""
    found = []
    for pid in processes:
        try:
            if os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)").endswith(f"/{_SHIM}"):
                found.append(pid)
        except OSError:
            continue
    return found


def clear(layout: Layout) -> None:
    """After this, the node is as after a restart of the machine. Call it when no containerd runs."""
    kill_containers()
    unmount(layout.root)
    for address in _shim_sockets(layout):
        address.unlink(missing_ok=True)
    for directory in (layout.containerd_state, layout.cni / "addresses"):
        shutil.rmtree(directory, ignore_errors=True)
    for link in _CONTAINER_LOGS.glob("*.log"):
        if link.is_symlink() and layout.pod_logs in Path(os.readlink(link)).parents:
            link.unlink(missing_ok=True)


def kill_containers() -> None:
    """End every process in our control group. A container may start one while we look, so until none is left."""
    deadline = time.monotonic() + 10
    while True:
        found = {pid: ticks for pid in container_processes() if (ticks := start_ticks(pid)) is not None}
        if not found:
            return
        if time.monotonic() > deadline:
            raise CannotRun(f"processes {sorted(found)} of containers do not end (see dmesg)")
        end(found, kill=True)


def container_processes() -> set[int]:
    """Every process of every container."""
    found: set[int] = set()
    for hierarchy in cgroup_hierarchies():
        for listed in (hierarchy / CGROUP).rglob("cgroup.procs"):
            try:
                found.update(int(line) for line in listed.read_text().split())
            except OSError:
                continue
    return found


def cgroup_hierarchies() -> list[Path]:
    """Where control groups are mounted: one tree (version 2), or one for each controller and one more (version 1)."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    trees = (Path(words[1]) for words in mounts if words[2] in ("cgroup", "cgroup2"))
    return [tree for tree in trees if tree == _CGROUPS or _CGROUPS in tree.parents]


def make_cgroup() -> None:
    """The group that all pods are under. Without it, the kubelet could not tell ours from another kubelet's."""
    for hierarchy in cgroup_hierarchies():
        (hierarchy / CGROUP).mkdir(exist_ok=True)
        for controller in _CONTROLLERS:
            try:
                # Version 2: a group has the controllers that the one above it hands down. Version 1 has no such file.
                with (hierarchy / "cgroup.subtree_control").open("r+") as control:
                    control.write(f"+{controller}")
            except OSError:
                continue  # not in this kernel; the kubelet says what it misses
        for file, weight in _WEIGHT.items():
            if (path := hierarchy / CGROUP / file).exists():
                path.write_text(str(weight))


def remove_cgroup() -> None:
    for hierarchy in cgroup_hierarchies():
        for directory, _, _ in os.walk(hierarchy / CGROUP, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                continue  # a process that just ended may still be counted there; an empty group harms nobody


def unmount(root: Path) -> None:
    """Detach every mount under ``root``, the innermost first."""
    found = mounts_under(root, Path("/proc/self/mountinfo").read_text())
    if found:
        subprocess.run(["umount", "--lazy", "--", *found], capture_output=True)
    left = mounts_under(root, Path("/proc/self/mountinfo").read_text())
    if left:
        raise CannotRun(f"cannot unmount {left[0]} and {len(left) - 1} others (try: umount -l {left[0]})")


def mounts_under(root: Path, mountinfo: str) -> list[str]:
    """Mount points below ``root`` in the text of a mountinfo file, the latest first."""
    points = (
        re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[4]) for line in mountinfo.splitlines()
    )
    return [point for point in points if point.startswith(f"{root}/")][::-1]


def _shim_sockets(layout: Layout) -> Iterator[Path]:
    """Sockets of shims are outside our directory; each bundle says where its own is."""
    for bootstrap in layout.containerd_state.glob("io.containerd.runtime.v2.task/*/*/bootstrap.json"):
        try:
            address = str(json.loads(bootstrap.read_text())["address"])
        except (OSError, ValueError, KeyError):
            continue
        if address.startswith("unix:///run/containerd/s/"):
            yield Path(address.removeprefix("unix://"))

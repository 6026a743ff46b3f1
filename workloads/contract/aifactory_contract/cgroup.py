"""The limits of this container, as the kernel enforces them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_MEMORY = (
    ("memory.max", "memory.stat", ("anon", "shmem")),
    ("memory/memory.limit_in_bytes", "memory/memory.stat", ("total_rss", "total_shmem")),
)
"""Limit and use of memory in cgroup v2 and v1, and what the kernel can not drop of it."""


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs that the cgroup allows, or None when it sets no limit.

    cgroup v2 has `cpu.max` with "<quota or max> <period>" (kernel, admin-guide/cgroup-v2.rst); v1 has two files, where
    a quota of -1 means no limit (scheduler/sched-bwc.rst).
    """
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((root / file).read_text() for file in files).split()
            cpus = int(quota) / int(period)
        except (OSError, ValueError):  # not there, or "max"
            continue
        return cpus if cpus > 0 else None
    return None


def memory_left(root: Path = Path("/sys/fs/cgroup"), machine: Path = Path("/proc/meminfo")) -> int:
    """Bytes of memory that this container may still take: what its limit leaves, or the machine.

    Only what the kernel can not drop counts as taken (`anon` and `shmem` in memory.stat, `rss` in v1): pages of files
    that were read make room for whoever needs it (kernel, admin-guide/cgroup-v2.rst, "memory.stat").
    """
    available = next(
        int(line.split()[1]) * 1024 for line in machine.read_text().splitlines() if line.startswith("MemAvailable:")
    )
    for limit, stat, kept in _MEMORY:
        try:
            most = int((root / limit).read_text())
            taken = _taken(root / stat, kept)
        except (OSError, ValueError):  # not there, or "max"
            continue
        return max(0, min(available, most - taken))
    return available


def memory_taken(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory that this container has taken and the kernel can not drop; None where it does not say."""
    for _, stat, kept in _MEMORY:
        with suppress(OSError, ValueError):
            return _taken(root / stat, kept)
    return None


def _taken(stat: Path, kept: tuple[str, ...]) -> int:
    lines = stat.read_text().split("\n")
    return sum(int(value) for name, _, value in (line.partition(" ") for line in lines) if name in kept)

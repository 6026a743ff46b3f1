"""The CPU limit of this container, as the kernel enforces it."""

from __future__ import annotations

from pathlib import Path


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

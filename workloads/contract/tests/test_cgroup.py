"""Limits are read from the cgroup, whichever version the node has."""

from __future__ import annotations

from pathlib import Path

import pytest

from aifactory_contract.cgroup import cpu_quota, memory_left


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "400000\n"}, None),
        ({"cpu.max": "nonsense\n"}, None),
        ({}, None),
    ],
)
def test_the_cpu_limit_is_read(tmp_path: Path, files: dict[str, str], cpus: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == cpus


STAT = "anon 3000\nfile 90000\nshmem 1000\nanon_thp 500\n"


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "max\n", "memory.stat": STAT}, 8192),
        ({"memory.max": "10000\n", "memory.stat": STAT}, 6000),
        ({"memory.max": "2000\n", "memory.stat": STAT}, 0),
        ({"memory.max": "99999999\n", "memory.stat": STAT}, 8192),
        (
            {
                "memory/memory.limit_in_bytes": "10000\n",
                "memory/memory.stat": "rss 1\ntotal_rss 2500\ntotal_shmem 500\n",
            },
            7000,
        ),
        ({"memory.max": "10000\n"}, 8192),
        ({}, 8192),
    ],
)
def test_the_memory_that_is_left_is_read(tmp_path: Path, files: dict[str, str], left: int) -> None:
    machine = tmp_path / "meminfo"
    machine.write_text("MemTotal:       16 kB\nMemAvailable:       8 kB\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_left(tmp_path, machine) == left

"""A server tells how much memory it has taken, where the kernel says it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from aifactory_contract.memory import Memory, read_memory, tell_memory


def once(tmp_path: Path, stat: str, file: str = "memory.stat") -> Memory | None:
    cgroup, repository = tmp_path / "cgroup", tmp_path / "repository"
    (cgroup / file).parent.mkdir(parents=True, exist_ok=True)
    repository.mkdir(exist_ok=True)
    (cgroup / file).write_text(stat)
    stop = threading.Event()
    stop.set()
    tell_memory(repository, stop, cgroup)
    assert [path.name for path in repository.iterdir()] in ([], ["memory.json"]), "nothing is left aside"
    return read_memory(repository)


def test_pages_of_files_do_not_count(tmp_path: Path) -> None:
    assert once(tmp_path, "anon 1000\nshmem 24\nfile 777\n") == Memory(1024, 1024)


def test_an_older_kernel_counts_in_other_words(tmp_path: Path) -> None:
    assert once(tmp_path, "total_rss 5\ntotal_shmem 6\nrss 1\n", "memory/memory.stat") == Memory(11, 11)


def test_where_the_kernel_says_nothing_nothing_is_told(tmp_path: Path) -> None:
    assert once(tmp_path, "", "other") is None


def test_the_most_is_kept(tmp_path: Path) -> None:
    cgroup = tmp_path / "cgroup"
    cgroup.mkdir()
    told: list[Memory | None] = []

    class Stop(threading.Event):
        """Memory falls, and then it is enough."""

        def wait(self, timeout: float | None = None) -> bool:
            told.append(read_memory(tmp_path))
            (cgroup / "memory.stat").write_text("anon 10\n")
            return len(told) == 2

    (cgroup / "memory.stat").write_text("anon 1000\n")
    tell_memory(tmp_path, Stop(), cgroup)
    assert told == [Memory(1000, 1000), Memory(10, 1000)]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"now": "x", "most": 1}'])
def test_what_is_damaged_is_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory.json").write_text(text)
    assert read_memory(tmp_path) is None

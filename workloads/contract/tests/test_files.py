"""What is written is there whole or not at all, and what was there before is not lost."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from child import in_child

from aifactory_contract import files
from aifactory_contract.files import new_directory, syncfs, write_atomically


def make(target: Path, content: str, *, replace: bool = True) -> None:
    with new_directory(target, target.with_name(".aside"), replace=replace) as directory:
        (directory / "below").mkdir()
        (directory / "below/file").write_text(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def full(_path: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_replaced(tmp_path: Path) -> None:
    for text in ("one", "two"):
        write_atomically(tmp_path / "file", text)
    assert (tmp_path / "file").read_text() == "two"
    assert names(tmp_path) == ["file"]


def test_a_file_that_can_not_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", "one")
    monkeypatch.setattr(files, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", "two")
    assert (tmp_path / "file").read_text() == "one"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(("replace", "content"), [(True, "two"), (False, "one")])
def test_a_directory_makes_room_or_stays(tmp_path: Path, replace: bool, content: str) -> None:
    make(tmp_path / "made", "one")
    make(tmp_path / "made", "two", replace=replace)
    assert (tmp_path / "made/below/file").read_text() == content
    assert names(tmp_path) == ["made"]


def test_a_block_that_fails_leaves_nothing_but_what_was_there(tmp_path: Path) -> None:
    make(tmp_path / "made", "one")
    with (
        pytest.raises(ValueError, match="half way"),
        new_directory(tmp_path / "made", tmp_path / ".aside", replace=True),
    ):
        raise ValueError("half way")
    assert (tmp_path / "made/below/file").read_text() == "one"
    assert names(tmp_path) == ["made"]


def test_a_directory_that_can_not_be_put_in_place_gives_the_place_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "made", "one")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == ".aside":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        make(tmp_path / "made", "two")
    assert (tmp_path / "made/below/file").read_text() == "one"
    assert names(tmp_path) == ["made"]


@pytest.mark.parametrize("call", ["fsync", "rename", "rmtree"])
def test_killed_at_any_call_something_whole_is_there(tmp_path: Path, call: str) -> None:
    """Before each fsync, rename and removal in turn, until the child gets to its end."""
    make(tmp_path / "made", "one")
    for count in range(100):
        if killed_at(call, count, lambda: make(tmp_path / "made", "two")) == 0:
            assert count > 0, f"{call} is never called"
            break
        found = [path for path in (tmp_path / "made", tmp_path / ".aside-old") if path.exists()]
        assert found, "neither the old one nor the new one is there"
        assert all((path / "below/file").read_text() in ("one", "two") for path in found)
        for left in (".aside", ".aside-old"):
            files.shutil.rmtree(tmp_path / left, ignore_errors=True)
        make(tmp_path / "made", "one")
    assert (tmp_path / "made/below/file").read_text() == "two"


def killed_at(call: str, count: int, work: Callable[[], None]) -> int:
    """Work in a process that is killed before the call after `count` ones; returns the signal, or 0."""

    def doomed() -> None:
        owner = files.shutil if call == "rmtree" else os
        real, calls = getattr(owner, call), iter(range(count))

        def die(*arguments: object, **options: object) -> object:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(owner, call, die)
        work()

    return in_child(doomed)


def test_a_whole_file_system_is_pushed_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert syncfs(tmp_path)
    with pytest.raises(FileNotFoundError):
        syncfs(tmp_path / "missing")

    class Library:
        """One whose call fails."""

        def __init__(self, *_: object, **__: object) -> None: ...

        def syncfs(self, _: int) -> int:
            return -1

    monkeypatch.setattr("ctypes.CDLL", Library)
    for code, known in ((errno.ENOSYS, True), (errno.EIO, False)):
        monkeypatch.setattr("ctypes.get_errno", lambda code=code: code)
        if known:
            assert not syncfs(tmp_path), "not here: the caller does it in another way"
        else:
            with pytest.raises(OSError, match=r"error"):
                syncfs(tmp_path)

"""Checkpoints are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from child import in_child

from aifactory_contract import files
from aifactory_trainer import checkpoint, replacement
from aifactory_trainer.checkpoint import MANIFEST_FILE, STATE_FILE, CheckpointError, CheckpointStore, decode

SOURCES = (checkpoint.__file__, files.__file__, replacement.__file__)
"""What can be killed in the middle of a save."""


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((1000,), float(step)), "text": "é", "nested": [{"a": (1, None, True)}]}


def newest_step(store: CheckpointStore) -> int | None:
    """Step of the newest checkpoint, whose contents must be those of that step."""
    found = store.newest()
    if found is None:
        return None
    read = decode(found.data, str(found.path))
    assert read["step"] == found.step
    assert torch.equal(read["weights"], state(found.step)["weights"])
    return found.step


def test_what_was_saved_is_found_again(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "not" / "yet")
    assert store.newest() is None
    path = store.save(10, state(10))
    assert path.name == "step-10"
    assert newest_step(store) == 10


def test_the_newest_ones_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (9, 10, 11, 100):  # by number, not by name
        store.save(step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-100", "step-11"]


def test_a_step_can_be_saved_twice(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {"step": 1, "weights": torch.zeros(1)})
    store.save(1, state(1))
    assert newest_step(store) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def damage_flip(path: Path) -> None:
    data = bytearray((path / STATE_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (path / STATE_FILE).write_bytes(data)


def damage_truncate(path: Path) -> None:
    os.truncate(path / STATE_FILE, 100)


def damage_no_state(path: Path) -> None:
    (path / STATE_FILE).unlink()


def damage_no_manifest(path: Path) -> None:
    (path / MANIFEST_FILE).unlink()


def damage_manifest(path: Path) -> None:
    (path / MANIFEST_FILE).write_text('{"version": 1')


def damage_empty_manifest(path: Path) -> None:
    (path / MANIFEST_FILE).write_text("null")


def damage_other_step(path: Path) -> None:
    document = json.loads((path / MANIFEST_FILE).read_text())
    (path / MANIFEST_FILE).write_text(json.dumps({**document, "step": 7}))


@pytest.mark.parametrize(
    "damage",
    [
        damage_flip,
        damage_truncate,
        damage_no_state,
        damage_no_manifest,
        damage_manifest,
        damage_empty_manifest,
        damage_other_step,
    ],
)
def test_a_damaged_newest_falls_back_to_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        store.save(step, state(step))
    damage(store.path(3))
    assert newest_step(store) == 2
    assert "step-3 is damaged" in caplog.text
    assert not store.path(3).exists()
    assert (tmp_path / "step-3.corrupt").exists(), "it is kept for a look"

    store.save(3, state(3))
    assert newest_step(store) == 3
    assert not (tmp_path / "step-3.corrupt").exists(), "and goes once a newer one is in place"


def test_trouble_reading_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, state(1))

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(PermissionError):
            store.newest()
    assert newest_step(store) == 1


def test_another_format_version_is_refused_not_overwritten(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, state(1))
    manifest = store.path(1) / MANIFEST_FILE
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 2}))
    with pytest.raises(CheckpointError, match="format version 2"):
        store.newest()
    assert store.path(1).exists()


def test_a_failed_save_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, state(1))

    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(2, state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_an_older_one_that_can_not_be_removed_is_no_failed_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, state(1))
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "step-1":
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    store.save(2, state(2))
    assert newest_step(store) == 2
    assert "an older checkpoint can not be removed" in caplog.text


def test_killed_before_any_line_of_saving_the_only_one_again(tmp_path: Path) -> None:
    for line in range(1000):
        directory = tmp_path / str(line)
        store = CheckpointStore(directory, keep=1)
        store.save(4, state(4))
        if in_child(lambda store=store, line=line: save_and_die_at(store, 4, line)) == 0:
            break
        store.clean()
        assert newest_step(store) == 4
        assert [path.name for path in directory.iterdir()] == ["step-4"]
    assert line > 30


class Trap:
    """Unpickling this runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    archive = tmp_path / "evil.pt"
    torch.save({"step": 1}, archive)
    with zipfile.ZipFile(archive) as good:
        parts = {name: good.read(name) for name in good.namelist()}
    with zipfile.ZipFile(archive, "w") as evil:
        for name, data in parts.items():
            evil.writestr(name, pickle.dumps(Trap(f"touch {evidence}"), 2) if name.endswith("data.pkl") else data)
    with pytest.raises(CheckpointError, match="can not be read safely"):
        decode(archive.read_bytes(), "evil")
    assert not evidence.exists()


def lines_of_a_save(directory: Path) -> int:
    """How many lines of SOURCES one save runs through."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in SOURCES:
            return None
        count += event == "line"
        return trace

    store = CheckpointStore(directory, keep=2)
    for step in (1, 2, 3):
        store.save(step, state(step))
    sys.settrace(trace)
    try:
        store.save(4, state(4))
    finally:
        sys.settrace(None)
    return count


def save_and_die_at(store: CheckpointStore, step: int, line: int) -> None:
    """Save, and be killed before the given line."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in SOURCES:
            return None
        count += event == "line"
        if count > line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    store.save(step, state(step))


def test_killed_before_any_line_of_a_save(tmp_path: Path) -> None:
    lines = lines_of_a_save(tmp_path / "count")
    assert lines > 30
    outcomes = set()
    for line in range(lines):
        directory = tmp_path / str(line)
        store = CheckpointStore(directory, keep=2)
        for step in (1, 2, 3):
            store.save(step, state(step))
        assert in_child(lambda store=store, line=line: save_and_die_at(store, 4, line)) == signal.SIGKILL
        step = newest_step(store)
        assert step in (3, 4)
        outcomes.add(step)
        store.clean()
        left = [path.name for path in directory.iterdir()]
        assert not [name for name in left if name.startswith(".")], left
        assert len(left) >= 2, "as many as shall stay are there"
    assert outcomes == {3, 4}


@pytest.mark.parametrize("seed", range(12))
def test_killed_at_a_random_time(tmp_path: Path, seed: int) -> None:
    """A timer of the kernel ends the process in the middle of whatever it does, writing included."""
    store = CheckpointStore(tmp_path, keep=2)
    store.save(1, state(1))

    def save_for_ever() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout has a handler for it
        signal.setitimer(signal.ITIMER_REAL, 0.005 + random.Random(seed).random() * 0.08)
        for step in range(2, 1_000_000):
            store.save(step, state(step))

    assert in_child(save_for_ever) == signal.SIGALRM
    assert newest_step(store) is not None
    store.clean()
    assert all(path.name.startswith("step-") for path in tmp_path.iterdir())

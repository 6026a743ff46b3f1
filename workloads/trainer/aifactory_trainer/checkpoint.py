"""Checkpoints as directories that are whole or absent.

Role: write, find, check and prune `step-<n>` directories. Knows files only: no process group, no model. There are three
kinds: one file with the state that `Run` keeps, the parts that all ranks write where the model is divided among them,
and the files that Hugging Face's Trainer writes by itself.

What always holds, whenever the process is killed:
- A directory called `step-<n>` was complete and on the disk when it got that name (write aside, fsync, rename, fsync).
- One that does not match its manifest's digests is not resumed from: it is set aside as `step-<n>.corrupt`, and the
  next older one is tried. One of the other kind is refused in words: it is somebody's work.
- At least the newest `keep` checkpoints stay; one is removed only after a newer one is in place.
- The state is a torch archive that is read with weights_only=True: no pickle in it can run code.

One process writes at a time (rank 0 of the only living attempt), which the operator sees to.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from aifactory_contract.manifest import hash_stream
from aifactory_trainer.replacement import recover, replacement

log = logging.getLogger("aifactory")

STATE_FILE = "state.pt"
MANIFEST_FILE = "manifest.json"
_NAME = re.compile(r"step-(\d+)")
_ASIDE_PREFIX = ".aside-"
_MANIFEST_VERSION = 1
RUN = "aifactory_trainer.Run"
SHARDED = "aifactory_trainer.Run with a model that is divided among the ranks"
TRAINER = "transformers.Trainer"
"""Who wrote a checkpoint, in its manifest; Run where nothing is said."""


class CheckpointError(Exception):
    """A checkpoint is whole but can not be used; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint, verified.

    Attributes:
        step: number of steps done when it was written.
        path: its directory.
        data: the bytes of the torch archive.
    """

    step: int
    path: Path
    data: bytes


@dataclass(frozen=True, slots=True)
class Folder:
    """A whole checkpoint of several files, verified.

    Attributes:
        step: number of steps done when it was written.
        path: its directory.
        about: what was noted with it.
    """

    step: int
    path: Path
    about: dict[str, Any]

    def is_here(self) -> bool:
        """Whether this process sees it."""
        return (self.path / MANIFEST_FILE).is_file()


_Found = TypeVar("_Found", Checkpoint, Folder)


class CheckpointStore:
    """The checkpoints of one job in one directory."""

    def __init__(self, directory: Path, keep: int = 3) -> None:
        """Args: directory: made when first needed. keep: how many checkpoints stay, at least 1."""
        if keep < 1:
            raise ValueError(f"keep must be at least 1, it is {keep}")
        self.directory = directory
        self.keep = keep

    def path(self, step: int) -> Path:
        """Directory of the checkpoint of a step."""
        return self.directory / f"step-{step}"

    def save(self, step: int, state: dict[str, Any], about: Mapping[str, object] | None = None) -> Path:
        """Write a checkpoint; it is on the disk when this returns. Older ones beyond `keep` are removed.

        Args:
            about: what is to be known of it without reading it; goes into its manifest, so JSON.

        Raises:
            OSError: it can not be written. What was there before is still there.
        """

        def write(directory: Path) -> None:
            try:
                torch.save(state, directory / STATE_FILE)
            except RuntimeError as error:  # torch's writer has no OSError of its own: a full disk arrives like this
                raise OSError(str(error)) from error

        return self._put(step, write, {} if about is None else {"about": dict(about)})

    def aside(self, step: int) -> Path:
        """Where the files of a checkpoint may be written that is then adopted; `clean` removes what is left there."""
        return self.directory.absolute() / f"{_ASIDE_PREFIX}parts-{step}"

    def adopt(
        self, step: int, folder: Path, about: Mapping[str, object], best: int | None = None, kind: str = TRAINER
    ) -> Path:
        """Take the files of a folder on this file system as a checkpoint, as `save` does.

        Args:
            folder: gone afterwards, also when this fails.
            about: what is to be known of the checkpoint; goes into its manifest, so JSON.
            best: step of a checkpoint that stays however old it is.
            kind: who has written the files.

        Raises:
            OSError: see `save`.
        """

        def move(directory: Path) -> None:
            for path in list(folder.iterdir()):
                path.rename(directory / path.name)

        try:
            return self._put(step, move, {"kind": kind, "about": dict(about)}, best)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _put(
        self, step: int, write: Callable[[Path], None], more: Mapping[str, object], best: int | None = None
    ) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        target = self.path(step)
        # There is one already where the same step is done again after an older checkpoint was resumed.
        with replacement(target, _ASIDE_PREFIX) as directory:
            write(directory)
            files = {}
            for path in sorted(path for path in directory.rglob("*") if path.is_file()):
                name = path.relative_to(directory).as_posix()
                with path.open("rb") as stream:
                    entry = hash_stream(stream, name)
                files[name] = {"sha256": entry.sha256, "size": entry.size}
            manifest = {"version": _MANIFEST_VERSION, "step": step, "files": files, **more}
            (directory / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))
        self._prune(best)
        return target

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint of a `Run`, or None. Damaged ones are set aside and named in the log.

        Raises:
            CheckpointError: a checkpoint was written by another version of this package, or by another program.
            OSError: the directory can not be read now. That is no damage: to start from step 0 would lose the work.
        """
        return self._newest(_verified)

    def newest_folder(self, kind: str) -> Folder | None:
        """The newest whole checkpoint of this kind, which is one of several files; otherwise as `newest`."""
        return self._newest(lambda path, step: _verified_folder(path, step, kind))

    def _newest(self, verified: Callable[[Path, int], _Found]) -> _Found | None:
        for step, path in self.list():
            try:
                return verified(path, step)
            except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
                log.warning("checkpoint %s is damaged and is not used: %s", path, error)
                self._set_aside(path)
        return None

    def peek(self, kind: str) -> Folder | None:
        """The newest checkpoint of this kind, for who only looks: its files are not verified, and nothing is changed.

        Raises:
            CheckpointError: a checkpoint was written by another version of this package, or by another program.
        """
        for step, path in self.list():
            try:
                return Folder(step, path, dict(_manifest(path, step, kind).get("about", {})))
            except (OSError, ValueError, KeyError, TypeError):  # damaged: a run takes an older one
                continue
        return None

    def list(self) -> list[tuple[int, Path]]:
        """Steps and directories by name alone, newest first."""
        return sorted(self._named(), reverse=True)

    def clean(self) -> None:
        """Put right what killed attempts left half done. Call before training, never while another attempt lives."""
        recover(self.directory, _ASIDE_PREFIX)

    def _named(self) -> Iterator[tuple[int, Path]]:
        if not self.directory.is_dir():
            return
        for path in self.directory.iterdir():
            match = _NAME.fullmatch(path.name)
            if match is not None and path.is_dir():
                yield int(match[1]), path

    def _prune(self, best: int | None) -> None:
        try:
            for step, path in self.list()[self.keep :]:
                if step != best:
                    self._remove(path)
        except OSError as error:  # the new checkpoint is in place all the same
            log.warning("an older checkpoint can not be removed: %s", error)
        for path in self.directory.glob("step-*.corrupt"):  # a newer one is in place now
            shutil.rmtree(path, ignore_errors=True)

    def _remove(self, path: Path) -> None:
        """Rename first: a removal cut short must not leave a directory that looks like a checkpoint."""
        aside = self._aside(path.name)
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _set_aside(self, path: Path) -> None:
        corrupt = path.with_name(f"{path.name}.corrupt")
        shutil.rmtree(corrupt, ignore_errors=True)
        try:
            path.rename(corrupt)
        except OSError as error:
            log.warning("%s can not be renamed: %s", path, error)

    def _aside(self, name: str) -> Path:
        return self.directory / f"{_ASIDE_PREFIX}{name}-{secrets.token_hex(4)}"


def check_same(then: Mapping[str, object], now: Mapping[str, object], path: Path) -> None:
    """Whether what was noted with a checkpoint is what is true of the run that would take it up.

    Raises:
        CheckpointError: it is not; the message names what differs, and the way out.
    """
    differ = [
        f"{name} ({then.get(name)}, now {now.get(name)})" for name in {**now, **then} if then.get(name) != now.get(name)
    ]
    if differ:
        raise CheckpointError(
            f"{path} can not be taken up, it was written with other {', '.join(differ)}. Use what it was written with, "
            f"or begin anew: remove {path.parent}, or give the job another name"
        )


def check_facts(then: Mapping[str, object], now: Mapping[str, object], path: Path) -> None:
    """`check_same` for what both know: a library of another version has other settings, and the same model.

    Raises:
        CheckpointError: see `check_same`.
    """
    check_same(
        {name: value for name, value in then.items() if name in now},
        {name: value for name, value in now.items() if name in then},
        path,
    )


def decode(checkpoint: bytes, where: str) -> dict[str, Any]:
    """The state in a checkpoint's bytes.

    Raises:
        CheckpointError: the bytes are what was written, but can not be read without running code.
    """
    try:
        state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{where} can not be read safely: {error}. Remove it to use an older one") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{where} holds a {type(state).__name__} instead of a dict")
    return state


def _verified(path: Path, step: int) -> Checkpoint:
    """The state file, if its bytes are the ones that were written."""
    expected = _manifest(path, step, RUN)["files"][STATE_FILE]
    data = (path / STATE_FILE).read_bytes()
    _check(STATE_FILE, len(data), hashlib.sha256(data).hexdigest(), expected)
    return Checkpoint(step, path, data)


def _verified_folder(path: Path, step: int, kind: str) -> Folder:
    """The folder, if every file is the one that was written."""
    manifest = _manifest(path, step, kind)
    for name, expected in manifest["files"].items():
        with (path / name).open("rb") as stream:
            entry = hash_stream(stream, name)
        _check(name, entry.size, entry.sha256, expected)
    return Folder(step, path, dict(manifest["about"]))


def _manifest(path: Path, step: int, kind: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((path / MANIFEST_FILE).read_text())
    if manifest["version"] != _MANIFEST_VERSION:
        version = manifest["version"]
        raise CheckpointError(
            f"{path} has format version {version}, this program reads version {_MANIFEST_VERSION}: "
            "resume with the version that wrote it, or remove the directory to start anew"
        )
    if (found := manifest.get("kind", RUN)) != kind:
        raise CheckpointError(
            f"{path} was written by a program that uses {found}, this one uses {kind}: resume with that program, or "
            "remove the directory to start anew"
        )
    if manifest["step"] != step:
        raise ValueError(f"its manifest is of step {manifest['step']}")
    return manifest


def _check(name: str, size: int, sha256: str, expected: Mapping[str, Any]) -> None:
    if size != expected["size"]:
        raise ValueError(f"{name} has {size} bytes of {expected['size']}")
    if sha256 != expected["sha256"]:
        raise ValueError(f"{name} does not match its digest")

"""Checkpoints of a model that no rank has all of, written by all ranks while training goes on.

Role: between objects whose tensors are divided among the ranks (DTensor: FSDP2, tensor parallelism) and
torch.distributed.checkpoint, which writes and reads them, on whichever number of ranks.

What always holds:
- When `begin` returns, what is to be written has been copied: training may change its weights.
- The files are written aside, and become a checkpoint by one rename when all ranks have written theirs; a rank that
  can not write leaves none, and all hear of it.
- What is resumed from was chosen and verified by rank 0 and is seen by all. One of another model is refused in words.
- Reading runs no code: tensors and plain values are read with weights_only=True, and of torch's own table of contents,
  which is a pickle, only the classes that torch writes there.

The ranks have to share the directory of the checkpoints, as the pods of a job do.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from aifactory_trainer.checkpoint import SHARDED, STATE_FILE, CheckpointError, CheckpointStore, Folder, decode
from aifactory_trainer.distributed import Group

_TIMEOUT = timedelta(minutes=30)
"""How long one rank waits for the slowest to write."""


class Parts:
    """The divided objects of one run, and their checkpoints."""

    def __init__(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer], group: Group) -> None:
        """Args: optimizers: of the model's parameters."""
        self._model = model
        self._optimizers = dict(optimizers)
        self._group = group
        # Not the trainer's: both talk at the same time.
        self._writers: Any = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[Path | None] | None = None
        self._outline = _outline(model)

    def settings(self) -> dict[str, Any]:
        """What the optimizers have besides tensors, for each parameter by its name: learning rate and the like."""
        names = {weight: name for name, weight in self._model.named_parameters()}
        return {
            key: {
                names[weight]: {field: value for field, value in group.items() if field != "params"}
                for group in optimizer.param_groups
                for weight in group["params"]
            }
            for key, optimizer in self._optimizers.items()
        }

    def begin(self, step: int, plain: dict[str, Any], store: CheckpointStore) -> None:
        """Begin a checkpoint, on all ranks; the one before has to be done.

        Args:
            plain: everything that is not divided; rank 0's is written.
        """
        assert self._pending is None
        folder = store.aside(step)
        written: Any = async_save(self._tensors(), checkpoint_id=folder, process_group=self._writers)
        self._pending = self._thread.submit(self._finish, written, folder, step, plain, store)

    def done(self, *, wait: bool) -> Future[Path | None] | None:
        """The checkpoint that was begun, if it has been written or there is time to wait; its result is a directory on
        rank 0, or an exception."""
        pending = self._pending
        if pending is None or not (wait or pending.done()):
            return None
        self._pending = None
        pending.exception()  # waits
        return pending

    def _finish(
        self, written: Future[Any], folder: Path, step: int, plain: dict[str, Any], store: CheckpointStore
    ) -> Path | None:
        """In the background: wait for all ranks' files, and on rank 0 make them a checkpoint."""
        try:
            written.result()
        except (Exception, CheckpointException) as error:  # torch's is no Exception
            if self._group.rank == 0:
                shutil.rmtree(folder, ignore_errors=True)
            raise OSError(_first(error)) from error
        if self._group.rank != 0:
            return None
        try:
            torch.save(plain, folder / STATE_FILE)
        except RuntimeError as error:  # a full disk arrives like this
            shutil.rmtree(folder, ignore_errors=True)
            raise OSError(str(error)) from error
        about = {"model": self._outline, "ranks": self._group.size, "facts": plain.get("facts", {})}
        return store.adopt(step, folder, about, kind=SHARDED)

    def resume(self, store: CheckpointStore) -> tuple[str, dict[str, Any]] | None:
        """Take up the newest whole checkpoint, on all ranks; returns where it is and what was plain in it.

        Raises:
            CheckpointError: there is one, but it does not fit, or not all ranks see it.
        """
        found = choose(store, self._group, SHARDED)
        if found is None:
            return None
        if found.about["model"] != self._outline:
            raise CheckpointError(
                f"{found.path} is of another model ({found.about['model']}; this one is {self._outline}): use the "
                f"settings that it was written with, or begin anew: remove {found.path.parent}"
            )
        told = (found.path / STATE_FILE).read_bytes() if self._group.rank == 0 else None
        plain = decode(self._group.broadcast(told), str(found.path))
        try:
            load(self._tensors(), storage_reader=_Reader(found.path), process_group=self._writers)
        except CheckpointException as error:
            raise CheckpointError(f"{found.path} can not be read: {_first(error)}") from error
        self._restore_settings(plain["settings"])
        return str(found.path), plain

    def _restore_settings(self, settings: Mapping[str, Any]) -> None:
        """Give them back: groups may be others, where the model is divided in another way."""
        names = {weight: name for name, weight in self._model.named_parameters()}
        for key, optimizer in self._optimizers.items():
            for group in optimizer.param_groups:
                group.update(settings[key][names[group["params"][0]]])

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that is divided, and what goes with it; the very tensors, so to read into them is to resume.

        A parameter that is in the model twice, as an embedding that is the output too, is here once.
        """
        named = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        found: dict[str, Tensor] = {f"model.{name}": weight for name, weight in self._model.named_parameters()}
        found |= {f"model.{name}": value for name, value in self._model.state_dict().items() if name not in named}
        for key, optimizer in self._optimizers.items():
            state: Any = get_optimizer_state_dict(self._model, optimizer)["state"]  # makes it where there is none yet
            for name, values in state.items():
                found |= {f"{key}.{name}.{field}": value for field, value in values.items()}
        return found


def choose(store: CheckpointStore, group: Group, kind: str) -> Folder | None:
    """The checkpoint to resume from, of those that are folders: chosen and read through by rank 0, and seen by all.

    Raises:
        CheckpointError: a rank does not see it, or it is of another kind.
    """
    told: bytes | None = None
    if group.rank == 0:
        store.clean()
        chosen = store.newest_folder(kind)
        told = json.dumps([chosen.step, str(chosen.path), chosen.about] if chosen else None).encode()
    told = group.broadcast(told)
    if (document := json.loads(told)) is None:
        return None
    found = Folder(document[0], Path(document[1]), document[2])
    (missing,) = group.maximum(0 if found.is_here() else group.rank + 1)
    if missing:
        raise CheckpointError(
            f"rank {missing - 1} does not see {found.path}, which rank 0 does: where ranks have parts of a checkpoint, "
            "all read and write one directory. Give the job a workspace that all its pods mount"
        )
    return found


class _Reader(FileSystemReader):
    """torch's, but for its table of contents, which is read at once."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError: the table holds what torch does not write there."""
        super().__init__(path)
        try:
            with (path / ".metadata").open("rb") as file:
                self._contents: Metadata = _Unpickler(file).load()
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"{path} can not be read safely: {error}. Remove it to use an older one") from error

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """See StorageReader."""
        return self._contents


class _Unpickler(pickle.Unpickler):
    """Knows the classes of a table of contents, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """See pickle.Unpickler. Names with dots, which would lead on into other modules, are in no list."""
        if module.startswith("torch.distributed.checkpoint."):
            found = getattr(sys.modules.get(module), name, None)
            if isinstance(found, type) and found.__module__ == module:
                return found
        elif module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        elif (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f".metadata holds {module}.{name}")


_PLAIN = {
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
}


def _outline(model: nn.Module) -> str:
    """A model in words, which differ where its tensors have other names or shapes."""
    every = [(name, tuple(weight.shape)) for name, weight in model.named_parameters()]
    digest = hashlib.sha256(repr(every).encode()).hexdigest()[:12]
    return f"{type(model).__name__} of {sum(weight.numel() for weight in model.parameters())} numbers, {digest}"


def _first(error: BaseException) -> str:
    """The cause, of what torch has collected from all ranks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:500]

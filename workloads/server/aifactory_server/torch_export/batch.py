"""Putting the requests of one Triton batch together for one call, and taking its result apart again."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from aifactory_server.attempts import attempt

Call = Callable[[Sequence[Tensor]], list[Tensor]]


def run_batched(call: Call, requests: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Outputs for each request.

    Args:
        call: the program.
        requests: the inputs of each, all with a leading batch dimension; other dimensions agree (Triton's batcher sees
            to that).

    Raises ValueError if an output does not have the batch's size in its first dimension.
    """
    sizes = [inputs[0].shape[0] for inputs in requests]
    joined = [torch.cat(tensors) if len(tensors) > 1 else tensors[0] for tensors in zip(*requests, strict=True)]
    outputs = call(joined)
    for position, output in enumerate(outputs):
        if output.dim() == 0 or output.shape[0] != sum(sizes):
            shape = list(output.shape)
            raise ValueError(
                f"output {position} has shape {shape} for a batch of {sum(sizes)}: export with a batch dim"
            )
    parts = [torch.split(output, sizes) for output in outputs]
    return [[part[index].contiguous() for part in parts] for index in range(len(requests))]


def run_each(call: Call, requests: Sequence[Sequence[Tensor]], batched: bool) -> list[list[Tensor] | Exception]:
    """Outputs or failure of each request: when a batch fails, each is computed alone, and only the bad one fails."""
    if batched and len(requests) > 1:
        together = attempt(run_batched, call, requests)
        if not isinstance(together, Exception):
            return [*together]
    return [attempt(_run_alone, call, one) if batched else attempt(call, one) for one in requests]


def _run_alone(call: Call, request: Sequence[Tensor]) -> list[Tensor]:
    return run_batched(call, [request])[0]


class Room:
    """Shared memory for the answers of one batch: what can not fit is refused before it fails its neighbours.

    Triton's worker puts all answers of a batch into `folder` before any of them leaves, and one that has no room there
    costs all of them. An answer that fits may still fail where others need the room at that moment.
    """

    def __init__(self, folder: Path = Path("/dev/shm")) -> None:
        facts = os.statvfs(folder)
        self._total = facts.f_blocks * facts.f_frsize
        self._left = self._total

    def take(self, size: int) -> None:
        """Use bytes. Raises MemoryError if there are not so many."""
        if size > self._left:
            message = f"the answer has {size} bytes and /dev/shm has {self._total}; ask for less at once or enlarge it"
            raise MemoryError(message)
        self._left -= size

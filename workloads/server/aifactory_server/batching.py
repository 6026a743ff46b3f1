"""Putting the requests of one Triton batch together for one call, and taking its result apart again."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from aifactory_server.attempts import attempt

Array = Any
"""A tensor of PyTorch, or an array of numpy: both have a shape and can be cut along the first dimension."""
Call = Callable[[Sequence[Array]], list[Array]]
Join = Callable[[Sequence[Array]], Array]


def run_batched(call: Call, join: Join, requests: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """Outputs for each request.

    Args:
        call: the program; its outputs are contiguous in memory.
        join: makes one array of several, along the first dimension.
        requests: the inputs of each, all with a leading batch dimension; other dimensions agree (Triton's batcher sees
            to that).

    Raises ValueError if an output does not have the batch's size in its first dimension.
    """
    sizes = [inputs[0].shape[0] for inputs in requests]
    joined = [join(arrays) if len(arrays) > 1 else arrays[0] for arrays in zip(*requests, strict=True)]
    outputs = call(joined)
    for position, output in enumerate(outputs):
        if len(output.shape) == 0 or output.shape[0] != sum(sizes):
            shape = list(output.shape)
            raise ValueError(
                f"output {position} has shape {shape} for a batch of {sum(sizes)}: export with a batch dim"
            )
    ends = list(accumulate(sizes))
    return [[output[end - size : end] for output in outputs] for size, end in zip(sizes, ends, strict=True)]


def run_each(
    call: Call, join: Join, requests: Sequence[Sequence[Array]], batched: bool
) -> list[list[Array] | Exception]:
    """Outputs or failure of each request: when a batch fails, each is computed alone, and only the bad one fails."""
    if batched and len(requests) > 1:
        together = attempt(run_batched, call, join, requests)
        if not isinstance(together, Exception):
            return [*together]
    return [attempt(_run_alone, call, join, one) if batched else attempt(call, one) for one in requests]


def _run_alone(call: Call, join: Join, request: Sequence[Array]) -> list[Array]:
    return run_batched(call, join, [request])[0]


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

"""Putting the requests of one Triton batch together for one call, and taking its result apart again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

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

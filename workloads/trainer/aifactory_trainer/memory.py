"""Whether a model fits the memory, told before it is made."""

from __future__ import annotations

import os

import torch

from aifactory_contract.cgroup import memory_left
from aifactory_trainer import ahead
from aifactory_trainer.distributed import World
from aifactory_trainer.program import BadInputError

_GIB = 1 << 30


def check(what: str, numbers: int, trained: int, world: World, *, shards: int = 1, smaller: str = "") -> None:
    """Refuse a model that could not be trained, or asked, with the ways out.

    Args:
        what: the model, in words.
        numbers: of it.
        trained: those that are learnt; the others are bfloat16 on a GPU.
        shards: in how many parts the ranks hold it between them.
        smaller: a way out of the program's own, for messages.

    Raises:
        BadInputError: weights, gradients and optimizer alone are more than this process may take.
    """
    gpu = world.device.type == "cuda"
    # Of what is trained: itself, its gradient, two averages of Adam, and DDP's copies of gradients.
    copies = world.size > 1 and shards == 1
    needed = ((numbers - trained) * (2 if gpu else 4) + trained * (20 if copies else 16)) // shards
    if not gpu:
        needed = max(needed, numbers * 4)  # each process makes all of it before it keeps its part
    way_out = "Take a GPU with more memory" if gpu else "Raise resources.limits.memory of container trainer"
    free = left(world)
    if free is not None and needed > free:
        learnt = f", of which {trained / 1e6:,.0f} million are trained" if trained else ""
        what_for = "weights, gradients and optimizer" if trained else "weights"
        raise BadInputError(
            f"{what} has {numbers / 1e6:,.0f} million numbers{learnt}: each process needs {needed / _GIB:.2f} GiB for "
            f"{what_for} alone, and {free / _GIB:.2f} GiB are left for it. {way_out}{smaller}, or take a smaller "
            f"{what.removeprefix('the ')}"
        )


def left(world: World) -> int | None:
    """Bytes that this process may take, where it computes; None: the pods are yet to come and nobody knows."""
    if (pods := ahead.coming()) is not None:
        return pods.memory
    if world.device.type == "cuda":
        return int(torch.cuda.mem_get_info(world.device)[0])
    return memory_left() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

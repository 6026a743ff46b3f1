"""Which device Triton has placed a model instance on, what has room there, and how many CPU threads are of use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from aifactory_contract.cgroup import memory_left
from aifactory_contract.refusals import NO_ROOM

_WEIGHTS_PER_THREAD = 4_000_000
_MIB, _GIB = 2**20, 2**30


def device_of(args: Mapping[str, str]) -> torch.device:
    """From the arguments of `initialize`. Raises ValueError if Triton says GPU and torch sees none."""
    if args["model_instance_kind"] != "GPU":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("Triton placed the model on a GPU that PyTorch can not use; is the driver new enough?")
    return torch.device("cuda", int(args["model_instance_device_id"]))


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken on it: on a CPU what the container's limit leaves, not what the node has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory_left()


def check_room(device: torch.device, needed: int, free: int) -> None:
    """Raises ValueError with the way out if a model's weights do not fit: else the kernel would end the container."""
    if needed > free:
        raise ValueError(
            f"{NO_ROOM}: the model needs {_size(needed)} for its weights alone, and {_size(free)} are left; "
            f"{more_memory(device)}"
        )


def more_memory(device: torch.device) -> str:
    """How a person gives a model more of it."""
    if device.type == "cuda":
        return "use a GPU with more memory, or a smaller model"
    return "raise resources.limits.memory of container triton in the pool's spec.template"


def _size(size: int) -> str:
    return f"{size / _MIB:.0f} MiB" if size < 10 * _GIB else f"{size / _GIB:.1f} GiB"


def useful_threads(weights: Iterable[torch.Tensor]) -> int:
    """Threads for one step of a model of this size.

    A small layer is computed sooner than a second thread has woken up; where others want the CPU too, waiting for that
    thread made a step of a 1 M model seven times as long.
    """
    return 1 + sum(weight.numel() for weight in weights) // _WEIGHTS_PER_THREAD

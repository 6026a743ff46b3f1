"""Which device Triton has placed a model instance on, what has room there, and how it computes soonest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch

from aifactory_contract.cgroup import memory_left
from aifactory_server import room

_WEIGHTS_PER_THREAD = 4_000_000
_LEAST_WORK, _WORK_PER_THREAD = 4_000_000, 16_000_000
"""Multiplications: with fewer than the first a second thread is not worth it."""
_READING_TOKENS = 8
"""With few tokens a matrix takes as long as it is read from memory, which is as long as that many are computed."""


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
    """Raises ValueError with the way out if a model's weights do not fit."""
    room.check_room(needed, free, more_memory(device))


def more_memory(device: torch.device) -> str:
    """How a person gives a model more of it."""
    if device.type == "cuda":
        return "use a GPU with more memory, or a smaller model"
    return room.MORE_MEMORY


def computed_in(device: torch.device, kept: object) -> torch.dtype | Literal["auto"]:
    """Type in which a model is computed soonest whose files have weights of type `kept`; "auto": of that type.

    A GPU computes what the model was trained in, and so does a CPU that multiplies bfloat16. Any other is quickest in
    float32.
    """
    if device.type != "cpu":
        return "auto"
    return torch.bfloat16 if kept is torch.bfloat16 and multiplies_bfloat16() else torch.float32


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has instructions for it, as the kernel tells: AVX512-BF16 or AMX of x86, BF16 of Arm.

    Without them bfloat16 is computed by way of float32, and slower than that.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    features = {word for line in lines if line.startswith(("flags", "Features")) for word in line.split()}
    return bool(features & {"avx512_bf16", "amx_bf16", "bf16"})


def useful_threads(weights: Iterable[torch.Tensor]) -> int:
    """Threads for one step of a model of this size.

    A small layer is computed sooner than a second thread has woken up; where others want the CPU too, waiting for that
    thread made a step of a 1 M model seven times as long.
    """
    return 1 + sum(weight.numel() for weight in weights) // _WEIGHTS_PER_THREAD


def step_threads(matrix: int, tokens: int, most: int) -> int:
    """Threads for one step of a language model: one for a few tokens of a tiny model, all for a long prompt.

    Measured with bfloat16 on two cores (AMD EPYC), a model of 135 M weights, which are matrices of 0.6 M on an average:
    with a second thread one token takes 0.88 of the time, and eight take 0.8. On cores that others keep busy both take
    longer than with one thread, by 0.4 and by 0.2; that is the price of a pod that does not have its CPUs to itself.

    Args:
        matrix: weights in one matrix of the model, on an average.
        tokens: that are computed together.
        most: threads that there are.
    """
    work = matrix * (tokens + _READING_TOKENS)
    return 1 if work < _LEAST_WORK else min(most, 2 + work // _WORK_PER_THREAD)

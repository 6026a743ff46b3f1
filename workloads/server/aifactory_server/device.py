"""Which device Triton has placed a model instance on, what has room there, and how it computes soonest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch

from aifactory_contract.cgroup import memory_left
from aifactory_contract.refusals import NO_ROOM

_WEIGHTS_PER_THREAD = 4_000_000
_LEAST_WORK, _WORK_PER_THREAD = 64_000_000, 16_000_000
"""Multiplications: in fewer than the first a second thread has not woken up before the first one is through."""
_READING_TOKENS = 8
"""With few tokens a matrix takes as long as it is read from memory, which is as long as that many are computed."""
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
    """Threads for one step of a language model: one for a few tokens of a small model, all for a long prompt.

    Measured with bfloat16 on two busy cores (AMD EPYC): from 16 M weights on a second thread pays for one token, from
    4 M on for eight. A model of 135 M weights has matrices of 0.6 M.

    Args:
        matrix: weights in one matrix of the model, on an average.
        tokens: that are computed together.
        most: threads that there are.
    """
    work = matrix * (tokens + _READING_TOKENS)
    return 1 if work < _LEAST_WORK else min(most, work // _WORK_PER_THREAD)

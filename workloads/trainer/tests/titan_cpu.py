"""Run a program of torchtitan 0.3.0 on the CPU: `titan_cpu.py PROGRAM ARGUMENTS...`, under torchrun.

torchtitan asks for a GPU. What it asks of one is answered here, for tests alone, and this is all:
- the device is the CPU, with the figures about memory that `torch.cpu` does not have;
- FlexAttention, whose backward pass PyTorch has for GPUs only, is computed by scaled_dot_product_attention, with the
  same mask;
- FSDP2 adds gradients up by SUM, which gloo has, instead of PREMUL_SUM.
"""

from __future__ import annotations

import runpy
import sys
from types import SimpleNamespace
from typing import Any

import torch
import torch.cpu
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn.attention.flex_attention import create_mask

cpu: Any = torch.cpu
cpu.current_device = lambda: 0
cpu.get_device_name = lambda device=None: "CPU"
cpu.get_device_properties = lambda device=None: SimpleNamespace(total_memory=1 << 30)
cpu.memory_stats = lambda device=None: {}
cpu.reset_peak_memory_stats = cpu.empty_cache = lambda: None
torch._utils._get_available_device_type = lambda: "cpu"  # before torchtitan is imported, which asks once

from torchtitan.models.common.attention import FlexAttention  # noqa: E402

divide: Any = FSDPModule.set_gradient_divide_factor


def set_gradient_divide_factor(module: Any, factor: float) -> None:
    divide(module, factor)
    module.set_force_sum_reduction_for_comms(True)


def attention(q: Tensor, k: Tensor, v: Tensor, *, block_mask: Any, scale: Any, enable_gqa: bool, **_: Any) -> Any:
    mask = create_mask(block_mask.mask_mod, q.shape[0], 1, q.shape[2], k.shape[2], device="cpu")
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
    return out, None


FSDPModule.set_gradient_divide_factor = set_gradient_divide_factor  # type: ignore[method-assign]
FlexAttention.compiled_flex_attn = staticmethod(attention)

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")

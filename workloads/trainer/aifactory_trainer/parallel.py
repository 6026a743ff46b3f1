"""A model that the ranks divide among them: FSDP2, and tensor parallelism below it, both torch's own.

Role: apply `fully_shard` and `parallelize_module` to a model, and what differs then: clipping, and putting together.

What always holds:
- `--tensor-parallel N`: N ranks that follow one another compute one batch, each with a part of every block's matrices;
  among groups of so many, and with `--shard` alone among all ranks, weights, gradients and optimizer are divided.
- Every parameter is a DTensor, so one kind of checkpoint fits all, on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from aifactory_trainer.distributed import World
from aifactory_trainer.program import BadInputError

_COLUMNS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_ROWS = ("self_attn.o_proj", "mlp.down_proj")


def check(config: Any, world: World, tensor: int) -> None:
    """Whether the ranks and the model can be divided by the degree of tensor parallelism.

    Raises:
        BadInputError: they can not.
    """
    if world.size % tensor:
        raise BadInputError(
            f"--tensor-parallel {tensor} does not divide the {world.size} processes: give the job a multiple of it "
            "(nodes.count x procPerNode)"
        )
    if config.model_type != "llama":
        raise BadInputError(
            f"--tensor-parallel is for the Llama architecture, and this model is {config.model_type!r}: use --shard, "
            "which is for all"
        )
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
        if getattr(config, name) % tensor:
            raise BadInputError(
                f"--tensor-parallel {tensor} does not divide {name} {getattr(config, name)}: take a divisor of it"
            )


def data_world(world: World, tensor: int) -> World:
    """This process among those that compute different batches."""
    return World(world.rank // tensor, world.size // tensor, world.device)


def shard(model: Any, blocks: Iterable[nn.Module], world: World, tensor: int, compiled: bool) -> None:
    """Divide the model; it is the same object afterwards, and this rank has its part of it alone.

    Args:
        model: the same numbers on all ranks.
        blocks: whose weights are put together for the time that they are computed with.
        tensor: degree of tensor parallelism.
        compiled: make kernels for the blocks, each for itself.
    """
    if not dist.is_initialized():  # one process, without a launcher
        backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
        store = cast(Any, dist).HashStore()
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    mesh = init_device_mesh(world.device.type, (world.size // tensor, tensor), mesh_dim_names=("data", "tensor"))
    blocks = list(blocks)
    if tensor > 1:
        plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in _COLUMNS}
        plan |= {name: RowwiseParallel() for name in _ROWS}
        for block in blocks:
            parallelize_module(block, mesh["tensor"], plan)
        if not model.config.tie_word_embeddings:
            parallelize_module(model, mesh["tensor"], {"lm_head": ColwiseParallel(output_layouts=Replicate())})
    options: dict[str, Any] = {"mesh": mesh["data"]}
    if world.device.type == "cuda":  # weights are sent as bfloat16, and gradients added up in float32
        options["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    for block in blocks:
        if compiled:
            block.compile()
        fully_shard(block, **options)
    fully_shard(model, **options)


def by_mesh(weights: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Those that are divided among the same ranks together: no operation takes others at once."""
    found: dict[object, list[nn.Parameter]] = {}
    for weight in weights:
        found.setdefault(weight.device_mesh if isinstance(weight, DTensor) else None, []).append(weight)
    return list(found.values())


def clip(weights: Iterable[nn.Parameter], norm: float) -> None:
    """As `clip_grad_norm_`, also where weights are divided in different ways."""
    groups = by_mesh(weight for weight in weights if weight.grad is not None)
    norms = [nn.utils.get_total_norm([weight.grad for weight in group if weight.grad is not None]) for group in groups]
    total = torch.linalg.vector_norm(torch.stack([_full(part) for part in norms]))
    for group in groups:
        nn.utils.clip_grads_with_norm_(group, norm, total)


def whole_state(model: nn.Module, rank: int) -> dict[str, Tensor]:
    """All of the model's state in the memory of rank 0's CPU; every rank has to ask. The others get nothing."""
    state = {}
    for name, tensor in model.state_dict().items():
        full = _full(tensor)
        if rank == 0:
            state[name] = full.cpu()
    return state


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

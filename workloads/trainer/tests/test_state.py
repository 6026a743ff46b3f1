"""What goes into a checkpoint comes back, and what could not come back is refused at the start."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from aifactory_trainer import state
from aifactory_trainer.checkpoint import CheckpointError
from conftest import DEVICES


class Position:
    """A data loader that knows where it is."""

    def __init__(self, at: object = 0) -> None:
        self.at = at

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.at = state_dict["at"]


def numbers(device: torch.device) -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(torch.rand(())),
        float(torch.rand((), device=device)),
        float(numpy.random.rand()),
        numpy.random.randn(),
    ]


@pytest.mark.parametrize("device", DEVICES)
def test_random_generators_go_on_where_they_were(device: torch.device) -> None:
    numbers(device)  # leaves a half-used pair of gaussian numbers in both generators
    kept = state.decode(state.encode(state.collect_random()))
    expected = numbers(device)
    numbers(device)
    state.restore_random(kept)
    assert numbers(device) == expected


def test_a_wrapped_model_is_stored_as_itself() -> None:
    inner = nn.Linear(2, 2)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(inner)
    finally:
        dist.destroy_process_group()
    for wrapped in (inner, parallel, nn.DataParallel(inner), torch.compile(inner), torch.compile(parallel)):
        assert state.unwrap(wrapped) is inner
        assert set(state.collect({"model": wrapped})["model"]) == {"weight", "bias"}


def test_a_module_that_has_a_part_called_module_is_no_wrapper() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    assert "module.weight" in state.collect({"model": Mine()})["model"]


@pytest.mark.parametrize("value", [print, Position(), {"deep": [Position()]}])
def test_a_state_that_would_run_code_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="the state of 'data' \\(Position\\) holds more than"):
        state.check_storable({"data": Position(value)})


def test_what_has_no_state_is_refused() -> None:
    with pytest.raises(TypeError, match="'model' \\(int\\) has no state_dict"):
        state.check_storable({"model": 3})  # type: ignore[dict-item]


def test_an_optimizer_and_a_scheduler_can_be_stored() -> None:
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    state.check_storable({"optimizer": optimizer, "scheduler": scheduler, "data": Position([1, "a", None, (2.5,)])})


def test_a_state_of_another_shape_says_what_to_do() -> None:
    stored = state.collect({"model": nn.Linear(2, 3)})
    with pytest.raises(CheckpointError, match=r"here does not fit 'model'.*remove the directory.*size mismatch"):
        state.restore({"model": nn.Linear(2, 2)}, stored, "here")


def test_a_missing_state_names_what_there_is() -> None:
    with pytest.raises(CheckpointError, match="here has no state of 'scheduler', only of model"):
        state.restore({"scheduler": Position()}, {"model": {}}, "here")


class Extra(nn.Module):
    """A module that keeps more than tensors, as some libraries' layers do."""

    def __init__(self, extra: object) -> None:
        super().__init__()
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: object) -> None:
        self.extra = state


def test_a_module_that_keeps_more_than_tensors_is_checked_too() -> None:
    state.check_storable({"model": nn.Sequential(nn.Linear(2, 2), Extra({"scale": 2.0}))})
    with pytest.raises(TypeError, match="the state of 'model' \\(Sequential\\) holds more than"):
        state.check_storable({"model": nn.Sequential(nn.Linear(2, 2), Extra(Position()))})


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_sharded_model_and_its_optimizer_are_refused() -> None:
    """Rank 0's part of it would be a checkpoint that looks whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(nn.Linear(4, 4), mesh=init_device_mesh("cpu", (1,)))
    optimizer = torch.optim.AdamW(model.parameters())
    words = r"the state of '{}' is sharded \(DTensor\).*torch.distributed.checkpoint"
    with pytest.raises(TypeError, match=words.format("model")):
        state.check_storable({"model": model})
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with pytest.raises(TypeError, match=words.format("optimizer")):
        state.collect({"optimizer": optimizer})
    assert state.not_finite({"model": model, "optimizer": optimizer}) == [], "each rank can look at its own part"
    with torch.no_grad():
        model.bias[1] = math.nan
    assert state.not_finite({"model": model}) == ["model.bias"]


@pytest.mark.usefixtures("alone")
def test_a_model_with_a_sharding_part_is_refused_without_asking_it() -> None:
    """Its state_dict waits for all ranks, and a checkpoint is rank 0's business."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    class Sharding(FullyShardedDataParallel):
        def __init__(self) -> None:
            nn.Module.__init__(self)

        def state_dict(self, *_arguments: Any, **_options: Any) -> Any:
            pytest.fail("it was asked")

    with pytest.raises(TypeError, match=r"the state of 'model' is sharded \(Sharding\)"):
        state.check_storable({"model": nn.Sequential(nn.Linear(2, 2), Sharding())})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])
@pytest.mark.parametrize("device", DEVICES)
def test_what_is_not_finite_is_named(value: float, kind: torch.dtype, device: torch.device) -> None:
    model = nn.Linear(3, 3, dtype=kind, device=device)
    assert state.not_finite({"model": model}) == []
    with torch.no_grad():
        model.bias[1] = value
    assert state.not_finite({"model": model}) == ["model.bias"]


def test_an_optimizers_moments_are_looked_at() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model.weight.grad = torch.full_like(model.weight, 1e30)  # its square is more than a float holds
    optimizer.step()
    assert state.not_finite({"model": model, "optimizer": optimizer}) == ["optimizer.state.0.exp_avg_sq"]


def test_infinities_that_are_meant_are_left_alone() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.full((2, 2), -math.inf))
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD(model.parameters(), lr=0.1))
    assert state.not_finite({"model": model, "scheduler": plateau, "data": Position(math.inf)}) == []

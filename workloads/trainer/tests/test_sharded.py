"""Models that no rank has all of: checkpoints in the background, whole or absent, on any number of ranks."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from aifactory_trainer import CheckpointError, Run
from aifactory_trainer.environment import Environment
from conftest import wait_until


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Job:
    """A divided model in this process, trained step by step."""

    def __init__(self, root: Path, width: int = 4) -> None:
        torch.manual_seed(0)
        self.model = fully_shard(
            nn.Sequential(nn.Linear(width, 8), nn.Linear(8, 1)), mesh=init_device_mesh("cpu", (1,))
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)
        environment = Environment(root / "checkpoints", root / "output", 0, None, None, 1e9)
        self.run = Run(
            model=self.model,
            optimizer=self.optimizer,
            schedule=self.schedule,
            environment=environment,
            checkpoint_every=2,
        )
        self.width = width

    def step(self) -> None:
        loss = (self.model(torch.rand(8, self.width)) - 1).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.run.report(loss=loss)

    def train(self, until: int, total: int = 10) -> list[torch.Tensor]:
        for step in self.run.steps(total):
            if step == until:
                break
            self.step()
        return self.weights()

    def weights(self) -> list[torch.Tensor]:
        return [weight.full_tensor().detach().clone() for weight in self.model.parameters()]  # type: ignore[attr-defined]


@pytest.mark.usefixtures("alone")
def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = Job(tmp_path / "whole").train(10)
    Job(tmp_path / "parted").train(7)
    second = Job(tmp_path / "parted")
    assert second.run.resumed_from == 6
    assert second.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    ends = second.train(10)
    assert all(torch.equal(mine, other) for mine, other in zip(ends, whole, strict=True))
    names = {path.name for path in (tmp_path / "parted" / "checkpoints" / "step-10").iterdir()}
    assert names == {".metadata", "__0_0.distcp", "state.pt", "manifest.json"}


@pytest.mark.usefixtures("alone")
def test_training_goes_on_while_it_is_written_and_changes_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = threading.Event()
    write = FileSystemWriter.write_data

    def slow(self: Any, *arguments: Any) -> Any:
        assert may_write.wait(60)
        return write(self, *arguments)

    monkeypatch.setattr(FileSystemWriter, "write_data", slow)
    job = Job(tmp_path)
    of_the_step: list[torch.Tensor] = []
    for step in job.run.steps(4):
        if step == 2:
            of_the_step = job.weights()
        if step == 3:
            assert not list((tmp_path / "checkpoints").glob("step-*")), "it is still being written"
            may_write.set()
        job.step()
    shutil.rmtree(tmp_path / "checkpoints" / "step-4")
    again = Job(tmp_path)
    assert again.run.resumed_from == 2
    assert all(torch.equal(mine, other) for mine, other in zip(again.weights(), of_the_step, strict=True))


@pytest.mark.usefixtures("alone")
def test_a_write_that_fails_is_told_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: Any, *arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    job = Job(tmp_path)
    job.train(10, total=4)
    assert "the checkpoint of step 2 was not written, training goes on" in caplog.text
    assert "No space left on device" in caplog.text
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.usefixtures("alone")
def test_what_a_killed_process_leaves_is_no_checkpoint(tmp_path: Path) -> None:
    Job(tmp_path).train(3)
    wait_until(lambda: (tmp_path / "checkpoints" / "step-2").exists(), "a checkpoint", lambda: os.listdir(tmp_path))
    left = shutil.copytree(tmp_path / "checkpoints" / "step-2", tmp_path / "checkpoints" / ".aside-parts-4")
    (left / "manifest.json").unlink()
    assert Job(tmp_path).run.resumed_from == 2
    assert not left.exists()


@pytest.mark.usefixtures("alone")
def test_a_damaged_part_is_noticed(tmp_path: Path) -> None:
    Job(tmp_path).train(10, total=4)
    part = tmp_path / "checkpoints" / "step-4" / "__0_0.distcp"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert Job(tmp_path).run.resumed_from == 2


@pytest.mark.usefixtures("alone")
def test_another_model_and_another_kind_are_refused(tmp_path: Path) -> None:
    Job(tmp_path).train(10, total=2)
    with pytest.raises(
        CheckpointError, match=r"is of another model \(.* of 49 numbers, .*; this one is .* of 57 numbers"
    ):
        Job(tmp_path, width=5)
    environment = Environment(tmp_path / "checkpoints", tmp_path / "output", 0, None, None, 1e9)
    with pytest.raises(CheckpointError, match="with a model that is divided among the ranks, this one uses aifactory"):
        Run(model=nn.Linear(1, 1), environment=environment)


@pytest.mark.usefixtures("alone")
def test_a_table_of_contents_runs_no_code(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "it ran"),)

    job = Job(tmp_path)
    job.train(10, total=2)
    checkpoint = tmp_path / "checkpoints" / "step-2"
    (checkpoint / ".metadata").write_bytes(pickle.dumps(Code()))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"].pop(".metadata")
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"can not be read safely: \.metadata holds posix\.mkdir"):
        Job(tmp_path)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.usefixtures("alone")
def test_two_divided_models_are_refused(tmp_path: Path) -> None:
    mesh = init_device_mesh("cpu", (1,))
    first, second = (fully_shard(nn.Linear(2, 2), mesh=mesh) for _ in range(2))
    with pytest.raises(TypeError, match="of first, second the ranks hold parts: Run takes one such model"):
        Run(first=first, second=second)

"""A run of one process: resume, report, checkpoint when due, end in time when asked."""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aifactory_trainer import CheckpointError, NotFiniteError, Run
from aifactory_trainer.checkpoint import CheckpointStore
from aifactory_trainer.environment import Environment
from aifactory_trainer.state import collect_random
from conftest import DEVICES, ROOT, Pod, Receiver
from test_state import Position


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "checkpoints", tmp_path / "output", 0, None, None, 3600.0)


class Trainer:
    """A training script whose every part depends on all of its state."""

    def __init__(self, environment: Environment, every: int | None = 3, device: torch.device = DEVICES[0]) -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        self.data = Position(0)
        self.run = Run(
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            per_rank={"data": self.data},
            checkpoint_every=every,
            environment=environment,
        )

    def steps(self, total: int) -> Iterator[Tensor]:
        for _ in self.run.steps(total):
            assert isinstance(self.data.at, int)
            loss = (self.model(torch.randn(16, 4, device=self.device)) - self.data.at).square().mean()
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            self.optimizer.step()
            self.scheduler.step()
            self.data.at += 1
            yield loss.detach()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lost_at", [1, 3, 4, 8, 11])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    environment: Environment, tmp_path: Path, lost_at: int, device: torch.device
) -> None:
    whole = Trainer(Environment(tmp_path / "other", tmp_path, 0, None, None, 3600.0), device=device)
    expected = list(whole.steps(12))

    first = Trainer(environment, device=device)
    for done, _ in enumerate(first.steps(12), start=1):
        if done == lost_at:
            break
    second = Trainer(environment, device=device)
    resumed = (lost_at - 1) // 3 * 3
    assert second.run.step == resumed
    assert second.run.resumed_from == (resumed or None)
    assert torch.equal(torch.stack(list(second.steps(12))), torch.stack(expected[resumed:]))
    for one, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert second.scheduler.state_dict() == whole.scheduler.state_dict()
    assert second.data.at == 12


def test_a_finished_run_has_nothing_left_to_do(environment: Environment) -> None:
    assert len(list(Trainer(environment, every=None).steps(5))) == 5
    again = Trainer(environment)
    assert again.run.step == 5
    assert list(again.steps(5)) == []
    assert len(list(again.steps(7))) == 2, "and goes on if asked for more"


def test_a_checkpoint_is_written_when_the_last_is_old(environment: Environment) -> None:
    run = Run(data=Position(), checkpoint_seconds=0.0, environment=environment)
    for step in run.steps(3):
        assert (environment.checkpoints / f"step-{step}").exists() == (step > 0)


def test_a_checkpoint_of_another_model_is_refused_and_kept(environment: Environment) -> None:
    list(Run(model=nn.Linear(2, 2), environment=environment).steps(1))
    with pytest.raises(CheckpointError, match="step-1 does not fit 'model'"):
        Run(model=nn.Linear(2, 3), environment=environment)
    assert (environment.checkpoints / "step-1").exists()


def test_a_checkpoint_with_other_facts_is_refused_and_kept(environment: Environment) -> None:
    """Its state would fit, and mean something else."""
    list(Run(model=nn.Linear(2, 2), facts={"heads": 4, "kind": "a"}, environment=environment).steps(1))
    with pytest.raises(
        CheckpointError,
        match=r"step-1 can not be taken up, it was written with other heads \(4, now 2\)\. Use what it was written "
        r"with, or begin anew: remove .*checkpoints, or give the job another name",
    ):
        Run(model=nn.Linear(2, 2), facts={"heads": 2, "kind": "a"}, environment=environment)
    assert (environment.checkpoints / "step-1").exists()
    for facts in ({"heads": 4, "kind": "a"}, {"heads": 4, "a setting of a newer library": True}, None):
        assert Run(model=nn.Linear(2, 2), facts=facts, environment=environment).resumed_from == 1


def test_a_checkpoint_that_was_written_before_there_were_facts_is_taken_up(environment: Environment) -> None:
    own = {"random": collect_random(), "objects": {}}
    state: dict[str, Any] = {"step": 3, "shared": {"model": nn.Linear(2, 2).state_dict()}, "ranks": [own]}
    CheckpointStore(environment.checkpoints).save(3, state)
    assert Run(model=nn.Linear(2, 2), facts={"heads": 4}, environment=environment).resumed_from == 3


def test_training_goes_on_when_a_checkpoint_can_not_be_written(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    environment.checkpoints.write_text("a file is in the way")
    assert len(list(Trainer(environment).steps(6))) == 6
    assert "the checkpoint of step 3 was not written, training goes on" in caplog.text


def test_a_save_that_failed_is_reported_until_one_succeeds(environment: Environment, receiver: Receiver) -> None:
    environment.checkpoints.write_text("a file is in the way")
    trainer = Trainer(replace(environment, progress_url=receiver.url))
    for step, _ in enumerate(trainer.steps(10)):
        if step == 7:
            trainer.run.flush()
            assert receiver.reports[-1]["metrics"] == {"checkpoint_failed": 2}
            assert "checkpoint" not in receiver.reports[-1]
            environment.checkpoints.unlink()
    trainer.run.flush()
    assert "metrics" not in receiver.reports[-1]
    assert receiver.reports[-1]["checkpoint"]["step"] == 10


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_state_that_is_not_finite_is_not_saved_and_ends_the_run(environment: Environment, value: float) -> None:
    """Else the next attempt would go on from it, whatever its settings are."""
    trainer = Trainer(environment)

    def train() -> None:
        for step, _ in enumerate(trainer.steps(20)):
            if step == 3:
                with torch.no_grad():
                    trainer.model[0].weight[0, 0] = value

    words = r"after step 6 holds NaN or infinity and is not saved: model\.0\.weight.*; the last .* checkpoints/step-3$"
    with pytest.raises(NotFiniteError, match=words):
        train()
    assert [path.name for path in environment.checkpoints.iterdir()] == ["step-3"]


def test_with_a_loss_that_is_not_finite_nothing_is_saved(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights that are finite and worth nothing."""
    trainer = Trainer(environment)
    for step, _ in enumerate(trainer.steps(7)):
        trainer.run.report(loss=torch.tensor(math.nan if 3 <= step <= 5 else 1.0))
    assert sorted(path.name for path in environment.checkpoints.iterdir()) == ["step-3", "step-7"]
    assert "the checkpoint of step 6 was not written, training goes on: the loss is nan" in caplog.text


@pytest.mark.parametrize(("takes", "saved"), [(10.0, True), (25.0, True), (29.5, False), (3600.0, False)])
def test_a_checkpoint_that_would_not_be_done_in_time_is_not_begun(
    environment: Environment, takes: float, saved: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(replace(environment, grace_seconds=30.0))

    def train() -> None:
        for step, _ in enumerate(trainer.steps(100)):
            if step == 4:
                trainer.run._agreement._save_seconds = takes
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        train()
    assert Trainer(environment).run.resumed_from == (5 if saved else 3)
    said = capsys.readouterr().err
    assert ("a checkpoint of it was not begun: the last took" in said) is not saved
    assert f"the last checkpoint is checkpoints/step-{5 if saved else 3}" in said


def test_checkpoints_that_take_longer_than_the_grace_are_named(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    list(Trainer(replace(environment, grace_seconds=0.5)).steps(10))
    assert caplog.text.count("0 s after SIGTERM this process is killed") == 1
    assert "Raise terminationGracePeriodSeconds" in caplog.text


@pytest.mark.parametrize(
    ("env", "grace"),
    [
        ({}, None),
        ({"AIFACTORY_GRACE": "120"}, 120),
        ({"TORCHELASTIC_RUN_ID": "x"}, 30),
        ({"TORCHELASTIC_RUN_ID": "x", "AIFACTORY_GRACE": "120"}, 30),
        ({"TORCHELASTIC_RUN_ID": "x", "AIFACTORY_GRACE": "20", "PET_SHUTDOWN_TIMEOUT": "110"}, 20),
        ({"TORCHELASTIC_RUN_ID": "x", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "50"}, 50),
        ({"TORCHELASTIC_RUN_ID": "x", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "50", "PET_SHUTDOWN_TIMEOUT": "60"}, 60),
        ({"PET_SHUTDOWN_TIMEOUT": "60"}, None),
    ],
)
def test_the_time_before_sigkill_is_the_shortest_known(env: dict[str, str], grace: float | None) -> None:
    assert Environment.read(env).grace_seconds == grace


def test_sigterm_ends_the_run_after_the_step_with_a_checkpoint(environment: Environment) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer = Trainer(environment, every=None)

    def train() -> None:
        for done, _ in enumerate(trainer.steps(100), start=1):
            if done == 7:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        train()
    assert ended.value.code == 143
    assert Trainer(environment).run.resumed_from == 7
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_loop_sigterm_is_not_taken_over(environment: Environment) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer = Trainer(environment)
    assert signal.getsignal(signal.SIGTERM) is before
    list(trainer.steps(2))
    assert signal.getsignal(signal.SIGTERM) is before


def test_reports_tell_the_story(environment: Environment, receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    reporting = Environment(
        environment.checkpoints, environment.output, 1, receiver.url, tmp_path / "token", environment.checkpoint_seconds
    )
    list(Trainer(environment).steps(4))
    trainer = Trainer(reporting)
    for loss in trainer.steps(10):
        trainer.run.report(loss=loss, tokens=16)
    first, last = receiver.reports[0], receiver.reports[-1]
    assert {key: first[key] for key in ("totalSteps", "resumedFromStep")} == {
        "totalSteps": 10,
        "resumedFromStep": 4,
    }
    assert last["step"] == last["totalSteps"] == 10
    assert last["checkpoint"] == {"step": 10, "path": "checkpoints/step-10"}
    assert last["resumedFromStep"] == 4
    assert last["tokensPerSecond"] > 0
    assert last["metrics"]["loss"] == pytest.approx(float(loss))
    assert {authorization for _, authorization, _ in receiver.requests} == {"Bearer secret"}


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1"):
        Run(checkpoint_every=0)
    with pytest.raises(ValueError, match="AIFACTORY_ATTEMPT must be a number, it is 'two'"):
        Environment.read({"AIFACTORY_ATTEMPT": "two"})


def test_a_script_that_forgot_to_join_the_others_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"call aifactory_trainer.start\(\)"):
        Run(environment=Environment(tmp_path, tmp_path, 0, None, None, 1.0))


def test_the_three_lines_of_the_readme_work(pod: Pod) -> None:
    """The README's script is stopped half way and started again."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    script = next(block for block in blocks if "run.steps" in block)
    loop = "for step in run.steps(1000):\n"
    stop = "    if step == 400 and run.resumed_from is None:\n        import os; os.kill(os.getpid(), 15)\n"
    interrupted = script.replace(loop, loop + stop)
    assert interrupted != script
    output = pod.run(pod.script(interrupted), expect=143)
    assert (
        "stopped at step 401 of 1000: rank 0 was asked to end (SIGTERM); the last checkpoint is checkpoints/step-401"
        in output
    )
    assert pod.termination_message()["message"].startswith("Terminated: stopped at step 401")
    pod.run(pod.script(interrupted))
    assert pod.steps_saved()[-1] == 1000
    assert (pod.output / "model.pt2").exists()

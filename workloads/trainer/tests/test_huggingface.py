"""One callback gives Hugging Face's Trainer what `Run` gives a loop of one's own."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("accelerate", reason="a Python without the test packages, as gpu-check may use")

from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import chatmodel
from aifactory_trainer import CheckpointError, Run
from aifactory_trainer.checkpoint import CheckpointStore
from aifactory_trainer.environment import Environment
from aifactory_trainer.huggingface import FactoryCallback
from conftest import ROOT, Pod, Receiver

QUIET: dict[str, Any] = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_strategy": "no"}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "checkpoints", tmp_path / "output", 0, None, None, 3600.0)


@pytest.fixture(autouse=True)
def handler() -> Iterator[Any]:
    """A run that is lost in this very process leaves its handler of SIGTERM behind."""
    before = signal.getsignal(signal.SIGTERM)
    yield before
    signal.signal(signal.SIGTERM, before)


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Random tokens, always the same."""

    def __init__(self, count: int) -> None:
        self._rows = torch.randint(250, (count, 12), generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self._rows[index], "labels": self._rows[index]}


class At(TrainerCallback):
    """Does something after a step."""

    def __init__(self, step: int, action: Any) -> None:
        self._step, self._action = step, action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            self._action(kwargs["model"])


class Script:
    """A training script as its users write it: 5 steps an epoch."""

    def __init__(
        self,
        environment: Environment,
        *others: TrainerCallback,
        facts: Mapping[str, object] | None = None,
        model: LlamaForCausalLM | None = None,
        **arguments: Any,
    ) -> None:
        torch.manual_seed(0)
        self.model = model or LlamaForCausalLM(chatmodel.config())
        self.factory = FactoryCallback(environment=environment, facts=facts)
        given = {"max_steps": 12, "learning_rate": 0.01, "per_device_train_batch_size": 4, "save_steps": 4} | arguments
        args = TrainingArguments(output_dir=str(environment.output.parent / "elsewhere"), **QUIET, **given)
        self.trainer = Trainer(
            self.model, args, train_dataset=Rows(20), eval_dataset=Rows(4), callbacks=[self.factory, *others]
        )

    def train(self) -> dict[str, Tensor]:
        self.trainer.train(resume_from_checkpoint=self.factory.checkpoint)
        return {name: weight.detach().clone() for name, weight in self.trainer.model.named_parameters()}


def steps_saved(environment: Environment) -> list[int]:
    return sorted(step for step, _ in CheckpointStore(environment.checkpoints).list())


class Lost(Exception):
    """The machine is gone."""


def lose(_model: object) -> None:
    raise Lost


@pytest.mark.parametrize(
    ("lost_at", "resumes_at", "arguments"),
    [
        (3, None, {}),
        (6, 4, {}),
        (11, 8, {"gradient_accumulation_steps": 2}),
        (7, 5, {"save_strategy": "epoch"}),
        (10, 10, {"save_steps": 5}),
    ],
)
def test_a_run_that_is_lost_resumes_and_ends_with_the_same_weights(
    environment: Environment, tmp_path: Path, lost_at: int, resumes_at: int | None, arguments: dict[str, Any]
) -> None:
    elsewhere = replace(environment, checkpoints=tmp_path / "whole")
    expected = Script(elsewhere, **arguments).train()
    # At a step with a checkpoint it is lost in the next one, before its end.
    with pytest.raises(Lost):
        Script(environment, At(lost_at + (lost_at == resumes_at), lose), **arguments).train()
    script = Script(environment, **arguments)
    assert script.factory.resumed_from == resumes_at
    found = script.train()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0, msg=name)
    assert steps_saved(environment)[-1] == script.trainer.state.max_steps == 12
    assert [path.name for path in environment.checkpoints.glob(".*")] == []


def test_a_checkpoint_that_was_written_in_part_or_is_damaged_is_not_resumed_from(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    Script(environment).train()
    assert steps_saved(environment) == [4, 8, 12]
    part = environment.checkpoints / ".aside-trainer" / "checkpoint-16"
    part.mkdir(parents=True)
    (part / "model.safetensors").write_text("half")
    (environment.checkpoints / "step-12" / "optimizer.pt").write_bytes(b"nothing")
    (environment.checkpoints / "step-8" / "trainer_state.json").unlink()
    script = Script(environment)
    assert script.factory.resumed_from == 4
    assert not part.exists()
    assert "step-12 is damaged and is not used: optimizer.pt has 7 bytes of" in caplog.text
    script.train()
    assert steps_saved(environment) == [4, 8, 12]


def test_so_many_checkpoints_stay_as_the_trainer_was_told(environment: Environment) -> None:
    Script(environment, save_steps=2).train()
    assert steps_saved(environment) == [8, 10, 12]
    Script(environment, save_steps=2, save_total_limit=1, max_steps=16).train()
    assert steps_saved(environment) == [16]


def test_the_best_model_is_kept_and_loaded(environment: Environment) -> None:
    best = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    script = Script(environment, **best, save_total_limit=1, metric_for_best_model="eval_loss", learning_rate=0.2)
    losses = []

    def evaluated(*_: object, **__: object) -> dict[str, float]:
        losses.append(float(abs(len(losses) - 2)))  # the third is the best: step 6
        return {"eval_loss": losses[-1]}

    script.trainer.evaluate = evaluated
    script.train()
    assert script.trainer.state.best_model_checkpoint == str(environment.checkpoints / "step-6")
    assert steps_saved(environment) == [6, 12]
    saved = LlamaForCausalLM.from_pretrained(environment.checkpoints / "step-6").state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in script.model.state_dict().items())


def test_a_checkpoint_is_due_by_time_and_after_the_last_step(environment: Environment) -> None:
    Script(replace(environment, checkpoint_seconds=0.0), save_strategy="no", max_steps=3, save_total_limit=9).train()
    assert steps_saved(environment) == [1, 2, 3]


@pytest.mark.parametrize("strategy", ["no", "steps"])
def test_after_its_last_step_a_run_that_resumes_changes_nothing(environment: Environment, strategy: str) -> None:
    """12 steps are no whole number of epochs: the Trainer makes a 13th before it looks."""
    constant = {"lr_scheduler_type": "constant", "save_strategy": strategy}
    expected = Script(environment, **constant).train()
    again = Script(environment, **constant).train()
    assert all(torch.equal(again[name], weight) for name, weight in expected.items())


def test_sigterm_ends_the_run_after_the_step_with_a_checkpoint(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Script(environment, At(6, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(SystemExit) as ended:
        script.train()
    assert ended.value.code == 143
    assert steps_saved(environment) == [4, 7], "it came after step 6 was agreed about"
    said = capsys.readouterr().err
    assert (
        "stopped at step 7 of 12: rank 0 was asked to end (SIGTERM); the last checkpoint is checkpoints/step-7" in said
    )
    assert Script(environment).factory.resumed_from == 7


def test_outside_the_loop_sigterm_and_the_arguments_are_the_scripts(environment: Environment, handler: Any) -> None:
    script = Script(environment, max_steps=2, save_total_limit=5)
    directory = script.trainer.args.output_dir
    assert signal.getsignal(signal.SIGTERM) is handler
    script.train()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert (script.trainer.args.output_dir, script.trainer.args.save_total_limit) == (directory, 5)


def test_a_checkpoint_that_would_not_be_done_in_time_is_not_begun(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Script(replace(environment, grace_seconds=30.0), At(5, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    agreement = script.factory._agreement
    assert agreement is not None
    agreement.saved = lambda seconds: setattr(agreement, "_save_seconds", 60.0)  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        script.train()
    assert steps_saved(environment) == [4]
    assert "a checkpoint of it was not begun: the last took 60 s" in capsys.readouterr().err


def spoil(model: Any) -> None:
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan


@pytest.mark.parametrize(
    ("at", "words", "saved"),
    [
        (5, r"NoRestart: the loss of step \d+ is nan: a restart would end the same, use a smaller learning rate", [4]),
        # In the step of a save its loss is still good.
        (
            8,
            r"NoRestart: the state after step 8 holds NaN or infinity and is not saved: model\.model\.norm\.weight",
            [4],
        ),
    ],
)
def test_numbers_that_are_not_finite_end_the_run_and_are_not_saved(
    environment: Environment, pod: Pod, monkeypatch: pytest.MonkeyPatch, at: int, words: str, saved: list[int]
) -> None:
    monkeypatch.setenv("AIFACTORY_TERMINATION_LOG", str(pod.termination_log))
    pod.termination_log.write_text("")
    with pytest.raises(SystemExit) as ended:
        Script(environment, At(at, spoil)).train()
    assert ended.value.code == 93
    assert re.match(words, pod.termination_message()["message"])
    assert pod.termination_message()["message"].endswith("the last checkpoint is checkpoints/step-4")
    assert steps_saved(environment) == saved


def test_a_disk_that_is_full_does_not_end_the_training(
    environment: Environment, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointStore, "adopt", full)
    Script(replace(environment, progress_url=receiver.url)).train()
    assert "the checkpoint of step 12 was not written, training goes on: [Errno 28] No space left" in caplog.text
    assert receiver.reports[-1]["metrics"]["checkpoint_failed"] == 3
    assert "checkpoint" not in receiver.reports[-1]


def test_reports_tell_the_story(environment: Environment, receiver: Receiver) -> None:
    Script(environment, max_steps=4).train()
    script = Script(replace(environment, progress_url=receiver.url))
    script.train()
    script.factory.report(heldOutLoss=1.25)
    first, last = receiver.reports[0], receiver.reports[-1]
    assert {key: first[key] for key in ("step", "totalSteps", "resumedFromStep")} == {
        "step": 4,
        "totalSteps": 12,
        "resumedFromStep": 4,
    }
    assert last["step"] == last["totalSteps"] == 12
    assert last["checkpoint"] == {"step": 12, "path": "checkpoints/step-12"}
    assert last["tokensPerSecond"] > 0
    assert last["metrics"]["heldOutLoss"] == 1.25
    assert 0 < last["metrics"]["loss"] < 10
    assert set(last["metrics"]) == {"heldOutLoss", "loss", "learning_rate", "grad_norm", "epoch"}


def test_tokens_are_counted_without_padding(environment: Environment) -> None:
    script = Script(environment)
    ids = torch.zeros(2, 6, dtype=torch.long)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    script.factory._count(script.model.train(), (), {"input_ids": ids, "attention_mask": mask})
    script.factory._count(script.model, (), {"input_ids": ids, "attention_mask": None})
    script.factory._count(script.model.eval(), (), {"input_ids": ids})
    assert int(script.factory._seen) == 8 + 12


def test_training_anew_beside_a_checkpoint_is_refused(environment: Environment) -> None:
    Script(environment, max_steps=4).train()
    with pytest.raises(RuntimeError, match=r"there is a checkpoint, .*step-4, but training begins anew: write trainer"):
        Script(environment).trainer.train()


def test_the_checkpoint_is_asked_for_too_early() -> None:
    with pytest.raises(RuntimeError, match=r"known once the Trainer is made with callbacks=\[factory\]"):
        FactoryCallback().checkpoint  # noqa: B018


def test_checkpoints_without_the_state_to_resume_from_are_refused(environment: Environment) -> None:
    with pytest.raises(ValueError, match="save_only_model leaves out what a run needs to resume"):
        Script(environment, save_only_model=True)


def test_a_checkpoint_of_another_run_is_refused(environment: Environment) -> None:
    Script(environment, max_steps=4, facts={"data": "a", "batch": 4}).train()
    assert Script(environment, facts={"batch": 4, "data": "a"}).factory.resumed_from == 4
    with pytest.raises(CheckpointError, match=r"step-4 can not be taken up, .* other data \(a, now b\)\. Use what"):
        Script(environment, facts={"data": "b", "batch": 4})
    with pytest.raises(
        CheckpointError, match=r"other model \(LlamaForCausalLM of \d+ numbers, \d+ of them trained, .*"
    ):
        Script(environment, facts={"data": "a", "batch": 4}, model=LlamaForCausalLM(chatmodel.config(hidden_size=8)))
    manifest = environment.checkpoints / "step-4" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"ranks": 1', '"ranks": 2'))
    with pytest.raises(
        CheckpointError, match=r"other ranks \(2, now 1\)\. Use what it was written with, or begin anew"
    ):
        Script(environment, facts={"data": "a", "batch": 4})


def test_the_checkpoints_of_run_and_of_the_trainer_are_not_mistaken_for_each_other(
    environment: Environment, tmp_path: Path
) -> None:
    Script(environment, max_steps=4).train()
    with pytest.raises(
        CheckpointError, match=r"was written by a program that uses transformers\.Trainer, this one uses"
    ):
        Run(environment=environment)
    other = replace(environment, checkpoints=tmp_path / "other")
    list(Run(environment=other).steps(2))
    with pytest.raises(CheckpointError, match=r"was written by a program that uses aifactory_trainer\.Run, this one"):
        Script(other)


def test_the_lines_of_the_readme_work(pod: Pod) -> None:
    """Stopped half way and started again."""
    chatmodel.write(pod.root / "inputs" / "base")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    script = next(block for block in blocks if "FactoryCallback" in block)
    train = "trainer.train("
    stop = "if factory.checkpoint is None:\n    import os, test_huggingface as test\n"
    stop += "    trainer.add_callback(test.At(3, lambda _: os.kill(os.getpid(), 15)))\n"
    interrupted = script.replace(train, stop + train)
    assert interrupted != script
    env = {"PYTHONPATH": f"{ROOT}:{ROOT.parent / 'contract'}:{ROOT / 'tests'}"}
    output = pod.run(pod.script(interrupted), expect=143, **env)
    assert "stopped at step 4 of 24: rank 0 was asked to end (SIGTERM)" in output
    pod.run(pod.script(interrupted), **env)
    assert pod.steps_saved()[-1] == 24
    assert json.loads((pod.output / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]

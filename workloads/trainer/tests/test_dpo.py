"""Training on preferences as users start it: it learns, survives, publishes what is served, and refuses bad input."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("peft", reason="a Python without the test packages, as gpu-check may use")

from transformers import AutoModelForCausalLM, TrainingArguments

import chatmodel
import conftest
from aifactory_contract.formats import HUGGINGFACE, check_directory
from aifactory_trainer import base, dpo, memory, preferences, saved
from aifactory_trainer.distributed import World
from conftest import NIGHT, TORCHRUN, Pod, Receiver, wait_until
from test_export import digest

DPO = ("-m", "aifactory_trainer.dpo")
FAST = ("--learning-rate=0.02", "--hold-out-share=0.2", "--batch=4")
CPU = World(0, 1, torch.device("cpu"))


@pytest.fixture
def inputs(inputs: Path) -> Path:
    """Those of a job, with preferences."""
    chatmodel.write_lines(inputs / "preferences" / "fruit.jsonl", chatmodel.preferences(40))
    return inputs


def refused(job: Path, *arguments: str) -> str:
    """What the job's status says of a run that ends before training."""
    return conftest.refused(dpo.main, job, *arguments)


def test_the_loss_is_that_of_the_paper() -> None:
    """By hand: beta 0.5, one pair that got better by 2 and 1 nats, and one that got worse."""
    said = torch.tensor([[-8.0, -9.0], [-12.0, -7.0]])
    reference = torch.tensor([[-10.0, -9.0], [-11.0, -8.0]])
    found = dpo.compare(said, reference, 0.5)
    assert found["rewards/chosen"].tolist() == [1.0, 0.0]
    assert found["rewards/rejected"].tolist() == [-0.5, 0.5]
    assert found["rewards/margins"].tolist() == [1.5, -0.5]
    assert found["rewards/accuracies"].tolist() == [1.0, 0.0]
    expected = [-math.log(1 / (1 + math.exp(-margin))) for margin in (1.5, -0.5)]
    assert found["loss"].tolist() == pytest.approx(expected, rel=1e-6)


TRL = [
    {"loss": 0.693147, "rewards/chosen": 0.0, "rewards/rejected": 0.0, "rewards/accuracies": 0.0},
    {"loss": 0.517839, "rewards/chosen": 0.183512, "rewards/rejected": -0.205846, "rewards/accuracies": 1.0},
    {"loss": 0.382331, "rewards/chosen": 0.290546, "rewards/rejected": -0.481677, "rewards/accuracies": 1.0},
    {"loss": 0.275758, "rewards/chosen": 0.479970, "rewards/rejected": -0.683749, "rewards/accuracies": 1.0},
]
"""What DPOTrainer of trl 1.16.0 logged of the run below (transformers 5.23.0, torch 2.15.0, Python 3.11, a CPU), with
DPOConfig(per_device_train_batch_size=4, num_train_epochs=4, learning_rate=0.002, lr_scheduler_type="constant",
beta=0.1, logging_steps=1, gradient_checkpointing=False, bf16=False, use_cpu=True) and the rows by Dataset.from_list."""


def test_the_steps_are_those_of_trl(tmp_path: Path) -> None:
    """Four steps of four pairs, from the same weights."""
    folder = chatmodel.write(tmp_path / "base", torch.float32, attention_dropout=0.0)
    path = chatmodel.write_lines(tmp_path / "p.jsonl", chatmodel.preferences(4))
    pairs = preferences.Pairs(chatmodel.tokenizer(), preferences.read(path), 256)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    pairs.reference = dpo.scores(model, pairs, 4, CPU)
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=4,
        num_train_epochs=4,
        learning_rate=0.002,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        remove_unused_columns=False,
    )
    trainer = dpo.PreferenceTrainer(model, arguments, dpo.collate, train_dataset=pairs, beta=0.1)
    trainer.train()
    for step, expected in zip(trainer.state.log_history, TRL, strict=False):
        assert {name: step[name] for name in expected} == pytest.approx(expected, abs=2e-4)
    assert trainer.state.log_history[0]["logps/chosen"] == pytest.approx(-65.8716, abs=1e-3)
    assert trainer.state.log_history[3]["logps/rejected"] == pytest.approx(-72.1764, abs=5e-3)


@pytest.mark.parametrize("way", ["lora", "full"])
def test_it_learns_and_publishes_a_directory_as_the_base_was_one(
    job: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("AIFACTORY_PROGRESS_URL", receiver.url)
    more = ["--full", "--learning-rate=0.002"] if way == "full" else ["--activation-checkpointing", "--tasks=tasks"]
    question = {"prompt": [{"role": "user", "content": "Fruit 4?"}], "choices": ["The apple.", "Stone 1."], "answer": 0}
    chatmodel.write_lines(job / "inputs" / "tasks" / "fruit.jsonl", [question])
    dpo.main([*FAST, "--epochs=4", *more])
    output = job / "output"
    check_directory(output, HUGGINGFACE.name)
    config, former = (json.loads((path / "config.json").read_text()) for path in (output, job / "inputs" / "base"))
    metrics = config["metrics"]
    assert metrics["eval_loss"] < math.log(2) - 0.2
    assert metrics["eval_rewards/accuracies"] >= 0.9
    assert metrics["eval_rewards/margins"] == pytest.approx(
        metrics["eval_rewards/chosen"] - metrics["eval_rewards/rejected"], abs=0.001
    )
    assert metrics["preferences"] + metrics["heldOutPreferences"] == 40
    assert metrics.get("fruit/acc") == (None if way == "full" else 1.0)
    assert {**config, "metrics": None} == {**former, "metrics": None}, "the same model to whoever serves it"

    # What was measured is what is published, against the base as it came.
    settings = dpo.parse([*FAST])
    tokenizer = base.load_tokenizer(output, None)
    _, held_out = dpo.load_data(settings, tokenizer, saved.load_config(output))
    tuned, reference = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (output, job / "inputs" / "base")
    )
    held_out.reference = dpo.scores(reference, held_out, 4, CPU)
    again = dpo.measure(tuned, held_out, settings, CPU)
    assert again == pytest.approx({name: metrics[f"eval_{name}"] for name in again}, abs=0.01)

    last = receiver.reports[-1]
    assert last["step"] == last["totalSteps"] > 0
    assert last["metrics"]["eval_loss"] == metrics["eval_loss"]
    assert last["metrics"].keys() >= {"loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies"}
    assert len(last["metrics"]) <= 32


@NIGHT
def test_two_processes_stopped_and_killed_end_like_an_uninterrupted_run(pod: Pod, inputs: Path) -> None:
    command = (*TORCHRUN, *DPO, *FAST, "--epochs=6", "--batch=2", "--checkpoint-every=5")
    pod.env |= {"AIFACTORY_INPUTS": str(inputs)}
    pod.run(*command, AIFACTORY_OUTPUT=str(pod.root / "whole"), AIFACTORY_CHECKPOINTS=str(pod.root / "c"))

    process = pod.start(*command)
    wait_until(lambda: pod.steps_saved(), "a checkpoint", lambda: pod.log(process))
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: process.poll() is not None, "the end of torchrun", lambda: pod.log(process))
    stopped = re.search(r"stopped at step (\d+) of (\d+): ", pod.log(process))
    assert stopped is not None, pod.log(process)
    assert pod.termination_message()["errorCode"] == 143

    output = pod.run(*command)
    assert re.search(rf"resuming from .*/step-{stopped[1]}: step", output)
    assert pod.steps_saved()[-1] == int(stopped[2])
    whole, resumed = (load_file(path / "model.safetensors") for path in (pod.root / "whole", pod.output))
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name].float(), weight.float(), rtol=0, atol=0.004, msg=name)
    metrics = [json.loads((path / "config.json").read_text())["metrics"] for path in (pod.root / "whole", pod.output)]
    assert metrics[0] == pytest.approx(metrics[1], rel=0.01, abs=0.002)


def test_a_finished_run_that_lost_its_output_only_exports(job: Path) -> None:
    """What the base thinks is not asked again: what is noted is believed."""
    dpo.main([*FAST, "--epochs=1"])
    before = digest(job / "output")
    metrics = json.loads((job / "output" / "config.json").read_text())["metrics"]
    shutil.rmtree(job / "output")
    dpo.main([*FAST, "--epochs=1"])
    assert digest(job / "output") == before

    shutil.rmtree(job / "output")
    path = job / "checkpoints" / dpo.REFERENCE.format("held-out")
    noted = json.loads(path.read_text())
    path.write_text(json.dumps({**noted, "numbers": [number - 10 for number in noted["numbers"]]}))
    dpo.main([*FAST, "--epochs=1"])
    other = json.loads((job / "output" / "config.json").read_text())["metrics"]
    assert other["eval_rewards/chosen"] == pytest.approx(metrics["eval_rewards/chosen"] + 1, abs=0.001)


def test_accumulated_batches_are_one_step(job: Path) -> None:
    """The loss is a mean over pairs: two batches of two are a batch of four."""
    for name, arguments in (("whole", ["--batch=4"]), ("parts", ["--batch=2", "--accumulate=2"])):
        shutil.rmtree(job / "checkpoints", ignore_errors=True)
        dpo.main([*FAST[:2], "--epochs=1", "--full", "--learning-rate=0.002", *arguments])
        (job / "output").rename(job / name)
    whole, parts = (load_file(job / name / "model.safetensors") for name in ("whole", "parts"))
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name].float(), weight.float(), rtol=0, atol=0.004, msg=name)


def add_line(job: Path) -> None:
    with (job / "inputs" / "preferences" / "fruit.jsonl").open("a") as file:
        file.write('{"prompt": [{"role": "user", "content": "Why?"}], "chosen": "a", "rejected": "a"}\n')


def no_template(job: Path) -> None:
    (job / "inputs" / "base" / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("spoil", "arguments", "words"),
    [
        (
            None,
            ["--data=pairs"],
            r"--data pairs: there is no such file .* \(spec\.inputs has base, chat, preferences\)",
        ),
        (None, ["--data=chat"], r"fruit\.jsonl:1: it has no \"chosen\" and \"rejected\": .*; and 37 more lines$"),
        (add_line, [], r"fruit\.jsonl:41: chosen and rejected are the same"),
        (None, ["--hold-out-share=0.000001"], r"none is held out with --hold-out-share 1e-06"),
        (None, ["--hold-out=preferences"], r"every question of the data is in --hold-out too"),
        (None, ["--max-length=5"], r"all \d+ preferences are longer than 5 tokens, the shortest has \d+: raise --max"),
        (None, ["--max-length=999"], r"--max-length 999 is more than the 256 tokens that the model can read"),
        (
            None,
            ["--lora-targets=qkv"],
            r"LlamaForCausalLM: no layer of it is called 'qkv'; it has down_proj, .*, v_proj",
        ),
        (no_template, [], r"has no chat template \(chat_template\.jinja\).*give one with --chat-template$"),
    ],
)
def test_bad_input_is_a_sentence_before_training_begins(
    job: Path, spoil: Any, arguments: list[str], words: str
) -> None:
    if spoil is not None:
        spoil(job)
    assert re.search(words, refused(job, *FAST, *arguments))


def test_a_base_that_is_too_large_for_memory_is_refused(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_left", lambda: 10_000)
    said = refused(job, *FAST)
    assert re.search(r"^the base has 0 million numbers.*GiB are left for it\. Raise resources\.limits\.memory", said)


def test_a_checkpoint_of_another_run_is_refused(job: Path) -> None:
    dpo.main([*FAST, "--epochs=0.5"])
    with pytest.raises(SystemExit) as ended:
        dpo.main([*FAST, "--beta=0.5"])
    assert ended.value.code == 93
    said = json.loads((job / "termination-log").read_text())["message"]["message"]
    assert re.search(r"can not be taken up, it was written with other beta \(0\.1, now 0\.5\)", said)


def test_a_loss_that_is_no_number_is_not_retried(job: Path) -> None:
    said = refused(job, *FAST, "--learning-rate=1e30", "--full")
    assert re.match(
        r"the (loss|state) (of|after) step \d+ .*use a smaller learning rate; there is no checkpoint$", said
    )

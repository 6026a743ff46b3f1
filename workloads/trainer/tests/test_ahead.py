"""Looking ahead of training: what is wrong is said where no GPU is, and nothing is made."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("peft", reason="a Python without the test packages, as gpu-check may use")

import chatmodel
import conftest
from aifactory_trainer import ahead, base, dpo, evaluate, pretrain, saved, sft
from aifactory_trainer.ahead import VARIABLE, Coming

FAST = ("--hold-out-share=0.2", "--batch=4", "--epochs=0.5")
SMALL = ("--context=32", "--layers=1", "--heads=2", "--embedding=16", "--batch=4", "--steps=3", "--sample=0")
GPUS = json.dumps({"processes": 2, "device": "cuda", "memoryBytes": 80 << 30})


@pytest.fixture
def looked(job: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job that is asked to look, for pods with two GPUs."""
    monkeypatch.setenv(VARIABLE, GPUS)
    corpus = job / "inputs" / "corpus"
    corpus.mkdir()
    for number in range(8):
        (corpus / f"{number}.txt").write_text(f"the plum is {number}\n" * 100)
    chatmodel.write_lines(job / "inputs" / "preferences" / "a.jsonl", chatmodel.preferences(40))
    return job


def files(job: Path) -> dict[str, float]:
    """Everything there is, and when it was written."""
    return {str(path): path.stat().st_mtime for path in job.rglob("*") if path.is_file()}


PROGRAMS: list[Any] = [
    pytest.param(sft.main, FAST, id="sft"),
    pytest.param(dpo.main, FAST, id="dpo"),
    pytest.param(pretrain.main, SMALL, id="pretrain tiny"),
    pytest.param(pretrain.main, ("--preset=15m", "--tokenizer=train:300", "--context=64", "--shard"), id="pretrain"),
    pytest.param(evaluate.main, ("--model=base", "--data=chat"), id="evaluate"),
]


@pytest.mark.parametrize(("main", "arguments"), PROGRAMS)
def test_a_good_job_is_looked_at_without_weights_and_leaves_nothing(
    looked: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    main: Callable[[Any], None],
    arguments: tuple[str, ...],
) -> None:
    def none_is_made(*_: object) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr(saved, "load_model", none_is_made)
    monkeypatch.setattr(torch.cuda, "mem_get_info", none_is_made)
    before = files(looked)
    main(arguments)
    assert re.search(r"looked in \d+\.\d s: nothing is in the way", caplog.text)
    assert files(looked) == before


def test_what_is_wrong_is_said_in_the_words_of_the_program(looked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(main: Callable[[Any], None], *arguments: str) -> str:
        (looked / "termination-log").write_text("")
        return conftest.refused(main, looked, *arguments)

    assert "none is held out with --hold-out-share 1e-09" in said(sft.main, "--hold-out-share=1e-9")
    assert "no layer of it is called 'q_projection'" in said(dpo.main, *FAST, "--lora-targets=q_projection")
    assert "there is no such file or directory, and no input of this name" in said(evaluate.main, "--data=chats")
    assert "--tensor-parallel 3 does not divide the 2 processes" in said(
        pretrain.main, "--preset=15m", "--tensor-parallel=3"
    )
    assert "is shorter than a window of 4096" in said(pretrain.main, *SMALL, "--context=4096")
    words = said(pretrain.main, "--preset=15m", "--context=4096")
    assert re.search(r"corpus: the held-out text of \d+ tokens is shorter than a window of 4096: give more", words)


def test_memory_is_that_of_the_gpus_that_are_to_come(looked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"processes": 1, "device": "cuda", "memoryBytes": 8 << 30}))
    with pytest.raises(SystemExit) as ended:
        pretrain.main(["--preset=1b"])
    assert ended.value.code == 93
    said = json.loads((looked / "termination-log").read_text())["message"]["message"]
    assert re.search(r"each process needs 14\.\d\d GiB for .* alone, and 8\.00 GiB are left for it\. Take a GPU", said)
    for other in ({"processes": 4, "device": "cuda", "memoryBytes": 8 << 30}, {"processes": 1, "device": "cuda"}):
        monkeypatch.setenv(VARIABLE, json.dumps(other))
        pretrain.main(["--preset=1b", "--context=64", "--shard"])


def test_a_wrong_option_is_said_before_anything_is_looked_at(looked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        sft.main(["--lora-rnak=4"])
    assert ended.value.code == 2
    message = json.loads((looked / "termination-log").read_text())["message"]
    assert message["errorCode"] == 2
    assert message["message"] == "ArgumentError: unrecognized arguments: --lora-rnak=4"
    assert "usage: aifactory_trainer.sft" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "arguments", "other", "words"),
    [
        pytest.param(sft.main, FAST, "--lora-rank=2", r"other model \(PeftModelForCausalLM of", id="sft"),
        pytest.param(sft.main, FAST, "--learning-rate=1", r"other learning rate \(0\.0002, now 1\.0\)", id="sft, rate"),
        pytest.param(dpo.main, FAST, "--beta=0.5", r"other beta \(0\.1, now 0\.5\)", id="dpo"),
        pytest.param(pretrain.main, SMALL, "--heads=1", r"other --heads \(2, now 1\)", id="pretrain"),
        pytest.param(
            evaluate.main,
            ("--model=base", "--data=chat", "--checkpoint-every=1"),
            "--hold-out-share=0.5",
            r"other data or tasks \(sha256:\w+, now sha256:\w+\)",
            id="evaluate",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_found_and_left_alone(
    looked: Path,
    monkeypatch: pytest.MonkeyPatch,
    main: Callable[[Any], None],
    arguments: tuple[str, ...],
    other: str,
    words: str,
) -> None:
    """What is noted by a run is what is looked at: the same arguments fit, others do not, nor another world."""
    monkeypatch.delenv(VARIABLE)
    main(arguments)
    shutil.rmtree(looked / "output")
    monkeypatch.setenv(VARIABLE, json.dumps({"processes": 1, "device": "cpu"}))
    before = files(looked)
    main(arguments)
    with pytest.raises(SystemExit) as ended:
        main((*arguments, other))
    assert ended.value.code == 93
    said = json.loads((looked / "termination-log").read_text())["message"]["message"]
    assert re.search(rf"step-\d+ can not be taken up, it was written with {words}", said)
    assert said.endswith("or give the job another name")
    (looked / "termination-log").write_text("")
    assert files(looked).keys() == before.keys()
    if main in (sft.main, dpo.main):
        monkeypatch.setenv(VARIABLE, GPUS)
        with pytest.raises(SystemExit):
            main(arguments)
        assert "other ranks (1, now 2)" in (looked / "termination-log").read_text()


def test_a_program_that_divides_its_model_is_looked_at_as_it_was_saved(
    looked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which resumes with any number of processes."""

    def said(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            sft.main(arguments)
        assert ended.value.code == 93
        found = (looked / "termination-log").read_text()
        (looked / "termination-log").write_text("")
        return found

    monkeypatch.delenv(VARIABLE)
    command = (*FAST, "--full", "--shard")
    try:
        sft.main(command)
    finally:
        dist.destroy_process_group()
    monkeypatch.setenv(VARIABLE, json.dumps({"processes": 4, "device": "cpu"}))
    sft.main(command)
    assert "it was written with other seed (1337, now 1)" in said(*command, "--seed=1")
    assert "was written by a program that uses aifactory_trainer.Run with a model that is divided" in said(
        *FAST, "--full"
    )


def test_a_command_that_starts_several_processes_looks_once(
    looked: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it says about them in its own options."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, times in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        sft.main(FAST)
        assert caplog.text.count("nothing is in the way") == times


def test_what_is_to_come_is_read_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ahead.coming({}) is None
    assert ahead.coming({VARIABLE: "{}"}) == Coming(1, torch.device("cpu"), None)
    assert ahead.coming({VARIABLE: GPUS}) == Coming(2, torch.device("cuda"), 80 << 30)
    for bad in ("1", "yes", '{"processes": "many"}', '{"device": "abacus"}', "[]"):
        with pytest.raises(ValueError, match=re.escape("AIFACTORY_CHECK must be like {")):
            ahead.coming({VARIABLE: bad})


def test_weights_of_two_models_are_still_told_when_they_are_loaded(looked: Path) -> None:
    """Which is what can not be looked at without them."""
    shutil.copy(looked / "inputs" / "base" / "config.json", looked / "config.json")
    config = json.loads((looked / "config.json").read_text())
    (looked / "inputs" / "base" / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    sft.main(FAST)
    with pytest.raises(base.BadInputError, match="they are of two models"):
        saved.load_model(looked / "inputs" / "base", torch.float32)

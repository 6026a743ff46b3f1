"""Evaluation as users start it: right figures, from any number of processes, after restarts, or a refusal in words."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="a Python without the test packages, as gpu-check may use")

from transformers import AutoModelForCausalLM

import chatmodel
import conftest
from aifactory_trainer import chat, evaluate, likelihood, measured, memory, saved
from aifactory_trainer.distributed import World
from conftest import TORCHRUN, Pod, Receiver, wait_until

EVALUATE = ("-m", "aifactory_trainer.evaluate")
ALL = ("--model=base", "--data=chat", "--tasks=tasks")
CPU = World(0, 1, torch.device("cpu"))
WRITTEN = """
dataset_path: json
dataset_kwargs: {data_files: questions.jsonl}
test_split: train
output_type: generate_until
doc_to_text: q
doc_to_target: a
generation_kwargs: {until: ["\\n"], max_gen_toks: 5}
filter_list:
- {name: letter, filter: [{function: regex, regex_pattern: "[a-z]"}, {function: take_first}]}
"""


@pytest.fixture
def inputs(inputs: Path) -> Path:
    """A model, conversations, texts and tasks."""
    letters = [{"prompt": f"Letter {n}:", "choices": ["a", "bb", "ccc"], "answer": n % 3} for n in range(30)]
    chatmodel.write_lines(inputs / "tasks" / "letters.jsonl", letters)
    chatmodel.write_lines(inputs / "tasks" / "words.jsonl", [{"prompt": f"{n}", "answer": "x"} for n in range(9)])
    chatmodel.write_lines(inputs / "tasks" / "questions.jsonl", [{"q": f"{n}?", "a": "x"} for n in range(9)])
    (inputs / "tasks" / "written.yaml").write_text(WRITTEN)
    (inputs / "texts").mkdir()
    (inputs / "texts" / "a.txt").write_text("A text that is longer than what the model is to read at once. " * 3)
    return inputs


def results(job: Path) -> Any:
    return json.loads((job / "output" / evaluate.RESULTS).read_text())


def test_the_figures_are_in_the_output_and_in_the_progress(
    job: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIFACTORY_PROGRESS_URL", receiver.url)
    evaluate.main(ALL)
    found = results(job)
    model = AutoModelForCausalLM.from_pretrained(job / "inputs" / "base", dtype=torch.float32).eval()
    tokenizer = chatmodel.tokenizer()
    nats = tokens = 0.0
    for talk in chat.read(job / "inputs" / "chat"):
        ((ids, labels),) = chat.encode(tokenizer, talk)
        row = torch.tensor([ids])
        said = model(row).logits[0, :-1].log_softmax(-1).gather(1, row[0, 1:, None])[:, 0]
        asked = torch.tensor(labels[1:]) != chat.IGNORED
        nats -= said[asked].sum().item()
        tokens += asked.sum().item()
    assert found["data"]["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert found["data"]["tokens"] == tokens
    assert found["data"]["documents"] == 40
    assert found["tasks"]["letters"]["questions"] == 30
    assert 0 <= found["tasks"]["letters"]["acc_norm"] <= 1

    last = receiver.reports[-1]
    assert last["step"] == last["totalSteps"] == (40 + 90 + 9 + 7) // 8 + 2
    assert last["metrics"] == {
        "loss": found["data"]["loss"],
        "perplexity": found["data"]["perplexity"],
        "letters/acc": found["tasks"]["letters"]["acc"],
        "letters/acc_norm": found["tasks"]["letters"]["acc_norm"],
        "words/exact_match": found["tasks"]["words"]["exact_match"],
        "written/exact_match,letter": found["tasks"]["written"]["exact_match,letter"],
    }


def test_the_figures_are_those_of_lm_evaluation_harness(tmp_path: Path) -> None:
    """lm-eval 0.4.13 (`simple_evaluate` with HFLM(pretrained=model, tokenizer=tokenizer), transformers 5.23.0, torch
    2.15.0, a CPU) says 0.325, 0.525 and 9.558991 of these rows, with the task `choices` as {"output_type":
    "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_choice": "{{choices}}", "doc_to_target": "answer"} and the
    texts as {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}."""
    folder = chatmodel.write(tmp_path / "base", torch.float32, attention_dropout=0.0)
    words = ("apple", "plum", "pear", "fig")
    rows: list[dict[str, Any]]
    rows = [{"prompt": f"Fruit {n}: the", "choices": words[: 2 + n % 3], "answer": n % 2} for n in range(40)]
    chatmodel.write_lines(tmp_path / "choices.jsonl", rows)
    rows = [{"text": "Half of a pear and a plum. " * (1 + 7 * (n % 3))} for n in range(6)]  # up to 405 tokens of 256
    chatmodel.write_lines(tmp_path / "texts.jsonl", rows)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    task = measured.tasks(tmp_path / "choices.jsonl", chatmodel.tokenizer(), 256)["choices"]
    texts = measured.texts(tmp_path / "texts.jsonl", chatmodel.tokenizer(), 256)
    choices, losses = (each.figures(likelihood.score(model, each.rows, 4, CPU)) for each in (task, texts))
    assert (choices["acc"], choices["acc_norm"]) == (0.325, 0.525)
    assert choices["acc_stderr"] == pytest.approx(0.075, abs=1e-6)
    assert losses["bits_per_byte"] == pytest.approx(9.558990733555586, rel=1e-6)


def test_text_has_bits_per_byte_whatever_is_read_at_once(job: Path) -> None:
    evaluate.main(["--model=base", "--data=texts"])
    whole = results(job)["data"]
    assert whole["bits_per_byte"] * whole["tokens"] == pytest.approx(whole["loss"] / 0.6931472 * whole["tokens"])
    shutil.rmtree(job / "checkpoints")
    evaluate.main(["--model=base", "--data=texts", "--max-length=16"])
    short = results(job)["data"]
    assert short["tokens"] == whole["tokens"]
    assert short["loss"] != whole["loss"]


def test_the_hold_out_is_that_of_fine_tuning(job: Path) -> None:
    evaluate.main(["--model=base", "--data=chat", "--hold-out-share=0.2"])
    held_out = chat.split(chat.read(job / "inputs" / "chat"), 0.2).held_out
    assert results(job)["data"]["documents"] == len(held_out) < 40


def test_two_processes_stopped_on_their_way_say_the_same_as_one(job: Path, pod: Pod, receiver: Receiver) -> None:
    evaluate.main(ALL)
    one = results(job)
    shutil.rmtree(job / "output")
    shutil.rmtree(job / "checkpoints")
    pod.env |= {"AIFACTORY_INPUTS": str(job / "inputs")}
    command = (*TORCHRUN, *EVALUATE, *ALL, "--checkpoint-every=1")
    process = pod.start(*command)
    wait_until(lambda: pod.steps_saved(), "a checkpoint", lambda: pod.log(process))
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: process.poll() is not None, "the end of torchrun", lambda: pod.log(process))
    stopped = re.search(r"stopped at step (\d+) of 20: ", pod.log(process))
    assert stopped is not None, pod.log(process)
    assert not (pod.output / evaluate.RESULTS).exists()
    pod.run(*command, AIFACTORY_PROGRESS_URL=receiver.url)
    assert receiver.reports[-1]["resumedFromStep"] == int(stopped[1])
    two = results(job)
    assert two["data"] == pytest.approx(one["data"], rel=1e-5)
    assert two["tasks"] == one["tasks"]


def test_rows_do_not_mind_each_other(inputs: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(inputs / "base", dtype=torch.float32)
    talks = chat.Examples(chatmodel.tokenizer(), chat.read(inputs / "chat")[:5], 256)
    alone, together = (likelihood.score(model, talks, batch, CPU) for batch in (1, 5))
    torch.testing.assert_close(alone.log_likelihood, together.log_likelihood, rtol=1e-5, atol=1e-4)
    assert alone.greedy.tolist() == together.greedy.tolist()


def bad_line(job: Path) -> None:
    with (job / "inputs" / "chat" / "fruit.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "assistant", "content": "Why?"}]}\n')


def no_template(job: Path) -> None:
    (job / "inputs" / "base" / "chat_template.jinja").unlink()


def no_language_model(job: Path) -> None:
    path = job / "inputs" / "base" / "config.json"
    path.write_text(json.dumps({"model_type": "distilbert", "architectures": ["DistilBertModel"]}))


@pytest.mark.parametrize(
    ("spoil", "arguments", "words"),
    [
        (None, ["--model=other", "--data=chat"], r"--model other: there is no such file"),
        (None, ["--data=talks"], r"--data talks: there is no such file or directory, and no input of this name"),
        (bad_line, ["--data=chat"], r"fruit\.jsonl:41: messages\[0\] is of the assistant where the user is next"),
        (
            None,
            ["--data=texts", "--hold-out-share=0.1"],
            r"--hold-out-share is for conversations, and .*/texts has none",
        ),
        (None, ["--data=chat", "--hold-out-share=0.000001"], r"none is held out with --hold-out-share 1e-06"),
        (None, ["--data=chat", "--max-length=5"], r"all 40 conversations are longer than 5 tokens"),
        (None, ["--tasks=tasks", "--max-length=5"], r"letters\.jsonl:1: it has \d+ tokens, and the model is to read 5"),
        (None, ["--tasks=chat"], r"fruit\.jsonl:1: it has no \"prompt\" and \"answer\": "),
        (no_template, ["--data=chat"], r"has no chat template \(chat_template\.jinja\)"),
        (no_language_model, ["--data=texts"], r"DistilBertModel is no language model that transformers knows"),
    ],
)
def test_bad_input_is_a_sentence_before_the_model_is_loaded(
    job: Path, spoil: Any, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spoil is not None:
        spoil(job)
    monkeypatch.setattr(saved, "load_model", lambda *_: pytest.fail("it is loaded"))
    assert re.search(words, conftest.refused(evaluate.main, job, "--model=base", *arguments))


def test_a_model_that_is_too_large_for_memory_is_refused(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_left", lambda: 10_000)
    said = conftest.refused(evaluate.main, job, *ALL)
    assert re.match(
        r"the model has 0 million numbers: each process needs 0\.00 GiB for weights alone, and 0\.00 GiB", said
    )
    assert said.endswith("Raise resources.limits.memory of container trainer, or take a smaller model")


def test_a_checkpoint_of_other_questions_is_refused(job: Path) -> None:
    evaluate.main([*ALL, "--checkpoint-every=1"])
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--model=base", "--data=chat"])
    assert ended.value.code == 93
    said = json.loads((job / "termination-log").read_text())["message"]["message"]
    assert re.search(r"can not be taken up, it was written with other data or tasks \(sha256:.*, now sha256:", said)


def test_a_job_that_measures_nothing_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate.parse([])
    assert ended.value.code == 2
    assert "there is nothing to measure: give --data, --tasks or both" in capsys.readouterr().err

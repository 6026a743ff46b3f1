"""Fine-tuning as users start it: it learns, survives, publishes what is served, and refuses bad input in words."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

pytest.importorskip("peft", reason="a Python without the test packages, as gpu-check may use")

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

import chatmodel
import conftest
from aifactory_contract.formats import HUGGINGFACE, check_directory
from aifactory_trainer import chat, divided, memory, saved, sft
from aifactory_trainer.distributed import World
from conftest import TORCHRUN, Pod, Receiver, wait_until
from test_export import digest

SFT = ("-m", "aifactory_trainer.sft")
FAST = ("--learning-rate=0.02", "--hold-out-share=0.2", "--batch=4")
FRUIT = chatmodel.conversations(40)
CPU = World(0, 1, torch.device("cpu"))
BEGINS = """
dataset_path: json
dataset_kwargs: {data_files: questions.jsonl}
test_split: train
output_type: generate_until
doc_to_text: q
doc_to_target: a
generation_kwargs: {max_gen_toks: 8}
filter_list: [{name: word, filter: [{function: regex, regex_pattern: "[A-Za-z]+"}]}]
"""


def refused(job: Path, *arguments: str) -> str:
    """What the job's status says of a run that ends before training."""
    return conftest.refused(sft.main, job, *arguments)


@pytest.mark.parametrize("way", ["lora", "full"])
def test_it_learns_and_publishes_a_directory_as_the_base_was_one(
    job: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("AIFACTORY_PROGRESS_URL", receiver.url)
    more = ["--full", "--packing"] if way == "full" else ["--activation-checkpointing", "--tasks=tasks"]
    fruit = [{"prompt": row["messages"][:1], "choices": ["The apple.", "?"], "answer": 0} for row in FRUIT[::4]]
    chatmodel.write_lines(job / "inputs" / "tasks" / "fruit.jsonl", fruit)
    sft.main([*FAST, "--epochs=6", *more])
    output, base = job / "output", job / "inputs" / "base"
    check_directory(output, HUGGINGFACE.name)
    config = json.loads((output / "config.json").read_text())
    metrics = config["metrics"]
    assert metrics["heldOutLoss"] < metrics["baseHeldOutLoss"] - 0.5
    assert metrics["conversations"] + metrics["heldOutConversations"] == 40
    assert metrics.get("fruit/acc_norm") == (None if way == "full" else 1.0)
    assert re.search(r"step \d+/\d+  loss \d\.\d{3}  [\d,]+ tokens/s", caplog.text)

    former = json.loads((base / "config.json").read_text())
    assert {**config, "metrics": None} == {**former, "metrics": None}, "the same model to whoever serves it"

    # What was measured is what is published.
    weights = load_file(output / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}, "as the base's are"
    assert weights.keys() == load_file(base / "model.safetensors").keys()
    tokenizer = AutoTokenizer.from_pretrained(output)
    settings = sft.parse([*FAST])
    _, held_out = sft.load_data(settings, tokenizer, saved.load_config(output))
    model = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    assert sft.measure(model, held_out, 4, CPU) == pytest.approx(metrics["heldOutLoss"], abs=0.001)
    assert tokenizer.chat_template == chatmodel.TEMPLATE
    assert (output / "generation_config.json").read_text() == (base / "generation_config.json").read_text()

    last = receiver.reports[-1]
    assert last["step"] == last["totalSteps"] > 0
    assert last["metrics"]["heldOutLoss"] == metrics["heldOutLoss"]
    assert last["checkpoint"]["step"] == last["step"]


def test_two_processes_stopped_and_killed_end_like_an_uninterrupted_run(
    pod: Pod, inputs: Path, receiver: Receiver
) -> None:
    command = (*TORCHRUN, *SFT, *FAST, "--epochs=20", "--batch=2", "--checkpoint-every=5")
    pod.env |= {"AIFACTORY_INPUTS": str(inputs)}
    pod.run(*command, AIFACTORY_OUTPUT=str(pod.root / "whole"), AIFACTORY_CHECKPOINTS=str(pod.root / "c"))

    process = pod.start(*command)
    wait_until(lambda: pod.steps_saved(), "a checkpoint", lambda: pod.log(process))
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: process.poll() is not None, "the end of torchrun", lambda: pod.log(process))
    stopped = re.search(
        r"stopped at step (\d+) of (\d+): .*; the last checkpoint is checkpoints/step-\1", pod.log(process)
    )
    assert stopped is not None, pod.log(process)
    assert pod.termination_message()["errorCode"] == 143

    process = pod.start(*command, AIFACTORY_PROGRESS_URL=receiver.url)
    wait_until(lambda: pod.steps_saved()[-1] > int(stopped[1]), "another", lambda: pod.log(process))
    pod.kill(process)
    assert not pod.output.exists(), "it was killed before its end"
    output = pod.run(*command)
    assert re.search(rf"resuming from .*/step-(?!{stopped[1]}:)\d+: step", output)
    assert {body["resumedFromStep"] for body in receiver.reports} == {int(stopped[1])}

    assert pod.steps_saved()[-1] == int(stopped[2])
    whole, resumed = (load_file(path / "model.safetensors") for path in (pod.root / "whole", pod.output))
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name].float(), weight.float(), rtol=0, atol=0.004, msg=name)
    metrics = [json.loads((path / "config.json").read_text())["metrics"] for path in (pod.root / "whole", pod.output)]
    assert metrics[0] == pytest.approx(metrics[1], abs=0.002)


def test_a_finished_run_that_lost_its_output_only_exports(job: Path, caplog: pytest.LogCaptureFixture) -> None:
    sft.main([*FAST, "--epochs=1"])
    before = digest(job / "output")
    shutil.rmtree(job / "output")
    caplog.clear()
    sft.main([*FAST, "--epochs=1"])
    assert "loss 0" not in caplog.text
    assert not re.search(r"step \d+/\d+  loss", caplog.text)
    assert digest(job / "output") == before


def test_packed_conversations_do_not_see_each_other(inputs: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(inputs / "base", dtype=torch.float32).eval()
    talks = chat.read(inputs / "chat")[:5]
    rows = list(chat.Examples(AutoTokenizer.from_pretrained(inputs / "base"), talks, 200))
    packed, padded = sft.collator(True)(rows), sft.collator(False)(rows)
    assert packed["input_ids"].shape == (1, sum(len(row["input_ids"]) for row in rows))
    assert padded["input_ids"].shape[0] == len(rows)
    losses = [model(**batch, use_cache=False, num_items_in_batch=1).loss.item() for batch in (packed, padded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_frozen_base_of_an_adapter_stays_as_it_was(job: Path) -> None:
    """All that changes is what the adapter is at."""
    sft.main([*FAST, "--epochs=1", "--lora-targets=q_proj,down_proj"])
    before, after = (load_file(job / place / "model.safetensors") for place in ("inputs/base", "output"))
    changed = {name for name, weight in before.items() if not torch.equal(after[name], weight)}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "down_proj"}


def test_an_adapter_may_be_published_beside_its_base(job: Path) -> None:
    sft.main([*FAST, "--epochs=3", "--publish-adapter=fruit", "--lora-targets=q_proj,down_proj"])
    output, folder = job / "output", job / "inputs" / "base"
    check_directory(output, HUGGINGFACE.name)
    assert {path.parent.name for path in (output / "adapters").rglob("*.safetensors")} == {"fruit"}
    for name in ("model.safetensors", "tokenizer.json", "generation_config.json"):
        assert (output / name).read_bytes() == (folder / name).read_bytes()
    config, former = (json.loads((path / "config.json").read_text()) for path in (output, folder))
    metrics = config.pop("metrics")
    assert metrics["heldOutLoss"] < metrics["baseHeldOutLoss"] - 0.1
    assert config == former

    # Who reads it as PEFT does measures the same.
    plain = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, output / "adapters" / "fruit")
    settings = sft.parse([*FAST])
    _, held_out = sft.load_data(settings, AutoTokenizer.from_pretrained(output), plain.config)
    assert sft.measure(model, held_out, 4, CPU) == pytest.approx(metrics["heldOutLoss"], abs=0.001)
    adapter = json.loads((output / "adapters" / "fruit" / "adapter_config.json").read_text())
    assert adapter["target_modules"] == ["down_proj", "q_proj"]
    assert str(job) not in json.dumps(adapter)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--publish-adapter=../x"], "is no model name: use a-z, 0-9, '-' and '.'"),
        (["--publish-adapter=a", "--full"], "with --full there is no adapter: leave out --publish-adapter"),
        (["--publish-adapter=a", "--lora-rank=513"], "an adapter with --lora-rank over 512 is not served"),
    ],
)
def test_an_adapter_that_no_engine_would_serve_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        sft.parse(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def add_line(job: Path) -> None:
    with (job / "inputs" / "chat" / "fruit.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "Why?"}]}\n')


def configured(job: Path, **changes: Any) -> None:
    path = job / "inputs" / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def no_layers(job: Path) -> None:
    configured(job, num_hidden_layers=1)


def narrow(job: Path) -> None:
    configured(job, intermediate_size=24)


def another_kind(job: Path) -> None:
    configured(job, model_type="gpt_neox")


def unknown_kind(job: Path) -> None:
    configured(job, model_type="llamma")


def odd_heads(job: Path) -> None:
    configured(job, num_attention_heads=3)


def unknown_rope(job: Path) -> None:
    configured(job, rope_parameters={"rope_type": "other"})


def template_bytes(job: Path) -> None:
    (job / "inputs" / "base" / "chat_template.jinja").write_bytes(b"\xff")


def no_template(job: Path) -> None:
    (job / "inputs" / "base" / "chat_template.jinja").unlink()


def no_weights(job: Path) -> None:
    (job / "inputs" / "base" / "model.safetensors").unlink()


def contradiction(job: Path) -> None:
    path = job / "inputs" / "base" / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": False, "temperature": 0.5}))


@pytest.mark.parametrize(
    ("spoil", "arguments", "words"),
    [
        (None, ["--base=other"], r"--base other: there is no such file .* \(spec\.inputs has base, chat\)"),
        (None, ["--data=talks"], r"--data talks: there is no such file or directory, and no input of this name"),
        (add_line, [], r"fruit\.jsonl:41: the last message is not the assistant's"),
        (None, ["--hold-out-share=0.000001"], r"of 40 conversations none is held out with --hold-out-share 1e-06"),
        (None, ["--hold-out=chat"], r"every question of the data is in --hold-out too"),
        (
            None,
            ["--max-length=5"],
            r"all \d+ conversations are longer than 5 tokens, the shortest has \d+: raise --max",
        ),
        (None, ["--max-length=999"], r"--max-length 999 is more than the 256 tokens that the model can read"),
        (None, ["--tasks=chat"], r"fruit\.jsonl:1: it has no \"prompt\" and \"answer\": "),
        (None, ["--chat-template=chat"], r"--chat-template .*chat has 0 files named \*\.jinja: name the one to take"),
        (
            no_layers,
            [],
            r"makes a LlamaForCausalLM, and the file of weights has besides model\.layers\.1\..* and 6 more: ",
        ),
        (
            narrow,
            [],
            r"has another shape for model\.layers\.0\.mlp\.down_proj\.weight, .* and 3 more: they are of two models",
        ),
        (
            another_kind,
            [],
            r"makes a GPTNeoXForCausalLM, and the file of weights has no .* and \d+ more: they are of two",
        ),
        (unknown_kind, [], r"config\.json is no configuration that transformers takes: .*`llamma`"),
        (
            odd_heads,
            [],
            r"config\.json is no configuration that .* not a multiple of the number of attention heads \(3\)",
        ),
        (unknown_rope, [], r"of config\.json transformers makes no language model: KeyError 'other'$"),
        (template_bytes, [], r"base holds no tokenizer that transformers reads .*can't decode byte 0xff"),
        (
            None,
            ["--lora-targets=qkv"],
            r"of LlamaForCausalLM: no layer of it is called 'qkv'; it has down_proj, .*, v_proj",
        ),
        (None, ["--lora-targets=q_proj,kv"], r"no layer of it is called 'kv'"),
        (None, ["--lora-targets="], r"no layer of it is called ''"),
        (
            None,
            ["--lora-targets=self_attn"],
            r"'self_attn' is a whole LlamaAttention; it has down_proj, .* all-linear m",
        ),
        (None, ["--lora-targets=norm"], r"--lora-targets norm: Target module LlamaRMSNorm.* is not supported"),
        (no_template, [], r"has no chat template \(chat_template\.jinja\).*give one with --chat-template$"),
        (no_weights, [], r"model\.safetensors"),
        (contradiction, [], r"generation_config\.json contradicts itself: "),
    ],
)
def test_bad_input_is_a_sentence_before_training_begins(
    job: Path, spoil: Any, arguments: list[str], words: str
) -> None:
    if spoil is not None:
        spoil(job)
    assert re.search(words, refused(job, *FAST, *arguments))


@pytest.mark.parametrize(("way", "smaller"), [([], ""), (["--full"], ", leave out --full")])
def test_a_base_that_is_too_large_for_memory_is_refused(
    job: Path, monkeypatch: pytest.MonkeyPatch, way: list[str], smaller: str
) -> None:
    monkeypatch.setattr(memory, "memory_left", lambda: 10_000)
    said = refused(job, *FAST, *way)
    assert re.search(
        r"^the base has 0 million numbers.*each process needs \d\.\d\d GiB for weights, gradients and", said
    )
    assert said.endswith(f"Raise resources.limits.memory of container trainer{smaller}, or take a smaller base")


def test_a_template_may_be_given(job: Path) -> None:
    """Also as an input, which is a directory."""
    path = job / "inputs" / "template" / "brief.jinja"
    path.parent.mkdir()
    path.write_text(chatmodel.TEMPLATE.replace("<|im_start|>", "<|endoftext|>"))
    sft.main([*FAST, "--epochs=0.2", "--chat-template=template"])
    assert (job / "output" / "chat_template.jinja").read_text() == path.read_text()


def test_a_checkpoint_of_another_run_is_refused(job: Path) -> None:
    sft.main([*FAST, "--epochs=0.5"])
    shutil.rmtree(job / "output")
    saved = sorted(path.name for path in (job / "checkpoints").iterdir())
    for arguments, words in (
        (["--lora-rank=2"], r"other model \(PeftModelForCausalLM of \d+ numbers"),
        (["--full"], r"other model \(PeftModelForCausalLM of \d+ numbers, .*, now LlamaForCausalLM of"),
        (["--lora-alpha=4"], r"other LoRA alpha \(32, now 4\)"),
        (["--seed=1"], r"other seed \(1337, now 1\)"),
        (["--batch=2"], r"other batch \(4, now 2\)"),
        (["--hold-out-share=0.3"], r"other data \(sha256:\w+, now sha256:\w+\)"),
    ):
        with pytest.raises(SystemExit) as ended:
            sft.main([*FAST, *arguments])
        assert ended.value.code == 93
        said = json.loads((job / "termination-log").read_text())["message"]["message"]
        assert re.search(rf"can not be taken up, it was written with {words}", said)
        (job / "termination-log").write_text("")
    assert sorted(path.name for path in (job / "checkpoints").iterdir()) == saved


def test_a_loss_that_is_no_number_is_not_retried(job: Path) -> None:
    said = refused(job, *FAST, "--learning-rate=1e30", "--full")
    assert re.match(
        r"the (loss|state) (of|after) step \d+ .*use a smaller learning rate; there is no checkpoint$", said
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs=0"], "argument --epochs: must be a number above 0, it is 0"),
        (["--batch=x"], "argument --batch: invalid positive value: 'x'"),
        (["--hold-out-share=1"], "argument --hold-out-share: must be below 1, it is 1"),
        (["--lora-rank=-1"], "argument --lora-rank: must be at least 1, it is -1"),
        (["--shard"], "--shard divides a model that is trained in full: add --full, or leave it out"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        sft.parse(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_model_that_is_divided_learns_and_resumes_with_any_number_of_processes(
    pod: Pod, inputs: Path, job: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, killed; then two that go on, and one that goes on from the same checkpoint: all end like one
    process that was not interrupted."""
    chatmodel.write(inputs / "base", attention_dropout=0.0)  # chance is another one with another number of processes
    questions = [{"q": row["messages"][0]["content"], "a": "The"} for row in FRUIT[:5]]
    chatmodel.write_lines(inputs / "tasks" / "questions.jsonl", questions)
    (inputs / "tasks" / "begins.yaml").write_text(BEGINS)
    same = (*FAST, "--learning-rate=0.005", "--full", "--shard", "--epochs=6", "--checkpoint-every=5")
    same = (*same, "--tasks=tasks", "--apply-chat-template")
    command = (*TORCHRUN, *SFT, *same, "--batch=2")
    pod.env |= {"AIFACTORY_INPUTS": str(inputs)}

    def alone(name: str) -> dict[str, torch.Tensor]:
        monkeypatch.setenv("AIFACTORY_OUTPUT", str(job / name))
        monkeypatch.setenv("AIFACTORY_CHECKPOINTS", str(job / f"{name}-checkpoints"))
        caplog.clear()
        try:
            sft.main(same)
        finally:
            dist.destroy_process_group()
        return load_file(job / name / "model.safetensors")

    expected = alone("whole")
    process = pod.start(*command)
    wait_until(lambda: len(pod.steps_saved()) >= 2, "two checkpoints", lambda: pod.log(process))
    pod.kill(process)
    shutil.copytree(pod.checkpoints, job / "one-checkpoints")
    resumed = f"step-{pod.steps_saved()[-1]}: step {pod.steps_saved()[-1]}"
    assert not pod.output.exists(), "it was killed before its end"

    assert resumed in pod.run(*command)
    two, one = load_file(pod.output / "model.safetensors"), alone("one")
    assert resumed in caplog.text
    assert "was written by 2 ranks, now there are 1" in caplog.text
    for found in (two, one):
        for name, weight in expected.items():
            # Adam makes steps of one size of what is next to nothing, and so of what is rounded in another way too.
            assert (found[name].float() - weight.float()).abs().mean() < 0.002, name
    configs = [json.loads((path / "config.json").read_text()) for path in (job / "whole", pod.output, job / "one")]
    metrics = [config.pop("metrics") for config in configs]
    former = json.loads((inputs / "base" / "config.json").read_text())
    former.pop("metrics", None)
    assert configs == [former] * 3, "the same model to whoever serves it"
    assert metrics[0]["heldOutLoss"] < metrics[0]["baseHeldOutLoss"] - 0.5
    assert metrics[0]["begins/exact_match,word"] == 1.0
    assert metrics[1] == pytest.approx(metrics[0], abs=0.005)
    assert metrics[2] == pytest.approx(metrics[0], abs=0.005)
    generation = (pod.output / "generation_config.json").read_text()
    assert generation == (inputs / "base" / "generation_config.json").read_text()


def test_a_step_of_a_divided_model_is_one_of_the_trainers(inputs: Path) -> None:
    """Its gradients, in batches of any size, and its learning rates."""
    model = AutoModelForCausalLM.from_pretrained(inputs / "base", dtype=torch.float32).eval()
    rows = list(chat.Examples(AutoTokenizer.from_pretrained(inputs / "base"), chat.read(inputs / "chat")[:5], 200))
    loss = model(**sft.collator(False)(rows), use_cache=False).loss
    loss.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    for packing in (False, True):
        model.zero_grad()
        found = divided.gradients(model, rows, sft.collator(packing), 2, CPU)
        assert found.item() == pytest.approx(loss.item(), rel=1e-5)
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    rates = get_cosine_schedule_with_warmup(optimizer, 2, 50)
    for step in range(50):
        assert divided.schedule(step, 50) == pytest.approx(rates.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        rates.step()


def test_every_example_is_seen_as_often_whatever_a_step_has(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "aifactory")
    plan = divided.Plan(10, 4, 2.0, 1)
    assert plan.steps == 6
    assert sorted(index for step in range(6) for index in plan.of(step)) == sorted([*range(10)] * 2)
    assert plan.of(0) != plan.of(3), "each epoch in another order"
    other = divided.Plan(10, 3, 2.0, 1)
    other.load_state_dict(plan.state_dict())
    assert "a step has 4 examples, as when the run began" in caplog.text
    assert [other.of(step) for step in range(6)] == [plan.of(step) for step in range(6)]

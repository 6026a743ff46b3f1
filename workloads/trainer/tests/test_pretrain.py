"""The training program as users start it."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from aifactory_trainer import World, flops, options, pretrain, subject, tokens
from aifactory_trainer.model import GPT, GPTConfig
from aifactory_trainer.state import unwrap
from aifactory_trainer.subject import Tiny
from conftest import DEVICES, TORCHRUN, Pod, Receiver, wait_until
from test_export import digest

PROGRAM = ("-m", "aifactory_trainer.pretrain")
SMALL = ("--context=32", "--layers=1", "--heads=2", "--embedding=16", "--batch=4", "--checkpoint-every=10")


@pytest.fixture
def data(tmp_path: Path) -> str:
    """A text that can be learnt quickly."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text("".join(f"the {word} is {number}\n" for word in range(100)))
    return str(folder)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """The environment of a job, for the program run in this process."""
    for name in ("WORLD_SIZE", "RANK", "TORCHELASTIC_ERROR_FILE", "AIFACTORY_PROGRESS_URL", "AIFACTORY_INPUTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("AIFACTORY_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("AIFACTORY_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("AIFACTORY_TERMINATION_LOG", str(tmp_path / "termination-log"))
    (tmp_path / "termination-log").write_text("")
    caplog.set_level(logging.INFO, "aifactory")
    return tmp_path


def test_it_learns_and_exports(
    job: Path, data: str, receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIFACTORY_PROGRESS_URL", receiver.url)
    pretrain.main([*SMALL, "--steps=60", f"--data={data}"])
    assert re.search(r"step 60/60  loss \d\.\d{3}  [\d,]+ tokens/s", caplog.text)
    assert "a sample:" in caplog.text
    config = json.loads((job / "output" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    metrics = config["metrics"]
    assert metrics["heldOutBitsPerByte"] < metrics["untrainedBitsPerByte"] - 2
    assert f"held-out text: {metrics['heldOutBitsPerByte']:.3f} bits per byte" in caplog.text
    last = receiver.reports[-1]
    assert last["step"] == last["totalSteps"] == 60
    assert last["metrics"]["heldOutBitsPerByte"] == metrics["heldOutBitsPerByte"]
    assert last["metrics"]["loss"] > 0
    assert 0.05 < last["metrics"]["peakMemoryGiB"] < 10
    assert "mfu" not in last["metrics"], "nobody knows the peak of this device"
    assert last["tokensPerSecond"] > 0


def test_how_well_the_devices_are_used_is_told_by_their_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops, "peak", lambda _device: 1e9)
    small = Tiny(GPT(GPTConfig(context=16, layers=3, heads=2, embedding=8)))
    usage = pretrain.Usage(small, World(0, 4, torch.device("cpu")))
    numbers = sum(weight.numel() for weight in small.model.parameters())
    assert usage.mfu(1000.0) == round(1000 * (6 * numbers + 12 * 3 * 8 * 16) / 4e9, 4) > 0
    assert usage.mfu(None) is None


def test_two_processes_killed_and_resumed_end_like_an_uninterrupted_run(
    pod: Pod, data: str, receiver: Receiver
) -> None:
    command = (*TORCHRUN, *PROGRAM, *SMALL, f"--data={data}")
    pod.run(*command, "--steps=60", AIFACTORY_OUTPUT=str(pod.root / "whole"), AIFACTORY_CHECKPOINTS=str(pod.root / "c"))

    process = pod.start(*command, "--steps=60")
    wait_until(lambda: len(pod.steps_saved()) >= 2, "two checkpoints", lambda: pod.log(process))
    pod.kill(process)
    killed_after = pod.steps_saved()[-1]
    assert not pod.output.exists(), "it was killed before its end"

    output = pod.run(*command, "--steps=60", AIFACTORY_PROGRESS_URL=receiver.url)
    assert f"step-{killed_after}: step {killed_after}" in output
    assert {body["resumedFromStep"] for body in receiver.reports} == {killed_after}
    assert digest(pod.output) == digest(pod.root / "whole"), "the same weights and the same measures"


def test_a_checkpoint_of_another_model_of_the_same_shapes_is_refused(job: Path, data: str) -> None:
    """With other heads it would have gone on, with weights that mean something else."""
    command = [*SMALL, f"--data={data}", "--sample=0"]
    pretrain.main([*command, "--steps=10"])
    with pytest.raises(SystemExit) as ended:
        pretrain.main([*command, "--steps=20", "--heads=4"])
    assert ended.value.code == 93
    said = json.loads((job / "termination-log").read_text())["message"]["message"]
    assert re.search(r"step-10 can not be taken up, it was written with other --heads \(2, now 4\)\. Use what", said)
    pretrain.main([*command, "--steps=20", "--batch=8", "--learning-rate=0.001"])


NO_COMPILER = shutil.which(os.environ.get("CXX", "g++")) is None


@pytest.mark.skipif(NO_COMPILER, reason="no C++ compiler here: torch.compile needs one on a CPU")
def test_compiled_it_resumes_and_exports_as_it_does_otherwise(
    job: Path, data: str, caplog: pytest.LogCaptureFixture
) -> None:
    command = [*SMALL, "--steps=20", f"--data={data}"]
    found = {}
    for name, more in (("whole", ["--compile"]), ("resumed", ["--compile"]), ("resumed as it is", [])):
        caplog.clear()
        pretrain.main([*command, *more])
        assert (name == "whole") is ("step-10: step 10" not in caplog.text)
        assert (", compiled" in caplog.text) is bool(more)
        found[name] = load_file(job / "output" / "model.safetensors")
        shutil.rmtree(job / "output")
        shutil.rmtree(job / "checkpoints" / "step-20")
    for name, tolerance in (("resumed", 0.0), ("resumed as it is", 1e-4)):
        torch.testing.assert_close(found[name], found["whole"], rtol=0, atol=tolerance)


@pytest.mark.skipif(NO_COMPILER, reason="no C++ compiler here: torch.compile needs one on a CPU")
def test_compiled_around_ddp_gradients_and_names_are_the_models() -> None:
    cpu = torch.device("cpu")
    model = GPT(options.parse(SMALL).gpt())
    alone = copy.deepcopy(model)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        network = subject.compiled(subject.replicate(model, World(0, 2, cpu)), cpu)
        windows = torch.randint(256, (4, 33))
        torch.compiler.reset()  # what another test has compiled would be used again
        counters.clear()
        losses = [pretrain.backward(Tiny(model), one, windows) for one in (network, alone)]
        assert counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
        assert unwrap(network) is model
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(*losses)
    for mine, bare in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, bare.grad)


def test_without_a_compiler_it_says_what_to_do(
    job: Path, data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit) as ended:
        pretrain.main([*SMALL, f"--data={data}", "--compile"])
    assert ended.value.code == 93
    assert "--compile needs a compiler (no-such-compiler)" in capsys.readouterr().err


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_those_of_float64(device: torch.device) -> None:
    """As far as bfloat16 goes on a GPU, whichever kernels compute attention there."""
    torch.manual_seed(0)
    exact = GPT(GPTConfig(context=128, layers=2, heads=2, embedding=128)).double()
    for parameter in exact.blocks.parameters():  # layers that start at zero would hide the others' gradients
        torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    model = copy.deepcopy(exact).float().to(device)
    windows = torch.randint(0, 257, (4, 129))
    expected = pretrain.backward(Tiny(exact), exact, windows)
    loss = pretrain.backward(Tiny(model), model, windows.to(device))
    limit = 0.1 if device.type == "cuda" else 1e-4
    assert loss.item() == pytest.approx(expected.item(), rel=limit / 10)
    for (name, mine), own in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert mine.grad is not None
        assert own.grad is not None
        further = (mine.grad.cpu().double() - own.grad).norm() / own.grad.norm()
        assert further < limit, name


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_does_not_wait_for_the_device(device: torch.device) -> None:
    settings = options.parse(SMALL)
    row, small = torch.arange(10_000, dtype=torch.int16) % 256, Tiny(GPT(settings.gpt()).to(device))
    optimizer = torch.optim.AdamW(small.groups(), lr=0.01, fused=True)
    losses = []
    for step in range(4):
        if device.type == "cuda" and step == 2:  # what is set up in the first steps may wait
            torch.cuda.set_sync_debug_mode("error")
        try:
            windows = pretrain.to_device(pretrain.batch(row, 0, settings, 32, World(0, 1, device)), device)
            losses.append(pretrain.train_step(small, small.model, optimizer, windows))
        finally:
            torch.cuda.set_sync_debug_mode("default") if device.type == "cuda" else None
    assert losses[-1] < losses[0]


def test_a_finished_run_that_lost_its_output_only_exports(
    job: Path, data: str, caplog: pytest.LogCaptureFixture
) -> None:
    command = [*SMALL, "--steps=10", f"--data={data}"]
    pretrain.main(command)
    before = digest(job / "output")
    shutil.rmtree(job / "output")
    caplog.clear()
    pretrain.main(command)
    assert "step 10/10" not in caplog.text
    assert digest(job / "output") == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps=abc"], "argument --steps: invalid positive value: 'abc'"),
        (["--steps=0"], "argument --steps: must be at least 1, it is 0"),
        (["--learning-rate=nan"], "argument --learning-rate: must be a number above 0"),
        (["--heads=7"], "embedding 128 must be a multiple of 2 x heads (14)"),
        (["--data=/no/such/place"], "--data /no/such/place: there is no such file or directory, and no input"),
        (["--stepz=3"], "unrecognized arguments: --stepz=3"),
        (["--preset=7b"], "argument --preset: invalid choice: '7b' (choose from 'tiny', '15m', '124m', '360m', '1b')"),
        (["--preset=1b", "--init=base"], "argument --init: not allowed with argument --preset"),
        (["--tokenizer=train:100"], "argument --tokenizer: train:<tokens> is from 257 (all bytes and a mark)"),
        (["--tokenizer=train:300"], "--preset tiny has bytes for tokens: leave out --tokenizer, or take a larger"),
        (["--shard"], "--shard is for models larger than --preset tiny"),
        (["--tensor-parallel=2"], "--tensor-parallel is for models larger than --preset tiny"),
        (["--preset=15m", "--layers=3"], "--layers is for --preset tiny; other shapes are given with --config"),
        (["--init=base", "--tokenizer=bytes"], "--init has a tokenizer, by whose tokens it was trained"),
    ],
)
def test_bad_arguments_are_named(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(SystemExit) as ended:
        options.parse(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    message = json.loads((tmp_path / "error.json").read_text())["message"]
    assert message["message"].startswith("ArgumentError: ")
    assert words in message["message"]
    assert message["errorCode"] == 2


def test_bad_arguments_end_with_2(pod: Pod) -> None:
    output = pod.run(*PROGRAM, "--steps=abc", expect=2)
    assert "invalid positive value: 'abc'" in output
    assert pod.termination_message()["message"] == "ArgumentError: argument --steps: invalid positive value: 'abc'"


def test_why_it_ends_gets_out_of_torchrun(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("too short")
    pod.run(*TORCHRUN, *PROGRAM, f"--data={tmp_path / 'short'}", expect=1)
    for message in (pod.termination_message(), json.loads(pod.error_file.read_text())["message"]):
        assert message["message"].startswith("NoRestart: ")
        assert message["errorCode"] == 93
        assert "not enough text" in message["message"]


def test_a_loss_that_is_no_number_is_not_retried(job: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        pretrain.main([*SMALL, f"--data={data}", "--steps=40", "--learning-rate=1e30"])
    assert ended.value.code == 93
    assert "use a smaller --learning-rate" in capsys.readouterr().err
    message = json.loads((job / "termination-log").read_text())["message"]
    assert re.match("NoRestart: the (loss|state) (of|after) step", message["message"])
    assert not list((job / "checkpoints").glob("*")), "a healthy run would go on from it"
    assert message["errorCode"] == 93


def test_the_schedule_warms_up_and_cools_down() -> None:
    shares = [pretrain.schedule(step, 300) for step in range(300)]
    assert shares[0] < 0.1
    assert max(shares) == pytest.approx(1, abs=0.02)
    assert shares[-1] == pytest.approx(pretrain.FINAL_LEARNING_RATE, abs=0.01)
    assert shares.index(max(shares)) <= pretrain.WARM_UP_STEPS
    assert all(0 < pretrain.schedule(step, 3) <= 1 for step in range(3))


def test_ranks_share_one_batch() -> None:
    """The windows of all ranks together are those of one process with a batch as large."""
    row = torch.arange(10_000, dtype=torch.int16)
    settings = options.parse(["--batch=6"])
    cpu = torch.device("cpu")
    alone = pretrain.batch(row, 5, settings, 8, World(0, 1, cpu))
    settings = replace(settings, batch=3)
    both = [pretrain.batch(row, 5, settings, 8, World(rank, 2, cpu)) for rank in (0, 1)]
    assert torch.equal(torch.stack(both, dim=1).flatten(0, 1), alone)
    assert not torch.equal(pretrain.batch(row, 6, settings, 8, World(0, 2, cpu)), both[0])


def test_tokens_mark_where_files_begin_and_end() -> None:
    assert tokens.row([b"a\xff", b"b"], tokens.Bytes()).tolist() == [256, 97, 255, 256, 98, 256]


def test_weights_are_those_of_the_documented_architecture(job: Path, data: str) -> None:
    pretrain.main([*SMALL, "--steps=1", f"--data={data}", "--sample=0"])
    assert {name: tuple(weight.shape) for name, weight in load_file(job / "output" / "model.safetensors").items()} == {
        "model.embed_tokens.weight": (257, 16),
        "model.layers.0.input_layernorm.weight": (16,),
        "model.layers.0.mlp.down_proj.weight": (16, 64),
        "model.layers.0.mlp.gate_proj.weight": (64, 16),
        "model.layers.0.mlp.up_proj.weight": (64, 16),
        "model.layers.0.post_attention_layernorm.weight": (16,),
        "model.layers.0.self_attn.k_norm.weight": (8,),
        "model.layers.0.self_attn.k_proj.weight": (16, 16),
        "model.layers.0.self_attn.o_proj.weight": (16, 16),
        "model.layers.0.self_attn.q_norm.weight": (8,),
        "model.layers.0.self_attn.q_proj.weight": (16, 16),
        "model.layers.0.self_attn.v_proj.weight": (16, 16),
        "model.norm.weight": (16,),
    }

"""The example for torchtitan, by torchtitan itself, on the CPU: what differs from a GPU is all in titan_cpu.py."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from conftest import ROOT, TORCHRUN, Pod, Receiver, wait_until

pytestmark = pytest.mark.skipif(
    find_spec("torchtitan") is None, reason="torchtitan 0.3.0 is not installed: see examples/torchtitan/README.md"
)

EXAMPLE = ROOT.parent.parent / "examples" / "torchtitan" / "titan.py"
STEPS, INTERVAL = 30, 10


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    """Its smallest model, bytes as tokens, two processes."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(special))
    (tmp_path / "corpus").mkdir()
    lines = [json.dumps({"text": f"{number} and {number} make {2 * number}. " * 8}) for number in range(400)]
    (tmp_path / "corpus" / "sums.jsonl").write_text("\n".join(lines))
    return (
        *(*TORCHRUN, str(ROOT / "tests" / "titan_cpu.py"), str(EXAMPLE)),
        *("--module=llama3", "--config=llama3_debugmodel", "--hf_assets_path=tokenizer"),
        *("--dataloader.dataset_path=corpus", "--training.disable_cuda_graphs", "--metrics.disable_color_printing"),
        *("--training.seq_len=64", "--training.local_batch_size=2", f"--training.steps={STEPS}"),
        f"--checkpoint.interval={INTERVAL}",
    )


def losses(pod: Pod, process: subprocess.Popen[str]) -> dict[int, str]:
    """As torchtitan logs them."""
    return {int(step): loss for step, loss in re.findall(r"step: +(\d+) +loss: +([\d.]+)", pod.log(process))}


def test_it_resumes_is_seen_and_ends_in_time(pod: Pod, receiver: Receiver, command: tuple[str, ...]) -> None:
    pod.env = {"HF_HOME": str(pod.root / "hf"), "HF_HUB_OFFLINE": "1", "AIFACTORY_PROGRESS_URL": receiver.url}

    def wait_for(process: subprocess.Popen[str], step: int) -> None:
        wait_until(
            lambda: process.poll() is not None or step in losses(pod, process), f"step {step}", lambda: pod.log(process)
        )
        assert process.poll() is None, pod.log(process)

    first = pod.start(*command)
    wait_for(first, INTERVAL + 1)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) != 0
    said = pod.termination_message()
    stopped = max(losses(pod, first))
    assert INTERVAL < stopped < 2 * INTERVAL
    assert said["errorCode"] == 143
    assert said["message"].startswith(f"Terminated: stopped at step {stopped} of {STEPS}: rank")
    assert f"the last checkpoint is checkpoints/step-{stopped}" in pod.log(first)
    last = receiver.reports[-1]
    assert (last["step"], last["totalSteps"]) == (stopped, STEPS)
    assert last["checkpoint"] == {"step": stopped, "path": f"checkpoints/step-{stopped}"}
    assert last["metrics"].keys() >= {"loss", "grad_norm"}
    assert last["tokensPerSecond"] > 0
    assert "resumedFromStep" not in last

    second = pod.start(*command)
    wait_for(second, 2 * INTERVAL + 2)
    pod.kill(second)
    assert min(losses(pod, second)) == stopped + 1  # no step is lost, and none is done again
    assert receiver.reports[-1]["resumedFromStep"] == stopped

    assert "Training completed" in pod.run(*command, AIFACTORY_CHECKPOINT_INTERVAL="0.1")
    assert [step for step in pod.steps_saved() if 2 * INTERVAL < step < STEPS]  # by the clock, not by torchtitan
    third = pod.processes[-1]
    again = losses(pod, third)
    assert (min(again), max(again)) == (2 * INTERVAL + 1, STEPS)
    before = losses(pod, second)
    assert [again[step] for step in (21, 22)] == [before[step] for step in (21, 22)]  # the same weights and data
    last = receiver.reports[-1]
    assert (last["step"], last["resumedFromStep"]) == (STEPS, 2 * INTERVAL)
    assert last["checkpoint"] == {"step": STEPS, "path": f"checkpoints/step-{STEPS}"}


def test_why_it_ended_is_told(pod: Pod, command: tuple[str, ...]) -> None:
    pod.env = {"HF_HOME": str(pod.root / "hf"), "HF_HUB_OFFLINE": "1"}
    pod.run(*command, "--training.global_batch_size=3", expect=1)
    assert pod.termination_message()["message"].startswith("AssertionError: global batch size must be multiple of")
    pod.run(*command, "--checkpoint.last_save_in_hf", "--checkpoint.last_save_model_only", expect=1)
    said = pod.termination_message()
    assert (said["errorCode"], "last_save_in_hf leaves out" in said["message"]) == (93, True)

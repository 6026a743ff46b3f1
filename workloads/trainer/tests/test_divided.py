"""The training program with a model that is divided among processes, as users start it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from conftest import TORCHRUN, Pod, wait_until
from test_export import digest

PROGRAM = ("-m", "aifactory_trainer.pretrain")
SHAPE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
TRAINING = ("--batch=2", "--steps=40", "--checkpoint-every=5", "--learning-rate=1e-2")


@pytest.fixture
def data(pod: Pod) -> str:
    """A text that can be learnt quickly, and a configuration."""
    pytest.importorskip("transformers", reason="a Python without the test packages, as gpu-check may use")
    folder = pod.root / "data"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text("".join(f"the {word} is {number}\n" for word in range(100)))
    (pod.root / "shape.json").write_text(json.dumps(SHAPE))
    return f"--data={folder}"


@pytest.fixture
def here(pod: Pod, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[..., str]:
    """Run the program in this process, which spares the start of another, and return what it logged."""

    def run(*arguments: str, output: str, checkpoints: str) -> str:
        from aifactory_trainer import pretrain

        monkeypatch.chdir(pod.root)
        for name in ("WORLD_SIZE", "RANK", "TORCHELASTIC_ERROR_FILE", "AIFACTORY_PROGRESS_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AIFACTORY_OUTPUT", str(pod.root / output))
        monkeypatch.setenv("AIFACTORY_CHECKPOINTS", str(pod.root / checkpoints))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        caplog.clear()
        caplog.set_level(logging.INFO, "aifactory")
        try:
            pretrain.main(arguments)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        return caplog.text

    return run


def weights(pod: Pod, name: str) -> dict[str, torch.Tensor]:
    return load_file(pod.root / name / "model.safetensors")


def test_two_processes_killed_and_resumed_end_like_an_uninterrupted_run(
    pod: Pod, data: str, here: Callable[..., str]
) -> None:
    training = (*TRAINING, "--config=shape.json", "--tokenizer=train:300", "--shard", data)
    command = (*TORCHRUN, *PROGRAM, *training)
    pod.run(*command, AIFACTORY_OUTPUT=str(pod.root / "whole"), AIFACTORY_CHECKPOINTS=str(pod.root / "c"))

    process = pod.start(*command)
    wait_until(lambda: len(pod.steps_saved()) >= 2, "two checkpoints", lambda: pod.log(process))
    pod.kill(process)
    killed_after = pod.steps_saved()[-1]
    assert not pod.output.exists(), "it was killed before its end"
    shutil.copytree(pod.checkpoints, pod.root / "copy")

    assert f"step-{killed_after}: step {killed_after}" in pod.run(*command)
    assert digest(pod.output) == digest(pod.root / "whole"), "the same weights and the same measures"

    # One process, with as many windows a step as two had.
    log = here(*training, "--batch=4", output="one", checkpoints="copy")
    assert f"step-{killed_after}: step {killed_after}" in log
    assert "was written by 2 ranks, now there are 1" in log
    for name, weight in weights(pod, "whole").items():
        torch.testing.assert_close(weights(pod, "one")[name], weight, rtol=0, atol=2e-3)


def test_tensor_parallel_ends_like_one_process(pod: Pod, data: str, here: Callable[..., str]) -> None:
    (pod.root / "shape.json").write_text(json.dumps(SHAPE | {"tie_word_embeddings": False}))
    training = (*TRAINING, "--config=shape.json", "--batch=4", data)
    both = {"AIFACTORY_OUTPUT": str(pod.root / "two"), "AIFACTORY_CHECKPOINTS": str(pod.root / "c")}
    pod.run(*TORCHRUN, *PROGRAM, *training, "--tensor-parallel=2", **both)
    here(*training, output="alone", checkpoints="a")
    for name, weight in weights(pod, "alone").items():
        torch.testing.assert_close(weights(pod, "two")[name], weight, rtol=0, atol=2e-3)
    shutil.rmtree(pod.root / "c" / "step-40")
    log = here(*training, "--shard", output="taken up", checkpoints="c")
    assert "step-35: step 35" in log, "what tensor parallelism wrote is taken up without it"
    for name, weight in weights(pod, "alone").items():
        torch.testing.assert_close(weights(pod, "taken up")[name], weight, rtol=0, atol=2e-3)

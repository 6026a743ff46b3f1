"""A pretrained chat model, if there is one: $AIFACTORY_PRETRAINED names a directory with SmolLM2-135M-Instruct."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kept import Kept

from aifactory_server.device import free_memory
from aifactory_server.engines.engine import Engine, Limits
from aifactory_server.engines.paged import PagedModel
from aifactory_server.engines.request import Request
from aifactory_server.engines.sampling import Sampling

from .test_paged import reference

FOLDER = Path(os.environ.get("AIFACTORY_PRETRAINED") or "/nonexistent")
pytestmark = [
    pytest.mark.pretrained,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="AIFACTORY_PRETRAINED names no directory"),
]
QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    device = torch.device("cpu")
    made = Engine(PagedModel(FOLDER, device, lambda: free_memory(device), slots=4, context=2048), Limits(slots=4))
    made.start()
    yield made
    made.stop(0)


def ask(engine: Engine, text: str, max_tokens: int) -> Kept:
    answer = Kept()
    engine.submit(Request(text, max_tokens=max_tokens, sampling=Sampling(temperature=0.0)), answer)
    return answer


def test_it_knows_the_capital_of_france_and_stops(engine: Engine) -> None:
    answer = ask(engine, QUESTION, 60).wait(100)
    assert "Paris" in answer.text
    assert answer.reason == "stop"
    assert "<|im_end|>" not in answer.text


def test_answers_are_those_of_the_model_however_many_ask(engine: Engine) -> None:
    prompts = ["The quick brown fox", "def fibonacci(n):", "Once upon a time", QUESTION]
    answers = [ask(engine, prompt, 20) for prompt in prompts]
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.wait(100).text == reference(FOLDER, prompt, 20)

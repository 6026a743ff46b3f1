"""Every architecture that the contract says transformers serves: answers are those of the model, in company too."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hf_models import CONTEXT, tokenizer
from kept import Kept
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from aifactory_contract.engines import TRANSFORMERS, VLLM
from aifactory_server.engines.engine import Engine, Limits
from aifactory_server.engines.paged import PagedModel
from aifactory_server.engines.request import Request
from aifactory_server.engines.sampling import Sampling
from aifactory_trainer import pretrain

from .test_paged import reference

PROMPTS = ["def main():", "0123456789 + - * / = the quick brown fox " * 3]
SHAPE = (
    {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
    | {"num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "sliding_window": 32, "pad_token_id": None}
    | {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
    | {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    | {"shared_expert_intermediate_size": 32, "partial_rotary_factor": 0.5}
)
"""Small, by whatever names a configuration has for it."""


def write(architecture: str, folder: Path) -> Path:
    kind = getattr(transformers, architecture)
    words = tokenizer(begin=False)
    known = inspect.signature(kind.config_class).parameters
    shape: dict[str, Any] = {name: value for name, value in SHAPE.items() if name in known}
    config = kind.config_class(
        vocab_size=len(words), eos_token_id=words.eos_token_id, bos_token_id=None, tie_word_embeddings=False, **shape
    )
    torch.manual_seed(1)
    model = kind(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.15)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", sorted(TRANSFORMERS.architectures))
def test_it_is_served(architecture: str, tmp_path: Path) -> None:
    check_served(write(architecture, tmp_path / "model"))


def test_what_pretrain_makes_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tokenizer that it has learnt."""
    for name in ("checkpoints", "output"):
        monkeypatch.setenv(f"AIFACTORY_{name.upper()}", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shape.json").write_text(json.dumps({"model_type": "llama", **SHAPE, "pad_token_id": 0}))
    lines = (f"{prompt} is what the line {number} says" for number in range(200) for prompt in PROMPTS)
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    shape = ("--config=shape.json", "--tokenizer=train:600", "--context=32")
    pretrain.main([*shape, "--data=text.jsonl", "--steps=20", "--sample=0"])
    check_served(tmp_path / "output")


def check_served(folder: Path) -> None:
    """Its answers are those that transformers gives."""
    engine = Engine(PagedModel(folder, torch.device("cpu"), lambda: 2**30, slots=3), Limits(slots=3))
    engine.start()
    try:
        answers = [Kept() for _ in PROMPTS]
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            engine.submit(Request(prompt, max_tokens=12, sampling=Sampling(temperature=0.0)), answer)
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            assert answer.wait(60).error is None, answer.error
            assert answer.text == reference(folder, prompt, 12)
    finally:
        engine.stop(0)


def test_what_vllm_is_said_to_serve_needs_no_code_of_its_own() -> None:
    assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) >= VLLM.architectures

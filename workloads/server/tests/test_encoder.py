"""Vectors of texts: those that the model's own files say, computed by transformers directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import CONTEXT, write_encoder
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from aifactory_contract.engines import EMBEDDINGS
from aifactory_server.embeddings import encoder as module
from aifactory_server.embeddings.encoder import BadText, Encoder

from .conftest import DEVICES

TEXTS = ["the quick brown fox", "def main(): return 0123456789", "the", "größer als ein Wort " * 8]
MODULES = [
    {"idx": number, "name": str(number), "path": f"{number}_{kind}" if number else "", "type": f"x.models.{kind}"}
    for number, kind in enumerate(("Transformer", "Pooling", "Normalize"))
]
CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def reference(folder: Path, text: str, pooling: str = "mean", normalized: bool = False) -> Tensor:
    """By transformers, of one text alone."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=False, padding=False)
    with torch.inference_mode():
        hidden = model(input_ids=tokens["input_ids"]).last_hidden_state[0]
    vector = hidden.mean(0) if pooling == "mean" else hidden[0]
    return vector / vector.norm() if normalized else vector


def encode(encoder: Encoder, texts: list[str]) -> Tensor:
    rows = encoder.tokens(texts)
    for row in rows:
        encoder.check(row)
    return encoder.vectors(rows)


def load(folder: Path, device: torch.device | str = "cpu") -> Encoder:
    return Encoder(folder, torch.device(device), 2**30)


@pytest.mark.parametrize("architecture", sorted(EMBEDDINGS.architectures))
def test_every_architecture_gives_what_it_gives_by_itself(architecture: str, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, architecture)
    found = encode(load(folder), TEXTS)
    torch.testing.assert_close(found, torch.stack([reference(folder, text) for text in TEXTS]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("files", "pooling", "normalized"),
    [
        ({"1_Pooling/config.json": CLS}, "cls", False),
        ({"1_Pooling/config.json": CLS, "modules.json": MODULES}, "cls", True),
        ({"1_Pooling/config.json": MEAN, "modules.json": MODULES}, "mean", True),
        ({"1_Pooling/config.json": MEAN, "modules.json": MODULES[:2]}, "mean", False),
    ],
)
def test_pooling_and_length_are_those_of_the_model_s_files(
    tmp_path: Path, files: dict[str, Any], pooling: str, normalized: bool, device: torch.device
) -> None:
    folder = write_encoder(tmp_path, files=files)
    found = encode(load(folder, device), TEXTS)
    expected = torch.stack([reference(folder, text, pooling, normalized) for text in TEXTS])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 if device.type == "cuda" else 1e-5)
    assert bool((found.norm(dim=1) - 1).abs().max() < 1e-5) is normalized


def test_what_the_model_puts_before_texts_is_put_there(tmp_path: Path) -> None:
    settings = {"prompts": {"query": "The quick "}, "default_prompt_name": "query"}
    files = {"config_sentence_transformers.json": settings, "sentence_bert_config.json": {"do_lower_case": True}}
    folder = write_encoder(tmp_path, files=files)
    expected = reference(folder, "the quick brown fox")
    torch.testing.assert_close(encode(load(folder), ["Brown FOX"])[0], expected, rtol=1e-4, atol=1e-5)


def test_few_are_computed_at_once_and_all_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_encoder(tmp_path)
    encoder = load(folder)
    texts = [f"{'the quick ' * (number * 7 % 11)}{number}" for number in range(40)]
    together = encode(encoder, texts)
    monkeypatch.setitem(module._STEP_TOKENS, "cpu", 50)
    computed: list[int] = []
    one_step = Encoder._vectors

    def counted(self: Encoder, rows: Any) -> Any:
        computed.append(len(rows) * max(map(len, rows)))
        return one_step(self, rows)

    monkeypatch.setattr(Encoder, "_vectors", counted)
    torch.testing.assert_close(encode(encoder, texts), together, rtol=1e-4, atol=1e-5)
    assert len(computed) > 5
    assert max(computed) <= 50


def test_a_text_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    encoder = load(write_encoder(tmp_path))
    encoder.check([1] * CONTEXT)
    with pytest.raises(BadText, match=f"has {CONTEXT + 1} tokens, and this model reads {CONTEXT} at most: shorten it"):
        encoder.check([1] * (CONTEXT + 1))
    for row in ([1, 100_000], [-1]):
        with pytest.raises(BadText, match="has a token that is none of this model's"):
            encoder.check(row)
    with pytest.raises(BadText, match="has no tokens"):
        encoder.check([])


def test_a_text_as_long_as_the_model_says_is_read(tmp_path: Path) -> None:
    """RoBERTa counts positions from behind the padding's number: two of its table are none."""
    encoder = load(write_encoder(tmp_path, "RobertaModel", max_position_embeddings=34, pad_token_id=0))
    row = encoder.tokens(["the " * 31])[0]
    assert len(row) == 33
    encoder.check(row)
    assert encoder.vectors([row]).shape == (1, 48)
    with pytest.raises(BadText, match="has 34 tokens, and this model reads 33 at most"):
        encoder.check([*row, 1])


def test_vectors_that_are_none_are_an_error(tmp_path: Path) -> None:
    encoder = load(write_encoder(tmp_path))
    with torch.no_grad():
        next(iter(encoder.parameters)).fill_(float("nan"))
    with pytest.raises(ArithmeticError, match="gives no numbers"):
        encode(encoder, ["the"])


def test_weights_that_are_missing_are_told_and_a_head_is_not_missed(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = write_encoder(tmp_path) / "model.safetensors"
    weights = load_file(path)
    assert any(name.startswith("pooler.") for name in weights)
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    save_file(kept, path, {"format": "pt"})
    assert encode(load(tmp_path), ["the"]).shape == (1, 48)
    save_file({name: tensor for name, tensor in kept.items() if "layer.1." not in name}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights do not fit config\.json: missing \['encoder\.layer\.1"):
        load(tmp_path)

"""The model computes what a causal language model should, with and without its cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from aifactory_trainer.model import END_OF_TEXT, GPT, VOCABULARY, Cache, GPTConfig, generate, rope_tables, sample

SMALL = GPTConfig(context=32, layers=2, heads=2, embedding=32)


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    model = GPT(SMALL)
    for parameter in model.parameters():  # the layers that start at zero too
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_a_prediction_does_not_see_the_future(model: GPT) -> None:
    tokens = torch.randint(VOCABULARY, (1, 20))
    changed = tokens.clone()
    changed[0, 10:] = (changed[0, 10:] + 1) % VOCABULARY
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_in_mixed_precision_what_is_large_is_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that is not there: its tensors have types and no numbers."""
    seen: dict[str, set[torch.dtype]] = {"attention": set(), "hidden": set(), "stream": set()}

    def attention(*inputs: torch.Tensor) -> torch.Tensor:
        seen["attention"] |= {tensor.dtype for tensor in inputs}
        return inputs[0]

    monkeypatch.setattr("aifactory_trainer.model.attend", attention)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with FakeTensorMode(), torch.device("cuda"):
            model, tokens = GPT(SMALL), torch.zeros(2, 8, dtype=torch.int64)
            for block in model.blocks:
                block.down.register_forward_pre_hook(lambda _module, inputs: seen["hidden"].add(inputs[0].dtype))
                block.register_forward_hook(lambda _module, _inputs, output: seen["stream"].add(output.dtype))
            torch.set_autocast_enabled("cuda", True)
            logits = model(tokens)
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert seen == {name: {torch.bfloat16} for name in ("attention", "hidden", "stream")}
    assert logits.shape == (2, 8, VOCABULARY)


def test_only_distances_count(model: GPT) -> None:
    """Rotated by the angles of later positions, the same text gives the same prediction: positions are relative."""
    tokens = torch.randint(VOCABULARY, (1, 8))
    here = model(tokens)
    cos, sin = rope_tables(SMALL.context + 5, SMALL.embedding // SMALL.heads)
    model.cos, model.sin = cos[5:], sin[5:]
    assert torch.allclose(model(tokens), here, atol=1e-4)


@pytest.mark.parametrize("pieces", [[20], [1] * 20, [7, 1, 1, 11], [19, 1]])
def test_reading_in_pieces_changes_nothing(model: GPT, pieces: list[int]) -> None:
    tokens = torch.randint(VOCABULARY, (2, 20))
    cache = Cache(SMALL.layers)
    parts = [model(part, cache) for part in tokens.split(pieces, dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), model(tokens), atol=1e-4)
    assert cache.length == 20


def test_a_text_longer_than_the_context_is_refused(model: GPT) -> None:
    with pytest.raises(ValueError, match="33 tokens do not fit a context of 32"):
        model(torch.zeros(1, 33, dtype=torch.long))


def test_an_untrained_model_starts_near_its_embedding() -> None:
    torch.manual_seed(0)
    logits = GPT(SMALL)(torch.randint(VOCABULARY, (4, 32)))
    assert logits.abs().max() < 5


@pytest.mark.parametrize("prompt", [b"", b"def ", b"x" * 500])
def test_generating_beyond_the_context(model: GPT, prompt: bytes) -> None:
    with torch.no_grad():
        model.embedding.weight[END_OF_TEXT] = 0
    first = list(generate(model, prompt, 100, generator=torch.Generator().manual_seed(1)))
    again = list(generate(model, prompt, 100, generator=torch.Generator().manual_seed(1)))
    assert first == again
    assert 0 < len(first) <= 100
    assert all(0 <= token < 256 for token in first)


def test_temperature_zero_takes_the_likeliest() -> None:
    assert sample(torch.tensor([0.0, 3.0, 1.0]), 0) == 1


def test_the_two_layer_network_is_eight_thirds_of_the_embedding() -> None:
    assert [GPTConfig(heads=1, embedding=width).hidden for width in (16, 96, 128, 768)] == [64, 256, 352, 2048]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 0}, "at least 1"),
        ({"heads": 5}, "multiple of 2 x heads"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(change: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)

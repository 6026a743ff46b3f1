"""The serving network is the trainer's model: same weights, same numbers, however the slots are used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from aifactory_server.causal_lm import network as network_module
from aifactory_server.causal_lm.config import read_config
from aifactory_server.causal_lm.engine import Engine, Outcome
from aifactory_server.causal_lm.network import Network, load_weights
from aifactory_server.causal_lm.request import Request
from aifactory_trainer import pretrained
from aifactory_trainer.model import END_OF_TEXT, GPT
from aifactory_trainer.model import generate as reference_generate

from .conftest import DEVICES, SHAPE

CPU = torch.device("cpu")


def network(folder: Path, slots: int = 3, device: torch.device = CPU) -> Network:
    config = read_config(folder)
    return Network(config, load_weights([folder / "model.safetensors"], config, device), slots)


@pytest.fixture(scope="module", params=DEVICES)
def served(gpt_folder: Path, request: pytest.FixtureRequest) -> Network:
    return network(gpt_folder, device=request.param)


@torch.inference_mode()
def reference(gpt: GPT, tokens: list[int]) -> torch.Tensor:
    return gpt(torch.tensor([tokens]))[0, -1]


def test_reads_a_text_as_the_trainer_does(gpt: GPT, served: Network) -> None:
    tokens = [END_OF_TEXT, *b"import torch\n"]
    torch.testing.assert_close(served.prefill(1, tokens).cpu(), reference(gpt, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 7, 16, 63])
def test_a_text_that_is_read_in_chunks_is_the_same_text(gpt: GPT, served: Network, chunk: int) -> None:
    tokens = [END_OF_TEXT, *bytes(range(62))]
    for at in range(0, len(tokens), chunk):
        logits = served.prefill(2, tokens[at : at + chunk], at)
    torch.testing.assert_close(logits.cpu(), reference(gpt, tokens), rtol=1e-3, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(0, 256), min_size=1, max_size=20), min_size=3, max_size=3), st.data())
def test_neighbours_and_earlier_sequences_do_not_matter(
    gpt: GPT, served: Network, texts: list[list[int]], data: st.DataObject
) -> None:
    """Three texts of different length side by side, one replaced in the middle: each as if it were alone."""
    for slot, text in enumerate(texts):
        served.prefill(slot, text)
    for step in range(4):
        if step == 2:
            texts[1] = data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=3))
            served.prefill(1, texts[1])
        tokens = [data.draw(st.integers(0, 255)) for _ in texts]
        logits = served.decode(tokens, [len(text) for text in texts]).cpu()
        for slot, text in enumerate(texts):
            text.append(tokens[slot])
            torch.testing.assert_close(logits[slot], reference(gpt, text), rtol=1e-3, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(0, 256), min_size=1, max_size=20), min_size=2, max_size=2), st.data())
def test_texts_that_are_read_together_are_as_if_each_were_alone(
    gpt: GPT, served: Network, texts: list[list[int]], data: st.DataObject
) -> None:
    """Of different length, in slots that are not beside each other; the one between them goes on as before."""
    between = data.draw(st.lists(st.integers(0, 256), min_size=1, max_size=20))
    served.prefill(1, between)
    together = {2: texts[0], 0: texts[1]}
    for row, text in zip(served.prefill_together(together).cpu(), together.values(), strict=True):
        torch.testing.assert_close(row, reference(gpt, text), rtol=1e-3, atol=1e-3)
    now = [texts[1], between, texts[0]]
    for _ in range(3):
        tokens = [data.draw(st.integers(0, 255)) for _ in now]
        logits = served.decode(tokens, [len(text) for text in now]).cpu()
        for slot, text in enumerate(now):
            text.append(tokens[slot])
            torch.testing.assert_close(logits[slot], reference(gpt, text), rtol=1e-3, atol=1e-3)


class Collected:
    """An answer that is kept."""

    def __init__(self) -> None:
        self.text = ""
        self.outcome: Outcome | None = None
        self.error = ""

    def piece(self, text: str) -> None:
        self.text += text

    def done(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def failed(self, message: str) -> None:
        self.error = message

    def cancelled(self) -> bool:
        return False


class NoMeter:
    def count(self, prompt: int, generated: int) -> None: ...

    def probed(self) -> None: ...

    def load(self, running: int, waiting: int) -> None: ...

    def flush(self) -> None: ...


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("prompt", [b"", b"def f(x):", b"x" * 62])
def test_generates_what_the_trainer_generates_also_past_the_context(
    gpt: GPT, gpt_folder: Path, prompt: bytes, device: torch.device
) -> None:
    """150 tokens through a context of 64: the cache is full several times, from short and from the longest prompts."""
    engine, answer = Engine(network(gpt_folder, device=device), 4, NoMeter()), Collected()
    engine.submit(Request(prompt, max_tokens=150, temperature=0.0), answer)
    engine.start()
    engine.stop(60)
    expected = bytes(reference_generate(gpt, prompt, 150, temperature=0.0))
    assert answer.error == ""
    assert answer.text == expected.decode("utf-8", "replace")
    assert answer.outcome is not None
    assert answer.outcome.generated_tokens == len(expected)
    assert answer.outcome.prompt_tokens == len(prompt)


def test_the_configuration_is_the_trainers(gpt_folder: Path) -> None:
    config = read_config(gpt_folder)
    assert pretrained.read(gpt_folder).config == SHAPE
    assert (config.context, config.layers, config.heads, config.embedding) == (64, 2, 2, 32)
    assert (config.head_size, config.hidden) == (16, 96)
    assert (config.vocabulary, config.end_of_text) == (257, END_OF_TEXT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"architectures": ["LlamaForCausalLM"]},
            r"architectures \['LlamaForCausalLM'\]: the engine bytes serves Qwen3",
        ),
        ({"num_hidden_layers": "2"}, "num_hidden_layers must be a positive integer"),
        ({"num_key_value_heads": 1}, r"num_key_value_heads must be num_attention_heads \(2\)"),
        ({"head_dim": 15}, "head_dim 15 is not even"),
        ({"eos_token_id": 7}, "eos_token_id 7"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling must be None"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type must be 'default'"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a number above 0"),
        ({"max_position_embeddings": 1}, "max_position_embeddings must be at least 2"),
    ],
)
def test_a_wrong_configuration_is_told_where(
    gpt_folder: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    folder = shutil.copytree(gpt_folder, tmp_path / "changed")
    document = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=words):
        read_config(folder)


def test_a_tokenizer_of_other_tokens_is_refused(gpt_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(gpt_folder, tmp_path / "changed")
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"]["a"] = 98
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"tokenizer\.json: .* a token for each byte"):
        read_config(folder)


def test_norms_that_were_trained_and_another_base_count(gpt: GPT, gpt_folder: Path, tmp_path: Path) -> None:
    """What the trainer leaves at one, another program may have trained: each of them changes the answer."""
    tokens = [END_OF_TEXT, *b"import torch"]
    weights = load_file(gpt_folder / "model.safetensors")
    folder = shutil.copytree(gpt_folder, tmp_path / "changed")
    for name in [name for name in weights if name.endswith("norm.weight")]:
        scaled = weights[name] * torch.linspace(0.5, 2.0, len(weights[name]))
        save_file({**weights, name: scaled}, folder / "model.safetensors")
        assert not torch.allclose(network(folder).prefill(0, tokens), reference(gpt, tokens), atol=1e-3), name


def test_weights_may_be_in_shards(gpt: GPT, gpt_folder: Path, tmp_path: Path) -> None:
    config, weights = read_config(gpt_folder), load_file(gpt_folder / "model.safetensors")
    names, paths = sorted(weights), [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, part in zip(paths, (names[:9], names[9:]), strict=True):
        save_file({name: weights[name] for name in part}, path)
    served, tokens = Network(config, load_weights(paths, config, CPU), 1), [END_OF_TEXT, *b"x = 1"]
    torch.testing.assert_close(served.prefill(0, tokens), reference(gpt, tokens), rtol=1e-4, atol=1e-4)


def test_weights_that_do_not_fit_are_refused(gpt_folder: Path, tmp_path: Path) -> None:
    config = read_config(gpt_folder)
    weights = load_file(gpt_folder / "model.safetensors")
    save_file({**weights, "model.norm.weight": torch.zeros(3)}, tmp_path / "shape.safetensors")
    with pytest.raises(ValueError, match=r"shape\.safetensors: model\.norm\.weight has shape \(3,\)"):
        load_weights([tmp_path / "shape.safetensors"], config, CPU)
    weights.pop("model.norm.weight")
    save_file({**weights, "lm_head.weight": torch.zeros(1)}, tmp_path / "names.safetensors")
    with pytest.raises(ValueError, match=r"missing \['model\.norm\.weight'\], not known \['lm_head\.weight'\]"):
        load_weights([tmp_path / "names.safetensors"], config, CPU)


def test_weights_that_have_no_room_are_refused(gpt_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, paths = read_config(gpt_folder), [gpt_folder / "model.safetensors"]
    size = sum(weight.numel() * 4 for weight in load_file(paths[0]).values())
    monkeypatch.setattr(network_module, "free_memory", lambda _: size)
    load_weights(paths, config, CPU)
    monkeypatch.setattr(network_module, "free_memory", lambda _: size - 1)
    with pytest.raises(ValueError, match=r"MiB are left; raise resources\.limits\.memory of container triton"):
        load_weights(paths, config, CPU)

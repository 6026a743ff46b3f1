"""What is written is what Hugging Face's transformers loads: the same tokens, the same logits, the same text."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aifactory_contract.errors import FactoryError
from aifactory_trainer import export_huggingface, pretrained
from aifactory_trainer.model import END_OF_TEXT, GPT, GPTConfig, generate

transformers = pytest.importorskip("transformers", reason="a Python without the test packages, as gpu-check may use")
AutoModelForCausalLM, AutoTokenizer = transformers.AutoModelForCausalLM, transformers.AutoTokenizer

CONFIG = GPTConfig(context=64, layers=3, heads=2, embedding=48)
TEXTS = ["", "def f(x):\n", "größer 中文 🙂\t\x00\x7f", "  spaces  ", "<|endoftex", "a" * 60]


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(1)
    model = GPT(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():  # the layers that start at zero too
            parameter.normal_(std=0.25)
    return model.eval()


@pytest.fixture(scope="module")
def folder(model: GPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_huggingface(model, metrics={"loss": 1.5}, output=tmp_path_factory.mktemp("model") / "output")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.inference_mode()
def test_transformers_gives_the_same_logits(model: GPT, theirs: Any) -> None:
    tokens = torch.randint(257, (3, CONFIG.context))
    torch.testing.assert_close(theirs(tokens).logits, model(tokens), rtol=1e-5, atol=1e-4)
    assert sum(weight.numel() for weight in theirs.parameters()) - sum(
        weight.numel() for weight in model.parameters()
    ) == sum(weight.numel() for name, weight in theirs.named_parameters() if name.endswith("norm.weight"))


@pytest.mark.parametrize("text", TEXTS)
def test_a_token_is_a_byte_and_the_text_begins_with_its_end(folder: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(text)["input_ids"]
    assert tokens == [END_OF_TEXT, *text.encode()]
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (END_OF_TEXT, END_OF_TEXT)
    assert tokenizer.model_max_length == CONFIG.context


def test_transformers_writes_what_the_trainer_writes(model: GPT, theirs: Any, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = tokenizer("def ", return_tensors="pt")
    found = theirs.generate(**given, max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 5:]
    expected = list(generate(model, b"def ", 30, temperature=0))
    assert found.tolist()[: len(expected)] == expected
    assert len(expected) > 5


def test_what_transformers_saves_is_read_back_and_published(
    theirs: Any, folder: Path, tmp_path: Path, model: GPT
) -> None:
    again = export_huggingface(theirs, AutoTokenizer.from_pretrained(folder), output=tmp_path / "again")
    assert json.loads((again / "config.json").read_text())["metrics"] == {}
    assert json.loads((folder / "config.json").read_text())["metrics"] == {"loss": 1.5}
    mine, saved = load_file(folder / "model.safetensors"), load_file(again / "model.safetensors")
    assert mine.keys() == saved.keys()
    assert all(torch.equal(mine[name], saved[name]) for name in mine)


def test_a_model_whose_vocabulary_is_not_the_tokenizers_is_told_in_the_training_program(
    theirs: Any, folder: Path, tmp_path: Path
) -> None:
    small = copy.deepcopy(theirs)
    small.resize_token_embeddings(200)
    with pytest.raises(FactoryError, match="vocab_size 200: the tokenizer is another model's"):
        export_huggingface(small, AutoTokenizer.from_pretrained(folder), output=tmp_path / "output")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "architectures is"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers must be an integer"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_theta": 5.0}, "rope_theta is 5.0"),
    ],
)
def test_a_directory_of_another_network_is_not_read(
    folder: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    copied = shutil.copytree(folder, tmp_path / "copied")
    document = json.loads((copied / "config.json").read_text()) | change
    (copied / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=words):
        pretrained.read(copied)


def test_norms_that_were_trained_are_not_dropped_silently(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "copied")
    weights = load_file(copied / "model.safetensors")
    save_file({**weights, "model.norm.weight": weights["model.norm.weight"] * 2}, copied / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.norm\.weight is not all ones"):
        pretrained.read(copied)

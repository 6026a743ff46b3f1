"""What may be in an artifact and what may not."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import write_model, write_safetensors

from aifactory_contract import manifest
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import HUGGINGFACE, check_artifact, check_directory, metrics_of, parts_of


def check(folder: Path, expected: str | None = "huggingface") -> dict[str, Any]:
    opener = lambda path: (folder / path).open("rb")  # noqa: E731
    return check_artifact(manifest.of_directory(folder), opener, expected).config


def refused(folder: Path, words: str, expected: str | None = "huggingface") -> None:
    with pytest.raises(FactoryError, match=words) as caught:
        check(folder, expected)
    assert caught.value.reason is Reason.INVALID_ARTIFACT


def test_a_good_artifact_with_documentation_passes(tmp_path: Path) -> None:
    write_model(tmp_path, vocab_size=257)
    (tmp_path / "README.md").write_text("how it was trained")
    (tmp_path / "LICENSE").write_text("Apache-2.0")
    assert check(tmp_path)["vocab_size"] == 257
    assert check_directory(tmp_path).format == "huggingface"


@pytest.mark.parametrize("name", ["extra.pt", "model.pkl", "w.bin", "weights.ckpt", "a.npy"])
def test_pickles_are_refused_by_name(tmp_path: Path, name: str) -> None:
    write_model(tmp_path)
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path, "pickle")


def test_pickles_are_refused_by_content(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "notes.txt").write_bytes(pickle.dumps({"a": 1}))
    refused(tmp_path, r"notes\.txt may be a pickle")


def test_python_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "modeling_x.py").write_text("")
    refused(tmp_path, r"modeling_x\.py is Python, and code of a model is never run here")


@pytest.mark.parametrize("name", ["libx.so", "run.sh", "data/blob"])
def test_strangers_are_refused(tmp_path: Path, name: str) -> None:
    write_model(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path, "no part of a huggingface artifact")


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors")
    refused(tmp_path, r"config\.json is missing")
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    refused(tmp_path, r"tokenizer\.json is missing .* write it with tokenizer\.save_pretrained")
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.txt")
    refused(tmp_path, r"model\.safetensors is missing \(found: config\.json, weights\.txt\)")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, r"config\.json names no architecture")


def test_config_must_be_json_and_agree(tmp_path: Path) -> None:
    write_model(tmp_path)
    refused(tmp_path, "says format 'huggingface' but 'torch-export'", "torch-export")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "not JSON")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "names no format", None)
    refused(tmp_path, r"format 'causal-lm' is not known here; it is huggingface now", "causal-lm")
    refused(tmp_path, r"format 'gguf' is not known here; write one of: huggingface, torch-export, triton", "gguf")


@settings(max_examples=80, deadline=None)
@given(cut=st.integers(0, 200), extra=st.binary(max_size=8))
def test_only_whole_safetensors_pass(tmp_path_factory: pytest.TempPathFactory, cut: int, extra: bytes) -> None:
    folder = write_model(tmp_path_factory.mktemp("cut"))
    whole = (folder / "model.safetensors").read_bytes()
    changed = whole[: max(0, len(whole) - cut)] + extra
    (folder / "model.safetensors").write_bytes(changed)
    if len(changed) == len(whole) and changed[: len(whole) - 12] == whole[: len(whole) - 12]:
        check(folder)
    else:
        refused(folder, "not a whole safetensors file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b'{"format": "\xff"}', "is not utf-8"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is not JSON"),
        (b'{"format": ["huggingface"]}', "says format"),
        (b'{"architectures": [3]}', "names no architecture"),
        (b"", "is not JSON"),
    ],
)
def test_an_odd_config_is_an_invalid_artifact_and_nothing_else(tmp_path: Path, content: bytes, words: str) -> None:
    write_model(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    refused(tmp_path, words)


@pytest.mark.parametrize("header", [b"[" * 100_000, b'{"a": {"data_offsets": [false, true]}}', b"\xff"])
def test_an_odd_header_is_an_invalid_artifact_and_nothing_else(tmp_path: Path, header: bytes) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    refused(tmp_path, "not a whole safetensors file")


def test_a_header_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    write_model(tmp_path)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write((20 * 1024 * 1024).to_bytes(8, "little") + b" ")
        file.truncate(30 * 1024 * 1024)
    refused(tmp_path, "header does not fit")


def test_metrics_are_finite_numbers_whatever_else_is_there() -> None:
    odd = {"loss": 2.5, "steps": 3, "huge": 10**400, "nan": float("nan"), "text": "x", "list": []}
    assert metrics_of({"metrics": odd}) == {"loss": 2.5, "steps": 3.0}


@pytest.mark.parametrize("kind", [["FP32"], {"a": 1}, None, 3])
def test_a_program_that_can_not_be_served_is_refused_before_anybody_loads_it(tmp_path: Path, kind: object) -> None:
    tensor = {"name": "x", "dataType": "FP32", "dims": [4]}
    config = {"format": "torch-export", "inputs": [{**tensor, "dataType": kind}], "outputs": [tensor]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.pt2").write_bytes(b"x")
    refused(tmp_path, r"inputs\.x: dataType", "torch-export")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**read_json(path), **fields}))


def safetensors(path: Path, **shapes: list[int]) -> None:
    """A file with float tensors of these shapes; `__` in a name is a dot."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name.replace("__", ".")] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))


def sharded(folder: Path) -> Path:
    """A model in two shards."""
    write_model(folder, vocab_size=257, num_hidden_layers=2)
    (folder / "model.safetensors").unlink()
    safetensors(
        folder / "model-00001-of-00002.safetensors", model__embed_tokens__weight=[257, 4], model__layers__0__w=[2]
    )
    safetensors(folder / "model-00002-of-00002.safetensors", model__layers__1__w=[2])
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    placed = {"model.embed_tokens.weight": first, "model.layers.0.w": first, "model.layers.1.w": second}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder


def test_weights_in_shards_are_a_model(tmp_path: Path) -> None:
    assert check(sharded(tmp_path))["num_hidden_layers"] == 2


def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    second, index = "model-00002-of-00002.safetensors", "model.safetensors.index.json"
    folder = sharded(tmp_path / "missing")
    (folder / second).unlink()
    refused(folder, f"{index} names {second}, which is not there: was the copy cut short")
    folder = sharded(tmp_path / "cut")
    (folder / second).write_bytes((folder / second).read_bytes()[:-3])
    refused(folder, f"{second} is not a whole safetensors file: its tensors need 8 bytes but 5 are there")
    folder = sharded(tmp_path / "other save")
    safetensors(folder / second, other=[2])
    refused(folder, f"{second} has no tensor 'model.layers.1.w', which {index} says it has")
    folder = sharded(tmp_path / "left over")
    safetensors(folder / "model-00003-of-00003.safetensors", w=[2])
    refused(folder, f"model-00003-of-00003.safetensors is not in {index}")
    folder = sharded(tmp_path / "twice")
    safetensors(folder / "model.safetensors", w=[2])
    refused(folder, "two sets of weights")
    folder = sharded(tmp_path / "no index")
    (folder / index).unlink()
    refused(folder, f"{index} is missing")
    for odd in ('{"weight_map": {}}', '{"weight_map": {"w": 3}}', '{"weight_map": ["w"]}'):
        (folder / index).write_text(odd)
        refused(folder, f"{index} has no weight_map")
    (folder / index).write_text('{"weight_map": {"w": "../model.safetensors"}}')
    refused(folder, r"names \.\./model\.safetensors, which is not there")


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_a_model_that_brings_code_is_refused(tmp_path: Path, where: str) -> None:
    write_model(tmp_path)
    (tmp_path / where).write_text(json.dumps({"architectures": ["X"], "auto_map": {"AutoModel": "m.X"}}))
    refused(tmp_path, f"{where} has auto_map: .* remove auto_map and the .py files")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path, vocab_size=257, num_hidden_layers=2)
    safetensors(tmp_path / "model.safetensors", model__embed_tokens__weight=[300, 4], model__layers__1__w=[2])
    refused(tmp_path, r"vocab_size 257, but model\.embed_tokens\.weight has 300 rows")
    safetensors(tmp_path / "model.safetensors", model__embed_tokens__weight=[257, 4], model__layers__0__w=[2])
    refused(tmp_path, "says 2 layers, but the weights have 1")
    safetensors(tmp_path / "model.safetensors", transformer__wte__weight=[257, 4], transformer__h__1__w=[2])
    check(tmp_path)
    for layers in (0, -1):
        change(tmp_path / "config.json", num_hidden_layers=layers)
        refused(tmp_path, f"says {layers} layers: write the directory")


def test_a_tensor_of_another_size_than_its_shape_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [3, 2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    refused(tmp_path, r"'w' of type BF16 and shape \[3, 2\] has 8 bytes")


def test_a_tokenizer_has_many_forms(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    # No image has what reads this one; beside a tokenizer it does no harm.
    (tmp_path / "tiktoken.model").write_text("IQ== 0")
    for files in (["tokenizer.model"], ["vocab.txt"], ["vocab.json", "merges.txt"]):
        for name in files:
            refused(tmp_path, r"tokenizer\.json is missing")
            (tmp_path / name).write_text('{"a": 0}')
        check(tmp_path)
        for name in files:
            (tmp_path / name).unlink()


@pytest.mark.parametrize("vocabulary", [{"a": 0, "b": 9}, [["a", 0.0]] * 10])
def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, vocabulary: object) -> None:
    write_model(tmp_path, vocab_size=10)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    check(tmp_path)
    change(tmp_path / "config.json", vocab_size=9)
    refused(tmp_path, r"tokenizer\.json has a token of number 9, but config\.json says vocab_size 9")
    change(tmp_path / "config.json", vocab_size=None, text_config={"vocab_size": 9})
    refused(tmp_path, "vocab_size 9")


@pytest.mark.parametrize("content", ["[]", "{}", '{"model": {"vocab": {}}}', '{"model": {"vocab": {"a": "b"}}}', "{"])
def test_an_odd_tokenizer_is_an_invalid_artifact_and_nothing_else(tmp_path: Path, content: str) -> None:
    write_model(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    refused(tmp_path, r"tokenizer\.json")


def test_a_model_in_a_folder_below_is_pointed_at(tmp_path: Path) -> None:
    write_model(tmp_path / "final")
    refused(tmp_path, r"config\.json is missing .* there is one in final/")


BESIDE = {
    "optimizer.pt": "of the training",
    "rng_state_0.pth": "of the training",
    "training_args.bin": "of the training",
    "trainer_state.json": "of the training",
    "zero_to_fp32.py": "of the training",
    "checkpoint-500/optimizer.pt": "of the training",
    "runs/Nov27/events.out.tfevents.1.host": "of the training",
    "onnx/model.onnx": "for another program",
    "tf_model.h5": "for another program",
    "consolidated.00.safetensors": "for another program",
    "loss.png": "a picture",
    ".gitattributes": "hidden",
    ".cache/huggingface/x": "hidden",
    "__pycache__/x.pyc": "a cache",
    "pytorch_model.bin": "the same weights as pickles",
    "pytorch_model.bin.index.json": "the same weights as pickles",
}


def test_what_trainers_drop_beside_a_model_is_left_out(tmp_path: Path) -> None:
    write_model(tmp_path)
    parts = {"config.json", "model.safetensors", "tokenizer.json", "README.md", "tokenizer_config.json"}
    for name in [*BESIDE, "README.md"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/latest-run").symlink_to("..")
    found, beside = parts_of(tmp_path, HUGGINGFACE)
    assert set(found) == parts
    assert {path: why.partition(",")[0] for path, why in beside.items()} == BESIDE
    assert check_directory(tmp_path).format == "huggingface"


def test_only_what_is_known_is_left_out(tmp_path: Path) -> None:
    write_model(tmp_path)
    for name in ("my_optimizer.pt", "sub/training_args.bin", "checkpoint-x/model.pkl", "weights.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
        with pytest.raises(FactoryError, match="may be a pickle"):
            check_directory(tmp_path)
        (tmp_path / name).unlink()
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(
        FactoryError, match=r"pytorch_model\.bin may be a pickle.* save the weights as model\.safetensors"
    ):
        check_directory(tmp_path)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "LoRA adapter, not a model: merge it", None)


def with_adapter(folder: Path, name: str = "sql", **config: Any) -> Path:
    write_model(folder)
    adapter = folder / "adapters" / name
    adapter.mkdir(parents=True)
    write_safetensors(adapter / "adapter_model.safetensors")
    document = {"peft_type": "LORA", "r": 16, "bias": "none", "modules_to_save": None, "use_dora": False, **config}
    (adapter / "adapter_config.json").write_text(json.dumps(document))
    (adapter / "README.md").write_text("what it was trained on")
    return adapter


def test_adapters_lie_beside_the_model_they_are_for(tmp_path: Path) -> None:
    adapter = with_adapter(tmp_path)
    (adapter / "training_args.bin").write_bytes(b"x")
    paths, beside = parts_of(tmp_path, HUGGINGFACE)
    assert beside == {"adapters/sql/training_args.bin": "of the training, to resume or follow it"}
    assert "adapters/sql/adapter_model.safetensors" in paths
    (adapter / "training_args.bin").unlink()
    check(tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "adapters/sql/adapter_config.json has peft_type 'IA3'; only LORA is served"),
        ({"r": 0}, "has r 0; it must be from 1 to 512"),
        ({"r": "8"}, "has r '8'"),
        ({"modules_to_save": ["lm_head"]}, r"has modules_to_save \['lm_head'\], which no engine serves .* merge"),
        ({"use_dora": True}, "has use_dora True"),
        ({"bias": "all"}, "has bias 'all'"),
    ],
)
def test_an_adapter_that_would_end_the_engine_is_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with_adapter(tmp_path, **config)
    refused(tmp_path, words)


def test_half_an_adapter_is_refused(tmp_path: Path) -> None:
    adapter = with_adapter(tmp_path)
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused(tmp_path, r"adapters/sql/adapter_model\.safetensors")
    weights.unlink()
    refused(tmp_path, r"adapters/sql/adapter_model\.safetensors is missing")
    adapter.rename(adapter.with_name("S Q L"))
    refused(tmp_path, "adapters/S Q L: 'S Q L' is no model name")

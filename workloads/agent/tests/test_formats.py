"""What may be in an artifact and what may not, and how it is served."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory_agent.artifacts import manifest
from aifactory_agent.artifacts.formats import check_artifact
from aifactory_agent.errors import AgentError, Reason
from aifactory_agent.serve.desired import parse
from aifactory_agent.serve.tritonconfig import serving_config

from .conftest import write_model, write_safetensors


def check(folder: Path, expected: str | None = "causal-lm") -> dict[str, Any]:
    return check_artifact(manifest.of_directory(folder), lambda path: (folder / path).open("rb"), expected)


def refused(folder: Path, words: str, expected: str | None = "causal-lm") -> None:
    with pytest.raises(AgentError, match=words) as caught:
        check(folder, expected)
    assert caught.value.reason is Reason.INVALID_ARTIFACT


def test_a_good_artifact_with_documentation_passes(tmp_path: Path) -> None:
    write_model(tmp_path, vocabSize=257)
    (tmp_path / "README.md").write_text("how it was trained")
    (tmp_path / "LICENSE").write_text("Apache-2.0")
    assert check(tmp_path)["vocabSize"] == 257
    assert check(tmp_path, None)["format"] == "causal-lm"


@pytest.mark.parametrize("name", ["extra.pt", "model.pkl", "w.bin", "weights.ckpt", "a.npy"])
def test_pickles_are_refused_by_name(tmp_path: Path, name: str) -> None:
    write_model(tmp_path)
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path, "pickle")


def test_pickles_are_refused_by_content(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "notes.txt").write_bytes(pickle.dumps({"a": 1}))
    refused(tmp_path, r"notes\.txt may be a pickle")


@pytest.mark.parametrize("name", ["model.py", "libx.so", "run.sh", "data/blob"])
def test_code_and_strangers_are_refused(tmp_path: Path, name: str) -> None:
    write_model(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path, "no part of a causal-lm artifact")


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors")
    refused(tmp_path, r"config\.json is missing")
    (tmp_path / "config.json").write_text('{"format": "causal-lm"}')
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.txt")
    refused(tmp_path, r"model\.safetensors is missing")


def test_config_must_be_json_and_agree(tmp_path: Path) -> None:
    write_model(tmp_path)
    refused(tmp_path, "says format 'causal-lm' but 'torch-export'", "torch-export")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "not JSON")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "names no format", None)


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


TENSOR = {"name": "x", "dataType": "FP32", "dims": [64]}


def test_torch_export_is_served_as_its_config_says() -> None:
    config = serving_config(
        "torch-export", {"inputs": [TENSOR], "outputs": [{**TENSOR, "name": "y"}], "maxBatchSize": 8}
    )
    text = config.render("m", [3, 1])
    assert 'name: "x" data_type: TYPE_FP32 dims: [64]' in text
    assert "versions: [1, 3]" in text
    assert "max_batch_size: 8" in text
    assert "dynamic_batching" in text
    assert config.render("m", [2]) != text
    assert serving_config("causal-lm", {}).identity != config.identity


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": []}, "inputs must be a list"),
        ({"inputs": [{**TENSOR, "name": 'x" evil: "'}]}, "no tensor name"),
        ({"inputs": [{**TENSOR, "dataType": "FLOAT"}]}, "dataType 'FLOAT'"),
        ({"outputs": [{**TENSOR, "dims": [0]}]}, "dims must be positive"),
        ({"maxBatchSize": -1}, "maxBatchSize -1"),
    ],
)
def test_a_wrong_config_is_told_where(change: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"inputs": [TENSOR], "outputs": [TENSOR], "maxBatchSize": 4}
    with pytest.raises(AgentError, match=words):
        serving_config("torch-export", {**good, **change})


GOOD = {"name": "gpt", "version": 3, "uri": "pvc://models/gpt/3", "digest": "sha256:" + "a" * 64, "format": "causal-lm"}


def test_desired_is_read() -> None:
    desired = parse(json.dumps({"pool": "p", "revision": "r", "models": [{**GOOD, "secret": None}]}))
    assert desired.revision == "r"
    assert str(desired.models[0].uri) == "pvc://models/gpt/3"


@pytest.mark.parametrize(
    "change",
    [{"name": ".."}, {"name": "a/b"}, {"version": 0}, {"version": True}, {"uri": "http://x/y"}, {"digest": None},
     {"digest": "sha256:1"}, {"format": "onnx"}, {"uri": "pvc://models/../x"}],
)  # fmt: skip
def test_a_wrong_desired_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(AgentError) as caught:
        parse(json.dumps({"models": [{**GOOD, **change}]}))
    assert caught.value.reason is Reason.INVALID_DESIRED


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"models": [3]}', '{"models": [{}]}'])
def test_what_is_no_desired_is_refused(text: str) -> None:
    with pytest.raises(AgentError, match=r"desired\.json"):
        parse(text)

"""What may be in an artifact and what may not."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import write_model, write_safetensors

from aifactory_contract import manifest
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import check_artifact, metrics_of


def check(folder: Path, expected: str | None = "causal-lm") -> dict[str, Any]:
    return check_artifact(manifest.of_directory(folder), lambda path: (folder / path).open("rb"), expected)


def refused(folder: Path, words: str, expected: str | None = "causal-lm") -> None:
    with pytest.raises(FactoryError, match=words) as caught:
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b'{"format": "\xff"}', "is not utf-8"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is not JSON"),
        (b'{"format": ["causal-lm"]}', "says format"),
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

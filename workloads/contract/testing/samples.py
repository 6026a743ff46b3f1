"""Artifacts for tests, written without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aifactory_contract.bytelevel import CHARACTERS


def write_safetensors(path: Path, values: bytes = b"\0" * 12) -> None:
    """A whole safetensors file with one tensor, written by its specification."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + values)


def write_model(folder: Path, **config: Any) -> Path:
    """A huggingface artifact whose tokens are bytes; different configs make different digests."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["Qwen3ForCausalLM"], "vocab_size": 257, **config})
    )
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    return folder


def tokenizer() -> dict[str, Any]:
    """A tokenizer.json that makes a token of every byte."""
    vocabulary = {character: byte for byte, character in enumerate(CHARACTERS)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"pre_tokenizer": level, "decoder": level, "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}

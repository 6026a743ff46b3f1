"""Artifacts for tests, written without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_safetensors(path: Path, values: bytes = b"\0" * 12) -> None:
    """A whole safetensors file with one tensor, written by its specification."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + values)


def write_model(folder: Path, **config: Any) -> Path:
    """A causal-lm artifact; different configs make different digests."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"format": "causal-lm", **config}))
    return folder

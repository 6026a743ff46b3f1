"""The shape of a model, from the files beside its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aifactory_contract.bytelevel import is_byte_level
from aifactory_contract.engines import BYTES
from aifactory_contract.formats.huggingface import TOKENIZER
from aifactory_contract.names import CONFIG
from aifactory_contract.userjson import parse_json

_BYTES = 256
_ROPE_BASE = 10_000.0
_NORM_EPSILON = 1e-6
_FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": True,
    "rope_scaling": None,
    "use_sliding_window": False,
    "quantization_config": None,
}
"""What this engine takes for granted, and a config.json that does not name it too."""


@dataclass(frozen=True)
class ModelConfig:
    """See `aifactory_trainer.pretrained`, which writes it; tests hold the two together."""

    context: int
    """Tokens the model sees at once."""
    layers: int
    heads: int
    head_size: int
    """Width of one attention head."""
    embedding: int
    hidden: int
    """Width of the two-layer network."""
    vocabulary: int
    end_of_text: int
    """The token that starts and ends each text; all below 256 are bytes."""
    rope_base: float = _ROPE_BASE
    norm_epsilon: float = _NORM_EPSILON


def read_config(folder: Path) -> ModelConfig:
    """Raises ValueError with the field that is wrong."""
    document: dict[str, Any] = parse_json((folder / CONFIG).read_bytes())
    _check_kind(document, folder)
    heads, embedding = _positive(document, "num_attention_heads"), _positive(document, "hidden_size")
    config = ModelConfig(
        context=_positive(document, "max_position_embeddings"),
        layers=_positive(document, "num_hidden_layers"),
        heads=heads,
        head_size=_positive(document, "head_dim"),
        embedding=embedding,
        hidden=_positive(document, "intermediate_size"),
        vocabulary=_positive(document, "vocab_size"),
        end_of_text=_positive(document, "eos_token_id"),
        rope_base=_rope_base(document),
        norm_epsilon=_real(document, "rms_norm_eps", _NORM_EPSILON),
    )
    if document.get("num_key_value_heads") != heads:
        raise ValueError(f"config.json: num_key_value_heads must be num_attention_heads ({heads}) for this engine")
    if config.head_size % 2:
        raise ValueError(f"config.json: head_dim {config.head_size} is not even")
    if not _BYTES <= config.end_of_text < config.vocabulary:
        raise ValueError(f"config.json: eos_token_id {config.end_of_text} must be a token that is no byte")
    if config.context < 2:
        raise ValueError("config.json: max_position_embeddings must be at least 2")
    return config


def _check_kind(document: dict[str, Any], folder: Path) -> None:
    if document.get("architectures") not in [[name] for name in BYTES.architectures]:
        raise ValueError(
            f"config.json: architectures {document.get('architectures')!r}: the engine {BYTES.name} serves "
            f"{', '.join(sorted(BYTES.architectures))} only"
        )
    tokenizer = folder / TOKENIZER
    if not (tokenizer.exists() and is_byte_level(parse_json(tokenizer.read_bytes()))):
        raise ValueError(f"{TOKENIZER}: the engine {BYTES.name} serves models that have a token for each byte only")
    for key, known in _FIXED.items():
        found = document.get(key, known)
        if found != known:
            raise ValueError(f"config.json: {key} must be {known!r} for the engine {BYTES.name}, it is {found!r}")


def _rope_base(document: dict[str, Any]) -> float:
    """By its place in transformers 5, else by that of 4."""
    rope = document.get("rope_parameters")
    if not isinstance(rope, dict):
        return _real(document, "rope_theta", _ROPE_BASE)
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"config.json: rope_type must be 'default' for the engine {BYTES.name}")
    return _real(rope, "rope_theta", _ROPE_BASE)


def _real(document: dict[str, Any], key: str, default: float) -> float:
    value = document.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"config.json: {key} must be a number above 0, it is {value!r}")
    return float(value)


def _positive(document: dict[str, Any], key: str) -> int:
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"config.json: {key} must be a positive integer, it is {value!r}")
    return value

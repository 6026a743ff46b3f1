"""The shape of a model, from the config.json beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aifactory_contract.userjson import parse_json

ARCHITECTURE = "aifactory-gpt"
TOKENIZER = "bytes"
_BYTES = 256


@dataclass(frozen=True)
class ModelConfig:
    """See `aifactory_trainer.model.GPTConfig`; a test holds the two together."""

    context: int
    """Tokens the model sees at once."""
    layers: int
    heads: int
    embedding: int
    vocabulary: int
    end_of_text: int
    """The token that starts and ends each text; all below 256 are bytes."""

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.embedding // self.heads


def read_config(path: Path) -> ModelConfig:
    """Raises ValueError with the field that is wrong."""
    document: dict[str, Any] = parse_json(path.read_bytes())
    for key, known in (("architecture", ARCHITECTURE), ("tokenizer", TOKENIZER)):
        if document.get(key) != known:
            raise ValueError(
                f"config.json: {key} {document.get(key)!r} is not known to this server; it serves {known!r}"
            )
    config = ModelConfig(
        context=_positive(document, "contextLength"),
        layers=_positive(document, "layers"),
        heads=_positive(document, "heads"),
        embedding=_positive(document, "embedding"),
        vocabulary=_positive(document, "vocabSize"),
        end_of_text=_positive(document, "endOfText"),
    )
    if config.embedding % (2 * config.heads):
        raise ValueError(f"config.json: embedding {config.embedding} is not a multiple of twice heads {config.heads}")
    if not _BYTES <= config.end_of_text < config.vocabulary:
        raise ValueError(f"config.json: endOfText {config.end_of_text} must be a token that is no byte")
    if config.context < 2:
        raise ValueError("config.json: contextLength must be at least 2")
    return config


def _positive(document: dict[str, Any], key: str) -> int:
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"config.json: {key} must be a positive integer, it is {value!r}")
    return value

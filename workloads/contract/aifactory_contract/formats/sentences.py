"""How the vectors of a text's tokens become one: of embedding models, as sentence-transformers or AutoModel save them.

The directory is one of format `huggingface`. sentence-transformers adds which modules follow the transformer
(modules.json), which vectors count (1_Pooling/config.json), how long a text may be and what is put before it. Where
nothing of this is there, the mean counts, as it is. What is not known of these files is refused, never left out:
vectors that are computed otherwise than those of an index fit to nothing in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.names import CONFIG
from aifactory_contract.userjson import parse_json

MEAN, CLS = "mean", "cls"
MODULES, POOLING = "modules.json", "1_Pooling"
_LENGTHS = "sentence_bert_config.json"
_SENTENCES = "config_sentence_transformers.json"
_TOKENIZER = "tokenizer_config.json"
_PART = re.compile(r"\d+_\w+/config\.json")
_FOLDER = re.compile(r"\d+_\w+")
_MODES = {"pooling_mode_mean_tokens": MEAN, "pooling_mode_cls_token": CLS}
_NUMBERS_FROM_PADDING = ("Camembert", "MPNet", "Roberta", "XLMRoberta")
"""Their first position is that after the padding's: so many of max_position_embeddings are none."""
_NO_LIMIT = 10**9
"""Tokenizers without a limit say so by an absurd number."""

Read = Callable[[str], Any]
"""The contents of a JSON file; None if there is no such file. Raises FactoryError."""


@dataclass(frozen=True)
class Recipe:
    """How one model makes a vector of a text."""

    pooling: str
    """MEAN of the tokens' vectors, or that of the first, CLS."""
    normalized: bool
    """Whether vectors have length 1."""
    max_tokens: int | None
    """Of the longest text; None: the model knows no limit."""
    lower_case: bool
    prompt: str
    """What is put before every text."""


def is_part(path: str) -> bool:
    """Settings of a module; the others are settings like those of any model."""
    return bool(_PART.fullmatch(path))


def recipe(read: Read) -> Recipe:
    """Raises FactoryError: InvalidArtifact if a file is damaged, Unservable if it asks for what is not known here."""
    lengths, sentences = _object(read, _LENGTHS), _object(read, _SENTENCES)
    if sentences.get("model_type") not in (None, "SentenceTransformer"):
        raise _unservable(f"{_SENTENCES} says model_type {sentences['model_type']!r}: it makes no vector of a text")
    if lengths.get("transformer_task") not in (None, "feature-extraction"):
        raise _unservable(
            f"{_LENGTHS} says transformer_task {lengths['transformer_task']!r}: served is feature-extraction"
        )
    folder, normalized = _modules(read(MODULES))
    pooling = _object(read, f"{folder}/{CONFIG}")
    prompt = _prompt(sentences)
    if prompt and pooling.get("include_prompt") is False:
        raise _unservable(f"{folder}/{CONFIG} leaves out the tokens of the prompt that {_SENTENCES} puts before texts")
    return Recipe(
        _pooling(f"{folder}/{CONFIG}", pooling),
        normalized,
        _max_tokens(lengths, _object(read, _TOKENIZER), _object(read, CONFIG)),
        lengths.get("do_lower_case") is True,
        prompt,
    )


def recipe_of(folder: Path) -> Recipe:
    """That of a directory. Raises as `recipe` and OSError."""

    def read(path: str) -> Any:
        place = folder / path
        try:
            return parse_json(place.read_bytes()) if place.is_file() else None
        except ValueError as error:
            raise _invalid(f"{path} is not JSON: {error}") from error

    return recipe(read)


def _modules(document: Any) -> tuple[str, bool]:
    """Where the settings of the pooling are, and whether vectors are normalized after it."""
    if document is None:
        return POOLING, False
    modules = document if isinstance(document, list) else []
    # The module path before the name is another in each release of sentence-transformers.
    kinds = [str(one.get("type", "")).rpartition(".")[2] if isinstance(one, dict) else "" for one in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise _unservable(
            f"{MODULES} has {', '.join(map(repr, kinds)) or 'no modules'}; served are Transformer, Pooling and, after "
            "them, Normalize"
        )
    first, folder = modules[0].get("path"), modules[1].get("path")
    if first not in ("", None):
        raise _invalid(f"{MODULES} has the transformer in {first!r}; save the model anew, with its files at the top")
    if not isinstance(folder, str) or not _FOLDER.fullmatch(folder):
        raise _invalid(f"{MODULES} has the pooling in {folder!r}, which is no folder like {POOLING}")
    return folder, len(kinds) == 3


def _pooling(path: str, settings: Mapping[str, Any]) -> str:
    stated = settings.get("pooling_mode")
    modes = [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else []
    modes = modes or [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
    found = [_MODES.get(mode, mode) for mode in modes] or [MEAN]
    if found not in ([MEAN], [CLS]):
        raise _unservable(f"{path} asks for {', '.join(map(str, found))}; served are the mean of all tokens, and cls")
    return str(found[0])


def _prompt(sentences: Mapping[str, Any]) -> str:
    name, prompts = sentences.get("default_prompt_name"), sentences.get("prompts")
    if name is None:
        return ""
    prompt = prompts.get(name) if isinstance(prompts, dict) else None
    if not isinstance(prompt, str):
        raise _invalid(f"{_SENTENCES} has default_prompt_name {name!r}, which is none of its prompts")
    return prompt


def _max_tokens(lengths: Mapping[str, Any], tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    positions = config.get("max_position_embeddings")
    named = config.get("architectures")
    first = str(named[0]) if isinstance(named, list) and named else ""
    if isinstance(positions, int) and first.startswith(_NUMBERS_FROM_PADDING):
        padding = config.get("pad_token_id")
        positions -= (padding if isinstance(padding, int) else 1) + 1
    stated = (lengths.get("max_seq_length"), tokenizer.get("model_max_length"), positions)
    return min((int(one) for one in stated if isinstance(one, int | float) and 0 < one < _NO_LIMIT), default=None)


def _object(read: Read, path: str) -> Mapping[str, Any]:
    found = read(path)
    if found is not None and not isinstance(found, dict):
        raise _invalid(f"{path} must be a JSON object")
    return found or {}


def _invalid(what: str) -> FactoryError:
    return FactoryError(Reason.INVALID_ARTIFACT, what)


def _unservable(what: str) -> FactoryError:
    return FactoryError(Reason.UNSERVABLE, what)

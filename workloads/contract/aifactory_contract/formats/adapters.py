"""LoRA adapters beside the model that they are for: `adapters/<name>/`, each as `save_pretrained` of PEFT writes it.

Only vLLM serves them, and it reads one when the first request asks for it: what it does not know of an adapter would
then end the whole engine, for everybody. So that is looked for here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from aifactory_contract.errors import FactoryError
from aifactory_contract.formats.rules import Files, invalid, missing
from aifactory_contract.formats.safetensors import read_safetensors
from aifactory_contract.names import check_model_name

FOLDER = "adapters"
CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PART = re.compile(rf"{FOLDER}/([^/]+)/(?:{re.escape(CONFIG)}|{re.escape(_WEIGHTS)})")
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM has room for; an adapter of another takes that of the next."""


def is_part(path: str) -> bool:
    """The two files of an adapter."""
    return bool(_PART.fullmatch(path))


def names(paths: Iterable[str]) -> list[str]:
    """The adapters of an artifact with these files."""
    return sorted({match[1] for path in paths if (match := _PART.fullmatch(path))})


def check(files: Files) -> None:
    """Whether each can be served. Raises FactoryError (InvalidArtifact)."""
    for name in names(files.sizes):
        folder = f"{FOLDER}/{name}"
        try:
            check_model_name(name)
        except FactoryError as error:
            raise invalid(f"{folder}: {error.message}") from error
        for file in (CONFIG, _WEIGHTS):
            if f"{folder}/{file}" not in files.sizes:
                raise missing(f"{folder}/{file}", files, "which save_pretrained of PEFT writes")
        _check_config(f"{folder}/{CONFIG}", files)
        with files.open(f"{folder}/{_WEIGHTS}") as stream:
            read_safetensors(stream, f"{folder}/{_WEIGHTS}")


def _check_config(path: str, files: Files) -> None:
    config = files.json(path)
    if config.get("peft_type") != "LORA":
        raise invalid(f"{path} has peft_type {config.get('peft_type')!r}; only LORA is served")
    rank = config.get("r")
    if type(rank) is not int or not 0 < rank <= RANKS[-1]:
        raise invalid(f"{path} has r {rank!r}; it must be from 1 to {RANKS[-1]}")
    for field, harmless in (("modules_to_save", (None, [])), ("use_dora", (None, False)), ("bias", (None, "none"))):
        if config.get(field) not in harmless:
            raise invalid(
                f"{path} has {field} {config[field]!r}, which no engine serves beside a model: merge the adapter "
                "(model.merge_and_unload) and publish the result as a model of its own"
            )

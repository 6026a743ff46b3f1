"""A model's directory, as transformers opens it, or one sentence that says why it does not.

Role: the contract has checked names, sizes and headers of files (formats/huggingface.py), which needs no library. What
is left is told here: a configuration of which no model can be made, and weights that are another model's, of which
transformers itself would make some at random and leave others out, with a line in the log.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as transformers_logging

from aifactory_contract.formats import CONFIG, HUGGINGFACE, check_directory
from aifactory_trainer.program import BadInputError

_END_BYTES = 1 << 20
_SHOWN = 3
"""So many tensors are told."""


def load_config(folder: Path) -> Any:
    """Of a directory that is checked first.

    Raises:
        FactoryError: it is no model.
        BadInputError: transformers does not take its configuration.
    """
    check_directory(folder, HUGGINGFACE.name)
    with refusal(f"{folder / CONFIG} is no configuration that transformers takes"):
        return AutoConfig.from_pretrained(folder)


def load_tokenizer(folder: Path) -> Any:
    """In any form that transformers reads. Raises BadInputError: there is none."""
    with refusal(
        f"{folder} holds no tokenizer that transformers reads (tokenizer.json and tokenizer_config.json, as "
        "save_pretrained writes them)"
    ):
        return AutoTokenizer.from_pretrained(folder)


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """A language model with weights of this type. Raises BadInputError: they are not those of its config.json."""
    models: Any = AutoModelForCausalLM
    quiet: Any = transformers_logging.disable_progress_bar
    quiet()
    model, found = models.from_pretrained(folder, dtype=dtype, ignore_mismatched_sizes=True, output_loading_info=True)
    own = {_numberless(name) for name, _ in model.named_parameters()}
    wrong = {
        "has no": found["missing_keys"],
        "has another shape for": [name for name, *_ in found["mismatched_keys"]],
        "has besides": [name for name in found["unexpected_keys"] if _numberless(name) in own],  # more layers
    }
    said = [f"{what} {_some(names)}" for what, names in wrong.items() if names]
    if said:
        raise BadInputError(
            f"{folder}: {CONFIG} makes a {type(model).__name__}, and the file of weights {'; '.join(said)}: they are "
            "of two models. Save them together with save_pretrained"
        )
    return model


def without_numbers(config: Any, where: str = "the configuration") -> Any:
    """The model of a configuration, which takes no memory.

    Args:
        where: the configuration is, for messages.

    Raises:
        BadInputError: none can be made of it.
    """
    models: Any = AutoModelForCausalLM
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        name = (config.architectures or [type(config).__name__])[0]
        raise BadInputError(f"{name} is no language model that transformers knows: take another one")
    with refusal(f"of {where} transformers makes no language model"), torch.device("meta"):
        return models.from_config(copy.deepcopy(config), dtype=torch.float32)  # which notes the type in it


def fingerprint(folder: Path) -> str:
    """Tells one model from another without reading all of it: names, sizes, and the ends of the files of weights."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        found.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            found.update(file.read(_END_BYTES))
            file.seek(max(0, size - _END_BYTES))
            found.update(file.read())
    return f"sha256:{found.hexdigest()[:16]}"


@contextmanager
def refusal(what: str) -> Iterator[None]:
    """A file is somebody's: whatever the library raises about it, it is no good. Raises BadInputError."""
    try:
        yield
    except BadInputError:
        raise
    except Exception as error:
        said = " ".join(f"{'' if isinstance(error, (ValueError, OSError)) else type(error).__name__} {error}".split())
        raise BadInputError(f"{what}: {said[:300]}") from error


def _numberless(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _some(names: Any) -> str:
    first, count = sorted(names)[:_SHOWN], len(names)
    return ", ".join(first) + (f" and {count - _SHOWN} more" if count > _SHOWN else "")

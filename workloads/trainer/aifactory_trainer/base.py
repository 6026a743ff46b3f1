"""The model to begin with: found among the inputs, checked, loaded with or without a LoRA adapter, and in the end put
back into the form it had.

Role: everything about models and tokenizers that a program which trains somebody's model on needs; by transformers and
peft. Nothing here trains.

What always holds: what does not fit (an adapter without a place, a model that is larger than memory) is told by a model
without numbers, before anything is loaded; and the result is, to whoever serves it, the base with other numbers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from aifactory_trainer import causal, memory
from aifactory_trainer.distributed import World
from aifactory_trainer.program import BadInputError, find

ALL_LINEAR = "all-linear"
"""Every linear layer but the last one, as peft calls it."""
_END_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter. Attributes: rank, alpha: of LoRA. targets: names of layers, with commas between; ALL_LINEAR."""

    rank: int
    alpha: int
    targets: str


def load_tokenizer(base: Path, template: str | None, *, chats: bool = True) -> Any:
    """The base's, with a chat template.

    Args:
        template: file with one; None: the base's.
        chats: whether one is needed.

    Raises:
        BadInputError: it has none, or does not tell where its tokens are in a text.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    if template is not None:
        tokenizer.chat_template = find(template, "--chat-template").read_text()
    if chats and not tokenizer.chat_template:
        raise BadInputError(
            f"{base} has no chat template (chat_template.jinja), so nothing says how a conversation is written for it: "
            "take the base that was made for chat, or give one with --chat-template"
        )
    if not tokenizer.is_fast:
        raise BadInputError(f"{base} has no tokenizer.json, which tells what is learnt: save it with transformers 5")
    return tokenizer


def longest(config: Any, wished: int | None, most: int) -> int:
    """Tokens to read at once: as many as is wished, else as the model can read, at most so many.

    Raises:
        BadInputError: the model can not read so many.
    """
    context = getattr(config, "max_position_embeddings", None) or most
    if wished is not None and wished > context:
        raise BadInputError(f"--max-length {wished} is more than the {context} tokens that the model can read")
    return wished or min(context, most)


def check(config: Any, adapter: Adapter | None, world: World, *, shards: int = 1, smaller: str = "") -> None:
    """Whether the adapter has a place in the model and memory suffices.

    Args:
        adapter: None: all of the model is to be trained.
        shards: in how many parts the processes hold it between them.
        smaller: a way out of the program's own, for messages.

    Raises:
        BadInputError: it does not.
    """
    model = _without_numbers(config, adapter)
    every = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if adapter is None:
        smaller += ", leave out --full"
    memory.check("the base", every, trained, world, shards=shards, smaller=smaller)


def check_reading(config: Any, world: World) -> None:
    """Whether memory suffices for a model that is only asked.

    Raises:
        BadInputError: it does not.
    """
    every = sum(weight.numel() for weight in _without_numbers(config, None).parameters())
    memory.check("the model", every, 0, world)


def _without_numbers(config: Any, adapter: Adapter | None) -> Any:
    models: Any = AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model = models.from_config(config)
    except ValueError as error:  # transformers lists all that it knows
        name = (config.architectures or [type(config).__name__])[0]
        raise BadInputError(f"{name} is no language model that transformers knows: take another one") from error
    with torch.device("meta"):
        return model if adapter is None else with_adapter(model, adapter)


def with_adapter(model: nn.Module, adapter: Adapter) -> Any:
    """The model, frozen, with a new adapter in it that changes nothing yet.

    Raises:
        BadInputError: a target is no layer of this model, or of a kind that has no adapters.
    """
    names = [] if adapter.targets == ALL_LINEAR else [name.strip() for name in adapter.targets.split(",")]
    layers = {name.rpartition(".")[2]: part for name, part in model.named_modules()}
    for name in names:
        if not any(found == name or found.endswith(f".{name}") for found, _ in model.named_modules()):
            linear = ", ".join(sorted(found for found, part in layers.items() if isinstance(part, nn.Linear)))
            raise BadInputError(
                f"--lora-targets: no layer of {type(model).__name__} is called {name!r}; it has {linear}"
            )
    wanted = LoraConfig(
        task_type="CAUSAL_LM", r=adapter.rank, lora_alpha=adapter.alpha, target_modules=names or ALL_LINEAR
    )
    try:
        return get_peft_model(model, wanted)
    except ValueError as error:
        raise BadInputError(f"--lora-targets {adapter.targets}: {error}") from error


def load(base: Path, adapter: Adapter | None, world: World) -> Any:
    """The base, ready to be trained: frozen weights are bfloat16 on a GPU, everything else is float32.

    Raises:
        BadInputError: its generation settings could not be written again.
    """
    model = load_as(base, torch.bfloat16 if world.device.type == "cuda" and adapter is not None else torch.float32)
    try:
        model.generation_config.validate(strict=True)
    except ValueError as error:  # transformers would refuse to write it, at the end
        raise BadInputError(f"{base}/generation_config.json contradicts itself: {error}") from error
    return model if adapter is None else with_adapter(model, adapter)


def load_to_read(folder: Path, world: World) -> Any:
    """A model that is only asked."""
    return load_as(folder, torch.bfloat16 if world.device.type == "cuda" else torch.float32).to(world.device)


def load_as(folder: Path, dtype: torch.dtype) -> Any:
    """A model with weights of this type."""
    quiet: Any = transformers_logging.disable_progress_bar
    quiet()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def finished(model: Any, config: Any, world: World) -> Any:
    """The trained model with its adapter merged, rounded as it will be published.

    Args:
        config: the base's.
    """
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.config.use_cache = config.use_cache  # the Trainer has switched it off
    model = model.to(causal.own_type(config))
    return model if world.device.type == "cuda" else model.float()  # CPUs compute in nothing else as fast


def fingerprint(base: Path) -> str:
    """Tells one base from another without reading all of it: names, sizes, and the ends of the files of weights."""
    found = hashlib.sha256()
    for path in sorted(base.glob("*.safetensors")):
        size = path.stat().st_size
        found.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            found.update(file.read(_END_BYTES))
            file.seek(max(0, size - _END_BYTES))
            found.update(file.read())
    return f"sha256:{found.hexdigest()[:16]}"

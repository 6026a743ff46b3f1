"""The model to begin with: found among the inputs, checked, loaded with or without a LoRA adapter, and in the end put
back into the form it had.

Role: everything about models and tokenizers that a program which trains somebody's model on needs; by transformers and
peft. Nothing here trains.

What always holds: what does not fit (an adapter without a place, a model that is larger than memory) is told by a model
without numbers, before anything is loaded; and the result is, to whoever serves it, the base with other numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from aifactory_trainer import causal, memory, saved
from aifactory_trainer.distributed import World
from aifactory_trainer.program import BadInputError, find

ALL_LINEAR = "all-linear"
"""Every linear layer but the last one, as peft calls it."""


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
    tokenizer = saved.load_tokenizer(base)
    if template is not None:
        tokenizer.chat_template = _template(find(template, "--chat-template"))
    if chats and not tokenizer.chat_template:
        raise BadInputError(
            f"{base} has no chat template (chat_template.jinja), so nothing says how a conversation is written for it: "
            "take the base that was made for chat, or give one with --chat-template"
        )
    if not tokenizer.is_fast:
        raise BadInputError(f"{base} has no tokenizer.json, which tells what is learnt: save it with transformers 5")
    return tokenizer


def _template(path: Path) -> str:
    """What is in a file, or in the only one of a directory, as inputs are. Raises BadInputError."""
    if path.is_dir():
        found = sorted(path.glob("*.jinja"))
        if len(found) != 1:
            raise BadInputError(f"--chat-template {path} has {len(found)} files named *.jinja: name the one to take")
        (path,) = found
    with saved.refusal(f"--chat-template {path}"):
        return path.read_text(encoding="utf-8")


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
    model = without_numbers(config, adapter)
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
    every = sum(weight.numel() for weight in without_numbers(config, None).parameters())
    memory.check("the model", every, 0, world)


def without_numbers(config: Any, adapter: Adapter | None) -> Any:
    """The model as it is trained, which takes no memory. Raises BadInputError: see `with_adapter`."""
    model = saved.without_numbers(config, "config.json")
    with torch.device("meta"):
        return model if adapter is None else with_adapter(model, adapter)


def with_adapter(model: nn.Module, adapter: Adapter) -> Any:
    """The model, frozen, with a new adapter in it that changes nothing yet.

    Raises:
        BadInputError: a target is no layer of this model, or of a kind that has no adapters.
    """
    names = [] if adapter.targets == ALL_LINEAR else [name.strip() for name in adapter.targets.split(",")]
    layers = dict(model.named_modules())
    for name in names:
        called = [part for found, part in layers.items() if name and (found == name or found.endswith(f".{name}"))]
        whole = next((part for part in called if any(True for _ in part.children())), None)
        if whole is None and called:
            continue
        linear = {found.rpartition(".")[2] for found, part in layers.items() if isinstance(part, nn.Linear)}
        wrong = f"{name!r} is a whole {type(whole).__name__}" if whole else f"no layer of it is called {name!r}"
        raise BadInputError(
            f"--lora-targets of {type(model).__name__}: {wrong}; it has {', '.join(sorted(linear))}, and {ALL_LINEAR} "
            "means all but the last"
        )
    wanted = LoraConfig(
        task_type="CAUSAL_LM", r=adapter.rank, lora_alpha=adapter.alpha, target_modules=names or ALL_LINEAR
    )
    try:
        return get_peft_model(model, wanted)
    except ValueError as error:
        raise BadInputError(f"--lora-targets {adapter.targets}: {' '.join(str(error).split())}") from error


def load(base: Path, adapter: Adapter | None, world: World) -> Any:
    """The base, ready to be trained: frozen weights are bfloat16 on a GPU, everything else is float32.

    Raises:
        BadInputError: its weights are not those of its configuration, or its generation settings could not be written
            again.
    """
    frozen_on_gpu = world.device.type == "cuda" and adapter is not None
    model = saved.load_model(base, torch.bfloat16 if frozen_on_gpu else torch.float32)
    try:
        model.generation_config.validate(strict=True)
    except ValueError as error:  # transformers would refuse to write it, at the end
        raise BadInputError(f"{base}/generation_config.json contradicts itself: {error}") from error
    return model if adapter is None else with_adapter(model, adapter)


def load_to_read(folder: Path, world: World) -> Any:
    """A model that is only asked."""
    dtype = torch.bfloat16 if world.device.type == "cuda" else torch.float32
    return saved.load_model(folder, dtype).to(world.device)


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

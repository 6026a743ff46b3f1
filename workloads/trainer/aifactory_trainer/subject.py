"""What is trained: a model with its tokens, and what differs between the smallest one and those of transformers.

Role: the training program asks a Subject wherever it would have to know which model it is. The smallest is here; it
needs torch alone and starts at once. All others are in causal.py.
"""

from __future__ import annotations

import os
import shutil
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aifactory_trainer import corpus, tokens
from aifactory_trainer.distributed import World
from aifactory_trainer.errors import give_up
from aifactory_trainer.model import GPT, GPTConfig, generate
from aifactory_trainer.options import TINY, Settings

WEIGHT_DECAY = 0.1
EMBEDDING_RATE = 4.0
"""Learning rate of the smallest model's embedding, in multiples of that of the blocks. Held-out bits per byte after 300
steps, for 0.5, 1, 2 and 4: 2.45, 2.39, 2.36, 2.33."""


class Subject(Protocol):
    """What is trained.

    Attributes:
        model: the model itself; divided among the ranks it is the same object.
        tokens: what makes text into its tokens.
        context: tokens of a window.
        shape: its number of layers and its width.
        facts: what makes it another model though its weights have the same shapes.
    """

    model: Any
    tokens: tokens.Tokens
    context: int
    shape: tuple[int, int]
    facts: dict[str, object]

    def distribute(self, world: World, settings: Settings) -> tuple[nn.Module, World]:
        """The model as it is trained on several ranks, and this process among those that compute different batches."""

    def groups(self) -> list[dict[str, Any]]:
        """The parameters for an optimizer: `params`, `weight_decay`, and `rate`, a multiple of the learning rate."""

    def predict(self, network: nn.Module, windows: Tensor) -> Tensor:
        """Logits of the token after each."""

    def clip(self, norm: float) -> None:
        """Scale the gradients down to this norm."""

    def untrained(self, seed: int) -> nn.Module | None:
        """What the model was at first, where that costs little."""

    def whole(self, world: World) -> Any:
        """All of the model, on rank 0; every rank has to ask."""

    def sample(self, length: int, seed: int) -> str:
        """What the model writes; "" where no rank has all of it."""

    def tokenizer(self) -> Any:
        """The tokenizer to be published; None: the model has its own."""


class Tiny:
    """The model of model.py, whose tokens are bytes."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.tokens: tokens.Tokens = tokens.Bytes()
        self.context = model.config.context
        self.shape = (model.config.layers, model.config.embedding)
        self.facts = facts(model.config)

    def distribute(self, world: World, settings: Settings) -> tuple[nn.Module, World]:
        """See Subject."""
        network = replicate(self.model, world)
        return compiled(network, world.device) if settings.compile else network, world

    def groups(self) -> list[dict[str, Any]]:
        """The embedding is a table: it learns faster, and has no weight decay, which would fade rare bytes."""
        return [
            {"params": list(self.model.blocks.parameters()), "weight_decay": WEIGHT_DECAY, "rate": 1.0},
            {"params": list(self.model.embedding.parameters()), "weight_decay": 0.0, "rate": EMBEDDING_RATE},
        ]

    def predict(self, network: nn.Module, windows: Tensor) -> Tensor:
        """See Subject."""
        return cast(Tensor, network(windows))

    def clip(self, norm: float) -> None:
        """See Subject."""
        nn.utils.clip_grad_norm_(self.model.parameters(), norm)

    def untrained(self, seed: int) -> nn.Module | None:
        """See Subject."""
        torch.manual_seed(seed)
        return GPT(self.model.config).to(self.model.embedding.weight.device)

    def whole(self, world: World) -> Any:
        """See Subject."""
        return self.model

    def sample(self, length: int, seed: int) -> str:
        """See Subject."""
        generator = torch.Generator().manual_seed(seed)
        written = bytes(generate(self.model, b"def ", length, generator=generator))
        return f"def {written.decode(errors='replace')}"

    def tokenizer(self) -> Any:
        """See Subject."""
        return None


def facts(config: GPTConfig) -> dict[str, object]:
    """See Subject."""
    shape = {"--layers": config.layers, "--heads": config.heads, "--embedding": config.embedding}
    return {"model": TINY, **shape, "tokenizer": "bytes"}


def look(settings: Settings, text: corpus.Corpus, world: World) -> tuple[tokens.Tokens, int, dict[str, object]]:
    """Tokens, context and facts of the model that `make` would make.

    Raises:
        BadInputError, FactoryError: as `make` does.
    """
    if settings.compile:
        check_compiler(world.device)
    if settings.tiny:
        config = settings.gpt()
        return tokens.Bytes(), config.context, facts(config)
    from aifactory_trainer import causal  # imported late: transformers takes seconds

    found = causal.settle(settings, text, world, ahead=True)
    return found.words, found.context, found.facts


def make(settings: Settings, text: corpus.Corpus, world: World) -> Subject:
    """The model and its tokens, before it is distributed; the same on all ranks.

    Raises:
        BadInputError: what was asked for is no good; nothing large has been made yet.
        FactoryError: the directory of --init is no model.
    """
    if settings.tiny:
        torch.manual_seed(settings.seed)
        return Tiny(GPT(settings.gpt()).to(world.device))
    from aifactory_trainer import causal  # imported late: transformers takes seconds

    return causal.make(settings, text, world)


def replicate(model: nn.Module, world: World) -> nn.Module:
    """Average the gradients of all ranks while they are computed."""
    if world.size == 1:
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    # The buffers are constant tables: to send them before each step would only cost time.
    return DistributedDataParallel(model, device_ids=devices, forward_sync_buffers=False, gradient_as_bucket_view=True)


def compiled(network: nn.Module, device: torch.device) -> nn.Module:
    """The same network, as kernels made for it in the first step. Only training uses it: the model itself stays what is
    saved, measured and exported. Around DistributedDataParallel, for gradients to be sent while others are computed."""
    check_compiler(device)
    return cast(nn.Module, torch.compile(network))


def check_compiler(device: torch.device) -> None:
    """End the run where torch.compile does not find what it needs."""
    variable, names = ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++",))
    names = (os.environ[variable],) if variable in os.environ else names
    if not any(map(shutil.which, names)):
        give_up(
            f"--compile needs a compiler ({' or '.join(names)}) and Python's headers, and this image has none: build "
            "it on one that has (docker build --build-arg BASE=python:3.11), or leave --compile out"
        )

"""Language models by their transformers configuration: of a preset's size, of a file, or of a model that there is.

Role: a Subject of the training program that is a model of transformers, whole on each rank or divided (parallel.py).

What always holds: what can not be trained or served, or does not fit the memory, is told by a model without numbers,
before any is made.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from aifactory_contract.engines import TRANSFORMERS
from aifactory_contract.names import CONFIG
from aifactory_contract.userjson import parse_json
from aifactory_trainer import corpus, memory, parallel, saved, tokens
from aifactory_trainer.distributed import Group, World
from aifactory_trainer.environment import Environment
from aifactory_trainer.options import PRESETS, Settings
from aifactory_trainer.program import BadInputError, find
from aifactory_trainer.saved import fingerprint
from aifactory_trainer.subject import WEIGHT_DECAY, check_compiler, compiled, replicate
from aifactory_trainer.tokens import Tokens

_CONTEXT = 1024
"""Tokens of a window, where neither settings nor model say."""
_ROWS = 64
"""A vocabulary is made a multiple of it: a GPU's fast kernels want such sizes, and tensor parallelism even parts."""


class Causal:
    """A model of transformers, whole on each rank or divided among them."""

    def __init__(
        self, model: Any, config: Any, words: Tokens, context: int, facts: dict[str, object], *, divided: bool
    ) -> None:
        """Args: config: as it will be published; transformers changes the model's own."""
        self.model = model
        self.tokens = words
        self.context = context
        self.shape = (config.num_hidden_layers, config.hidden_size)
        self.facts = facts
        self._config = config
        self._divided = divided

    def distribute(self, world: World, settings: Settings) -> tuple[nn.Module, World]:
        """See Subject. What is divided goes to the device part by part."""
        if self._divided:
            tensor = settings.tensor_parallel
            if settings.compile:
                check_compiler(world.device)
            blocks = next(part for part in self.model.modules() if isinstance(part, nn.ModuleList))
            parallel.shard(self.model, blocks, world, tensor, settings.compile)
            return self.model, parallel.data_world(world, tensor)
        network = replicate(self.model.to(world.device), world)
        return compiled(network, world.device) if settings.compile else network, world

    def groups(self) -> list[dict[str, Any]]:
        """Weight decay is for matrices: an embedding is a table, whose rare tokens it would fade."""
        tables = {part.weight for part in self.model.modules() if isinstance(part, nn.Embedding)}
        plain = [weight for weight in self.model.parameters() if weight.dim() < 2 or weight in tables]
        matrices = [weight for weight in self.model.parameters() if weight.dim() >= 2 and weight not in tables]
        return [
            {"params": group, "weight_decay": decay, "rate": 1.0}
            for weights, decay in ((matrices, WEIGHT_DECAY), (plain, 0.0))
            for group in parallel.by_mesh(weights)
        ]

    def predict(self, network: nn.Module, windows: Tensor) -> Tensor:
        """See Subject. Without what it would need to go on with the text."""
        return cast(Tensor, network(windows, use_cache=False).logits)

    def clip(self, norm: float) -> None:
        """See Subject."""
        parallel.clip(self.model.parameters(), norm)

    def untrained(self, seed: int) -> nn.Module | None:
        """It would take as much memory again."""
        return None

    def whole(self, world: World) -> Any:
        """See Subject."""
        model = self.model
        if self._divided:
            state = parallel.whole_state(model, world.rank)
            if world.rank != 0:
                return None
            model = filled(self._config, state, model.generation_config)
        return model.to(own_type(self._config))

    def sample(self, length: int, seed: int) -> str:
        """See Subject."""
        if self._divided:
            return ""
        torch.manual_seed(seed)
        prompt = torch.tensor([[self.tokens.begin]], device=self.model.device)
        written = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=min(length, self.context - 1),
            do_sample=True,
            temperature=0.8,
            pad_token_id=self.tokens.end,
        )
        return str(self.tokens.published().decode(written[0], skip_special_tokens=True))

    def tokenizer(self) -> Any:
        """See Subject."""
        return self.tokens.published()


@dataclass(frozen=True, slots=True)
class Settled:
    """A model that was asked for and could be made.

    Attributes:
        folder: where its weights are; None: they are to be made.
        config: as it will be published.
        facts: see Subject.
    """

    folder: Path | None
    config: Any
    words: Tokens
    context: int
    facts: dict[str, object]


def settle(settings: Settings, text: corpus.Corpus, world: World, *, ahead: bool = False) -> Settled:
    """Find out which model it is, and whether it can be trained.

    Args:
        ahead: of training: no tokenizer is learnt.

    Raises:
        BadInputError, FactoryError: see `subject.make`.
    """
    folder = find(settings.init, "--init") if settings.init else None
    words: Tokens
    if folder is not None:
        config, words = of_directory(folder), tokens.given(folder)
    else:
        words = _tokens(settings, text, ahead=ahead)
        config = of_file(settings.config, words) if settings.config else of_preset(settings, words)
    context = settings.context or getattr(config, "max_position_embeddings", None) or _CONTEXT
    check(config, words, context, world, shards=world.size if settings.divided else 1)
    if settings.tensor_parallel > 1:
        parallel.check(config, world, settings.tensor_parallel)
    return Settled(folder, config, words, context, facts(config, words, folder))


def make(settings: Settings, text: corpus.Corpus, world: World) -> Causal:
    """See `subject.make`."""
    found = settle(settings, text, world)
    if found.folder is None:
        torch.manual_seed(settings.seed)
        model = _make(found.config)
    else:
        model = saved.load_model(found.folder, torch.float32)
    model.train()
    if settings.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return Causal(model, found.config, found.words, found.context, found.facts, divided=settings.divided)


_NOT_OF_WEIGHTS = {
    *("_name_or_path", "transformers_version", "dtype", "architectures", "max_position_embeddings", "vocab_size"),
    *("use_cache", "id2label", "label2id", "initializer_range", "return_dict", "problem_type"),
}
"""Settings that weights do not depend on, or that show in their shapes; of training only, or of who reads them."""


def facts(config: Any, words: Tokens, folder: Path | None) -> dict[str, object]:
    """See Subject."""
    kept = {
        name: value
        for name, value in config.to_dict().items()
        if name not in _NOT_OF_WEIGHTS and not re.search(r"_token_id$|drop|^output_", name)
    }
    begun = {"base": None if folder is None else fingerprint(folder)}
    return {**kept, **begun, **({} if words.digest is None else {"tokenizer": words.digest})}


def _tokens(settings: Settings, text: corpus.Corpus, *, ahead: bool) -> Tokens:
    """As --tokenizer says."""
    wish = settings.tokenizer or "bytes"
    if wish == "bytes":
        return tokens.Bytes()
    if wish.startswith("train:"):
        size = int(wish.removeprefix("train:"))
        if ahead:
            return tokens.kept(size, Environment.read().checkpoints)
        return tokens.learnt(size, text.train, Group(), Environment.read().checkpoints)
    return tokens.given(find(wish, "--tokenizer"))


def of_preset(settings: Settings, words: Tokens) -> Any:
    """A Llama of the preset's shape whose vocabulary is the tokenizer's, rounded up."""
    preset = PRESETS[settings.preset]
    return AutoConfig.for_model(
        "llama",
        **preset.shape,
        vocab_size=-(-words.size // _ROWS) * _ROWS,
        max_position_embeddings=settings.context or preset.context,
        **_marks(words),
    )


def of_file(name: str, words: Tokens) -> Any:
    """The configuration in a file, or in config.json of a directory.

    Args:
        name: of it, or of an input.

    Raises:
        BadInputError: it is none, not of a causal language model that we serve, or its vocabulary is too small.
    """
    path = find(name, "--config")
    path = path / CONFIG if path.is_dir() else path
    with saved.refusal(f"--config {path}"):
        document = parse_json(path.read_bytes())
    kind = document.get("model_type") if isinstance(document, dict) else None
    if not isinstance(kind, str):
        raise BadInputError(
            f'--config {path} has no "model_type"; it is what transformers writes as config.json: '
            '{"model_type": "llama", "hidden_size": 768, ...}'
        )
    check_kind(kind, f"--config {path}")
    given = {name: value for name, value in document.items() if name != "model_type"}
    given = {"vocab_size": -(-words.size // _ROWS) * _ROWS} | given | _marks(words)
    with saved.refusal(f"--config {path}"):
        return AutoConfig.for_model(kind, **given)


def of_directory(folder: Path) -> Any:
    """The configuration of a model that there is.

    Raises:
        FactoryError: the directory is no model.
        BadInputError: it is none that transformers takes or that we train.
    """
    config = saved.load_config(folder)
    check_kind(config.model_type, str(folder / CONFIG))
    return config


def check_kind(kind: str, where: str) -> None:
    """Whether it is a causal language model that an engine of ours serves, which was tried for each.

    Raises:
        BadInputError: transformers has none of this name, or it reads a text in both directions, or can not be served.
    """
    known = sorted(
        name for name, found in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if found in TRANSFORMERS.architectures
    )
    if kind not in known:
        raise BadInputError(
            f"{where}: model_type {kind!r} is no causal language model that can be served when it is trained; "
            f"take one of {', '.join(known)}"
        )


def check(config: Any, words: Tokens, context: int, world: World, *, shards: int) -> None:
    """Whether tokens, windows and memory fit the model.

    Args:
        shards: in how many parts the ranks hold it.

    Raises:
        BadInputError: one does not.
    """
    if words.size > config.vocab_size:
        raise BadInputError(
            f"the tokenizer has {words.size} tokens, and vocab_size of the configuration is {config.vocab_size}: raise "
            "it, or take a smaller tokenizer"
        )
    longest = getattr(config, "max_position_embeddings", None) or context
    if context > longest:
        raise BadInputError(f"--context {context} is more than the {longest} tokens that the model can read")
    numbers = sum(weight.numel() for weight in saved.without_numbers(config).parameters())
    memory.check("the model", numbers, numbers, world, shards=shards)


def own_type(config: Any) -> torch.dtype:
    """In which type the model's weights are stored."""
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def filled(config: Any, state: dict[str, Tensor], generation: Any) -> Any:
    """A model, to be written, with these numbers. Args: generation: its settings for generating."""
    model = saved.without_numbers(config)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    model.generation_config = generation
    return model


def _make(config: Any) -> Any:
    models: Any = AutoModelForCausalLM
    return models.from_config(copy.deepcopy(config), dtype=torch.float32)  # which notes the type in it


def _marks(words: Tokens) -> dict[str, int]:
    return {"bos_token_id": words.begin, "eos_token_id": words.end}

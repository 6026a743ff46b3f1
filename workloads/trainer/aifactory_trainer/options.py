"""The options of the training program `pretrain`: which model, which text, how it is trained.

Role: from a command line to settings. What does not go together is told here, and ends the process with code 2; what
has to be looked at first (a configuration, a text) is told by whoever reads it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aifactory_trainer import corpus, tokens
from aifactory_trainer.model import GPTConfig
from aifactory_trainer.program import Parser, positive, rate

TINY = "tiny"
"""The preset that is model.py's, of bytes."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A Llama of a known size, by its name.

    Attributes:
        shape: of the model, in the words of transformers' configuration.
        context: tokens of a window.
        learning_rate: the highest one.
    """

    shape: dict[str, int]
    context: int
    learning_rate: float


def llama(width: int, layers: int, heads: int, groups: int, hidden: int) -> dict[str, Any]:
    """The shape of a Llama. Args: groups: heads of keys and values. hidden: width of a block's two-layer network."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    return dict(zip(names, (width, layers, heads, groups, hidden), strict=True)) | {"tie_word_embeddings": True}


PRESETS = {
    "15m": Preset(llama(288, 6, 6, 6, 768), 256, 1e-3),
    "124m": Preset(llama(768, 12, 12, 12, 2048), 1024, 6e-4),
    "360m": Preset(llama(960, 32, 15, 5, 2560), 2048, 5e-4),
    "1b": Preset(llama(2048, 16, 32, 8, 8192), 2048, 3e-4),
}
"""After stories15M, GPT-2, SmolLM2 and Llama 3.2, whose sizes these are with vocabularies like theirs."""
LEARNING_RATE = {TINY: 3e-3, "--config": 3e-4, "--init": 1e-4}
"""The highest one, where none is asked for and the model is no preset."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One training run, as the command line asks for it; fields are options of the same name.

    Attributes:
        preset, config, init: which model; one of them.
        layers, heads, embedding: shape of the model, of the preset tiny.
        tokenizer: bytes, train:<size> or a directory; None: bytes, or that of --init.
        data: directory or file of the text.
        steps: optimizer steps.
        batch: windows a step in each process.
        context: tokens of a window; None: those of the preset or the model.
        learning_rate: the highest one; None: that of the preset.
        seed: of weights and batches.
        checkpoint_every: steps between checkpoints.
        keep: checkpoints that stay.
        sample: tokens to write at the end.
        compile: have torch.compile make kernels for this model.
        activation_checkpointing: compute activations twice rather than keep them.
        shard: divide weights, gradients and optimizer among the processes.
        tensor_parallel: so many processes compute one batch, each with a part of each matrix.
    """

    preset: str
    config: str | None
    init: str | None
    layers: int | None
    heads: int | None
    embedding: int | None
    tokenizer: str | None
    data: Path
    steps: int
    batch: int
    context: int | None
    learning_rate: float | None
    seed: int
    checkpoint_every: int
    keep: int
    sample: int
    compile: bool
    activation_checkpointing: bool
    shard: bool
    tensor_parallel: int

    @property
    def tiny(self) -> bool:
        """Whether the model is model.py's."""
        return self.preset == TINY and not (self.config or self.init)

    @property
    def divided(self) -> bool:
        """Whether the ranks have parts of the model."""
        return self.shard or self.tensor_parallel > 1

    def gpt(self) -> GPTConfig:
        """The shape of the preset tiny. Raises ValueError if it is none."""
        names = ("context", "layers", "heads", "embedding")
        return GPTConfig(**{name: value for name in names if (value := getattr(self, name)) is not None})

    def peak_rate(self) -> float:
        """The highest learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.config or self.init:
            return LEARNING_RATE["--config" if self.config else "--init"]
        return LEARNING_RATE[TINY] if self.tiny else PRESETS[self.preset].learning_rate


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line; a bad one ends the process with code 2."""
    parser = Parser(prog="aifactory_trainer.pretrain", description="Train a language model on text.")
    add = parser.add_argument
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--preset", default=TINY, choices=(TINY, *PRESETS), help="size of the model (%(default)s)")
    model.add_argument("--config", help="an input or file with a configuration of transformers, as config.json")
    model.add_argument("--init", help="train a model on: an input's name or a directory")
    add("--tokenizer", type=words, help="bytes, train:<tokens>, an input's name or a directory (bytes; --init's own)")
    add("--steps", type=positive, default=300, help="optimizer steps (default: %(default)s)")
    add("--data", help="input, file or directory; default: the input `corpus`, else Python's own sources")
    add("--batch", type=positive, default=8, help="windows a step in each process (%(default)s)")
    add("--context", type=positive, help="tokens of a window (the preset's, or all that the model can read)")
    for name, what in (("layers", "blocks"), ("heads", "attention heads"), ("embedding", "width")):
        add(f"--{name}", type=positive, help=f"{what}, of the preset {TINY} ({getattr(GPTConfig(), name)})")
    add("--learning-rate", type=rate, help="highest learning rate (the preset's; --config 3e-4, --init 1e-4)")
    add("--seed", type=int, default=1337, help="of weights and batches (%(default)s)")
    add("--checkpoint-every", type=positive, default=50, help="steps (%(default)s)")
    add("--keep", type=positive, default=3, help="checkpoints that stay (%(default)s)")
    add("--sample", type=int, default=200, help="tokens to write at the end, unless divided (%(default)s)")
    add("--compile", action="store_true", help="a slow first step, then up to twice as fast on a GPU")
    add("--activation-checkpointing", action="store_true", help="less memory, a third more computing")
    add("--shard", action="store_true", help="divide weights, gradients and optimizer among the processes (FSDP2)")
    add("--tensor-parallel", type=positive, default=1, help="processes that compute one batch together (%(default)s)")
    given = vars(parser.parse_args(arguments))
    try:
        settings = Settings(**given | {"data": corpus.find_source(given.pop("data"))})
        check_options(settings)
        return settings
    except ValueError as error:
        parser.error(str(error))


def words(text: str) -> str:
    """A tokenizer."""
    kind, colon, size = text.partition(":")
    if kind == "train" and colon and not (size.isdigit() and tokens.LEAST <= int(size) <= 1_000_000):
        raise argparse.ArgumentTypeError(f"train:<tokens> is from {tokens.LEAST} (all bytes and a mark), as train:8000")
    return text


def check_options(settings: Settings) -> None:
    """What does not go together. Raises ValueError."""
    if settings.tiny:
        settings.gpt()
        if settings.tokenizer not in (None, "bytes"):
            raise ValueError(f"--preset {TINY} has bytes for tokens: leave out --tokenizer, or take a larger preset")
        for option in ("activation_checkpointing", "shard"):
            if getattr(settings, option) or settings.tensor_parallel > 1:
                name = option if getattr(settings, option) else "tensor_parallel"
                raise ValueError(f"--{name.replace('_', '-')} is for models larger than --preset {TINY}")
    elif given := [name for name in ("layers", "heads", "embedding") if getattr(settings, name) is not None]:
        raise ValueError(f"--{given[0]} is for --preset {TINY}; other shapes are given with --config")
    if settings.init and settings.tokenizer:
        raise ValueError("--init has a tokenizer, by whose tokens it was trained: leave out --tokenizer")

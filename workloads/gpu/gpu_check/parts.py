"""What every part shares: its sizes, its outcome, and the machine it is on."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from aifactory_trainer.model import GPTConfig


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        small: the model that is trained, killed and resumed.
        small_batch: windows a step of it.
        small_steps: steps of it.
        large: the model whose speed is measured, for training and for serving.
        large_batches: windows a step of it, the first that fits the memory is used.
        large_steps: steps of it.
        compiled: whether all is also done with torch.compile.
        clients: how many ask the server at the same time.
        answer_tokens: length of each answer.
        shard: shape of the transformers model that is trained divided, stopped and resumed.
        shard_vocabulary: tokens of its tokenizer.
        shard_context: tokens of a window.
        shard_steps: steps of it.
        big_batches: windows a step of the preset 1b, the first that fits the memory is used.
        big_steps: steps of it.
        llama: shape of the transformers model that is served and fine-tuned.
        llama_vocabulary: tokens of its tokenizer.
        bert: shape of the model whose embeddings are served.
        tune_batch: windows a step of its fine-tuning.
        tune_context: tokens of a window.
        tune_steps: steps whose time is taken.
        tune_rate: its learning rate.
    """

    small: GPTConfig
    small_batch: int
    small_steps: int
    large: GPTConfig
    large_batches: tuple[int, ...]
    large_steps: int
    compiled: bool
    clients: tuple[int, ...]
    answer_tokens: int
    shard: dict[str, int]
    shard_vocabulary: int
    shard_context: int
    shard_steps: int
    big_batches: tuple[int, ...]
    big_steps: int
    llama: dict[str, int]
    llama_vocabulary: int
    bert: dict[str, int]
    tune_batch: int
    tune_context: int
    tune_steps: int
    tune_rate: float


FULL = Sizes(
    small=GPTConfig(context=256, layers=4, heads=4, embedding=256),
    small_batch=32,
    small_steps=600,
    # The vocabulary is 257 bytes: 18 blocks of GPT-2's width give the 124 M weights that it has with 12 and 50,257.
    large=GPTConfig(context=1024, layers=18, heads=12, embedding=768),
    large_batches=(64, 32, 16, 8),
    large_steps=40,
    compiled=True,
    clients=(1, 32, 128),
    answer_tokens=128,
    shard={
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
    },
    shard_vocabulary=4000,
    shard_context=256,
    shard_steps=300,
    big_batches=(16, 8, 4),
    big_steps=30,
    # As Llama 3.2 1B but for its vocabulary: 1.1 G weights.
    llama={
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096,
    },
    llama_vocabulary=32_000,
    # As all-MiniLM-L6-v2.
    bert={
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
    },
    tune_batch=8,
    tune_context=1024,
    tune_steps=30,
    tune_rate=1e-3,
)
TINY = Sizes(
    small=GPTConfig(context=32, layers=1, heads=2, embedding=16),
    small_batch=4,
    small_steps=200,
    large=GPTConfig(context=64, layers=2, heads=2, embedding=32),
    large_batches=(4,),
    large_steps=20,
    compiled=False,
    clients=(1, 4),
    answer_tokens=16,
    shard={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    },
    shard_vocabulary=400,
    shard_context=32,
    shard_steps=120,
    big_batches=(2,),
    big_steps=20,
    llama={
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    },
    llama_vocabulary=1000,
    bert={
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 512,
    },
    tune_batch=2,
    tune_context=64,
    tune_steps=30,
    tune_rate=1e-2,
)


@dataclass
class Outcome:
    """What a part has found.

    Attributes:
        figures: what was measured; it has no limit to keep.
        checks: what must hold, each with what was seen.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)

    def check(self, what: str, holds: bool, seen: object) -> None:
        """Note whether something holds; the part goes on either way."""
        self.checks.append({"what": what, "holds": bool(holds), "seen": seen})


@dataclass(frozen=True)
class Place:
    """Where a part works.

    Attributes:
        sizes: how much it does.
        work: a directory that all parts share, in order.
        device: the GPU, or the CPU in miniature.
    """

    sizes: Sizes
    work: Path
    device: torch.device

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until the device has done what it was asked to."""
        if self.on_gpu:
            torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": "cpu",
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        found |= {
            "device": facts.name,
            "deviceMemoryGiB": round(facts.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        }
    return found


def text_folder(work: Path) -> Path:
    """A text that is the same each time, with something to learn in it: 40 files, 4 MB in all."""
    folder = work / "text"
    if not folder.exists():
        folder.mkdir(parents=True)
        for number in range(40):
            lines = (
                f"{line:05d}: the {('red', 'green', 'blue')[line * 7 % 3]} box number {line * number % 97} holds "
                f"{line * line % 89} of {number} things\n"
                for line in range(2000)
            )
            (folder / f"{number:02d}.txt").write_text("".join(lines))
    return folder

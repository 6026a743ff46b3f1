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


FULL = Sizes(
    small=GPTConfig(context=256, layers=4, heads=4, embedding=256),
    small_batch=32,
    small_steps=600,
    # The vocabulary is 257 bytes: 18 blocks of GPT-2's width give the 124 M weights that it has with 12 and 50,257.
    large=GPTConfig(context=1024, layers=18, heads=12, embedding=768),
    large_batches=(32, 16, 8),
    large_steps=80,
    compiled=True,
    clients=(1, 32, 128),
    answer_tokens=128,
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

"""How likely given tokens are to a model: what training on answers, comparing them and measuring have in common.

Role: from rows of tokens and labels to sums of log-probabilities. A row is {"input_ids": [...], "labels": [...]}; the
label of a token is the token, or `chat.IGNORED` where it is only read.

What always holds: the answer for a row depends neither on the rows beside it nor on how many processes share the work,
up to rounding; and every process gets all answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from aifactory_trainer.chat import IGNORED
from aifactory_trainer.distributed import World

Row = dict[str, list[int]]


class Rows(Protocol):
    """A list of rows, or what makes them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Row: ...


@dataclass(frozen=True, slots=True)
class Scores:
    """Of rows, in their order; on the CPU.

    Attributes:
        log_likelihood: the sum of the log-probabilities of the row's labels, in nats; float64.
        greedy: whether each label is the most likely token where it stands, those before it given; bool.
    """

    log_likelihood: Tensor
    greedy: Tensor


def pad(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows of one length; what is filled in is neither seen nor learnt."""
    longest = max(len(row["input_ids"]) for row in rows)
    filled = {
        name: torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in rows])
        for name, filler in (("input_ids", 0), ("labels", IGNORED))
    }
    lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
    return {**filled, "attention_mask": (torch.arange(longest) < lengths).long()}


def log_likelihoods(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """For each row the sum of the log-probabilities of its labels; and the logits behind each token that is read.

    Args:
        model: of transformers. It reads all tokens but the last, which nothing is asked behind.
        batch: as `pad` makes it, where the model is.
    """
    targets = batch["labels"][:, 1:]
    logits: Tensor = model(
        input_ids=batch["input_ids"][:, :-1], attention_mask=batch["attention_mask"][:, :-1], use_cache=False
    ).logits
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return -losses.view(targets.shape).sum(1), logits


@torch.no_grad()
def score(model: Any, rows: Rows, batch: int, world: World) -> Scores:
    """Ask the model about rows; each process asks about its share of them, and all equally often: see divided.py.

    Args:
        batch: rows at a time in each process.
    """
    model.eval()
    found = torch.zeros(2, len(rows), dtype=torch.float64)
    mine = range(world.rank, len(rows), world.size)
    for begin in range(0, -(-len(rows) // world.size), batch):
        part = list(mine[begin : begin + batch])
        padded = pad([rows[index] for index in part or [0]])
        inputs = {name: tensor.to(world.device) for name, tensor in padded.items()}
        with torch.autocast("cuda", torch.bfloat16, enabled=world.device.type == "cuda"):
            said, logits = log_likelihoods(model, inputs)
        targets = inputs["labels"][:, 1:]
        greedy = ((logits.argmax(-1) == targets) | (targets == IGNORED)).all(1)
        found[:, part] = torch.stack((said.double(), greedy.double())).cpu()[:, : len(part)]
    if world.size > 1 and len(rows):
        dist.all_reduce(found)
    return Scores(found[0], found[1] > 0)


def asked(rows: Rows) -> int:
    """How many tokens of them are asked about: all that have a label but the first, which has nothing before it."""
    return sum(label != IGNORED for index in range(len(rows)) for label in rows[index]["labels"][1:])

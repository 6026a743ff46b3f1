"""Fine-tuning of a model that the processes divide among them (FSDP2), by a loop of its own.

Role: what transformers' Trainer is for a model that each process has whole; settings mean the same. Not by the fsdp of
the Trainer: accelerate has none on CPUs, where it could be tested, and it would resume with as many processes only.

What always holds:
- The examples of a step follow from seed, step and how many a step had when the run began. So a run resumes with any
  number of processes, and sees each example as often as one that was not interrupted.
- All processes ask the model equally often: they put each block's weights together.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aifactory_trainer import NotFiniteError, Run, World, causal, give_up, likelihood, parallel
from aifactory_trainer.chat import IGNORED, Examples
from aifactory_trainer.likelihood import Row
from aifactory_trainer.tuning import WARM_UP, Tuning

log = logging.getLogger("aifactory")

GRADIENT_NORM = 1.0
PRINT_SECONDS = 2.0
Collate = Callable[[Sequence[Row]], dict[str, Tensor]]


class Plan:
    """Which examples each step learns from: part of the run's state, the same in all processes."""

    def __init__(self, examples: int, together: int, epochs: float, seed: int) -> None:
        """Args: together: examples of a step."""
        self._examples = examples
        self._together = together
        self._epochs = epochs
        self._seed = seed
        self._epoch, self._order = -1, [0]

    @property
    def steps(self) -> int:
        """All of them."""
        return math.ceil(self._epochs * self._per_epoch)

    @property
    def _per_epoch(self) -> int:
        return -(-self._examples // self._together)

    def of(self, step: int) -> list[int]:
        """The numbers of a step's examples; the last step of an epoch has what is left."""
        epoch, place = divmod(step, self._per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(self._examples, generator=generator).tolist()
        return self._order[place * self._together : (place + 1) * self._together]

    def state_dict(self) -> dict[str, Any]:
        """For `Run`."""
        return {"together": self._together}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """For `Run`."""
        if state["together"] != self._together:
            log.info("a step has %d examples, as when the run began", state["together"])
        self._together = state["together"]


def shard(model: Any, settings: Tuning, world: World) -> None:
    """Divide the model; it is the same object afterwards."""
    if settings.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    blocks = next(part for part in model.modules() if isinstance(part, nn.ModuleList))
    parallel.shard(model, blocks, world, 1, False)


def learn(
    model: Any,
    examples: Examples,
    collate: Collate,
    settings: Tuning,
    learning_rate: float,
    facts: Mapping[str, object],
    world: World,
) -> Run:
    """The loop; a run that resumes goes on.

    Args:
        model: as `shard` left it.
        facts: what a run that resumes must have in common with the one that wrote the checkpoint.

    Raises:
        CheckpointError: there is a checkpoint of another run.
    """
    model.reshard()  # to measure the base has left what no block has whole
    together = settings.batch * settings.accumulate * world.size
    plan = Plan(len(examples), together, settings.epochs, settings.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
    run = Run(
        model=model,
        optimizer=optimizer,
        plan=plan,
        facts=facts,
        checkpoint_every=settings.checkpoint_every,
        keep=settings.keep,
    )
    model.train()
    printed = 0.0
    try:
        for step in run.steps(plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * schedule(step, plan.steps)
            rows = [examples[index] for index in plan.of(step)]
            loss = gradients(model, rows, collate, settings.batch, world)
            parallel.clip(model.parameters(), GRADIENT_NORM)
            optimizer.step()
            optimizer.zero_grad()
            run.report(loss=loss, tokens=sum(len(row["input_ids"]) for row in rows))
            if time.monotonic() - printed > PRINT_SECONDS or step + 1 == plan.steps:
                printed = time.monotonic()
                show(step + 1, plan.steps, loss.item(), run)
    except NotFiniteError as error:
        give_up(f"{error}. A restart would end the same, use a smaller learning rate")
    return run


def schedule(step: int, total: int) -> float:
    """Share of the learning rate: a linear warm-up, then half a cosine down to 0, as the Trainer has it."""
    warm_up = math.ceil(total * WARM_UP)
    if step < warm_up:
        return step / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))


def gradients(model: Any, rows: Sequence[Row], collate: Collate, batch: int, world: World) -> Tensor:
    """The gradients of a step's mean loss for each token that is learnt.

    Args:
        rows: of all processes; each computes its share.
        batch: rows at a time.

    Returns:
        This process's share of the loss, times their number: the mean over the processes is the loss.
    """
    asked = max(1, likelihood.asked(rows))
    total = torch.zeros((), device=world.device)
    mine = rows[world.rank :: world.size]
    for begin in range(0, -(-len(rows) // world.size), batch):
        part = mine[begin : begin + batch] or [{**rows[0], "labels": [IGNORED] * len(rows[0]["labels"])}]
        inputs = {
            name: value.to(world.device) if isinstance(value, Tensor) else value
            for name, value in collate(part).items()
        }
        labels = inputs.pop("labels")[:, 1:]
        with torch.autocast("cuda", torch.bfloat16, enabled=world.device.type == "cuda"):
            logits = model(**inputs, use_cache=False).logits[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        loss = losses * (world.size / asked)  # FSDP takes the mean of the processes' gradients
        torch.autograd.backward(loss)
        total += loss.detach()
    return total


def show(step: int, total: int, loss: float, run: Run) -> None:
    """One line of progress, and an end to a run that has diverged."""
    if not math.isfinite(loss):
        give_up(f"the loss of step {step} is {loss}: a restart would end the same, use a smaller learning rate")
    if run.rank == 0:
        speed = f"  {run.tokens_per_second:,.0f} tokens/s" if run.tokens_per_second else ""
        log.info("step %d/%d  loss %.3f%s", step, total, loss, speed)


@torch.no_grad()
def round_off(model: Any, config: Any) -> None:
    """Give the weights the numbers that they have when they are published. Args: config: the base's."""
    for weight in model.parameters():
        weight.copy_(weight.to(causal.own_type(config)))


def whole(model: Any, config: Any, world: World) -> Any:
    """All of it on rank 0, to be published; the others get None. Every process has to ask."""
    state = parallel.whole_state(model, world.rank)
    return causal.filled(config, state, model.generation_config) if world.rank == 0 else None

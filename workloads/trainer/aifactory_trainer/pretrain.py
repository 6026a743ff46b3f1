"""Train a language model on text, from the beginning or from a model that there is.

    torchrun -m aifactory_trainer.pretrain --steps=300        (also: python -m aifactory_trainer.pretrain)

Role: a whole training program that is read in one sitting, and the example of how a program uses this package. What is
here is the training itself. The options are in options.py, the text in corpus.py, its tokens in tokens.py, and what
differs between models in subject.py: the smallest is in model.py, all others are transformers' own (causal.py).

What always holds: the batch of a step follows from the seed, the step and the number of ranks alone, so the step is
the position in the data, and a run that was killed and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from aifactory_trainer import (
    NotFiniteError,
    Run,
    World,
    ahead,
    corpus,
    errors,
    export_huggingface,
    flops,
    give_up,
    tokens,
)
from aifactory_trainer.checkpoint import RUN, SHARDED
from aifactory_trainer.options import Settings, parse
from aifactory_trainer.program import BadInputError, carry_out, leave
from aifactory_trainer.subject import Subject, make
from aifactory_trainer.subject import look as look_at_model

log = logging.getLogger("aifactory")

WARM_UP_STEPS = 20
FINAL_LEARNING_RATE = 0.05
"""Share of the learning rate that is left at the end."""
BETAS = (0.9, 0.95)
GRADIENT_NORM = 1.0
MEASURED_WINDOWS = 512
MEASURED_TOGETHER = 4096
"""Tokens of the windows that are measured at a time, or one window."""
PRINT_SECONDS = 2.0


def train(settings: Settings, world: World) -> None:
    """The whole program: data, model, loop, measure, export."""
    text = corpus.load(settings.data)
    subject = make(settings, text, world)
    training, held_out = (tokens.row(part, subject.tokens) for part in (text.train, text.held_out))
    for name, row in (("training", training), ("held-out", held_out)):
        if len(row) <= subject.context + 1:
            raise too_short(text, name, len(row), subject.context)
    tokens_a_byte = len(held_out) / sum(map(len, text.held_out))
    del text  # the rows are as large or larger
    usage = Usage(subject, world)
    network, data = subject.distribute(world, settings)
    optimizer = torch.optim.AdamW(subject.groups(), lr=settings.peak_rate(), betas=BETAS, fused=True)
    run = Run(
        model=subject.model,
        optimizer=optimizer,
        facts=subject.facts,
        checkpoint_every=settings.checkpoint_every,
        keep=settings.keep,
    )
    log.info(
        "%d parameters, %.1f million tokens from %s, %d ranks on %s, %d threads each%s",
        usage.numbers,
        len(training) / 1e6,
        settings.data,
        world.size,
        world.device.type,
        torch.get_num_threads(),
        ", compiled" if settings.compile else "",
    )
    printed = 0.0
    for step in run.steps(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.peak_rate() * group["rate"] * schedule(step, settings.steps)
        windows = to_device(batch(training, step, settings, subject.context, data), world.device)
        loss = train_step(subject, network, optimizer, windows)
        run.report(loss=loss, tokens=settings.batch * subject.context * data.size)
        if time.monotonic() - printed > PRINT_SECONDS or step + 1 == settings.steps:
            printed = time.monotonic()
            memory, mfu = usage.peak_memory(), usage.mfu(run.tokens_per_second)
            run.report(peakMemoryGiB=memory)
            if mfu is not None:
                run.report(mfu=mfu)
            show(step + 1, settings.steps, loss.item(), run, mfu)
    finish(settings, world, data, subject, held_out, tokens_a_byte, run)


def look(settings: Settings, world: World) -> None:
    """All that can be found to be in the way without a GPU and without weights. A tokenizer is not learnt for it."""
    text = corpus.load(settings.data)
    words, context, facts = look_at_model(settings, text, world)
    for name, part in (("training", text.train), ("held-out", text.held_out)):
        if words.digest is not None and not tokens.is_longer(part, words, context + 1):
            raise too_short(text, name, len(tokens.row(part, words)), context)
    ahead.check_checkpoint(SHARDED if settings.divided else RUN, facts)


def too_short(text: corpus.Corpus, name: str, count: int, context: int) -> BadInputError:
    """What is said of a text that has no window."""
    return BadInputError(
        f"{text.source}: the {name} text of {count} tokens is shorter than a window of {context}: give more text, or a "
        "smaller --context"
    )


class Usage:
    """How well the devices are used, as figures for the progress.

    Attributes:
        numbers: of the model.
    """

    def __init__(self, subject: Subject, world: World) -> None:
        """Before the model is divided."""
        self.numbers = sum(weight.numel() for weight in subject.model.parameters())
        self._operations = flops.per_token(self.numbers, *subject.shape, subject.context)
        self._device = world.device
        peak = flops.peak(world.device)
        self._peak = peak * world.size if peak else None

    def peak_memory(self) -> float:
        """The most memory that this process has had so far, in GiB; on a GPU the GPU's."""
        gpu = self._device.type == "cuda"
        most = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        return round(most / 2**30, 3)

    def mfu(self, tokens_per_second: float | None) -> float | None:
        """The share of all devices' peak that is used (model flops utilisation), where that is known."""
        if not (self._peak and tokens_per_second):
            return None
        return round(tokens_per_second * self._operations / self._peak, 4)


def train_step(subject: Subject, network: nn.Module, optimizer: torch.optim.Optimizer, windows: Tensor) -> Tensor:
    """Learn from the windows; returns their loss. Nothing here waits for a GPU: meanwhile the next step is prepared."""
    loss = backward(subject, network, windows)
    subject.clip(GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return loss


def backward(subject: Subject, network: nn.Module, windows: Tensor) -> Tensor:
    """Loss of the windows, and its gradients; matrix products are bfloat16 on a GPU."""
    with torch.autocast("cuda", torch.bfloat16, enabled=windows.is_cuda):
        loss = next_token_loss(subject.predict(network, windows[:, :-1]), windows[:, 1:])
    torch.autograd.backward(loss)
    return loss


def show(step: int, total: int, loss: float, run: Run, mfu: float | None) -> None:
    """One line of progress, and an end to a run that has diverged."""
    if not math.isfinite(loss):
        give_up(f"the loss of step {step} is {loss}: a restart would end the same, use a smaller --learning-rate")
    if run.rank == 0:
        speed = f"  {run.tokens_per_second:,.0f} tokens/s" if run.tokens_per_second else ""
        log.info("step %d/%d  loss %.3f%s%s", step, total, loss, speed, f"  MFU {mfu:.1%}" if mfu else "")


def finish(
    settings: Settings,
    world: World,
    data: World,
    subject: Subject,
    held_out: Tensor,
    tokens_a_byte: float,
    run: Run,
) -> None:
    """Measure the model, where that costs little next to an untrained one, show what it writes, and export it."""
    subject.model.eval()
    metrics, said = {}, []
    for name, model in (("heldOut", subject.model), ("untrained", subject.untrained(settings.seed))):
        if model is not None:
            bits = mean_loss(subject, model, held_out, data) / math.log(2) * tokens_a_byte
            metrics[f"{name}BitsPerByte"] = round(bits, 4)
            said.append(f"{bits:.3f}")
    whole = subject.whole(world)
    if world.rank != 0:
        return
    log.info("held-out text: %s", " bits per byte, untrained ".join(said) + ("" if said[1:] else " bits per byte"))
    if settings.sample > 0 and (sample := subject.sample(settings.sample, settings.seed)):
        log.info("a sample:\n%s", sample)
    path = export_huggingface(whole, subject.tokenizer(), metrics=metrics)
    log.info("exported to %s", path)
    run.report(heldOutBitsPerByte=metrics["heldOutBitsPerByte"])
    run.flush()


def batch(row: Tensor, step: int, settings: Settings, context: int, world: World) -> Tensor:
    """This rank's windows (batch, context + 1) of a step: all ranks draw the same places and take every size-th."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    starts = torch.randint(len(row) - context, (settings.batch * world.size,), generator=generator)
    return windows_at(row, starts[world.rank :: world.size], context)


def windows_at(row: Tensor, starts: Tensor, context: int) -> Tensor:
    """Windows of context + 1 tokens."""
    return row[starts[:, None] + torch.arange(context + 1)].long()


def to_device(windows: Tensor, device: torch.device) -> Tensor:
    """The windows where they are needed. A copy from memory that is not pinned would wait until the GPU is idle."""
    return windows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else windows


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def schedule(step: int, total: int) -> float:
    """Share of the learning rate: a linear warm-up, then half a cosine down to FINAL_LEARNING_RATE."""
    warm = min(1.0, (step + 1) / min(WARM_UP_STEPS, total))
    return warm * (FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * 0.5 * (1 + math.cos(math.pi * step / total)))


@torch.no_grad()
def mean_loss(subject: Subject, model: nn.Module, row: Tensor, world: World) -> float:
    """Mean cross entropy, in nats, over evenly spaced windows of a text; each rank measures its share of them, which
    is as large as any other's: where a model is divided, all ranks compute it together."""
    count = -(-MEASURED_WINDOWS // world.size) * world.size
    starts = torch.linspace(0, len(row) - subject.context - 1, count).long()[world.rank :: world.size]
    total = torch.zeros(2, dtype=torch.float64)
    with torch.compiler.set_stance("force_eager"):  # to make kernels for it would take longer than to do without
        for part in torch.split(starts, max(1, MEASURED_TOGETHER // subject.context)):
            windows = windows_at(row, part, subject.context).to(world.device)
            loss = next_token_loss(subject.predict(model, windows[:, :-1]), windows[:, 1:])
            total += torch.tensor([loss.item() * len(part), len(part)])
    if dist.is_initialized():
        dist.all_reduce(total)
    return float(total[0] / total[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    settings = parse(arguments)

    def work(world: World) -> None:
        if world.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 for what is not bfloat16: the measuring
        try:
            train(settings, world)
        except NotFiniteError as error:
            give_up(f"{error}. A restart would end the same, use a smaller --learning-rate")

    carry_out(work, partial(look, settings))


if __name__ == "__main__":
    errors.install()
    main()
    leave()

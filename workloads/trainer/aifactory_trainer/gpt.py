"""Train a small language model on text, byte by byte.

    torchrun -m aifactory_trainer.gpt --steps=300        (also: python -m aifactory_trainer.gpt)

Role: a whole training program that is read in one sitting, and the example of how a program uses this package. The
model is in model.py, the text in corpus.py; what is here is the training itself.

What always holds: the batch of a step follows from the seed, the step and the number of ranks alone, so the step is
the position in the data, and a run that was killed and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from aifactory_trainer import NotFiniteError, Run, World, corpus, errors, export_huggingface, give_up, start
from aifactory_trainer.model import END_OF_TEXT, GPT, GPTConfig, generate
from aifactory_trainer.program import Parser, leave, positive, rate

log = logging.getLogger("aifactory")

WARM_UP_STEPS = 20
FINAL_LEARNING_RATE = 0.05
"""Share of the learning rate that is left at the end."""
EMBEDDING_RATE = 4.0
"""Learning rate of the embedding, in multiples of that of the blocks. Held-out bits per byte after 300 steps, for
0.5, 1, 2 and 4: 2.45, 2.39, 2.36, 2.33."""
WEIGHT_DECAY = 0.1
BETAS = (0.9, 0.95)
GRADIENT_NORM = 1.0
MEASURED_WINDOWS = 512
PRINT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """One training run, as the command line asks for it; but for the first two, fields are options of the same name.

    Attributes:
        model: shape of the model; its context is the window length, in bytes.
        source: directory or file of the text.
        steps: optimizer steps.
        batch: windows a step in each process.
        learning_rate: the highest one.
        seed: of weights and batches.
        checkpoint_every: steps between checkpoints.
        keep: checkpoints that stay.
        sample: bytes to write at the end.
        compile: have torch.compile make kernels for this model.
    """

    model: GPTConfig
    source: Path
    steps: int
    batch: int
    learning_rate: float
    seed: int
    checkpoint_every: int
    keep: int
    sample: int
    compile: bool


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line; a bad one ends the process with code 2."""
    default = GPTConfig()
    parser = Parser(prog="aifactory_trainer.gpt", description="Train a byte-level language model.")
    parser.add_argument("--steps", type=positive, default=300, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--data", help="file or directory; default: the input `corpus`, else Python's own sources")
    parser.add_argument("--batch", type=positive, default=8, help="windows a step in each process (%(default)s)")
    parser.add_argument(
        "--context", type=positive, default=default.context, help="window length in bytes (%(default)s)"
    )
    parser.add_argument("--layers", type=positive, default=default.layers, help="blocks (%(default)s)")
    parser.add_argument("--heads", type=positive, default=default.heads, help="attention heads (%(default)s)")
    parser.add_argument("--embedding", type=positive, default=default.embedding, help="width (%(default)s)")
    parser.add_argument("--learning-rate", type=rate, default=3e-3, help="highest learning rate (%(default)s)")
    parser.add_argument("--seed", type=int, default=1337, help="of weights and batches (%(default)s)")
    parser.add_argument("--checkpoint-every", type=positive, default=50, help="steps (%(default)s)")
    parser.add_argument("--keep", type=positive, default=3, help="checkpoints that stay (%(default)s)")
    parser.add_argument("--sample", type=int, default=200, help="bytes to write at the end (%(default)s)")
    parser.add_argument(
        "--compile", action="store_true", help="compile the model: a slow first step, then up to twice as fast on a GPU"
    )
    given = vars(parser.parse_args(arguments))
    try:
        model = GPTConfig(*(given.pop(name) for name in ("context", "layers", "heads", "embedding")))
        return Settings(model, corpus.find_source(given.pop("data")), **given)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))


def train(settings: Settings, world: World) -> None:
    """The whole program: data, model, loop, measure, export."""
    text = corpus.load(settings.source)
    training, held_out = to_tokens(text.train), to_tokens(text.held_out)
    for name, tokens in (("training", training), ("held-out", held_out)):
        if len(tokens) <= settings.model.context + 1:
            raise ValueError(f"{text.source}: the {name} text of {len(tokens)} bytes is shorter than --context")
    del text  # the rows are twice as large already
    torch.manual_seed(settings.seed)
    model = GPT(settings.model).to(world.device)
    optimizer = make_optimizer(model, settings.learning_rate)
    network = distribute(model, world)
    if settings.compile:
        network = compiled(network, world.device)
    run = Run(model=model, optimizer=optimizer, checkpoint_every=settings.checkpoint_every, keep=settings.keep)
    log.info(
        "%d parameters, %.1f MB of text from %s, %d ranks on %s, %d threads each%s",
        sum(parameter.numel() for parameter in model.parameters()),
        len(training) / 1e6,
        settings.source,
        world.size,
        world.device.type,
        torch.get_num_threads(),
        ", compiled" if settings.compile else "",
    )
    printed = 0.0
    for step in run.steps(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * group["rate"] * schedule(step, settings.steps)
        loss = train_step(network, optimizer, to_device(batch(training, step, settings, world), world.device))
        run.report(loss=loss, tokens=settings.batch * settings.model.context * world.size)
        if time.monotonic() - printed > PRINT_SECONDS or step + 1 == settings.steps:
            printed = time.monotonic()
            show(step + 1, settings.steps, loss.item(), run)
    finish(settings, world, model, held_out, run)


def train_step(network: nn.Module, optimizer: torch.optim.Optimizer, windows: Tensor) -> Tensor:
    """Learn from the windows; returns their loss. Nothing here waits for a GPU: meanwhile the next step is prepared."""
    loss = backward(network, windows)
    nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return loss


def backward(network: nn.Module, windows: Tensor) -> Tensor:
    """Loss of the windows, and its gradients; matrix products are bfloat16 on a GPU."""
    with torch.autocast("cuda", torch.bfloat16, enabled=windows.is_cuda):
        loss = next_byte_loss(network(windows[:, :-1]), windows[:, 1:])
    torch.autograd.backward(loss)
    return loss


def show(step: int, total: int, loss: float, run: Run) -> None:
    """One line of progress, and an end to a run that has diverged."""
    if not math.isfinite(loss):
        give_up(f"the loss of step {step} is {loss}: a restart would end the same, use a smaller --learning-rate")
    if run.rank == 0:
        speed = run.tokens_per_second
        log.info("step %d/%d  loss %.3f%s", step, total, loss, f"  {speed:,.0f} tokens/s" if speed else "")


def finish(settings: Settings, world: World, model: GPT, held_out: Tensor, run: Run) -> None:
    """Measure the model next to an untrained one, show what it writes, and export it."""
    torch.manual_seed(settings.seed)
    untrained = GPT(settings.model).to(world.device)
    metrics = {
        "heldOutBitsPerByte": bits_per_byte(model, held_out, world),
        "untrainedBitsPerByte": bits_per_byte(untrained, held_out, world),
    }
    if world.rank == 0:
        log.info("held-out text: %(heldOutBitsPerByte).3f bits per byte, untrained %(untrainedBitsPerByte).3f", metrics)
        generator = torch.Generator().manual_seed(settings.seed)
        sample = bytes(generate(model, b"def ", settings.sample, generator=generator))
        log.info("a sample:\ndef %s", sample.decode(errors="replace"))
        path = export_huggingface(model, metrics=metrics)
        log.info("exported to %s", path)
        run.report(heldOutBitsPerByte=metrics["heldOutBitsPerByte"])
        run.flush()


def to_tokens(files: Sequence[bytes]) -> Tensor:
    """All files in a row, END_OF_TEXT before each and after the last, written into memory of that size."""
    row = torch.full((sum(map(len, files)) + len(files) + 1,), END_OF_TEXT, dtype=torch.int16)
    begin = 1
    for file in files:
        row[begin : begin + len(file)] = torch.frombuffer(bytearray(file), dtype=torch.uint8)
        begin += len(file) + 1
    return row


def batch(tokens: Tensor, step: int, settings: Settings, world: World) -> Tensor:
    """This rank's windows (batch, context + 1) of a step: all ranks draw the same places and take every size-th."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    starts = torch.randint(len(tokens) - settings.model.context, (settings.batch * world.size,), generator=generator)
    return windows_at(tokens, starts[world.rank :: world.size], settings.model.context)


def windows_at(tokens: Tensor, starts: Tensor, context: int) -> Tensor:
    """Windows of context + 1 tokens."""
    return tokens[starts[:, None] + torch.arange(context + 1)].long()


def to_device(windows: Tensor, device: torch.device) -> Tensor:
    """The windows where they are needed. A copy from memory that is not pinned would wait until the GPU is idle."""
    return windows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else windows


def next_byte_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def make_optimizer(model: GPT, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW. The embedding is a table: it learns faster, and has no weight decay, which would fade rare bytes."""
    groups = [
        {"params": list(model.blocks.parameters()), "weight_decay": WEIGHT_DECAY, "rate": 1.0},
        {"params": list(model.embedding.parameters()), "weight_decay": 0.0, "rate": EMBEDDING_RATE},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)


def schedule(step: int, total: int) -> float:
    """Share of the learning rate: a linear warm-up, then half a cosine down to FINAL_LEARNING_RATE."""
    warm = min(1.0, (step + 1) / min(WARM_UP_STEPS, total))
    return warm * (FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * 0.5 * (1 + math.cos(math.pi * step / total)))


def distribute(model: GPT, world: World) -> nn.Module:
    """Average the gradients of all ranks while they are computed."""
    if world.size == 1:
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    # The buffers are constant tables: to send them before each step would only cost time.
    return DistributedDataParallel(model, device_ids=devices, forward_sync_buffers=False, gradient_as_bucket_view=True)


def compiled(network: nn.Module, device: torch.device) -> nn.Module:
    """The same network, as kernels made for it in the first step. Only training uses it: the model itself stays what is
    saved, measured and exported. Around DistributedDataParallel, for gradients to be sent while others are computed."""
    variable, names = ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++",))
    names = (os.environ[variable],) if variable in os.environ else names
    if not any(map(shutil.which, names)):
        give_up(
            f"--compile needs a compiler ({' or '.join(names)}) and Python's headers, and this image has none: build "
            "it on one that has (docker build --build-arg BASE=python:3.11), or leave --compile out"
        )
    return cast(nn.Module, torch.compile(network))


@torch.no_grad()
def bits_per_byte(model: GPT, tokens: Tensor, world: World) -> float:
    """Mean cross entropy, in bits, over evenly spaced windows of a text; each rank measures its share of them."""
    context = model.config.context
    starts = torch.linspace(0, len(tokens) - context - 1, MEASURED_WINDOWS).long()[world.rank :: world.size]
    total = torch.zeros(2, dtype=torch.float64)
    for part in torch.split(starts, 32):
        windows = windows_at(tokens, part, context).to(world.device)
        total += torch.tensor([next_byte_loss(model(windows[:, :-1]), windows[:, 1:]).item() * len(part), len(part)])
    if world.size > 1:
        dist.all_reduce(total)
    return round(float(total[0] / total[1]) / math.log(2), 4)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    settings = parse(arguments)
    world = start()
    if world.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what is not bfloat16: the measuring
    if world.rank != 0:
        log.setLevel(logging.WARNING)
    try:
        train(settings, world)
    except NotFiniteError as error:
        give_up(f"{error}. A restart would end the same, use a smaller --learning-rate")


if __name__ == "__main__":
    errors.install()
    main()
    leave()

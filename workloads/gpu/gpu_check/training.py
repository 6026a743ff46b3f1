"""Parts about training: killed and resumed, random numbers, ranks, speed."""

from __future__ import annotations

import copy
import gc
import inspect
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from aifactory_trainer import Run, World, flops, pretrain, subject
from aifactory_trainer.environment import Environment
from aifactory_trainer.model import GPT, VOCABULARY, GPTConfig
from aifactory_trainer.subject import Tiny
from gpu_check.parts import Outcome, Place, Sizes, text_folder
from gpu_check.processes import EndedBadly, Training, shape

BITS_TOLERANCE = 0.03
"""Bits per byte on held-out text by which two runs with the same seed may differ: the backward pass of attention adds
up in no fixed order on a GPU."""


def resumed(place: Place) -> Outcome:
    """The training program: uninterrupted, and ended half-way by SIGTERM and resumed, also with --compile."""
    outcome, sizes = Outcome(), place.sizes
    every = sizes.small_steps // 10
    arguments = (
        *shape(sizes.small),
        f"--batch={sizes.small_batch}",
        f"--steps={sizes.small_steps}",
        f"--checkpoint-every={every}",
        f"--data={text_folder(place.work)}",
    )
    whole = training(place, "whole", arguments)

    def interrupted(mode: tuple[str, tuple[str, ...]]) -> tuple[str, Training]:
        name, more = mode
        run = training(place, name, (*arguments, *more))
        stop_and_resume(outcome, name, run, every, sizes.small_steps)
        return name, run

    # At the same time: most of theirs goes into starting processes and compiling.
    with ThreadPoolExecutor() as pool:
        uninterrupted = pool.submit(whole.run)
        runs = {"whole": whole, **dict(pool.map(interrupted, modes(sizes, "resumed")))}
        uninterrupted.result()
    bits = {name: run.metrics["heldOutBitsPerByte"] for name, run in runs.items()}
    furthest = round(max(abs(found - bits["whole"]) for found in bits.values()), 4)
    outcome.check(f"all end as uninterrupted, within {BITS_TOLERANCE} bits", furthest <= BITS_TOLERANCE, bits)
    gained = whole.metrics["untrainedBitsPerByte"] - bits["whole"]
    outcome.check("it has learnt more than two bits a byte", gained > 2, round(gained, 3))
    device = "cuda" if place.on_gpu else "cpu"
    outcome.check("it ran on the device", f"1 ranks on {device}" in whole.log, device)
    outcome.figures = {
        "finalLoss": {name: run.last_step["loss"] for name, run in runs.items()},
        "heldOutBitsPerByte": bits,
    }
    return outcome


def stop_and_resume(outcome: Outcome, name: str, run: Training, every: int, steps: int) -> None:
    """End it by SIGTERM when it has written its first checkpoint, and have another attempt end well."""
    code = run.stop_after(every)
    stopped, log = run.steps_saved()[-1], run.log
    outcome.check(f"{name}: SIGTERM ends it with an error", code != 0, code)
    outcome.check(f"{name}: it leaves a checkpoint of its step", f"stopped at step {stopped} of" in log, stopped)
    outcome.check(f"{name}: that was before its end", stopped < steps, stopped)
    outcome.check(f"{name}: the pod's message says so", run.message.startswith("Terminated: stopped at"), run.message)
    run.run()
    outcome.check(f"{name}: the next attempt goes on there", f"step-{stopped}: step {stopped}" in run.log, stopped)


def divided(place: Place) -> Outcome:
    """A Llama whose weights are divided (FSDP2), here among one: stopped and resumed it ends as one that is whole."""
    outcome, steps = Outcome(), place.sizes.shard_steps
    arguments = (
        f"--config={llama_file(place)}",
        f"--tokenizer=train:{place.sizes.shard_vocabulary}",
        f"--context={place.sizes.shard_context}",
        f"--batch={place.sizes.small_batch}",
        f"--steps={steps}",
        f"--checkpoint-every={steps // 10}",
        f"--data={text_folder(place.work)}",
        "--learning-rate=2e-3",
        "--sample=0",
    )
    whole = training(place, "replicated", arguments)
    run = training(place, "divided", (*arguments, "--shard"))
    with ThreadPoolExecutor() as pool:
        uninterrupted = pool.submit(whole.run)
        stop_and_resume(outcome, "divided", run, steps // 10, steps)
        uninterrupted.result()
    bits = {name: found.metrics["heldOutBitsPerByte"] for name, found in (("whole", whole), ("divided", run))}
    apart = abs(bits["whole"] - bits["divided"])
    outcome.check(f"it ends as one that is whole, within {BITS_TOLERANCE} bits", apart <= BITS_TOLERANCE, bits)
    outcome.check("it has learnt: less than three bits a byte", bits["divided"] < 3, bits)
    files = {path.suffix for path in (run.root / "checkpoints" / f"step-{steps}").iterdir()}
    outcome.check("its checkpoints are those of torch.distributed.checkpoint", ".distcp" in files, sorted(files))
    outcome.figures = {"heldOutBitsPerByte": bits, "finalLoss": run.last_step["loss"]}
    return outcome


def llama_file(place: Place) -> Path:
    """A configuration of transformers, as --config takes it."""
    path = place.work / "shape.json"
    path.write_text(json.dumps({"model_type": "llama", **place.sizes.shard}))
    return path


def speed_1b(place: Place) -> Outcome:
    """The preset 1b with weights divided and kernels compiled; in miniature another model, not compiled."""
    from gpu_check.llama import tokenizer

    outcome, sizes = Outcome(), place.sizes
    words = place.work / "words"
    tokenizer(sizes.llama_vocabulary).save_pretrained(words)
    model = ("--preset=1b", "--compile") if place.on_gpu else (f"--config={llama_file(place)}", "--context=16")
    batch = sizes.big_batches[0]
    options = (*model, "--shard", f"--tokenizer={words}", "--checkpoint-every=1000000", "--keep=1", "--sample=0")
    run, seconds, batch = large_program(place, batch, "1b", options, sizes.big_batches, sizes.big_steps)
    found = run.last_step
    numbers = int(run.log.partition(" parameters, ")[0].split()[-1])
    outcome.figures = {
        "parameters": numbers,
        "batch": batch,
        "tokensPerSecond": found["tokensPerSecond"],
        "peakMemoryGiB": gib(run.peak_bytes),
        "seconds": round(seconds, 1),
        "loss": found["loss"],
        "mfu": found["mfu"],
    }
    outcome.check("the loss is a number", found["loss"] < 20, found)
    outcome.check("how well the device is used is told", found["mfu"] is not None or not place.on_gpu, found)
    return outcome


def training(place: Place, name: str, arguments: Sequence[str]) -> Training:
    """The training program as it is started on this device: in miniature without torchrun, which costs a process."""
    return Training(place.work / name, arguments, processes=int(place.on_gpu))


def modes(sizes: Sizes, name: str) -> list[tuple[str, tuple[str, ...]]]:
    """The names under which something is done, and the options for it."""
    return [(name, ()), *([(f"{name}Compiled", ("--compile",))] if sizes.compiled else [])]


def random_state(place: Place) -> Outcome:
    """Dropout draws on the device: a resumed run draws what an uninterrupted one draws, bit for bit."""
    outcome, steps = Outcome(), 20

    def losses(folder: Path, until: int) -> list[float]:
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(32, 64), nn.Dropout(0.5), nn.Linear(64, 1)).to(place.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        env = Environment(folder / "checkpoints", folder / "output", 0, None, None, 1e9)
        run, found = Run(model=model, optimizer=optimizer, environment=env, checkpoint_every=10), []
        for step in run.steps(steps):
            if step == until:
                break
            loss = model(torch.rand(16, 32, device=place.device)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.report(loss=loss)
            found.append(loss.item())
        return found

    whole = losses(place.work / "random-whole", steps)
    first = losses(place.work / "random-parted", 13)  # three steps after its checkpoint
    rest = losses(place.work / "random-parted", steps)
    outcome.check("the first part is that of the whole run", first == whole[:13], len(first))
    outcome.check("the resumed part is too, bit for bit", rest == whole[10:], {"whole": whole[10:], "resumed": rest})
    return outcome


def ranks(place: Place) -> Outcome:
    """NCCL and gloo in one process group, and DistributedDataParallel as the training program makes it."""
    outcome = Outcome()
    backend = "cpu:gloo,cuda:nccl" if place.on_gpu else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        for device in {place.device, torch.device("cpu")}:
            tensor = torch.ones(3, device=device)
            dist.all_reduce(tensor)
            outcome.check(f"a sum over ranks on {device.type}", bool((tensor == 1).all()), tensor.tolist())
        torch.manual_seed(1)
        alone = GPT(place.sizes.small).to(place.device)
        windows = torch.randint(0, VOCABULARY, (4, place.sizes.small.context + 1), device=place.device)
        for name, more in modes(place.sizes, "ddp"):
            model = copy.deepcopy(alone)
            with older_torch(outcome):
                network = subject.replicate(model, World(0, 2, place.device))
            pretrain.backward(Tiny(model), subject.compiled(network, place.device) if more else network, windows)
            bare = copy.deepcopy(alone)
            pretrain.backward(Tiny(bare), bare, windows)
            pairs = [(a.grad, b.grad) for a, b in zip(model.parameters(), bare.parameters(), strict=True)]
            furthest = max(float((mine - own).norm() / own.norm().clamp(min=1e-6)) for mine, own in pairs)
            limit = 0.05 if more else 0.01  # other kernels round bfloat16 elsewhere
            outcome.check(f"{name}: gradients are the bare model's, within {limit}", furthest <= limit, furthest)
    finally:
        dist.destroy_process_group()
    if torch.cuda.device_count() == 1:
        said = two_ranks(place)
        outcome.check("two ranks on one GPU are told what to change", "procPerNode" in said, said)
    return outcome


@contextmanager
def older_torch(outcome: Outcome) -> Iterator[None]:
    """The training program is for the torch of its lock file; one before 2.15 calls an option by another name."""
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters:
        yield
        return
    outcome.figures["olderTorch"] = "DistributedDataParallel(broadcast_buffers=...) in place of forward_sync_buffers"

    def wrap(model: nn.Module, *, forward_sync_buffers: bool, **options: Any) -> DistributedDataParallel:
        return DistributedDataParallel(model, broadcast_buffers=forward_sync_buffers, **options)

    with mock.patch.object(subject, "DistributedDataParallel", wrap):
        yield


def two_ranks(place: Place) -> str:
    """What a person reads when there are more ranks than GPUs; NCCL takes one for each."""
    run = Training(place.work / "two", (), 2, "gpu_check.pair")
    try:
        run.run(60)
    except EndedBadly as error:
        return (run.message or str(error))[-1500:]
    return "they work"


def speed(place: Place) -> Outcome:
    """The training program with a model of GPT-2's size, and beside it the same network in a loop of ten lines; both
    also with torch.compile."""
    outcome, sizes = Outcome(), place.sizes
    parameters = sum(weight.numel() for weight in GPT(sizes.large).parameters())
    batch = sizes.large_batches[0]
    outcome.figures = {
        "parameters": parameters,
        "context": sizes.large.context,
        "flopsPerToken": flops_per_token(sizes.large, parameters),
        "peakFlops": flops.peak(place.device),
    }
    for name, more in modes(sizes, "program"):
        options = (*shape(sizes.large), "--learning-rate=6e-4", "--checkpoint-every=1000000", "--keep=1", "--sample=20")
        run, seconds, batch = large_program(
            place, batch, name, (*options, *more), sizes.large_batches, sizes.large_steps
        )
        found = run.last_step["tokensPerSecond"]
        outcome.figures[name] = {
            "tokensPerSecond": found,
            "peakMemoryGiB": gib(run.peak_bytes),
            "seconds": round(seconds, 1),
            "checkpointSeconds": float(run.log.partition(" written in ")[2].split()[0]),
        } | utilisation(place, found, sizes.large, parameters)
        outcome.check(f"{name}: the loss is a number", run.last_step["loss"] < 6, run.last_step)
    outcome.figures["batch"] = batch
    for name, more in modes(sizes, "plainLoop"):
        try:
            loop = plain_loop(place, batch, bool(more))
            loop |= utilisation(place, loop["tokensPerSecond"], sizes.large, parameters)
            program = outcome.figures[name.replace("plainLoop", "program")]["tokensPerSecond"]
            outcome.figures[name] = loop | {"programToThis": round(program / loop["tokensPerSecond"], 3)}
        except Exception as error:  # the others' figures stand
            outcome.check(f"{name} runs", False, f"{type(error).__name__}: {error}"[:1500])
        gc.collect()
        torch.cuda.empty_cache()
    return outcome


def large_program(
    place: Place, batch: int, name: str, options: Sequence[str], batches: Sequence[int], steps: int
) -> tuple[Training, float, int]:
    """The program with a large model; where a batch does not fit the memory, with the next smaller one."""
    for size in (size for size in batches if size <= batch):
        rest = (f"--batch={size}", f"--steps={steps}", f"--data={text_folder(place.work)}")
        run = training(place, f"{name}-{size}", (*options, *rest))
        try:
            return run, run.run(), size
        except EndedBadly:
            if "out of memory" not in run.log or size == batches[-1]:
                raise
    raise AssertionError("no batch was tried")


def plain_loop(place: Place, batch: int, compiled: bool) -> dict[str, Any]:
    """The same network, text on the device, no checkpoints, no reports, no signals."""
    text = b"".join(path.read_bytes() for path in sorted(text_folder(place.work).iterdir()))
    tokens, context = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(place.device), place.sizes.large.context
    torch.manual_seed(1)
    model = GPT(place.sizes.large).to(place.device)
    network = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    places = torch.arange(context + 1, device=place.device)

    def step() -> None:
        starts = torch.randint(len(tokens) - context, (batch, 1), device=place.device)
        pretrain.backward(Tiny(model), network, tokens[starts + places].long())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    if place.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    began, steps = time.monotonic(), max(4, place.sizes.large_steps // 3)
    for _ in range(4):
        step()
    place.wait()
    warm = time.monotonic()
    for _ in range(steps):
        step()
    place.wait()
    peak = torch.cuda.max_memory_allocated() if place.on_gpu else None
    speed = steps * batch * context / (time.monotonic() - warm)
    return {"tokensPerSecond": round(speed), "warmUpSeconds": round(warm - began, 1), "peakMemoryGiB": gib(peak)}


def flops_per_token(config: GPTConfig, parameters: int) -> int:
    """See `flops`."""
    return flops.per_token(parameters, config.layers, config.embedding, config.context)


def utilisation(place: Place, speed: float, config: GPTConfig, parameters: int) -> dict[str, float]:
    """Model flops utilisation, where the device's peak is known."""
    peak = flops.peak(place.device)
    return {"mfu": round(speed * flops_per_token(config, parameters) / peak, 4)} if peak else {}


def gib(size: int | None) -> float | None:
    """Bytes as GiB."""
    return None if size is None else round(size / 2**30, 2)

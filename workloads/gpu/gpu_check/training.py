"""Parts about training: killed and resumed, random numbers, ranks, speed."""

from __future__ import annotations

import copy
import gc
import inspect
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aifactory_trainer import Run, World, gpt
from aifactory_trainer.environment import Environment
from aifactory_trainer.model import GPT, VOCABULARY, GPTConfig
from gpu_check.parts import Outcome, Place, text_folder
from gpu_check.processes import EndedBadly, Training, shape

BITS_TOLERANCE = 0.03
"""Bits per byte on held-out text by which two runs with the same seed may differ: the backward pass of attention adds
up in no fixed order on a GPU."""
_PEAKS = {"H100 80GB HBM3": 989e12, "H200": 989e12, "A100-SXM": 312e12}
"""Dense bfloat16 operations a second, by a part of the device's name (NVIDIA's data sheets)."""


def resumed(place: Place) -> Outcome:
    """The training program under torchrun: uninterrupted, and ended half-way by SIGTERM and resumed.

    On a GPU uninterrupted twice: how far two equal runs are from each other is the measure for the resumed one.
    """
    outcome, sizes = Outcome(), place.sizes
    every = sizes.small_steps // 10
    arguments = (
        *shape(sizes.small),
        f"--batch={sizes.small_batch}",
        f"--steps={sizes.small_steps}",
        f"--checkpoint-every={every}",
        f"--data={text_folder(place.work)}",
    )
    whole, parted = (Training(place.work / name, arguments) for name in ("whole", "parted"))
    seconds = whole.run()
    code = parted.stop_after(every)
    stopped, log = parted.steps_saved()[-1], parted.log
    outcome.check("SIGTERM ends torchrun with an error", code != 0, code)
    outcome.check("SIGTERM leaves a checkpoint of the step under way", f"stopped at step {stopped} of" in log, stopped)
    outcome.check("it was stopped before its end", stopped < sizes.small_steps, stopped)
    outcome.check("the pod's message says so", parted.message.startswith("Terminated: stopped at"), parted.message)
    parted.run()
    outcome.check("the next attempt resumes from it", f"step-{stopped}: step {stopped}" in parted.log, stopped)
    runs = {"whole": whole, "resumed": parted}
    if place.on_gpu:
        runs["again"] = Training(place.work / "again", arguments)
        runs["again"].run()
    bits = {name: run.metrics["heldOutBitsPerByte"] for name, run in runs.items()}
    difference = round(abs(bits["resumed"] - bits["whole"]), 4)
    outcome.check(f"resumed ends as uninterrupted, within {BITS_TOLERANCE} bits", difference <= BITS_TOLERANCE, bits)
    gained = whole.metrics["untrainedBitsPerByte"] - bits["whole"]
    outcome.check("it has learnt more than two bits a byte", gained > 2, round(gained, 3))
    device = "cuda" if place.on_gpu else "cpu"
    outcome.check("it ran on the device", f"1 ranks on {device}" in whole.log, device)
    outcome.figures = {
        "seconds": round(seconds, 1),
        "tokensPerSecond": whole.last_step["tokensPerSecond"],
        "peakMemoryGiB": gib(whole.peak_bytes),
        "finalLoss": {name: run.last_step["loss"] for name, run in runs.items()},
        "heldOutBitsPerByte": bits,
        "largestWeightDifference": {name: weight_difference(whole.output, run.output) for name, run in runs.items()},
    }
    return outcome


def weight_difference(one: Path, other: Path) -> float:
    """The largest one between two exported models."""
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


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
        model = GPT(place.sizes.small).to(place.device)
        alone = copy.deepcopy(model)
        with older_torch(outcome):
            network = gpt.distribute(model, World(0, 2, place.device))
        windows = torch.randint(0, VOCABULARY, (4, place.sizes.small.context + 1), device=place.device)
        for one in (network, alone):
            backward(one, windows)
        pairs = [(a.grad, b.grad) for a, b in zip(model.parameters(), alone.parameters(), strict=True)]
        furthest = max(float((mine - bare).norm() / bare.norm().clamp(min=1e-6)) for mine, bare in pairs)
        outcome.check("gradients are the bare model's, within a hundredth", furthest <= 0.01, furthest)
    finally:
        dist.destroy_process_group()
    if torch.cuda.device_count() <= 1:
        outcome.figures["twoRanksOnOneDevice"] = two_ranks(place)
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

    with mock.patch.object(gpt, "DistributedDataParallel", wrap):
        yield


def two_ranks(place: Place) -> dict[str, Any]:
    """gloo takes them, NCCL one for each GPU: what is of interest is whether a person is told so."""
    training, began = Training(place.work / "two", (), 2, "gpu_check.pair"), time.monotonic()
    try:
        training.run(60)
    except EndedBadly as error:
        said = training.message or str(error)
        return {"works": False, "message": said[-1500:], "seconds": round(time.monotonic() - began, 1)}
    return {"works": True}


def backward(network: nn.Module, windows: Tensor) -> Tensor:
    """One forward and backward pass, as `aifactory_trainer.gpt` does it."""
    with torch.autocast("cuda", torch.bfloat16, enabled=windows.is_cuda):
        loss = gpt.next_byte_loss(network(windows[:, :-1]), windows[:, 1:])
    torch.autograd.backward(loss)
    return loss


def speed(place: Place) -> Outcome:
    """The training program with a model of GPT-2's size, and beside it the same network in a loop of ten lines."""
    outcome, sizes = Outcome(), place.sizes
    for batch in sizes.large_batches:
        arguments = (*shape(sizes.large), f"--batch={batch}", f"--steps={sizes.large_steps}", "--keep=1", "--sample=20")
        more = ("--checkpoint-every=1000000", "--learning-rate=6e-4", f"--data={text_folder(place.work)}")
        training = Training(place.work / f"large-{batch}", (*arguments, *more))
        try:
            seconds = training.run()
            break
        except EndedBadly:
            if "out of memory" not in training.log or batch == sizes.large_batches[-1]:
                raise
    parameters = sum(weight.numel() for weight in GPT(sizes.large).parameters())
    program = training.last_step["tokensPerSecond"]
    outcome.figures = {
        "parameters": parameters,
        "context": sizes.large.context,
        "batch": batch,
        "flopsPerToken": flops_per_token(sizes.large, parameters),
        "peakFlops": peak_flops(),
        "program": {"tokensPerSecond": program, "peakMemoryGiB": gib(training.peak_bytes), "seconds": round(seconds, 1)}
        | utilisation(program, sizes.large, parameters),
        "checkpointLine": next((line for line in training.log.splitlines() if " written in " in line), ""),
    }
    (place.work / "speed.json").write_text(json.dumps(outcome.figures))
    outcome.check("the loss is a number", training.last_step["loss"] < 6, training.last_step)
    for name, compiled in (("plainLoop", False), *((("plainLoopCompiled", True),) if sizes.compiled else ())):
        try:
            found = plain_loop(place, batch, compiled)
            found |= utilisation(found["tokensPerSecond"], sizes.large, parameters)
            outcome.figures[name] = found | {"programToThis": round(program / found["tokensPerSecond"], 3)}
        except Exception as error:  # the others' figures stand
            outcome.check(f"{name} runs", False, f"{type(error).__name__}: {error}"[:1500])
        gc.collect()
        torch.cuda.empty_cache()
    return outcome


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
        backward(network, tokens[starts + places].long())
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
    """Of a forward and a backward pass: 6 for each weight, and 12 x layers x width x context for attention (PaLM, arXiv
    2204.02311, appendix B), which counts what causal attention leaves out as well."""
    return 6 * parameters + 12 * config.layers * config.embedding * config.context


def peak_flops() -> float | None:
    """What the device could do at most; None where this is not known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((peak for part, peak in _PEAKS.items() if part in name), None)


def utilisation(speed: float, config: GPTConfig, parameters: int) -> dict[str, float]:
    """Model flops utilisation, where the device's peak is known."""
    peak = peak_flops()
    return {"mfu": round(speed * flops_per_token(config, parameters) / peak, 4)} if peak else {}


def gib(size: int | None) -> float | None:
    """Bytes as GiB."""
    return None if size is None else round(size / 2**30, 2)

"""Parts about what is published and served: torch-export programs, and the language model engine."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from aifactory_contract.signature import DATA_TYPES
from aifactory_server.causal_lm.text import TextStream
from aifactory_trainer import export_huggingface, export_torch, pretrained
from aifactory_trainer.model import END_OF_TEXT, GPT, GPTConfig, generate
from gpu_check.parts import Outcome, Place
from gpu_check.stand_in import Request, ask, back_end
from gpu_check.training import gib

CPU = torch.device("cpu")
TIE = 1e-3
"""A lead of the likeliest token that rounding may turn round; logits are of the order of 1."""
_SLOTS = "AIFACTORY_CAUSAL_LM_SLOTS"


class Positions(nn.Module):
    """A network that makes tensors as it runs: where they are made must follow the device it is served on."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.BatchNorm1d(64), nn.Linear(64, 4))
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ramp = torch.arange(x.shape[1], device=x.device, dtype=x.dtype) / x.shape[1]
        y = self.layers(x + ramp) * self.scale
        return y, y.argmax(dim=1)


def export(place: Place) -> Outcome:
    """A model trained on the device, published as torch-export, served on the CPU and on the device."""
    outcome = Outcome()
    torch.manual_seed(0)
    model = Positions().to(place.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(50):
        x = torch.randn(64, 16, device=place.device)
        loss = nn.functional.cross_entropy(model(x)[0], x[:, :4].argmax(dim=1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    examples = {"x": torch.randn(4, 16, device=place.device)}
    folder = export_torch(model, examples, outputs=("y", "label"), output=place.work / "program")
    outcome.check("the model stays where it is", next(model.parameters()).device == place.device, str(place.device))
    types = {known.name: known.pbtxt for known in DATA_TYPES.values()}
    config = {
        "input": [{"name": "x", "data_type": types["FP32"], "dims": [16]}],
        "output": [{"name": "y", "data_type": types["FP32"]}, {"name": "label", "data_type": types["INT64"]}],
        "max_batch_size": 8,
    }
    for device in (CPU, place.device) if place.on_gpu else (CPU,):
        served, furthest = back_end("torch_export", folder, device, config), 0.0
        for rows in ((1,), (3,), (2, 1, 5)):
            batches = [torch.randn(size, 16) for size in rows]
            answers = served.execute([Request(x=batch.numpy()) for batch in batches])
            for batch, answer in zip(batches, answers, strict=True):
                if answer.error is not None:
                    raise answer.error
                with torch.no_grad():
                    y, label = (out.cpu().numpy() for out in model(batch.to(place.device)))
                furthest = max(furthest, float(np.abs(answer.tensors["y"] - y).max()))
                same = bool((answer.tensors["label"] == label).all())
                outcome.check(f"labels on {device.type}, {sum(rows)} rows", same, label.tolist())
        outcome.check(f"outputs on {device.type} are the model's, within 1e-4", furthest <= 1e-4, furthest)
    return outcome


def random_model(config: GPTConfig, device: torch.device) -> GPT:
    """An untrained model whose every weight matters (a fresh one has zeros), and that never ends a text."""
    torch.manual_seed(3)
    model = GPT(config).to(device)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.3 if name.startswith("embedding") else config.embedding**-0.5)
        model.embedding.weight[END_OF_TEXT] = 0.0
    return model.eval()


def answers(place: Place) -> Outcome:
    """The engine's greedy answers on the device are the CPU's, and the trainer's own."""
    outcome = Outcome()
    config = GPTConfig(context=64, layers=2, heads=2, embedding=32)
    folders = {"random": export_huggingface(random_model(config, CPU), output=place.work / "random")}
    if (place.work / "whole" / "output").exists():
        folders["trained"] = place.work / "whole" / "output"
    prompts = [b"x", b"00007: the ", b"def f(x):\n    return", b"y" * 24]
    for name, folder in folders.items():
        reference = pretrained.read(folder)
        expected = [likeliest(reference, prompt, 150) for prompt in prompts]
        for device in (CPU, place.device) if place.on_gpu else (CPU,):
            model = back_end("causal_lm", folder, device)
            requests = [ask(prompt, 150) for prompt in prompts]
            finish_all(model, requests)
            model.finalize()
            for request, (text, leads) in zip(requests, expected, strict=True):
                outcome.check(f"{name}: {device.type} answers as the trainer", *alike(text, leads, request.text))
    return outcome


def likeliest(model: GPT, prompt: bytes, tokens: int) -> tuple[bytes, list[float]]:
    """The trainer's own greedy answer, and by how much each token leads the second."""
    leads = []

    def note(logits: Tensor, _temperature: float, _generator: torch.Generator | None = None) -> int:
        first, second = logits.topk(2).values.tolist()
        leads.append(first - second)
        return int(logits.argmax())

    with mock.patch("aifactory_trainer.model.sample", note):
        return bytes(generate(model, prompt, tokens, temperature=0.0)), leads


def alike(expected: bytes, leads: list[float], found: str) -> tuple[bool, object]:
    """Whether two greedy answers are the same, or part where two tokens are as good as equal."""
    if found == expected.decode(errors="replace"):
        return True, f"{len(expected)} tokens"
    stream, text, at = TextStream(), "", 0
    while at < len(expected) and found.startswith(text := text + stream.push(expected[at : at + 1])):
        at += 1
    lead = min(leads[max(0, at - 3) : at + 1])  # a character has up to four bytes
    return lead < TIE, {"partAfter": at, "lead": lead, "expected": repr(expected[at : at + 8])}


def finish(requests: list[Request], seconds: float = 120.0) -> None:
    """Wait for all answers; an error or a missing end is an exception."""
    deadline = time.monotonic() + seconds
    for request in requests:
        if not request.over.wait(max(0.0, deadline - time.monotonic())):
            raise TimeoutError(f"an answer did not end in {seconds:.0f} s")
        if request.error is not None:
            raise RuntimeError(request.error)


def engine(place: Place) -> Outcome:
    """The engine under load, with the model of GPT-2's size; one-by-one generation beside it; cancelling; memory."""
    outcome, sizes = Outcome(), place.sizes
    model = random_model(sizes.large, place.device)
    folder = export_huggingface(model, output=place.work / "served")
    outcome.figures["plainGenerate"] = plain_generate(place, model)
    del model
    before = allocated(place)
    most = max(sizes.clients)
    runs = [(clients, 16) for clients in sizes.clients] + ([(most, most)] if most > 16 else [])
    outcome.figures["engine"] = []
    served: Any = None
    slots_now = 0
    for clients, slots in runs:
        if slots != slots_now:
            unload(served)
            served, slots_now = None, slots
            os.environ[_SLOTS] = str(slots)
            served = back_end("causal_lm", folder, place.device)
            finish_all(served, [ask(b"warm", 4) for _ in range(min(4, slots))])
            loaded = allocated(place)
        prompts = [prompt(number) for number in range(clients)]
        outcome.figures["engine"].append({"slots": slots, **load(served, prompts, sizes.answer_tokens)})
        outcome.check(f"{clients} clients, {slots} slots: nothing runs or waits", idle(served), served._engine.load)
        grown = allocated(place) - loaded
        outcome.check(f"{clients} clients, {slots} slots: memory is as before", abs(grown) <= 16 << 20, f"{grown} B")
    outcome.figures["memoryGiB"] = {"loaded": gib(loaded - before), "slots": slots_now}
    cancelled(outcome, served, sizes.answer_tokens)
    unload(served)
    served = None
    left = allocated(place) - before
    outcome.check("unloading gives the memory back (64 MiB for libraries)", left <= 64 << 20, f"{left} B")
    return outcome


def plain_generate(place: Place, model: GPT) -> dict[str, Any]:
    """`aifactory_trainer.model.generate`, one prompt after another."""
    times, first = [], []
    for number in range(4):
        began = time.monotonic()
        text = generate(model, prompt(number), place.sizes.answer_tokens, temperature=0.0)
        next(text)
        first.append(time.monotonic() - began)
        made = 1 + sum(1 for _ in text)
        times.append(made / (time.monotonic() - began))
    return {"tokensPerSecond": round(median(times[1:]), 1), "firstTokenMilliseconds": round(1e3 * median(first[1:]), 2)}


def prompt(number: int) -> bytes:
    """64 bytes of a client's own, or as many as fit."""
    return f"{number:05d}: the red box number {number * 37 % 97} holds".encode().ljust(48, b".")


def load(served: Any, prompts: Sequence[bytes], tokens: int) -> dict[str, Any]:
    """As many clients as prompts, who ask at once."""
    requests, began = [ask(text, tokens) for text in prompts], time.monotonic()
    served.execute(requests)
    finish(requests)
    seconds = time.monotonic() - began
    first = sorted(request.times[0] - began for request in requests)
    return {
        "clients": len(prompts),
        "tokensPerSecond": round(sum(request.tokens for request in requests) / seconds, 1),
        "tokens": sum(request.tokens for request in requests),
        "firstTokenMilliseconds": round(1e3 * median(first), 2),
        "firstTokenMillisecondsP95": round(1e3 * (quantiles(first, n=20)[-1] if len(first) > 1 else first[0]), 2),
    }


def cancelled(outcome: Outcome, served: Any, tokens: int) -> None:
    """A client that goes away leaves its slot at once, and the others are answered."""
    gone, others = ask(b"gone", 60_000, cancel_after=3), [ask(prompt(number), tokens) for number in range(3)]
    served.execute([gone, *others])
    finish([gone, *others], 30)
    outcome.check("a cancelled request ends early", len(gone.times) < 1000, len(gone.times))
    outcome.check("its sequence is gone", idle(served), served._engine.load)


def finish_all(served: Any, requests: list[Request]) -> None:
    """Ask and wait."""
    served.execute(requests)
    finish(requests)


def idle(served: Any, seconds: float = 5.0) -> bool:
    """Whether the engine comes to rest: an answer leaves a moment before its slot is free."""
    deadline = time.monotonic() + seconds
    while served._engine.load != (0, 0):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def unload(served: Any) -> None:
    """As Triton does it."""
    if served is not None:
        served.finalize()
        served._engine = served._model = None


def allocated(place: Place) -> int:
    """Bytes that live tensors take on the device."""
    gc.collect()
    if not place.on_gpu:
        return 0
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    return int(torch.cuda.memory_allocated())

"""The part about real models: back end `transformers` with a Llama of random weights, beside `model.generate`."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aifactory_contract.names import GENERATED_TOKENS
from aifactory_server.counters import PROMPT_TOKENS
from aifactory_server.device import computed_in
from aifactory_server.engines import attention
from gpu_check.llama import write_llama
from gpu_check.parts import Outcome, Place
from gpu_check.serving import allocated, finish, finish_all, idle, load, unload
from gpu_check.stand_in import MetricFamily, Request, ask, back_end
from gpu_check.training import gib

_SLOTS = "AIFACTORY_ENGINE_SLOTS"
_USUAL_SLOTS = 64
"""What the back end takes on a GPU if nobody says otherwise."""
_FURTHEST = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""By how much a greedy token's logit may lie below the likeliest one's by the same model in float32. The logits have a
standard deviation of about 1; a token that comes of a wrong context lies about 4 below."""
_COMPARED, _PLAIN = 32, 4
"""Answers that are compared with the model in float32, and with `model.generate` token by token."""
_GONE_SECONDS = 0.2
_COUNTS = {
    "prompt": PROMPT_TOKENS,
    "generated": GENERATED_TOKENS,
    "first": "aifactory_time_to_first_token_seconds",
    "next": "aifactory_inter_token_latency_seconds",
    "running": "aifactory_requests_running",
    "waiting": "aifactory_requests_waiting",
}
_SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "boxes": {"type": "integer", "minimum": 0, "maximum": 999}},
    "required": ["colour", "boxes"],
    "additionalProperties": False,
}


def generate(place: Place) -> Outcome:
    """Speed; answers are the model's own; cancelling, a JSON schema, counters, memory."""
    outcome, clients = Outcome(), place.sizes.clients
    folder = write_llama(place)
    plain = plain_generate(outcome, place, folder)

    def usual(served: Any) -> None:
        speed(outcome, place, served, _USUAL_SLOTS, clients)
        for look in (own_answers, cancelled, in_schema):
            with noted(outcome, look.__name__):
                look(outcome, place, served, folder, plain)
        outcome.check("the cache is empty when all is said", *cache_is_empty(served))

    most = clients[-1:]
    with_engine(outcome, place, folder, _USUAL_SLOTS, usual)
    with_engine(outcome, place, folder, most[0], lambda served: speed(outcome, place, served, most[0], most))
    # What transformers does where it has no flash package: one mask over the cache of all sequences.
    with mock.patch.object(attention, "fits", return_value=False):
        with_engine(
            outcome, place, folder, most[0], lambda served: speed(outcome, place, served, most[0], clients, "mask")
        )
    return outcome


@contextmanager
def noted(outcome: Outcome, what: str) -> Iterator[None]:
    """An exception is a check that does not hold, and the part goes on."""
    try:
        yield
    except Exception:
        outcome.check(f"{what} runs", False, traceback.format_exc()[-3000:])


def with_engine(outcome: Outcome, place: Place, folder: Path, slots: int, use: Callable[[Any], None]) -> None:
    """Load the back end with so many slots, use it, and unload it."""
    before = allocated(place)
    with noted(outcome, f"the engine with {slots} slots"):
        os.environ[_SLOTS] = str(slots)
        began = time.monotonic()
        served = back_end("generate", folder, place.device)
        figures = {"slots": slots, "seconds": round(time.monotonic() - began, 1)}
        outcome.figures.setdefault("loaded", []).append(figures | {"memoryGiB": gib(allocated(place) - before)})
        try:
            use(served)
        finally:
            unload(served)
            del served
    left = allocated(place) - before
    outcome.check("unloading gives the memory back (64 MiB for libraries)", left <= 64 << 20, f"{left} B")


def speed(
    outcome: Outcome, place: Place, served: Any, slots: int, clients: Sequence[int], kind: str = "sequences"
) -> None:
    """So many clients at once, one count after the other."""
    counted, tokens, memory = Counted(served), place.sizes.answer_tokens, 0
    for turn, count in enumerate(clients, 1):
        name = f"{count} clients, {slots} slots, attention by {kind}"
        # As many clients, for kernels are chosen and memory is taken the first time; others, or theirs were cached.
        warm = [prompt(10_000 * turn + number) for number in range(count)]
        finish_all(served, [ask(text, 4) for text in warm])
        memory = memory or allocated(place)
        prompts = [prompt(1000 * turn + number) for number in range(count)]
        figures = {"slots": slots, "attention": kind, **load(served, prompts, tokens)}
        outcome.figures.setdefault("engine", []).append(figures)
        outcome.check(f"{name}: nothing runs or waits", idle(served), served._engine.load)
        counted.expect(warm, 4)
        counted.expect(prompts, tokens)
        outcome.check(f"{name}: the counters add up", *counted.adds_up())
        grown = allocated(place) - memory
        outcome.check(f"{name}: memory is as before", abs(grown) <= 16 << 20, f"{grown} B")


def prompt(number: int) -> bytes:
    """A hundred tokens or two, different from the first on."""
    lines = (f"{number}: the red box number {(number + line) * 37 % 97} holds {line} things; " for line in range(4))
    return "".join(lines).encode() * (2 if number % 3 == 0 else 1)


def plain_generate(outcome: Outcome, place: Place, folder: Path) -> list[list[int]]:
    """`model.generate`: one prompt, and many as a batch; returns its answers to the first prompts, each on its own."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=_dtype(place)).to(place.device).eval()
    words, tokens = AutoTokenizer.from_pretrained(folder, padding_side="left"), place.sizes.answer_tokens
    outcome.figures["parameters"] = sum(weight.numel() for weight in model.parameters())

    def answers(texts: list[bytes], most: int) -> tuple[list[list[int]], float]:
        given = words([text.decode() for text in texts], return_tensors="pt", padding=True).to(place.device)
        place.wait()
        began = time.monotonic()
        with torch.no_grad():
            made = model.generate(
                given.input_ids, attention_mask=given.attention_mask, do_sample=False, max_new_tokens=most
            )
        found: list[list[int]] = made[:, given.input_ids.shape[1] :].tolist()
        return found, time.monotonic() - began

    outcome.figures["plainGenerate"] = []
    for batch in place.sizes.clients:
        texts = [prompt(number) for number in range(batch)]
        answers(texts, 4)
        _, first = answers(texts, 1)
        made, seconds = answers(texts, tokens)
        speed = {"batch": batch, "tokensPerSecond": round(sum(map(len, made)) / seconds, 1)}
        outcome.figures["plainGenerate"].append(speed | {"firstTokenMilliseconds": round(1e3 * first, 2)})
    return [answers([prompt(number)], tokens)[0][0] for number in range(_PLAIN)]


def own_answers(outcome: Outcome, place: Place, served: Any, folder: Path, plain: list[list[int]]) -> None:
    """Each token of answers that are computed together is the likeliest one by the model itself, in float32."""
    tokens, count = place.sizes.answer_tokens, min(_COMPARED, max(place.sizes.clients))
    requests = [ask(prompt(number), tokens, logprobs=True) for number in range(count)]
    finish_all(served, requests)
    again = ask(prompt(0), tokens, logprobs=True)  # most of its prompt is in the cache by now
    finish_all(served, [again])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(place.device).eval()
    words = AutoTokenizer.from_pretrained(folder)

    def look(number: int, answer: list[int]) -> tuple[float, torch.Tensor]:
        """How far below the likeliest token's logit one lies at most, and the log probabilities."""
        given = words(prompt(number).decode()).input_ids
        with torch.no_grad():
            scores = model(torch.tensor([given + answer[:-1]], device=place.device)).logits[0, len(given) - 1 :]
        own = scores.gather(1, torch.tensor(answer, device=place.device).unsqueeze(1)).squeeze(1)
        return (scores.amax(1) - own).max().item(), (own - scores.logsumexp(1)).cpu()

    below = apart = 0.0
    for number, request in [*enumerate(requests), (0, again)]:
        further, logprobs = look(number, chosen(request))
        below = max(below, further)
        apart = max(apart, (logprobs - torch.tensor([logprob for _, logprob in request.chosen])).abs().max().item())
    whole = all(len(request.chosen) == tokens for request in [*requests, again])
    outcome.check("answers are as long as they should be", whole, tokens)
    limit = _FURTHEST[_dtype(place)]
    outcome.check(f"each token is the likeliest by the model in float32, within {limit}", below <= limit, below)
    outcome.check(f"log probabilities are those of the model in float32, within {limit}", apart <= limit, apart)
    outcome.figures["compared"] = {
        "answers": len(requests) + 1,
        "furthestBelowLikeliest": round(below, 4),
        "logprobsFurthestApart": round(apart, 4),
        "plainGenerateFurthestBelowLikeliest": round(max(look(*answer)[0] for answer in enumerate(plain)), 4),
        "asPlainGenerate": f"{sum(map(list.__eq__, map(chosen, requests), plain))} of {len(plain)}",
    }


def chosen(request: Request) -> list[int]:
    """The tokens of an answer."""
    return [token for token, _ in request.chosen]


class Counted:
    """What the metrics should say of a back end that has just been loaded."""

    def __init__(self, served: Any) -> None:
        self._encode = served._model.encode
        self._expected = dict.fromkeys(_COUNTS, 0)

    def expect(self, prompts: list[bytes], tokens: int) -> None:
        """They were all answered, at this length."""
        self._expected["prompt"] += sum(len(self._encode(text.decode())) for text in prompts)
        self._expected["generated"] += len(prompts) * tokens
        self._expected["first"] += len(prompts)
        self._expected["next"] += len(prompts) * (tokens - 1)

    def adds_up(self, seconds: float = 5.0) -> tuple[bool, object]:
        """Whether they come to say so; they are handed over a few times a second."""
        deadline = time.monotonic() + seconds
        while (seen := {key: MetricFamily.made[name].value for key, name in _COUNTS.items()}) != self._expected:
            if time.monotonic() > deadline:
                return False, {"seen": seen, "expected": self._expected}
            time.sleep(0.01)
        return True, seen


def cancelled(outcome: Outcome, place: Place, served: Any, *_: object) -> None:
    """A client that goes away frees its place at once, and the others are answered."""
    gone = ask(b"gone", served._model.context - 8, cancel_after=3)
    others = [ask(prompt(number), place.sizes.answer_tokens) for number in range(3)]
    served.execute([gone, *others])
    finish([gone])
    outcome.check("a cancelled request ends early", gone.tokens < served._model.context // 2, gone.tokens)
    took = round(gone.times[-1] - gone.times[2], 3)
    limit = _GONE_SECONDS if place.on_gpu else 5.0  # a CPU has other things to do
    outcome.check(f"it is let go within {limit} s", took <= limit, took)
    finish(others)
    whole = all(request.tokens == place.sizes.answer_tokens for request in others)
    outcome.check("the others are answered", whole, [request.tokens for request in others])
    outcome.check("its place is free", idle(served), served._engine.load)
    outcome.figures["cancelledSeconds"] = took


def in_schema(outcome: Outcome, _: Place, served: Any, *__: object) -> None:
    """An answer keeps to its JSON schema, beside one that has none."""
    requests = [ask(prompt(number), 300, structured_outputs={"json": _SCHEMA}) for number in range(4)]
    finish_all(served, [*requests, ask(prompt(5), 8)])
    for request in requests:
        try:
            found = json.loads(request.text)
            keeps = found.keys() == {"colour", "boxes"} and found["colour"] in ("red", "green")
            keeps = keeps and isinstance(found["boxes"], int) and 0 <= found["boxes"] <= 999
        except ValueError:
            keeps = False
        outcome.check("an answer with a JSON schema keeps to it", keeps, request.text)


def cache_is_empty(served: Any, seconds: float = 5.0) -> tuple[bool, object]:
    """Whether no sequence has a page of the cache any more; the last ones go a step after their answers."""
    processor, deadline = served._model._manager.batch_processor, time.monotonic() + seconds
    while left := [
        *processor.scheduler.active_requests,
        *(id_ for allocator in processor.cache.cache_allocators.values() for id_ in allocator.block_table),
    ]:
        if time.monotonic() > deadline:
            return False, left
        time.sleep(0.01)
    return True, "no sequence"


def _dtype(place: Place) -> torch.dtype:
    """What the back end computes in."""
    found = computed_in(place.device, torch.bfloat16)
    return torch.bfloat16 if found == "auto" else found

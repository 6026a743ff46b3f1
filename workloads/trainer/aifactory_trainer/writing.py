"""What a model writes behind prompts, always its likeliest token: for tasks whose answers are not given to choose from.

Role: from prompts to texts, by transformers' `generate`. What the texts are worth is in harness.py.

What always holds: every process gets all texts; and all ask the model equally often, so it may be divided among them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from aifactory_trainer.distributed import Group
from aifactory_trainer.state import is_divided


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be continued.

    Attributes:
        tokens: of it.
        until: texts at which the continuation ends, and which are not part of it.
        most: tokens to write.
    """

    tokens: list[int]
    until: tuple[str, ...]
    most: int


@torch.no_grad()
def write(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], batch: int, group: Group, device: torch.device
) -> list[str]:
    """What the model writes behind each prompt; each process asks for its share of them.

    Args:
        prompts: of one task, so that all end alike.
        batch: prompts at a time in each process.
    """
    if not prompts:
        return []
    model.eval()
    own: list[str] = []
    mine = prompts[group.rank :: group.size]
    for begin in range(0, -(-len(prompts) // group.size), batch):
        part = mine[begin : begin + batch]
        own += _continue(model, tokenizer, part or prompts[:1], device)[: len(part)]
    parts = [json.loads(each) for each in group.gather(json.dumps(own).encode())]  # on rank 0
    told = group.broadcast(None if group.rank else json.dumps(parts).encode())
    parts = json.loads(told)
    return [parts[index % group.size][index // group.size] for index in range(len(prompts))]


def _continue(model: Any, tokenizer: Any, prompts: Sequence[Prompt], device: torch.device) -> list[str]:
    longest = max(len(prompt.tokens) for prompt in prompts)
    gaps = [longest - len(prompt.tokens) for prompt in prompts]
    filler = next((it for it in (tokenizer.pad_token_id, tokenizer.eos_token_id) if it is not None), 0)
    ids = torch.tensor([[filler] * gap + prompt.tokens for gap, prompt in zip(gaps, prompts, strict=True)])
    mask = torch.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps])
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        written = model.generate(
            ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=prompts[0].most,
            do_sample=False,
            use_cache=True,
            pad_token_id=filler,
            stopping_criteria=StoppingCriteriaList([_Ends(tokenizer, prompts[0].until, longest)]),
            synced_gpus=is_divided(model),
        )
    return [
        cut(str(tokenizer.decode(row[longest:], skip_special_tokens=True)), prompt.until)
        for row, prompt in zip(written, prompts, strict=True)
    ]


def cut(text: str, until: Sequence[str]) -> str:
    """What is before the first of these texts."""
    for end in until:
        text = text.split(end)[0]
    return text


class _Ends(StoppingCriteria):
    """Ends a row when one of the texts was written."""

    def __init__(self, tokenizer: Any, until: Sequence[str], begin: int) -> None:
        """Args: begin: tokens of the prompt."""
        self._tokenizer = tokenizer
        self._until = until
        self._begin = begin
        # A token is a byte or more; two more, for what only shows with its neighbours.
        self._tail = 2 + max((len(end.encode()) for end in until), default=0)
        self._done: list[bool] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """See StoppingCriteria."""
        self._done = self._done or [False] * len(input_ids)
        for index, row in enumerate(input_ids[:, self._begin :]):
            if not self._done[index] and self._until:
                text = self._tokenizer.decode(row[-self._tail :])
                self._done[index] = any(end in text for end in self._until)
        return torch.tensor(self._done, device=input_ids.device)

"""From logits to tokens, each row by its own request's parameters and its own chance.

What always holds
- A row's token depends on its logits, its parameters and its draw only, never on the other rows.
- Whatever a row's numbers are, the others get their tokens: a row without a finite logit gets none.
- The order is vLLM's: penalties, then temperature, min_p, top_k, top_p. Log probabilities are those of the model
  itself, before all that (vLLM's `raw_logprobs`, its default).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

GREEDY_TEMPERATURE = 1e-5
"""Below this the likeliest token is the only one that float32 leaves any chance."""
_BLOCK = 256
"""Tokens whose probabilities are summed up at once."""
_LIKELY = 1024
"""Tokens that are looked at before a whole vocabulary is sorted for top_p."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; names and defaults are those of vLLM's SamplingParams."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: no limit."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    """None: no log probabilities; otherwise that of the token, and of this many likeliest ones."""

    @property
    def greedy(self) -> bool:
        """Whether chance has no part in it."""
        return self.temperature < GREEDY_TEMPERATURE

    @property
    def filters(self) -> bool:
        """Whether some tokens are out of the question."""
        return not self.greedy and (self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0)

    @property
    def penalises(self) -> bool:
        """Whether what was said before matters."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0 or self.repetition_penalty != 1.0


@dataclass(frozen=True)
class Row:
    """What is known of a sequence when its next token is chosen."""

    sampling: Sampling
    draw: float
    """Chance: from 0 to below 1."""
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    banned: Sequence[int] = ()
    """Tokens that can not come now."""
    allowed: Tensor | None = None
    """For each token whether it may come, bool; None: all may. At least one may."""


@dataclass(frozen=True)
class Likely:
    """A token's log probability, and how many tokens are as likely or likelier."""

    token: int
    logprob: float
    rank: int


@dataclass(frozen=True)
class Choice:
    """The token of a row, and if asked for the log probabilities: first the token's own, then the likeliest."""

    token: int
    logprobs: tuple[Likely, ...] = ()


def choose(logits: Tensor, rows: Sequence[Row]) -> list[Choice | None]:
    """A token for each row, None where the logits are no numbers.

    Args:
        logits: float32, a row a sequence, on any device.
    """
    healthy = logits.amax(1).isfinite().tolist()
    likely = {
        index: torch.log_softmax(logits[index], 0)
        for index, row in enumerate(rows)
        if row.sampling.logprobs is not None and healthy[index]
    }
    if any(_adjusts(row) for row in rows):
        logits = logits.clone()
        for index, row in enumerate(rows):
            _adjust(logits[index], row)
    tokens = _tokens(logits, rows)
    return [
        Choice(token, _logprobs(likely[index], token, rows[index].sampling.logprobs or 0) if index in likely else ())
        if healthy[index]
        else None
        for index, token in enumerate(tokens)
    ]


def _adjusts(row: Row) -> bool:
    return bool(row.sampling.logit_bias or row.sampling.penalises or row.banned or row.allowed is not None)


def _adjust(logits: Tensor, row: Row) -> None:
    sampling = row.sampling
    for token, bias in sampling.logit_bias.items():
        logits[token] += bias
    if sampling.penalises:
        counts = Counter(row.generated)
        if sampling.repetition_penalty != 1.0:
            seen = torch.tensor(sorted({*row.prompt, *counts}), device=logits.device, dtype=torch.long)
            values = logits[seen]
            logits[seen] = torch.where(
                values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty
            )
        if counts:
            tokens = torch.tensor(list(counts), device=logits.device)
            times = torch.tensor(list(counts.values()), device=logits.device, dtype=logits.dtype)
            logits[tokens] -= sampling.frequency_penalty * times + sampling.presence_penalty
    if row.banned:
        logits[torch.tensor(row.banned, device=logits.device)] = -torch.inf
    if row.allowed is not None:
        # Some models have more logits than there are tokens, and some tokenizers more tokens than there are logits.
        size = min(logits.shape[0], row.allowed.shape[0])
        logits[:size].masked_fill_(~row.allowed[:size].to(logits.device), -torch.inf)
        logits[size:] = -torch.inf


def _tokens(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    tokens: list[int] = logits.argmax(1).tolist()
    plain = [index for index, row in enumerate(rows) if not row.sampling.greedy and not row.sampling.filters]
    if plain:
        chosen = logits if len(plain) == len(rows) else logits[torch.tensor(plain, device=logits.device)]
        temperatures = [rows[index].sampling.temperature for index in plain]
        scaled = chosen / torch.tensor(temperatures, device=logits.device, dtype=logits.dtype).unsqueeze(1)
        for index, token in zip(plain, _draw(scaled, [rows[index].draw for index in plain]), strict=True):
            tokens[index] = token
    for index, row in enumerate(rows):
        if row.sampling.filters:
            tokens[index] = _filtered(logits[index] / row.sampling.temperature, row)
    return tokens


def _draw(logits: Tensor, draws: Sequence[float]) -> list[int]:
    """The token in each row at which the sum of the probabilities passes the draw."""
    # The largest weight is 1, so the sum is never 0; rows without a finite logit give any token.
    weights = (logits - logits.amax(1, keepdim=True)).exp()
    # First the block in which it does, then the token in the block: summing up a whole vocabulary takes long.
    size = logits.shape[1]
    blocks = pad(weights, (0, -size % _BLOCK)).unflatten(1, (-1, _BLOCK))
    sums = blocks.sum(2, dtype=torch.float64).cumsum(1)
    wanted = torch.tensor(draws, device=logits.device, dtype=torch.float64).unsqueeze(1) * sums[:, -1:]
    block = torch.searchsorted(sums, wanted, right=True).clamp(max=sums.shape[1] - 1)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks.take_along_dim(block.unsqueeze(2), 1).squeeze(1).cumsum(1, dtype=torch.float64)
    at = torch.searchsorted(inside, wanted - before, right=True).clamp(max=_BLOCK - 1)
    found: list[int] = (block * _BLOCK + at).squeeze(1).clamp(max=size - 1).tolist()
    return found


def _filtered(logits: Tensor, row: Row) -> int:
    sampling = row.sampling
    size = logits.shape[0]
    limit = min(sampling.top_k, size) if sampling.top_k else size
    # Mostly the likeliest thousand hold all the probability that top_p asks for.
    values, order = logits.topk(min(limit, _LIKELY))
    if limit > len(values) and not _holds(values, logits, sampling):
        values, order = logits.topk(limit)
    probabilities = values.softmax(0, dtype=torch.float64)
    if limit > len(values):
        probabilities *= (values.double().logsumexp(0) - logits.double().logsumexp(0)).exp()
    before = probabilities.cumsum(0) - probabilities
    kept = (before < sampling.top_p) & (probabilities >= sampling.min_p * probabilities[0])
    kept[0] = True
    sums = (probabilities * kept).cumsum(0)
    position = int(torch.searchsorted(sums, row.draw * sums[-1:], right=True))
    return int(order[min(position, len(values) - 1)])


def _holds(values: Tensor, logits: Tensor, sampling: Sampling) -> bool:
    """Whether no token beyond the likeliest `values` can come."""
    if sampling.min_p > 0.0 and float((values[-1] - values[0]).exp()) < sampling.min_p:
        return True
    share = (values.double().logsumexp(0) - logits.double().logsumexp(0)).exp()
    return float(share) >= sampling.top_p


def _logprobs(logprobs: Tensor, token: int, count: int) -> tuple[Likely, ...]:
    own = logprobs[token]
    found = [Likely(token, float(own), int((logprobs >= own).sum()))]
    if count:
        values, tokens = logprobs.topk(min(count, logprobs.shape[0]))
        pairs = zip(tokens.tolist(), values.tolist(), strict=True)
        found += [Likely(other, value, rank) for rank, (other, value) in enumerate(pairs, 1) if other != token]
    return tuple(found)

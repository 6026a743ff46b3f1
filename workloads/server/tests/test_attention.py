"""Attention over sequences that lie one behind the other is what each would have by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from aifactory_server.engines.attention import attend, fits

from .conftest import DEVICES

HEADS, SHARED, SIZE = 4, 2, 64
LENGTHS = [(1, 5), (3, 3), (4, 9), (1, 1), (20, 20), (1, 40)]
"""Of each sequence: how many tokens are new, and how many there are."""


def alone(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    """One sequence, in float32: [heads, new, size] and [shared, seen, size] to [new, heads, size]."""
    new, seen = query.shape[1], key.shape[1]
    at, other = torch.arange(seen - new, seen).unsqueeze(1), torch.arange(seen)
    allowed = (other <= at) if window is None else (other <= at) & (other > at - window)
    key, value = (each.repeat_interleave(HEADS // SHARED, 0) for each in (key, value))
    scores = (query @ key.transpose(1, 2) * SIZE**-0.5).masked_fill(~allowed, -torch.inf)
    return (scores.softmax(2) @ value).transpose(0, 1)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", [None, 4])
def test_each_sequence_has_what_it_would_have_alone(
    device: torch.device, dtype: torch.dtype, window: int | None
) -> None:
    if device.type != "cpu" and dtype is torch.float32:
        assert not fits(device, dtype)
        return
    assert fits(device, dtype)
    torch.manual_seed(0)
    # Of the tokens before the new ones the cache gives those that the window reaches.
    lengths = [(new, new + min(seen - new, (window or seen) - 1)) for new, seen in LENGTHS]
    news, seens = ([0, *torch.tensor(each).cumsum(0).tolist()] for each in zip(*lengths, strict=True))
    query = torch.randn(1, HEADS, news[-1], SIZE).to(dtype)
    key, value = (torch.randn(1, SHARED, seens[-1], SIZE).to(dtype) for _ in range(2))
    expected = [
        alone(*(each[0].float() for each in (query[:, :, a:b], key[:, :, c:d], value[:, :, c:d])), window)
        for a, b, c, d in zip(news, news[1:], seens, seens[1:], strict=False)
    ]

    def update(*, key_states: Tensor, value_states: Tensor, layer_idx: int, kwargs: Any) -> tuple[Tensor, Tensor]:
        kwargs["cu_seq_lens_k"] = torch.tensor(seens, dtype=torch.int32, device=device)
        kwargs["max_length_k"] = max(seen for _, seen in lengths)
        return key.to(device), value.to(device)

    cache = SimpleNamespace(update=update, layer_to_allocator={0: SimpleNamespace(sliding_window=window)})
    found, _ = attend(
        SimpleNamespace(layer_idx=0),
        query.to(device),
        key.to(device),
        value.to(device),
        None,
        SIZE**-0.5,
        cache,
        cu_seq_lens_q=torch.tensor(news, dtype=torch.int32, device=device),
        max_length_q=max(new for new, _ in lengths),
        max_length_k={"full_attention": max(seen for _, seen in lengths)},
    )
    apart = (found[0].float().cpu() - torch.cat(expected)).abs().max().item()
    assert apart <= (1e-5 if dtype is torch.float32 else 2e-2)

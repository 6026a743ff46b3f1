"""Attention over a cache in pages, where each sequence meets its own keys only.

Without a package of flash kernels transformers multiplies the queries of all sequences with the keys of all sequences
and masks what does not belong together: sixteen sequences cost sixteen times what they need, and the mask is a matrix
of the whole cache. Here a CPU goes sequence by sequence, without a mask for the step that adds one token, and a GPU
takes the flash kernel that torch has in itself, which knows where sequences begin.

It is registered with transformers under NAME and called by the layers of any model that takes "sdpa".
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "aifactory_sequences"
_FLASH_TYPES = (torch.float16, torch.bfloat16)
_SHARED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
"""Heads may share a key; a torch before 2.12 takes that without being told."""

_SHARED_OUT = 2_000_000
"""Numbers read from the cache: with fewer, a second thread has not woken up before the first one is through."""


def fits(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether it can be computed there."""
    return device.type == "cpu" or (device.type == "cuda" and dtype in _FLASH_TYPES)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cache: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: tensors are [1, heads, tokens, size], the sequences one after the other."""
    read = query.shape[2] * max(kwargs["max_length_k"].values()) * key.shape[1] * key.shape[3]
    threads = torch.get_num_threads()
    if read < _SHARED_OUT:
        torch.set_num_threads(1)
    try:
        return _attend(module, query, key, value, scaling, cache, kwargs), None
    finally:
        torch.set_num_threads(threads)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, cache: Any, kwargs: Any
) -> Tensor:
    # It puts the new keys and values into the cache and gives those of the whole sequences, and their bounds in kwargs.
    key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs)
    window = getattr(cache.layer_to_allocator[module.layer_idx], "sliding_window", None)
    if query.is_cuda:
        return _flash(query, key, value, window, scaling, kwargs)
    news, seens = (
        [last - first for first, last in pairwise(kwargs[name].tolist())] for name in ("cu_seq_lens_q", "cu_seq_lens_k")
    )
    keys, values = key.split(seens, 2), value.split(seens, 2)
    if len(news) == query.shape[2]:
        return _next(query, keys, values, scaling)
    mixed = [
        _next(q, [k], [v], scaling) if q.shape[2] == 1 else _several(q, k, v, window, scaling)
        for q, k, v in zip(query.split(news, 2), keys, values, strict=True)
    ]
    return torch.cat(mixed, 1)


def _next(query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], scale: float | None) -> Tensor:
    """One new token a sequence, which may look at all of its own. The heads that share a key stand in the place of
    tokens, so no key is copied."""
    heads, shared = query.shape[1], keys[0].shape[1]
    queries = query.squeeze(0).transpose(0, 1).reshape(len(keys), 1, shared, heads // shared, -1)
    mixed = [scaled_dot_product_attention(q, k, v, scale=scale) for q, k, v in zip(queries, keys, values, strict=True)]
    return torch.cat(mixed).reshape(1, len(keys), heads, -1)


def _several(query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None) -> Tensor:
    """Several new tokens of one sequence."""
    new, seen, groups = query.shape[2], key.shape[2], query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, 1) for each in (key, value))
    mask = _mask(new, seen, window)
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale)
    return mixed.transpose(1, 2)


def _flash(query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None, kwargs: Any) -> Tensor:
    """All sequences at once; the last query of each stands at its last key."""
    q, k, v = (each.squeeze(0).transpose(0, 1) for each in (query, key, value))
    out = varlen_attn(
        q,
        k,
        v,
        kwargs["cu_seq_lens_q"],
        kwargs["cu_seq_lens_k"],
        kwargs["max_length_q"],
        kwargs["max_length_k"],
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        **_SHARED,
    )
    assert isinstance(out, Tensor)  # not asked for anything else
    return out.unsqueeze(0)


def _mask(new: int, seen: int, window: int | None) -> Tensor | None:
    """Which of the `seen` tokens each of the `new` last ones may look at; None if it is all before it."""
    if new == seen and (window is None or seen <= window):
        return None
    at = torch.arange(seen - new, seen).unsqueeze(1)
    other = torch.arange(seen)
    mask = other <= at
    return mask if window is None else mask & (other > at - window)


AttentionInterface.register(NAME, attend)

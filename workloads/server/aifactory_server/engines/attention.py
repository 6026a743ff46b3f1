"""Attention over a cache in pages, where each sequence meets its own keys only.

Without a package of flash kernels transformers multiplies the queries of all sequences with the keys of all sequences
and masks what does not belong together: sixteen sequences cost sixteen times what they need, and the mask is a matrix
of the whole cache. Here a CPU goes sequence by sequence, without a mask for the step that adds one token, and a GPU
takes the flash kernel that torch has in itself, which knows where sequences begin.

It is registered with transformers under NAME and called by the layers of any model that takes "sdpa".
"""

from __future__ import annotations

from inspect import signature
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
    # It puts the new keys and values into the cache and gives those of the whole sequences, and their bounds in kwargs.
    key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs)
    window = getattr(cache.layer_to_allocator[module.layer_idx], "sliding_window", None)
    if query.is_cuda:
        return _flash(query, key, value, window, scaling, kwargs), None
    queries, keys = kwargs["cu_seq_lens_q"].tolist(), kwargs["cu_seq_lens_k"].tolist()
    heads, shared = query.shape[1], key.shape[1]
    out = torch.empty((1, query.shape[2], heads, value.shape[3]), dtype=query.dtype)
    for index in range(len(queries) - 1):
        first, last = queries[index], queries[index + 1]
        k, v = (each[:, :, keys[index] : keys[index + 1]] for each in (key, value))
        q = query[:, :, first:last]
        if last - first == 1:
            # The heads that share a key stand in the place of tokens, so no key is copied.
            mixed = scaled_dot_product_attention(q.reshape(1, shared, heads // shared, -1), k, v, scale=scaling)
            out[0, first] = mixed.reshape(heads, -1)
        else:
            k, v = (each.repeat_interleave(heads // shared, 1) for each in (k, v))
            mask = _mask(last - first, k.shape[2], window)
            mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling)
            out[0, first:last] = mixed[0].transpose(0, 1)
    return out, None


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

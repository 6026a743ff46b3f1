"""Attention over a cache in pages, sequence by sequence, for CPUs.

Without a flash kernel transformers multiplies the queries of all sequences with the keys of all sequences and masks
what does not belong together: sixteen sequences cost sixteen times what they need, and the mask is a matrix of the
whole cache. Here each sequence meets its own keys only, and there is no mask at all for the step that adds one token.

It is registered with transformers under NAME and called by the layers of any model that takes "sdpa".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "aifactory_sequences"


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


def _mask(new: int, seen: int, window: int | None) -> Tensor | None:
    """Which of the `seen` tokens each of the `new` last ones may look at; None if it is all before it."""
    if new == seen and (window is None or seen <= window):
        return None
    at = torch.arange(seen - new, seen).unsqueeze(1)
    other = torch.arange(seen)
    mask = other <= at
    return mask if window is None else mask & (other > at - window)


AttentionInterface.register(NAME, attend)

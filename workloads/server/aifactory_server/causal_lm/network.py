"""The transformer `aifactory-gpt` for serving: many sequences at once, each in its own slot of one KV cache.

The same function as `aifactory_trainer.model.GPT`, which a test checks number by number, but with a cache of fixed
size: keys and values of slot `s` are row `s` of two tensors, so a step over the slots in use reads a view and copies
nothing. Positions up to a sequence's own length are its past; what an earlier sequence left in the slot is masked out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from aifactory_server.causal_lm.config import ModelConfig

_ROPE_BASE = 10_000.0


class Network:
    """Weights and cache of one model on one device.

    Args:
        slots: sequences that can be in the cache at the same time; there is one slot more, `probe_slot`, for the agent.
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], slots: int) -> None:
        self.config = config
        self.slots, self.probe_slot = slots, slots
        self._weights = weights
        some = weights["embedding.weight"]
        self.device, dtype = some.device, some.dtype
        shape = (config.layers, slots + 1, config.heads, config.context, config.head_size)
        self._keys = torch.zeros(shape, dtype=dtype, device=self.device)
        self._values = torch.zeros(shape, dtype=dtype, device=self.device)
        self._cos, self._sin = _rope_tables(config, self.device)

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: list[int], start: int = 0) -> Tensor:
        """Have these tokens in a slot from a position on, 0 for a new sequence; logits of the token after them."""
        return self._forward([tokens], [start], slot)[0]

    @torch.inference_mode()
    def decode(self, tokens: list[int], lengths: list[int]) -> Tensor:
        """Add one token to each of the first slots: `tokens[s]` at position `lengths[s]`; logits, a row a slot.

        A slot that is not asked for takes any token at a position that nobody has got to, and its row means nothing.
        """
        return self._forward([[token] for token in tokens], lengths, 0)

    def _forward(self, tokens: list[list[int]], lengths: list[int], first_slot: int) -> Tensor:
        """New tokens for consecutive slots, after the `lengths` that each has; logits after the last, a row a slot."""
        batch, new, seen = len(tokens), len(tokens[0]), max(lengths) + len(tokens[0])
        positions = torch.tensor(lengths, device=self.device).unsqueeze(1) + torch.arange(new, device=self.device)
        rope = (self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1))
        mask = (torch.arange(seen, device=self.device) <= positions.unsqueeze(-1)).unsqueeze(1)
        cache_index = (torch.arange(batch, device=self.device).unsqueeze(1), positions)
        x = F.embedding(torch.tensor(tokens, device=self.device), self._weights["embedding.weight"])
        for layer in range(self.config.layers):
            keys = self._keys[layer, first_slot : first_slot + batch]
            values = self._values[layer, first_slot : first_slot + batch]
            x = x + self._attend(_normalise(x), layer, rope, mask, cache_index, keys, values)
            up = self._linear(_normalise(x), f"blocks.{layer}.up.weight")
            x = x + self._linear(F.relu(up).square(), f"blocks.{layer}.down.weight")
        return F.linear(_normalise(x[:, -1]), self._weights["embedding.weight"]).float()

    def _attend(
        self,
        x: Tensor,
        layer: int,
        rope: tuple[Tensor, Tensor],
        mask: Tensor,
        cache_index: tuple[Tensor, Tensor],
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        batch, new, width = x.shape
        projected = self._linear(x, f"blocks.{layer}.attention.qkv.weight")
        qkv = projected.view(batch, new, 3, self.config.heads, self.config.head_size).permute(2, 0, 3, 1, 4)
        queries, new_keys = _apply_rope(_normalise(qkv[:2]), rope).unbind(0)
        row, position = cache_index
        keys[row, :, position] = new_keys.transpose(1, 2)
        values[row, :, position] = qkv[2].transpose(1, 2)
        seen = mask.shape[-1]
        mixed = F.scaled_dot_product_attention(queries, keys[:, :, :seen], values[:, :, :seen], attn_mask=mask)
        return self._linear(mixed.transpose(1, 2).reshape(batch, new, width), f"blocks.{layer}.attention.out.weight")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weights[name])


def load_weights(path: Path, config: ModelConfig, device: torch.device) -> dict[str, Tensor]:
    """Read a safetensors file. Raises ValueError if a tensor is missing, left over or of another shape.

    On a CPU everything is computed in float32, on a GPU in the type that the file has.
    """
    expected = _shapes(config)
    weights: dict[str, Tensor] = {}
    with safe_open(path, framework="pt", device=str(device)) as file:
        names = set(file.keys())
        if names != set(expected):
            missing, extra = sorted(set(expected) - names), sorted(names - set(expected))
            raise ValueError(f"{path.name} does not fit config.json: missing {missing[:3]}, not known {extra[:3]}")
        for name, shape in expected.items():
            tensor = file.get_tensor(name)
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{path.name}: {name} has shape {tuple(tensor.shape)}, config.json says {shape}")
            weights[name] = tensor.float() if device.type == "cpu" else tensor
    return weights


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    width = config.embedding
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (config.vocabulary, width)}
    for layer in range(config.layers):
        shapes |= {
            f"blocks.{layer}.attention.qkv.weight": (3 * width, width),
            f"blocks.{layer}.attention.out.weight": (width, width),
            f"blocks.{layer}.up.weight": (4 * width, width),
            f"blocks.{layer}.down.weight": (width, 4 * width),
        }
    return shapes


def _normalise(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],))


def _rope_tables(config: ModelConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    size = config.head_size
    frequencies = _ROPE_BASE ** (-torch.arange(0, size, 2, dtype=torch.float32, device=device) / size)
    angles = torch.outer(torch.arange(config.context, dtype=torch.float32, device=device), frequencies)
    return angles.cos(), angles.sin()


def _apply_rope(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rope[0].to(x.dtype), rope[1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

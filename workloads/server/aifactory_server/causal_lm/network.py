"""The trainer's transformer for serving: many sequences at once, each in its own slot of one KV cache.

It is transformers' Qwen3ForCausalLM with as many keys and values as queries, and computes what
`aifactory_trainer.model.GPT` does, which a test checks number by number, but with a cache of fixed size: keys and
values of slot `s` are row `s` of two tensors, so a step over the slots in use reads a view and copies nothing.
Positions up to a sequence's own length are its past; what an earlier sequence left in the slot is masked out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from aifactory_server.causal_lm.config import ModelConfig
from aifactory_server.device import check_room, free_memory


class Network:
    """Weights and cache of one model on one device.

    Args:
        slots: sequences that can be in the cache at the same time; there is one slot more, `probe_slot`, for the agent.
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], slots: int) -> None:
        self.config = config
        self.slots, self.probe_slot = slots, slots
        self._weights = weights
        some = weights["embedding"]
        self.device, dtype = some.device, some.dtype
        shape = (config.layers, slots + 1, config.heads, config.context, config.head_size)
        self._keys = torch.zeros(shape, dtype=dtype, device=self.device)
        self._values = torch.zeros(shape, dtype=dtype, device=self.device)
        self._cos, self._sin = _rope_tables(config, self.device)

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: list[int], start: int = 0) -> Tensor:
        """Have these tokens in a slot from a position on, 0 for a new sequence; logits of the token after them."""
        return self._forward([tokens], [start], [slot])[0]

    @torch.inference_mode()
    def prefill_together(self, texts: Mapping[int, list[int]]) -> Tensor:
        """Have the whole of some new sequences in their slots; logits of the token after each, a row a text."""
        longest = max(map(len, texts.values()))
        # What fills up the shorter ones is written at positions that nobody has got to.
        padded = [text + [0] * (longest - len(text)) for text in texts.values()]
        return self._forward(padded, [0] * len(texts), list(texts), [len(text) for text in texts.values()])

    @torch.inference_mode()
    def decode(self, tokens: list[int], lengths: list[int]) -> Tensor:
        """Add one token to each of the first slots: `tokens[s]` at position `lengths[s]`; logits, a row a slot.

        A slot that is not asked for takes any token at a position that nobody has got to, and its row means nothing.
        """
        return self._forward([[token] for token in tokens], lengths, list(range(len(tokens))))

    def _forward(
        self, tokens: list[list[int]], lengths: list[int], slots: list[int], counts: list[int] | None = None
    ) -> Tensor:
        """New tokens for slots, after the `lengths` that each has; logits after the last, a row a slot.

        Slots that have something already must be consecutive. With `counts` only so many of the tokens count.
        """
        new, seen = len(tokens[0]), max(lengths) + len(tokens[0])
        past = slice(slots[0], slots[0] + len(slots)) if any(lengths) else None
        positions = torch.tensor(lengths, device=self.device).unsqueeze(1) + torch.arange(new, device=self.device)
        rope = (self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1))
        mask = (torch.arange(seen, device=self.device) <= positions.unsqueeze(-1)).unsqueeze(1)
        cache_index = (torch.tensor(slots, device=self.device).unsqueeze(1), positions)
        x = F.embedding(torch.tensor(tokens, device=self.device), self._weights["embedding"])
        for layer in range(self.config.layers):
            before = self._normalise(x, f"{layer}.attention_norm")
            x = x + self._attend(before, layer, rope, mask, cache_index, past)
            gate, up = self._linear(self._normalise(x, f"{layer}.network_norm"), f"{layer}.gate_up").chunk(2, dim=-1)
            x = x + self._linear(F.silu(gate) * up, f"{layer}.down")
        last = x[:, -1] if counts is None else x[range(len(counts)), [count - 1 for count in counts]]
        return F.linear(self._normalise(last, "norm"), self._weights["embedding"]).float()

    def _attend(
        self,
        x: Tensor,
        layer: int,
        rope: tuple[Tensor, Tensor],
        mask: Tensor,
        cache_index: tuple[Tensor, Tensor],
        past: slice | None,
    ) -> Tensor:
        batch, new, _ = x.shape
        projected = self._linear(x, f"{layer}.qkv")
        qkv = projected.view(batch, new, 3, self.config.heads, self.config.head_size).permute(2, 0, 3, 1, 4)
        scaled = F.rms_norm(qkv[:2], (self.config.head_size,), eps=self.config.norm_epsilon)
        queries, new_keys = _apply_rope(scaled * self._weights[f"{layer}.query_key_norm"], rope).unbind(0)
        row, position = cache_index
        keys, values = new_keys, qkv[2]
        self._keys[layer][row, :, position] = keys.transpose(1, 2)
        self._values[layer][row, :, position] = values.transpose(1, 2)
        if past is not None:
            keys, values = (cache[layer, past, :, : mask.shape[-1]] for cache in (self._keys, self._values))
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self._linear(mixed.transpose(1, 2).reshape(batch, new, -1), f"{layer}.out")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weights[name])

    def _normalise(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self._weights[name], self.config.norm_epsilon)


def load_weights(paths: Iterable[Path], config: ModelConfig, device: torch.device) -> dict[str, Tensor]:
    """Read safetensors files. Raises ValueError if a tensor is missing, left over or of another shape, or has no room.

    On a CPU everything is computed in float32, on a GPU in the type that the files have.
    """
    expected = file_shapes(config)
    size = sum(math.prod(shape) for shape in expected.values()) * (4 if device.type == "cpu" else 2)
    check_room(device, size, free_memory(device))
    found: dict[str, Tensor] = {}
    for path in paths:
        with safe_open(path, framework="pt", device=str(device)) as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                tensor = file.get_tensor(name)
                if tuple(tensor.shape) != expected.get(name, tensor.shape):
                    shape = tuple(tensor.shape)
                    raise ValueError(f"{path.name}: {name} has shape {shape}, config.json says {expected[name]}")
                found[name] = tensor.float() if device.type == "cpu" else tensor
    if found.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        raise ValueError(f"the weights do not fit config.json: missing {missing[:3]}, not known {extra[:3]}")
    return fused(found, config)


def file_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of the files, by their names in transformers."""
    width, heads = config.embedding, config.heads * config.head_size
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocabulary, width),
        "model.norm.weight": (width,),
    }
    for layer in range(config.layers):
        here = f"model.layers.{layer}"
        shapes |= {f"{here}.self_attn.{name}_proj.weight": (heads, width) for name in "qkv"}
        shapes |= {f"{here}.self_attn.{name}_norm.weight": (config.head_size,) for name in "qk"}
        shapes |= {f"{here}.mlp.{name}_proj.weight": (config.hidden, width) for name in ("gate", "up")}
        shapes |= {
            f"{here}.self_attn.o_proj.weight": (width, heads),
            f"{here}.mlp.down_proj.weight": (width, config.hidden),
            f"{here}.input_layernorm.weight": (width,),
            f"{here}.post_attention_layernorm.weight": (width,),
        }
    return shapes


def fused(found: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The weights as they are computed with: what is multiplied by the same input is one matrix."""
    weights = {"embedding": found["model.embed_tokens.weight"], "norm": found["model.norm.weight"]}
    for layer in range(config.layers):
        here = f"model.layers.{layer}"
        weights |= {
            f"{layer}.qkv": torch.cat([found[f"{here}.self_attn.{name}_proj.weight"] for name in "qkv"]),
            f"{layer}.query_key_norm": torch.stack(
                [found[f"{here}.self_attn.{name}_norm.weight"] for name in "qk"]
            ).view(2, 1, 1, 1, config.head_size),
            f"{layer}.out": found[f"{here}.self_attn.o_proj.weight"],
            f"{layer}.gate_up": torch.cat([found[f"{here}.mlp.{name}_proj.weight"] for name in ("gate", "up")]),
            f"{layer}.down": found[f"{here}.mlp.down_proj.weight"],
            f"{layer}.attention_norm": found[f"{here}.input_layernorm.weight"],
            f"{layer}.network_norm": found[f"{here}.post_attention_layernorm.weight"],
        }
    return weights


def _rope_tables(config: ModelConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    size = config.head_size
    frequencies = config.rope_base ** (-torch.arange(0, size, 2, dtype=torch.float32, device=device) / size)
    angles = torch.outer(torch.arange(config.context, dtype=torch.float32, device=device), frequencies)
    return angles.cos(), angles.sin()


def _apply_rope(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rope[0].to(x.dtype), rope[1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

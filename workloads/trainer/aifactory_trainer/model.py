"""The language model: a decoder-only transformer over bytes.

Role: the network for training. It computes what Qwen3ForCausalLM of Hugging Face's transformers does, as `pretrained`
writes it and a test compares; the server's `causal_lm/network.py` is another implementation, with a cache for many
sequences, and its tests compare that with this. So this file needs torch and nothing else, reads no environment and
knows no file format.

What always holds:
- Every token is a byte of the text, or END_OF_TEXT (256), which starts and ends each text.
- Positions are relative (rotary embeddings), the prediction is causal, and the output shares its weights with the
  input embedding.
- `forward(tokens, cache)` with a Cache gives the same logits as one call with the whole text, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

END_OF_TEXT = 256
VOCABULARY = 257
ROPE_BASE = 10_000.0
NORM_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class GPTConfig:
    """Everything needed to build the model.

    Attributes:
        context: the longest text the model sees at once, in tokens.
        layers: number of blocks.
        heads: attention heads in a block.
        embedding: width of the stream between the blocks; a multiple of 2 * heads.
    """

    context: int = 128
    layers: int = 2
    heads: int = 4
    embedding: int = 128

    def __post_init__(self) -> None:
        if min(self.context, self.layers, self.heads, self.embedding) < 1:
            raise ValueError("context, layers, heads and embedding must be at least 1")
        if self.embedding % (2 * self.heads):
            raise ValueError(f"embedding {self.embedding} must be a multiple of 2 x heads ({2 * self.heads})")

    @property
    def hidden(self) -> int:
        """Width of a block's two-layer network: 8/3 of the embedding, which makes its three matrices as large as the
        two of four times the embedding would be; rounded up to a multiple of 32."""
        return -(-8 * self.embedding // 96) * 32


class Cache:
    """Keys and values of the tokens seen so far, a pair for each block; empty at first."""

    def __init__(self, layers: int) -> None:
        self.blocks: list[tuple[Tensor, Tensor] | None] = [None] * layers

    @property
    def length(self) -> int:
        """How many tokens are in it."""
        first = self.blocks[0]
        return 0 if first is None else first[0].shape[2]

    def extend(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new tokens' keys and values, and return those of all tokens."""
        past = self.blocks[block]
        if past is not None:
            keys, values = torch.cat((past[0], keys), dim=2), torch.cat((past[1], values), dim=2)
        self.blocks[block] = (keys, values)
        return keys, values


class Attention(nn.Module):
    """Causal self-attention with rotary positions and normalised queries and keys."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.size = config.embedding // config.heads
        self.qkv = nn.Linear(config.embedding, 3 * config.embedding, bias=False)
        self.out = nn.Linear(config.embedding, config.embedding, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], cache: Cache | None, block: int) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv.unbind(0)
        queries, keys = apply_rope(normalise(queries), rope), apply_rope(normalise(keys), rope)
        if cache is not None:
            keys, values = cache.extend(block, keys, values)
        mixed = attend(queries, keys, values)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class Block(nn.Module):
    """Attention, then a gated two-layer network (SwiGLU, arXiv 2002.05202), each added to the stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.gate_up = nn.Linear(config.embedding, 2 * config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.embedding, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], cache: Cache | None, block: int) -> Tensor:
        x = x + self.attention(normalise(x), rope, cache, block)
        gate, up = self.gate_up(normalise(x)).chunk(2, dim=-1)
        out: Tensor = x + self.down(F.silu(gate) * up)
        return out


class GPT(nn.Module):
    """Tokens in, logits of the next token out."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(VOCABULARY, config.embedding)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        cos, sin = rope_tables(config.context, config.embedding // config.heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Layers that write to the stream start at zero: at first the model is its embedding, and nothing explodes."""
        nn.init.normal_(self.embedding.weight, std=0.02)
        for block in self.blocks:
            assert isinstance(block, Block)
            for layer in (block.attention.qkv, block.gate_up):
                nn.init.normal_(layer.weight, std=1 / math.sqrt(self.config.embedding))
            for layer in (block.attention.out, block.down):
                nn.init.zeros_(layer.weight)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits for every position of `tokens` (batch, length); with a cache, tokens continue what is in it.

        Raises:
            ValueError: more tokens than the context holds.
        """
        start = 0 if cache is None else cache.length
        end = start + tokens.shape[1]
        if end > self.config.context:
            raise ValueError(f"{end} tokens do not fit a context of {self.config.context}")
        rope = (self.cos[start:end], self.sin[start:end])
        x = working_type(self.embedding(tokens))
        for index, block in enumerate(self.blocks):
            x = block(x, rope, cache, index)
        return project(normalise(x), self.embedding.weight)


def working_type(x: Tensor) -> Tensor:
    """In the type of matrix products under autocast, which leaves an embedding in float32: the stream between the
    blocks, read and written many times in each, is half as large."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def project(x: Tensor, weight: Tensor) -> Tensor:
    """Logits, a view of a product with rows of zeros: a GPU's fast kernels want sizes that are multiples of 8, which
    VOCABULARY is not, and one that is a multiple of 64 most."""
    if not x.is_cuda:
        return F.linear(x, weight)
    rows = weight.shape[0]
    logits: Tensor = F.linear(x, F.pad(weight, (0, 0, 0, -rows % 64)))[..., :rows]
    return logits


def normalise(x: Tensor) -> Tensor:
    """Scale the last dimension to a root mean square of 1; no weights, so nothing to keep in step.

    In the type that comes in (it adds up in float32 all the same): autocast would make queries and keys float32.
    """
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(x, (x.shape[-1],), eps=NORM_EPSILON)


def rope_tables(context: int, size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (context, size / 2) of the rotary position embedding (RoPE, arXiv 2104.09864)."""
    frequencies = ROPE_BASE ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Apply the rotary embedding to (batch, heads, length, size)."""
    cos, sin = rope[0].to(x.dtype), rope[1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention where the queries are the last of the tokens that the keys stand for."""
    new, seen = queries.shape[2], keys.shape[2]
    if new == seen:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    mask = torch.ones(new, seen, dtype=torch.bool, device=queries.device).tril(seen - new)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


@torch.inference_mode()
def generate(
    model: GPT, prompt: bytes, tokens: int, *, temperature: float = 0.8, generator: torch.Generator | None = None
) -> Iterator[int]:
    """Yield up to `tokens` next bytes; ends early at END_OF_TEXT. Temperature 0 always takes the likeliest.

    When the context is full, a fresh cache is prefilled with the second half of it and generation goes on.
    """
    context = model.config.context
    text = [END_OF_TEXT, *prompt]
    cache = Cache(model.config.layers)
    pending = text[-(context - 1) :]
    device = model.embedding.weight.device
    for _ in range(tokens):
        if cache.length + len(pending) > context:
            cache, pending = Cache(model.config.layers), text[-(context // 2) :]
        logits = model(torch.tensor([pending], device=device), cache)[0, -1].float()
        token = sample(logits, temperature, generator)
        if token == END_OF_TEXT:
            return
        yield token
        text.append(token)
        pending = [token]


def sample(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> int:
    """Draw a token from its logits."""
    if temperature <= 0:
        return int(logits.argmax())
    weights = (logits.cpu() / temperature).softmax(dim=-1)
    return int(torch.multinomial(weights, 1, generator=generator))

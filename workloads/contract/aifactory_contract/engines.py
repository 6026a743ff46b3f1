"""The engines of the server image that serve language models.

An engine is a Triton back end of its name, with the interface of `signature.GENERATE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BYTE_TOKENS = range(257, 513)


@dataclass(frozen=True)
class Engine:
    """One engine."""

    name: str
    architectures: frozenset[str]
    """As config.json names them."""


BYTES = Engine("bytes", frozenset({"Qwen3ForCausalLM"}))
"""The server's own small one (`aifactory_server.causal_lm`), for models whose tokens are bytes; with those it is twice
as fast as transformers."""
TRANSFORMERS = Engine(
    "transformers",
    frozenset(
        {
            *("ApertusForCausalLM", "ArceeForCausalLM", "CohereForCausalLM", "Exaone4ForCausalLM", "GPT2LMHeadModel"),
            *("GPTNeoXForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "GlmForCausalLM"),
            *("Glm4ForCausalLM", "GraniteForCausalLM", "HeliumForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"),
            *("MixtralForCausalLM", "OlmoForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM", "PhiForCausalLM"),
            *("Phi3ForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
            *("SmolLM3ForCausalLM", "Starcoder2ForCausalLM"),
        }
    ),
)
"""Any causal language model (`aifactory_server.generate`). Of these architectures a test of the server shows that
answers are those of the model."""


def serves_bytes(config: Mapping[str, Any]) -> bool:
    """Whether BYTES serves a model, as far as config.json tells; whether its tokens are bytes the load sees."""
    architectures = config.get("architectures") or []
    return bool(BYTES.architectures.intersection(architectures)) and config.get("vocab_size") in _BYTE_TOKENS

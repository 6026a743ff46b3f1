"""The engines of the server image that serve language models, and which models each can serve.

An engine is a Triton back end of its name, with the interface of `signature.GENERATE`. What no engine can serve is told
when a version is verified; a pool would only find out at the load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.names import CONFIG

_BYTE_TOKENS = range(257, 513)


@dataclass(frozen=True)
class Engine:
    """One engine."""

    name: str
    architectures: frozenset[str]
    """As config.json names them."""
    serves: Callable[[Mapping[str, Any]], bool]
    """Whether it can serve a model of one of them, by its config.json."""
    what: str
    """What it serves, for messages."""


def _has_byte_tokens(config: Mapping[str, Any]) -> bool:
    """As far as config.json tells; whether the tokens are bytes is in the tokenizer, which the load looks at."""
    return config.get("vocab_size") in _BYTE_TOKENS


BYTES = Engine(
    "bytes",
    frozenset({"Qwen3ForCausalLM"}),
    _has_byte_tokens,
    "Qwen3ForCausalLM with a token for each byte, as aifactory_trainer.gpt makes it",
)
"""The server's own small one (`aifactory_server.causal_lm`); twice as fast as transformers for what it serves."""
_WITH_TRANSFORMERS = frozenset(
    {
        *("ApertusForCausalLM", "ArceeForCausalLM", "CohereForCausalLM", "Exaone4ForCausalLM", "GPT2LMHeadModel"),
        *("GPTNeoXForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "GlmForCausalLM"),
        *("Glm4ForCausalLM", "GraniteForCausalLM", "HeliumForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"),
        *("MixtralForCausalLM", "OlmoForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM", "PhiForCausalLM"),
        *("Phi3ForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
        *("SmolLM3ForCausalLM", "Starcoder2ForCausalLM"),
    }
)
"""A test of the server shows of each of these that the answers are those of the model."""
TRANSFORMERS = Engine("transformers", _WITH_TRANSFORMERS, lambda _: True, ", ".join(sorted(_WITH_TRANSFORMERS)))
"""Any of these (`aifactory_server.generate`)."""

ENGINES = (BYTES, TRANSFORMERS)
"""In the order in which they are chosen."""


def engine_for(config: Mapping[str, Any]) -> Engine:
    """The engine that serves a model. Raises FactoryError (Unservable) if none of the image can."""
    architectures = config.get("architectures")
    named = {name for name in architectures if isinstance(name, str)} if isinstance(architectures, list) else set()
    for engine in ENGINES:
        if named & engine.architectures and engine.serves(config):
            return engine
    size, known = config.get("vocab_size"), "; ".join(engine.what for engine in ENGINES)
    raise FactoryError(
        Reason.UNSERVABLE,
        f"no engine of the server image serves this model ({CONFIG}: {', '.join(sorted(named))}, vocab_size {size}); "
        f"it serves: {known}",
    )

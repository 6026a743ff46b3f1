"""The engines that serve language models: which models each can serve, and which one a pod takes.

An engine is a Triton back end of its name, with the interface of `signature.GENERATE`, or `signature.EMBED` where it
makes vectors. What no engine can serve is told when a version is verified; a pool would only find out at the load.
Which engines a pod has, its server says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.names import CONFIG
from aifactory_contract.server import VLLM as VLLM_BACKEND
from aifactory_contract.server import Server

AUTO = "auto"
"""The wish for an engine of a pool that has none: the first of ENGINES that serves the model and that the pod has."""
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
    needs_gpu: bool = False

    def lack(self, server: Server) -> str:
        """What a server lacks to run it, with the way out; "" if nothing."""
        if (missing := server.lack(self.name)) or server.gpus or not self.needs_gpu:
            return missing
        return (
            f"engine {self.name} computes on GPUs, and the server of this pod sees none: write nvidia.com/gpu under "
            "resources.limits of container triton"
        )


def _has_byte_tokens(config: Mapping[str, Any]) -> bool:
    """As far as config.json tells; whether the tokens are bytes is in the tokenizer, which the load looks at."""
    return config.get("vocab_size") in _BYTE_TOKENS


BYTES = Engine(
    "bytes",
    frozenset({"Qwen3ForCausalLM"}),
    _has_byte_tokens,
    "Qwen3ForCausalLM with a token for each byte, as aifactory_trainer.pretrain makes it",
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

_WITH_VLLM = frozenset(
    {
        *("AXK1ForCausalLM", "AfmoeForCausalLM", "ApertusForCausalLM", "ArceeForCausalLM", "BloomForCausalLM"),
        *("Cohere2ForCausalLM", "Cohere2MoeForCausalLM", "CohereForCausalLM", "CwmForCausalLM", "DbrxForCausalLM"),
        *("DeepseekV2ForCausalLM", "DeepseekV32ForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV4ForCausalLM"),
        *("Ernie4_5ForCausalLM", "Ernie4_5_MoeForCausalLM", "Exaone4ForCausalLM", "FalconForCausalLM"),
        *("FalconH1ForCausalLM", "FalconMambaForCausalLM", "FlexOlmoForCausalLM", "GPT2LMHeadModel"),
        *("GPTBigCodeForCausalLM", "GPTJForCausalLM", "GPTNeoXForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"),
        *("Gemma3nForCausalLM", "Gemma4ForCausalLM", "GemmaForCausalLM", "Glm4ForCausalLM", "Glm4MoeForCausalLM"),
        *("Glm4MoeLiteForCausalLM", "GlmForCausalLM", "GlmMoeDsaForCausalLM", "GptOssForCausalLM"),
        *("GraniteForCausalLM", "GraniteMoeForCausalLM", "GraniteMoeHybridForCausalLM"),
        *("GraniteMoeSharedForCausalLM", "HYV3ForCausalLM", "HrmTextForCausalLM", "HunYuanDenseV1ForCausalLM"),
        *("HunYuanMoEV1ForCausalLM", "HyperCLOVAXForCausalLM", "Jais2ForCausalLM", "JambaForCausalLM"),
        *("KimiLinearForCausalLM", "LagunaForCausalLM", "Lfm2ForCausalLM", "Lfm2MoeForCausalLM", "Llama4ForCausalLM"),
        *("LlamaForCausalLM", "LongcatFlashForCausalLM", "Mamba2ForCausalLM", "MambaForCausalLM"),
        *("MellumForCausalLM", "MiMoV2FlashForCausalLM", "MiniCPM3ForCausalLM", "MiniMaxM2ForCausalLM"),
        *("Ministral3ForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "MptForCausalLM"),
        *("NemotronForCausalLM", "NemotronHForCausalLM", "OPTForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM"),
        *("OlmoForCausalLM", "OlmoHybridForCausalLM", "OlmoeForCausalLM", "PersimmonForCausalLM", "Phi3ForCausalLM"),
        *("PhiForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
        *("Qwen3NextForCausalLM", "SeedOssForCausalLM", "StableLmForCausalLM", "Starcoder2ForCausalLM"),
        "Zamba2ForCausalLM",
    }
)
"""Those that vLLM 0.24.0 has a program of its own for (vllm/model_executor/models/registry.py, text generation) and
transformers as well, so that they need no code of the model's. NVIDIA's image 26.07 has this release."""
VLLM = Engine(VLLM_BACKEND, _WITH_VLLM, lambda _: True, "those in docs/engines.md, on GPUs", needs_gpu=True)
"""Triton's vLLM back end, where the pod's image has it."""

_ENCODERS = (
    *("Albert", "Bert", "Camembert", "DistilBert", "Electra", "MPNet", "ModernBert", "NomicBert", "Roberta"),
    "XLMRoberta",
)
EMBEDDINGS = Engine(
    "embeddings",
    frozenset(f"{name}{kind}" for name in _ENCODERS for kind in ("Model", "ForMaskedLM")),
    lambda _: True,
    f"embedding models, {', '.join(f'{name}Model' for name in _ENCODERS)}",
)
"""Makes vectors of texts (`aifactory_server.embeddings`). A test of the server shows of each architecture that they are
those of the model. Many embedding models are called ForMaskedLM, by what they were made from."""

ENGINES = (VLLM, BYTES, TRANSFORMERS, EMBEDDINGS)
"""In the order in which they are chosen."""


def engine_for(config: Mapping[str, Any], wish: str = AUTO, server: Server | None = None) -> Engine:
    """The engine that serves a model in a pod.

    Args:
        config: the model's config.json.
        wish: name of an engine, or AUTO.
        server: the pod's; None: one of the image `aifactory/server` without a GPU.

    Raises FactoryError (Unservable) if none can, or not the one that is wished for, with the way out.
    """
    server = server or Server()
    architectures = config.get("architectures")
    named = {name for name in architectures if isinstance(name, str)} if isinstance(architectures, list) else set()
    able = [engine for engine in ENGINES if named & engine.architectures and engine.serves(config)]
    if not able:
        size, known = config.get("vocab_size"), "; ".join(f"{engine.name}: {engine.what}" for engine in ENGINES)
        raise FactoryError(
            Reason.UNSERVABLE,
            f"no engine serves this model ({CONFIG}: {', '.join(sorted(named))}, vocab_size {size}); "
            f"they serve {known}",
        )
    if wish != AUTO:
        others = " or ".join(engine.name for engine in able)
        able = [engine for engine in able if engine.name == wish]
        if not able:
            raise FactoryError(
                Reason.UNSERVABLE,
                f"engine {wish} does not serve this model ({CONFIG}: {', '.join(sorted(named))}); write "
                f"runtime.engine: {AUTO}, which takes {others}",
            )
    lacks = [(engine, engine.lack(server)) for engine in able]
    for engine, lack in lacks:
        if not lack:
            return engine
    raise FactoryError(Reason.UNSERVABLE, lacks[0][1])

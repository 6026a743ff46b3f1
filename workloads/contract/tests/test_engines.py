"""Which engine serves a model, and what is said when none does."""

from __future__ import annotations

from typing import Any

import pytest

from aifactory_contract.engines import BYTES, EMBEDDINGS, TRANSFORMERS, VLLM, engine_for
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import HUGGINGFACE, TORCH_EXPORT
from aifactory_contract.server import ANY, OURS, Server

SMALL = {"architectures": ["Qwen3ForCausalLM"], "vocab_size": 257}


def test_the_small_engine_serves_models_of_bytes() -> None:
    assert engine_for(SMALL) is BYTES
    assert HUGGINGFACE.serving(SMALL).backend == "bytes"


@pytest.mark.parametrize("config", [{**SMALL, "vocab_size": 151936}, {"architectures": ["LlamaForCausalLM"]}])
def test_transformers_serves_the_architectures_whose_answers_were_compared(config: dict[str, Any]) -> None:
    assert engine_for(config) is TRANSFORMERS
    assert HUGGINGFACE.serving(config).backend == "transformers"


@pytest.mark.parametrize(
    "config",
    [
        {**SMALL, "architectures": ["T5EncoderModel", 3]},
        {**SMALL, "architectures": "Qwen3ForCausalLM"},
        {},
    ],
)
def test_what_no_engine_serves_is_told_with_what_they_serve(config: dict[str, Any]) -> None:
    with pytest.raises(FactoryError, match="bytes: Qwen3ForCausalLM with a token for each byte") as caught:
        engine_for(config, server=ANY)
    assert caught.value.reason is Reason.UNSERVABLE


@pytest.mark.parametrize("architecture", ["BertModel", "XLMRobertaModel", "MPNetForMaskedLM"])
def test_embedding_models_have_an_engine_and_an_interface_of_their_own(architecture: str) -> None:
    config = {"architectures": [architecture], "vocab_size": 30522}
    assert engine_for(config, server=ANY) is EMBEDDINGS
    serving = HUGGINGFACE.serving(config)
    assert (serving.backend, serving.decoupled, serving.batched) == ("embeddings", False, True)
    assert [tensor.name for tensor in serving.signature.outputs] == ["embedding", "num_input_tokens"]


LLAMA = {"architectures": ["LlamaForCausalLM"]}
MAMBA = {"architectures": ["MambaForCausalLM"]}
BERT = {"architectures": ["BertModel"]}
HELIUM = {"architectures": ["HeliumForCausalLM"]}
ON_VLLM, WITHOUT_GPU = Server(frozenset({"vllm"}), gpus=1), Server(frozenset({*OURS, "vllm"}))


@pytest.mark.parametrize(
    ("config", "wish", "server", "backend"),
    [
        (LLAMA, "auto", ON_VLLM, "vllm"),
        (SMALL, "auto", ON_VLLM, "vllm"),
        (LLAMA, "auto", ANY, "vllm"),
        (LLAMA, "auto", WITHOUT_GPU, "transformers"),
        (LLAMA, "auto", Server(gpus=8), "transformers"),
        (SMALL, "auto", WITHOUT_GPU, "bytes"),
        (HELIUM, "auto", ANY, "transformers"),
        (LLAMA, "transformers", ANY, "transformers"),
        (SMALL, "transformers", ANY, "transformers"),
        (LLAMA, "vllm", ANY, "vllm"),
    ],
)
def test_vllm_is_taken_where_it_is_and_has_a_gpu(
    config: dict[str, Any], wish: str, server: Server, backend: str
) -> None:
    assert HUGGINGFACE.serving(config, wish, server).backend == backend


NO_VLLM = (
    "the server of this pod has no back end vllm (it has bytes, embeddings, onnxruntime, torch-export, transformers): "
    "give container"
)
NO_GPU = "engine vllm computes on GPUs, and the server of this pod sees none: write nvidia.com/gpu under"


@pytest.mark.parametrize(
    ("config", "wish", "server", "words"),
    [
        (MAMBA, "auto", Server(), NO_VLLM),
        (LLAMA, "vllm", Server(gpus=1), NO_VLLM),
        (LLAMA, "vllm", WITHOUT_GPU, NO_GPU),
        (LLAMA, "auto", Server(frozenset({"vllm"})), NO_GPU),
        (HELIUM, "vllm", ANY, "HeliumForCausalLM); write runtime.engine: auto, which takes transformers"),
        (BERT, "transformers", ANY, "BertModel); write runtime.engine: auto, which takes embeddings"),
        (
            BERT,
            "auto",
            ON_VLLM,
            "no back end embeddings (it has vllm): give container triton the image aifactory/server",
        ),
        (MAMBA, "transformers", ANY, "MambaForCausalLM); write runtime.engine: auto, which takes vllm"),
        (LLAMA, "transformers", ON_VLLM, "no back end transformers (it has vllm): give container triton the image aif"),
    ],
)
def test_a_wish_that_the_pod_can_not_fulfil_is_told_with_the_way_out(
    config: dict[str, Any], wish: str, server: Server, words: str
) -> None:
    with pytest.raises(FactoryError) as caught:
        HUGGINGFACE.serving(config, wish, server)
    assert words in caught.value.message
    assert caught.value.reason is Reason.UNSERVABLE


@pytest.mark.parametrize(
    ("wish", "server", "words"),
    [
        ("vllm", ANY, "this is of format torch-export: leave runtime.engine out"),
        ("auto", ON_VLLM, "no back end torch-export"),
    ],
)
def test_a_program_has_no_engine(wish: str, server: Server, words: str) -> None:
    with pytest.raises(FactoryError, match=words) as caught:
        TORCH_EXPORT.serving({}, wish, server)
    assert caught.value.reason is Reason.UNSERVABLE


def test_vllm_finds_its_gpus_by_itself_and_counts() -> None:
    serving = HUGGINGFACE.serving(LLAMA, server=ANY)
    assert serving.places_itself
    assert serving.parameters == {"REPORT_CUSTOM_METRICS": "true"}
    assert serving.signature == HUGGINGFACE.serving(LLAMA).signature
    assert VLLM.architectures & TRANSFORMERS.architectures

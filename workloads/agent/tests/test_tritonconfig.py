"""How Triton is told what a model is."""

from __future__ import annotations

from aifactory_agent.serve.tritonconfig import identity, render
from aifactory_contract.formats import format_of

LANGUAGE_MODEL = {"architectures": ["Qwen3ForCausalLM"], "vocab_size": 257}
TENSOR = {"name": "x", "dataType": "FP32", "dims": [64]}


def test_torch_export_is_served_as_its_config_says() -> None:
    serving = format_of("torch-export").serving(
        {"inputs": [TENSOR], "outputs": [{**TENSOR, "name": "y"}], "maxBatchSize": 8}
    )
    text = render(serving, "m", [3, 1])
    assert 'name: "x" data_type: TYPE_FP32 dims: [64]' in text
    assert "versions: [1, 3]" in text
    assert "max_batch_size: 8" in text
    assert "dynamic_batching" in text
    assert render(serving, "m", [2]) != text
    assert identity(format_of("huggingface").serving(LANGUAGE_MODEL)) != identity(serving)


def test_a_language_model_answers_in_pieces() -> None:
    text = render(format_of("huggingface").serving(LANGUAGE_MODEL), "m", [1])
    assert 'name: "text_input" data_type: TYPE_STRING dims: [1] }' in text
    assert 'name: "sampling_parameters" data_type: TYPE_STRING dims: [1] optional: true }' in text
    assert "decoupled: true" in text
    assert "dynamic_batching" not in text

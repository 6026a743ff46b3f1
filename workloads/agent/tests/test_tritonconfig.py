"""How Triton is told what a model is."""

from __future__ import annotations

from aifactory_agent.serve.tritonconfig import serving_config

TENSOR = {"name": "x", "dataType": "FP32", "dims": [64]}


def test_torch_export_is_served_as_its_config_says() -> None:
    config = serving_config(
        "torch-export", {"inputs": [TENSOR], "outputs": [{**TENSOR, "name": "y"}], "maxBatchSize": 8}
    )
    text = config.render("m", [3, 1])
    assert 'name: "x" data_type: TYPE_FP32 dims: [64]' in text
    assert "versions: [1, 3]" in text
    assert "max_batch_size: 8" in text
    assert "dynamic_batching" in text
    assert config.render("m", [2]) != text
    assert serving_config("causal-lm", {}).identity != config.identity


def test_causal_lm_answers_in_pieces() -> None:
    text = serving_config("causal-lm", {}).render("m", [1])
    assert 'name: "text_input" data_type: TYPE_STRING dims: [1] }' in text
    assert 'name: "seed" data_type: TYPE_UINT64 dims: [1] optional: true }' in text
    assert "decoupled: true" in text
    assert "dynamic_batching" not in text

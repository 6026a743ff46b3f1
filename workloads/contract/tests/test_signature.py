"""The inputs and outputs of a served model, as config.json states them."""

from __future__ import annotations

from typing import Any

import pytest

from aifactory_contract.errors import FactoryError
from aifactory_contract.signature import DATA_TYPES, GENERATE, Signature, TensorSpec

TENSOR = {"name": "x", "dataType": "FP32", "dims": [64]}


def test_what_is_written_is_read() -> None:
    signature = Signature((TensorSpec("x", "FP32", (64, -1)),), (TensorSpec("y.0", "INT64", ()),), 8)
    assert Signature.of_config(signature.to_config()) == signature


def test_a_single_number_a_row_travels_as_a_list_of_one() -> None:
    """Triton knows no tensor without dimensions (its model_configuration.md, "Reshape")."""
    assert TensorSpec("label", "INT64", ()).wire_dims == (1,)
    assert TensorSpec("x", "FP32", (64, -1)).wire_dims == (64, -1)


def test_without_a_batch_size_nothing_is_batched() -> None:
    assert Signature.of_config({"inputs": [TENSOR], "outputs": [TENSOR]}).max_batch_size == 0


def test_the_generate_endpoint_has_types_that_triton_knows() -> None:
    assert {tensor.data_type for tensor in GENERATE.inputs + GENERATE.outputs} <= set(DATA_TYPES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": []}, "inputs must be a list"),
        ({"inputs": [{**TENSOR, "name": 'x" evil: "'}]}, "no tensor name"),
        ({"inputs": [{**TENSOR, "dataType": "FLOAT"}]}, "dataType 'FLOAT'"),
        ({"outputs": [{**TENSOR, "dims": [0]}]}, "dims must be positive"),
        ({"maxBatchSize": -1}, "maxBatchSize -1"),
        ({"maxBatchSize": 2**40}, "maxBatchSize"),
        ({"inputs": [{**TENSOR, "dataType": ["FP32"]}]}, r"dataType \['FP32'\]"),
        ({"inputs": [{**TENSOR, "dims": [True]}]}, "dims must be positive"),
        ({"inputs": [{**TENSOR, "dims": [10**6, 10**6]}]}, "no request has room"),
        ({"outputs": [{**TENSOR, "dims": []}], "maxBatchSize": 0}, "a single number needs a batch dimension"),
    ],
)
def test_a_wrong_config_is_told_where(change: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"inputs": [TENSOR], "outputs": [TENSOR], "maxBatchSize": 4}
    with pytest.raises(FactoryError, match=words):
        Signature.of_config({**good, **change})

"""The signature of a served model: its inputs and outputs, and the types of their tensors.

A `torch-export` artifact states its own in config.json; the trainer writes it there and the agent reads it. All
language models have the same, with the names of Triton's own LLM back ends (vLLM, TensorRT-LLM), so their clients
and the generate endpoints work unchanged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.names import CONFIG


@dataclass(frozen=True, slots=True)
class DataType:
    """The type of a tensor's elements, under each of the names it goes by.

    Source: Triton, docs/user_guide/model_configuration.md, "Datatypes".
    """

    name: str
    """In requests and in an artifact's config.json."""
    pbtxt: str
    """In Triton's config.pbtxt."""
    torch: str | None = None
    """In PyTorch; None if a `torch-export` program can not have it."""


DATA_TYPES: Mapping[str, DataType] = {
    data_type.name: data_type
    for data_type in (
        DataType("BOOL", "TYPE_BOOL", "bool"),
        DataType("UINT8", "TYPE_UINT8", "uint8"),
        DataType("UINT16", "TYPE_UINT16"),
        DataType("UINT32", "TYPE_UINT32"),
        DataType("UINT64", "TYPE_UINT64"),
        DataType("INT8", "TYPE_INT8", "int8"),
        DataType("INT16", "TYPE_INT16", "int16"),
        DataType("INT32", "TYPE_INT32", "int32"),
        DataType("INT64", "TYPE_INT64", "int64"),
        DataType("FP16", "TYPE_FP16", "float16"),
        DataType("FP32", "TYPE_FP32", "float32"),
        DataType("FP64", "TYPE_FP64", "float64"),
        DataType("BF16", "TYPE_BF16", "bfloat16"),
        DataType("BYTES", "TYPE_STRING"),
    )
}
MAX_ELEMENTS = 2**28
"""Of one tensor. The agent makes every input once, to ask for an answer, and a gRPC message ends at 2 GiB."""
_MAX_BATCH_SIZE = 2**31 - 1
_TENSOR_NAME = re.compile(r"[A-Za-z_][\w.\[\]-]*")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output."""

    name: str
    data_type: str
    """One of DATA_TYPES."""
    dims: tuple[int, ...]
    """Shape without the batch dimension, -1 for any size."""
    optional: bool = False
    """Whether a request may leave this input out."""

    @property
    def wire_dims(self) -> tuple[int, ...]:
        """Shape in requests and answers: a single number a row is a list of one there, Triton knows nothing less."""
        return self.dims or (1,)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int = 0
    """Requests that are computed together at most; 0: the tensors have no batch dimension."""

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Signature:
        """As a `torch-export` artifact's config.json states it. Raises FactoryError (InvalidArtifact)."""
        found = cls(_tensors(config, "inputs"), _tensors(config, "outputs"), _max_batch_size(config))
        for tensor in found.inputs + found.outputs if found.max_batch_size == 0 else ():
            if not tensor.dims:
                raise _invalid(f"{tensor.name}: a single number needs a batch dimension: export with max_batch_size")
        return found

    def to_config(self) -> dict[str, object]:
        """The fields of config.json from which `of_config` makes the same signature."""

        def described(tensors: tuple[TensorSpec, ...]) -> list[dict[str, object]]:
            return [{"name": spec.name, "dataType": spec.data_type, "dims": list(spec.dims)} for spec in tensors]

        inputs, outputs = described(self.inputs), described(self.outputs)
        return {"inputs": inputs, "outputs": outputs, "maxBatchSize": self.max_batch_size}


GENERATE = Signature(
    inputs=(
        TensorSpec("text_input", "BYTES", (1,)),
        TensorSpec("stream", "BOOL", (1,), optional=True),
        TensorSpec("sampling_parameters", "BYTES", (1,), optional=True),
        TensorSpec("exclude_input_in_output", "BOOL", (1,), optional=True),
        TensorSpec("return_finish_reason", "BOOL", (1,), optional=True),
        TensorSpec("return_cumulative_logprob", "BOOL", (1,), optional=True),
        TensorSpec("return_logprobs", "BOOL", (1,), optional=True),
        TensorSpec("return_num_input_tokens", "BOOL", (1,), optional=True),
        TensorSpec("return_num_output_tokens", "BOOL", (1,), optional=True),
    ),
    outputs=(
        TensorSpec("text_output", "BYTES", (-1,)),
        TensorSpec("finish_reason", "BYTES", (-1,)),
        TensorSpec("cumulative_logprob", "FP32", (-1,)),
        TensorSpec("logprobs", "BYTES", (-1,)),
        TensorSpec("num_input_tokens", "UINT32", (1,)),
        TensorSpec("num_output_tokens", "UINT32", (-1,)),
    ),
)
"""The signature of a language model behind any engine: that of Triton's vLLM back end (its src/model.py)."""

EMBED = Signature(
    inputs=(
        TensorSpec("text_input", "BYTES", (1,), optional=True),
        TensorSpec("input_ids", "INT32", (-1,), optional=True),
    ),
    outputs=(TensorSpec("embedding", "FP32", (-1,)), TensorSpec("num_input_tokens", "UINT32", (1,))),
    max_batch_size=64,
)
"""The signature of an embedding model: a text in each row, or its tokens, and one of the two in every request."""


def _tensors(config: Mapping[str, Any], key: str) -> tuple[TensorSpec, ...]:
    items = config.get(key)
    if not isinstance(items, list) or not items:
        raise _invalid(f'{key} must be a list like [{{"name": "x", "dataType": "FP32", "dims": [64]}}]')
    tensors = []
    for item in items:
        fields = item if isinstance(item, dict) else {}
        name, data_type, dims = fields.get("name"), fields.get("dataType"), fields.get("dims")
        if not isinstance(name, str) or not _TENSOR_NAME.fullmatch(name):
            raise _invalid(f"{key}: {name!r} is no tensor name")
        if not isinstance(data_type, str) or data_type not in DATA_TYPES:
            raise _invalid(f"{key}.{name}: dataType {data_type!r} is none of {', '.join(DATA_TYPES)}")
        if not isinstance(dims, list) or not all(type(dim) is int and (dim > 0 or dim == -1) for dim in dims):
            raise _invalid(f"{key}.{name}: dims must be positive numbers, or -1 for any size, without the batch")
        if math.prod(abs(dim) for dim in dims) > MAX_ELEMENTS:
            raise _invalid(f"{key}.{name}: dims {dims} are more than {MAX_ELEMENTS} elements; no request has room")
        tensors.append(TensorSpec(name, data_type, tuple(dims)))
    return tuple(tensors)


def _max_batch_size(config: Mapping[str, Any]) -> int:
    size = config.get("maxBatchSize", 0)
    if type(size) is not int or not 0 <= size <= _MAX_BATCH_SIZE:
        raise _invalid(f"maxBatchSize {size!r} is not a number of requests; 0 means no batching")
    return size


def _invalid(what: str) -> FactoryError:
    return FactoryError(Reason.INVALID_ARTIFACT, f"{CONFIG}: {what}")

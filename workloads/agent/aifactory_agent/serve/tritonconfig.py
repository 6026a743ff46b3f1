"""From an artifact's config.json to Triton's config.pbtxt, and to the request that proves that it answers.

The inputs of `causal-lm` have the names of Triton's own LLM back ends (vLLM, TensorRT-LLM), so their clients and the
generate endpoints work unchanged.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aifactory_agent.errors import AgentError, Reason

DATA_TYPES: Mapping[str, str] = {
    "BOOL": "TYPE_BOOL", "UINT8": "TYPE_UINT8", "UINT16": "TYPE_UINT16", "UINT32": "TYPE_UINT32",
    "UINT64": "TYPE_UINT64", "INT8": "TYPE_INT8", "INT16": "TYPE_INT16", "INT32": "TYPE_INT32", "INT64": "TYPE_INT64",
    "FP16": "TYPE_FP16", "FP32": "TYPE_FP32", "FP64": "TYPE_FP64", "BF16": "TYPE_BF16", "BYTES": "TYPE_STRING",
}  # fmt: skip
_TENSOR_NAME = re.compile(r"[A-Za-z_][\w.\[\]-]*")


@dataclass(frozen=True)
class Tensor:
    """An input or output: `dims` without the batch dimension, -1 for any size."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class ServingConfig:
    """What Triton has to know of a model version."""

    backend: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int = 0
    decoupled: bool = False
    probe: Mapping[str, Any] = field(default_factory=dict)
    """Values of the inputs for the request that confirms a load; the others get zeros, optional ones nothing."""

    @property
    def identity(self) -> str:
        """Changes exactly if Triton would have to reload every version of the model."""
        return hashlib.sha256(self.render("", ()).encode()).hexdigest()[:16]

    def render(self, name: str, versions: Iterable[int]) -> str:
        """The text of config.pbtxt, with a version policy of exactly these versions."""
        lines = [
            f"name: {json.dumps(name)}",
            f"backend: {json.dumps(self.backend)}",
            f"max_batch_size: {self.max_batch_size}",
            f"version_policy {{ specific {{ versions: [{', '.join(map(str, sorted(versions)))}] }} }}",
        ]
        lines += [f"input {{ {_tensor(tensor)} }}" for tensor in self.inputs]
        lines += [f"output {{ {_tensor(tensor)} }}" for tensor in self.outputs]
        if self.decoupled:
            lines.append("model_transaction_policy { decoupled: true }")
        if self.max_batch_size > 0:
            # No delay: requests are put together only if they wait anyway.
            lines.append("dynamic_batching { }")
        return "\n".join(lines) + "\n"


_CAUSAL_LM = ServingConfig(
    backend="causal-lm",
    inputs=(
        Tensor("text_input", "BYTES", (1,)),
        Tensor("max_tokens", "INT32", (1,), optional=True),
        Tensor("temperature", "FP32", (1,), optional=True),
        Tensor("seed", "UINT64", (1,), optional=True),
        Tensor("stop", "BYTES", (-1,), optional=True),
        Tensor("stream", "BOOL", (1,), optional=True),
    ),
    outputs=(
        Tensor("text_output", "BYTES", (1,)),
        Tensor("finish_reason", "BYTES", (1,)),
        Tensor("num_input_tokens", "UINT32", (1,)),
        Tensor("num_output_tokens", "UINT32", (1,)),
    ),
    decoupled=True,
    probe={"text_input": b"def", "max_tokens": 1, "stream": False},
)


def serving_config(format_name: str, config: Mapping[str, Any]) -> ServingConfig:
    """Raises AgentError (InvalidArtifact) if config.json does not describe the model's inputs and outputs."""
    if format_name == "causal-lm":
        return _CAUSAL_LM
    return ServingConfig(
        backend=format_name,
        inputs=_tensors(config, "inputs"),
        outputs=_tensors(config, "outputs"),
        max_batch_size=_max_batch_size(config),
    )


def _tensors(config: Mapping[str, Any], key: str) -> tuple[Tensor, ...]:
    items = config.get(key)
    if not isinstance(items, list) or not items:
        raise _invalid(f'{key} must be a list like [{{"name": "x", "dataType": "FP32", "dims": [64]}}]')
    tensors = []
    for item in items:
        fields = item if isinstance(item, dict) else {}
        name, data_type, dims = fields.get("name"), fields.get("dataType"), fields.get("dims")
        if not isinstance(name, str) or not _TENSOR_NAME.fullmatch(name):
            raise _invalid(f"{key}: {name!r} is no tensor name")
        if data_type not in DATA_TYPES:
            raise _invalid(f"{key}.{name}: dataType {data_type!r} is none of {', '.join(DATA_TYPES)}")
        if not isinstance(dims, list) or not all(isinstance(dim, int) and (dim > 0 or dim == -1) for dim in dims):
            raise _invalid(f"{key}.{name}: dims must be positive numbers, or -1 for any size, without the batch")
        tensors.append(Tensor(name, str(data_type), tuple(dims)))
    return tuple(tensors)


def _max_batch_size(config: Mapping[str, Any]) -> int:
    size = config.get("maxBatchSize", 0)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise _invalid(f"maxBatchSize {size!r} is not a number of requests; 0 means no batching")
    return size


def _tensor(tensor: Tensor) -> str:
    dims = ", ".join(map(str, tensor.dims))
    optional = " optional: true" if tensor.optional else ""
    return f"name: {json.dumps(tensor.name)} data_type: {DATA_TYPES[tensor.data_type]} dims: [{dims}]{optional}"


def _invalid(what: str) -> AgentError:
    return AgentError(Reason.INVALID_ARTIFACT, f"config.json: {what}")

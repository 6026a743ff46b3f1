"""From how a model is served to Triton's config.pbtxt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from aifactory_contract.formats.rules import Serving
from aifactory_contract.signature import DATA_TYPES, TensorSpec


def identity(serving: Serving) -> str:
    """Changes exactly if Triton would have to reload every version of the model."""
    return hashlib.sha256(render(serving, "", ()).encode()).hexdigest()[:16]


def render(serving: Serving, name: str, versions: Iterable[int]) -> str:
    """The text of config.pbtxt, with a version policy of exactly these versions."""
    lines = [
        f"name: {json.dumps(name)}",
        f"backend: {json.dumps(serving.backend)}",
        f"max_batch_size: {serving.signature.max_batch_size}",
        f"version_policy {{ specific {{ versions: [{', '.join(map(str, sorted(versions)))}] }} }}",
    ]
    if serving.pbtxt:
        return "\n".join([*lines, serving.pbtxt])
    lines += [f"input {{ {_tensor(tensor)} }}" for tensor in serving.signature.inputs]
    lines += [f"output {{ {_tensor(tensor)} }}" for tensor in serving.signature.outputs]
    if serving.places_itself:
        lines.append("instance_group { count: 1 kind: KIND_MODEL }")
    for key, value in sorted(serving.parameters.items()):
        lines.append(f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}")
    if serving.decoupled:
        lines.append("model_transaction_policy { decoupled: true }")
    if serving.batched:
        # No delay: requests are put together only if they wait anyway.
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n"


def _tensor(tensor: TensorSpec) -> str:
    dims = ", ".join(map(str, tensor.wire_dims))
    reshape = "" if tensor.dims else " reshape { shape: [] }"
    optional = " optional: true" if tensor.optional else ""
    kind = DATA_TYPES[tensor.data_type].pbtxt
    return f"name: {json.dumps(tensor.name)} data_type: {kind} dims: [{dims}]{reshape}{optional}"

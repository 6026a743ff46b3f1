"""From an artifact's config.json to Triton's config.pbtxt, and to the request that proves that it answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aifactory_contract.formats import CAUSAL_LM
from aifactory_contract.signature import DATA_TYPES, GENERATE, Signature, TensorSpec


@dataclass(frozen=True)
class ServingConfig:
    """What Triton has to know of a model version."""

    backend: str
    signature: Signature
    decoupled: bool = False
    probe: Mapping[str, Any] = field(default_factory=dict)
    """Values of the inputs for the request that confirms a load; the others get zeros, optional ones nothing."""

    @property
    def identity(self) -> str:
        """Changes exactly if Triton would have to reload every version of the model."""
        return hashlib.sha256(self.render("", ()).encode()).hexdigest()[:16]

    @property
    def batched(self) -> bool:
        """Whether every tensor has a batch dimension in front."""
        return self.signature.max_batch_size > 0

    def render(self, name: str, versions: Iterable[int]) -> str:
        """The text of config.pbtxt, with a version policy of exactly these versions."""
        lines = [
            f"name: {json.dumps(name)}",
            f"backend: {json.dumps(self.backend)}",
            f"max_batch_size: {self.signature.max_batch_size}",
            f"version_policy {{ specific {{ versions: [{', '.join(map(str, sorted(versions)))}] }} }}",
        ]
        lines += [f"input {{ {_tensor(tensor)} }}" for tensor in self.signature.inputs]
        lines += [f"output {{ {_tensor(tensor)} }}" for tensor in self.signature.outputs]
        if self.decoupled:
            lines.append("model_transaction_policy { decoupled: true }")
        if self.batched:
            # No delay: requests are put together only if they wait anyway.
            lines.append("dynamic_batching { }")
        return "\n".join(lines) + "\n"


_CAUSAL_LM = ServingConfig(
    backend=CAUSAL_LM.name,
    signature=GENERATE,
    decoupled=True,
    probe={"text_input": b"def", "max_tokens": 1, "stream": False},
)


def serving_config(format_name: str, config: Mapping[str, Any]) -> ServingConfig:
    """Raises FactoryError (InvalidArtifact) if config.json does not describe the model's inputs and outputs."""
    return _CAUSAL_LM if format_name == CAUSAL_LM.name else ServingConfig(format_name, Signature.of_config(config))


def _tensor(tensor: TensorSpec) -> str:
    dims = ", ".join(map(str, tensor.wire_dims))
    reshape = "" if tensor.dims else " reshape { shape: [] }"
    optional = " optional: true" if tensor.optional else ""
    kind = DATA_TYPES[tensor.data_type].pbtxt
    return f"name: {json.dumps(tensor.name)} data_type: {kind} dims: [{dims}]{reshape}{optional}"

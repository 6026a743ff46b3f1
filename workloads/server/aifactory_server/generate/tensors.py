"""Tensors of a language model's requests and responses, for every engine's back end."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb  # provided by Triton's worker process

from aifactory_server.generate.request import INPUTS


def values(request: Any) -> dict[str, list[Any]]:
    """What a request sends, by the names of the inputs that it has."""
    tensors = {tensor.name(): tensor for tensor in request.inputs()}
    return {name: list(tensors[name].as_numpy().flatten()) for name in INPUTS if name in tensors}


def count(name: str, value: int) -> Any:
    """A count, UINT32 of shape [1]."""
    return pb.Tensor(name, np.array([value], dtype=np.uint32))

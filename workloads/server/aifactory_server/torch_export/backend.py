"""The Triton side of `torch-export`: one call of the program for a batch that Triton has put together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb  # provided by Triton's worker process
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from aifactory_contract.formats import TORCH_EXPORT
from aifactory_contract.names import PROBE_PARAMETER, PROBE_REQUESTS
from aifactory_contract.signature import DATA_TYPES
from aifactory_server.device import device_of
from aifactory_server.metrics import Counters
from aifactory_server.torch_export.batch import run_batched
from aifactory_server.torch_export.program import Program

_DTYPES = {known.pbtxt: getattr(torch, known.torch) for known in DATA_TYPES.values() if known.torch}


class TritonPythonModel:
    """One loaded model version; Triton makes it and calls these methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's program. An exception fails the load, and its text is what the operator reports."""
        config = json.loads(args["model_config"])
        self._inputs = [(tensor["name"], _dtype(tensor)) for tensor in config["input"]]
        self._outputs = [(tensor["name"], _dtype(tensor)) for tensor in config["output"]]
        self._batched = config["max_batch_size"] > 0
        path = Path(args["model_repository"]) / args["model_version"] / TORCH_EXPORT.weights
        self._program = Program(path, device_of(args))
        self._counters = Counters(pb, args, PROBE_REQUESTS)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests; if the call fails, all of them get its message."""
        try:
            inputs = [[_read(request, *wanted) for wanted in self._inputs] for request in requests]
            answers = run_batched(self._call, inputs) if self._batched else [self._call(one) for one in inputs]
            if any(PROBE_PARAMETER in request.parameters() for request in requests):
                self._counters.add(PROBE_REQUESTS)  # the agent asks one request at a time
                self._counters.flush()
            return [self._response(outputs) for outputs in answers]
        except Exception as error:
            message = f"the program failed: {error}"
            return [pb.InferenceResponse(error=pb.TritonError(message)) for _ in requests]

    def _call(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return self._program.run(inputs, len(self._outputs))

    def _response(self, outputs: Sequence[Tensor]) -> Any:
        named = zip(self._outputs, outputs, strict=True)
        return pb.InferenceResponse([_write(name, tensor.to(dtype)) for (name, dtype), tensor in named])


def _dtype(tensor: dict[str, Any]) -> torch.dtype:
    dtype = _DTYPES.get(tensor["data_type"])
    if dtype is None:
        raise ValueError(f"{tensor['name']}: {tensor['data_type']} is no type of a torch program")
    return dtype


def _read(request: Any, name: str, dtype: torch.dtype) -> Tensor:
    tensor = pb.get_input_tensor_by_name(request, name)
    if dtype is torch.bool:  # Triton's DLPack knows no bool
        return torch.from_numpy(tensor.as_numpy().copy())
    # DLPack shares memory with the server, which takes it back after the call; a copy is ours.
    return from_dlpack(tensor.to_dlpack()).clone()


def _write(name: str, tensor: Tensor) -> Any:
    return pb.Tensor(name, tensor.numpy()) if tensor.dtype is torch.bool else pb.Tensor.from_dlpack(name, tensor)


torch.set_grad_enabled(False)

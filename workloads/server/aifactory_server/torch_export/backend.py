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

from aifactory_contract.control import is_probe, probe_sign
from aifactory_contract.formats.torch_export import PROGRAM
from aifactory_contract.names import FAILED_REQUESTS, PROBE_REQUESTS
from aifactory_contract.signature import DATA_TYPES
from aifactory_server.attempts import attempt
from aifactory_server.counters import Counters
from aifactory_server.device import device_of
from aifactory_server.torch_export.batch import Room, run_each
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
        path = Path(args["model_repository"]) / args["model_version"] / PROGRAM
        self._program = Program(path, device_of(args))
        # The first call is the slow one, and one that fails must fail the load: no client is asked to find out.
        batch = [1] if self._batched else []
        zeros = [torch.zeros(batch + _smallest(tensor), dtype=_dtype(tensor)) for tensor in config["input"]]
        outcome = run_each(self._program_call, [zeros], self._batched)[0]
        if isinstance(outcome, Exception):
            raise ValueError(f"the program failed when it was asked for the first time: {outcome}") from outcome
        self._counters = Counters(pb, args, PROBE_REQUESTS, FAILED_REQUESTS)
        self._sign = probe_sign(Path(args["model_repository"]).parents[1])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests, each by an answer or an error of its own."""
        inputs = [attempt(self._read, request) for request in requests]
        readable = [one for one in inputs if not isinstance(one, Exception)]
        answers = iter(run_each(self._program_call, readable, self._batched))
        outcomes = [one if isinstance(one, Exception) else next(answers) for one in inputs]
        room = Room()
        responses = [self._respond(outcome, room) for outcome in outcomes]
        attempt(self._count, requests, responses)  # a counter is for nobody's answer to fail by
        return responses

    def _read(self, request: Any) -> list[Tensor]:
        return [_read(request, *wanted) for wanted in self._inputs]

    def _program_call(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return self._program.run(inputs, len(self._outputs))

    def _count(self, requests: list[Any], responses: list[Any]) -> None:
        """Count the agent's among the answered, and clients' that failed: Triton takes both for successes."""
        for request, response in zip(requests, responses, strict=True):
            probe, failed = is_probe(json.loads(request.parameters() or "{}"), self._sign), response.has_error()
            if probe != failed:
                self._counters.add(PROBE_REQUESTS if probe else FAILED_REQUESTS)
        self._counters.flush()

    def _respond(self, outcome: list[Tensor] | Exception, room: Room) -> Any:
        response = outcome if isinstance(outcome, Exception) else attempt(self._response, outcome, room)
        if isinstance(response, Exception):
            return pb.InferenceResponse(error=pb.TritonError(f"the program failed: {response}"))
        return response

    def _response(self, outputs: Sequence[Tensor], room: Room) -> Any:
        named = zip(self._outputs, outputs, strict=True)
        tensors = [(name, tensor.to(dtype)) for (name, dtype), tensor in named]
        room.take(sum(tensor.nbytes for _, tensor in tensors))
        return pb.InferenceResponse([_write(name, tensor) for name, tensor in tensors])


def _dtype(tensor: dict[str, Any]) -> torch.dtype:
    dtype = _DTYPES.get(tensor["data_type"])
    if dtype is None:
        raise ValueError(f"{tensor['name']}: {tensor['data_type']} is no type of a torch program")
    return dtype


def _smallest(tensor: dict[str, Any]) -> list[int]:
    """The least shape that an input may have, as its program takes it."""
    dims = tensor.get("reshape", {}).get("shape", tensor["dims"])
    return [1 if int(dim) == -1 else int(dim) for dim in dims]


def _read(request: Any, name: str, dtype: torch.dtype) -> Tensor:
    tensor = pb.get_input_tensor_by_name(request, name)
    if dtype is torch.bool:  # Triton's DLPack knows no bool
        return torch.from_numpy(tensor.as_numpy().copy())
    # DLPack shares memory with the server, which takes it back after the call; a copy is ours.
    return from_dlpack(tensor.to_dlpack()).clone()


def _write(name: str, tensor: Tensor) -> Any:
    return pb.Tensor(name, tensor.numpy()) if tensor.dtype is torch.bool else pb.Tensor.from_dlpack(name, tensor)


torch.set_grad_enabled(False)

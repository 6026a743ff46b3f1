"""The Triton side of back ends that compute tensors from tensors: one call for a batch that Triton has put together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb  # provided by Triton's worker process

from aifactory_contract.control import is_probe, probe_sign
from aifactory_contract.names import FAILED_REQUESTS, PROBE_REQUESTS
from aifactory_server.attempts import attempt
from aifactory_server.batching import Array, Room, run_each
from aifactory_server.counters import Counters


class TensorModel:
    """One loaded model version; Triton makes it and calls `initialize` and `execute`. A subclass computes."""

    what: str
    """What is served, in the words of an error."""

    def load(self, folder: Path, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        """Get ready to compute.

        Args:
            folder: the version's files.
            config: config.pbtxt, as Triton understands it.
            args: those of Triton's `initialize`.
        """
        raise NotImplementedError

    def compute(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs, in config.pbtxt's order and contiguous in memory, of inputs in that order."""
        raise NotImplementedError

    def join(self, arrays: Sequence[Array]) -> Array:
        """One array of several, along the first dimension."""
        raise NotImplementedError

    def dtype(self, tensor: Mapping[str, Any]) -> Any:
        """The type of an input's or output's elements. Raises ValueError for one that the model can not have."""
        raise NotImplementedError

    def zeros(self, shape: Sequence[int], dtype: Any) -> Array:
        """An input for the first call."""
        raise NotImplementedError

    def read(self, tensor: Any, dtype: Any) -> Array:
        """An input of a request, from Triton's tensor."""
        raise NotImplementedError

    def converted(self, output: Array, dtype: Any) -> Array:
        """An output of the type that config.pbtxt says."""
        raise NotImplementedError

    def write(self, name: str, output: Array) -> Any:
        """Triton's tensor."""
        raise NotImplementedError

    def size(self, output: Array) -> int:
        """Bytes it takes in an answer."""
        return int(output.nbytes)

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version. An exception fails the load, and its text is what the operator reports."""
        config = json.loads(args["model_config"])
        self._inputs = [(tensor["name"], self.dtype(tensor)) for tensor in config["input"]]
        self._outputs = [(tensor["name"], self.dtype(tensor)) for tensor in config["output"]]
        self._batched = config["max_batch_size"] > 0
        self.load(Path(args["model_repository"]) / args["model_version"], config, args)
        # The first call is the slow one, and one that fails must fail the load: no client is asked to find out.
        batch = [1] if self._batched else []
        zeros = [self.zeros(batch + _smallest(tensor), self.dtype(tensor)) for tensor in config["input"]]
        outcome = run_each(self.compute, self.join, [zeros], self._batched)[0]
        if isinstance(outcome, Exception):
            raise ValueError(f"{self.what} failed when it was asked for the first time: {outcome}") from outcome
        self._counters = Counters(pb, args, PROBE_REQUESTS, FAILED_REQUESTS)
        self._sign = probe_sign(Path(args["model_repository"]).parents[1])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests, each by an answer or an error of its own."""
        inputs = [attempt(self._read, request) for request in requests]
        readable = [one for one in inputs if not isinstance(one, Exception)]
        answers = iter(run_each(self.compute, self.join, readable, self._batched))
        outcomes = [one if isinstance(one, Exception) else next(answers) for one in inputs]
        room = Room()
        responses = [self._respond(outcome, room) for outcome in outcomes]
        attempt(self._count_requests, requests, responses)  # a counter is for nobody's answer to fail by
        return responses

    def _read(self, request: Any) -> list[Array]:
        return [self.read(pb.get_input_tensor_by_name(request, name), dtype) for name, dtype in self._inputs]

    def _count_requests(self, requests: list[Any], responses: list[Any]) -> None:
        """Count the agent's among the answered, and clients' that failed: Triton takes both for successes."""
        for request, response in zip(requests, responses, strict=True):
            probe, failed = is_probe(json.loads(request.parameters() or "{}"), self._sign), response.has_error()
            if probe != failed:
                self._counters.add(PROBE_REQUESTS if probe else FAILED_REQUESTS)
        self._counters.flush()

    def _respond(self, outcome: list[Array] | Exception, room: Room) -> Any:
        response = outcome if isinstance(outcome, Exception) else attempt(self._response, outcome, room)
        if isinstance(response, Exception):
            return pb.InferenceResponse(error=pb.TritonError(f"{self.what} failed: {response}"))
        return response

    def _response(self, outputs: Sequence[Array], room: Room) -> Any:
        named = zip(self._outputs, outputs, strict=True)
        arrays = [(name, self.converted(output, dtype)) for (name, dtype), output in named]
        room.take(sum(self.size(array) for _, array in arrays))
        return pb.InferenceResponse([self.write(name, array) for name, array in arrays])


def _smallest(tensor: Mapping[str, Any]) -> list[int]:
    """The least shape that an input may have, as its program takes it."""
    dims = tensor.get("reshape", {}).get("shape", tensor["dims"])
    return [1 if int(dim) == -1 else int(dim) for dim in dims]

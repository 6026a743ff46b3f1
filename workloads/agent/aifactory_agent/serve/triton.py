"""The few calls the agent makes to Triton, with Triton's errors told apart.

Everything has a deadline: a model whose worker process can not even start makes Triton 2.51 wait for it for ever.
A success of `load` proves nothing (it is one too when Triton saw nothing to do); callers look at the index and ask for
an answer.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from aifactory_contract.desired import ModelKey
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats.rules import Serving
from aifactory_contract.names import PROBE_PARAMETER
from aifactory_contract.refusals import is_no_room
from aifactory_contract.signature import TensorSpec

CALL_TIMEOUT_SECONDS = 10.0
PROBE_TIMEOUT_SECONDS = 30.0

# gRPC's own reconnect backoff grows to two minutes; Triton's start must be seen at once.
_CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
_GONE = ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED")
_LATE = "StatusCode.DEADLINE_EXCEEDED"
_FRAME = re.compile(r".*\(\d+\): [\w<>.]+")
_WORDS_LIMIT = 1500


class TooLate(FactoryError):
    """Triton or a model is there but has not answered in time; a busy node does that."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.TRITON_UNAVAILABLE, message)


@dataclass(frozen=True)
class Answer:
    """One answer to a request."""

    seconds: float
    """Since the request was sent."""
    outputs: Any
    """Of tritonclient: `as_numpy(name)`."""


class Triton:
    """A connection to the Triton of this pod.

    Args:
        address: host and port of its gRPC endpoint.
        headers: metadata that opens its restricted protocols.
        sign: by which the back ends know the agent's requests.
    """

    def __init__(self, address: str, headers: Mapping[str, str] | None = None, sign: str = "") -> None:
        self._sign = sign
        self._address = address
        self._headers = dict(headers or {})
        self._client: Any = InferenceServerClient(address, channel_args=_CHANNEL)

    async def close(self) -> None:
        """Close the connection."""
        with suppress(Exception):
            await self._client.close()

    async def serving(self) -> dict[str, frozenset[int]]:
        """READY versions by model. Raises FactoryError (TritonUnavailable), or TooLate if no answer comes in time."""
        found: dict[str, set[int]] = {}
        for entry in await self._index():
            if entry.state == "READY":
                found.setdefault(entry.name, set()).add(int(entry.version))
        return {name: frozenset(versions) for name, versions in found.items()}

    async def is_gone(self, name: str) -> bool:
        """Whether nothing of a model runs or is on its way out. Raises as `serving` does."""
        return all(entry.name != name or entry.state in ("", "UNAVAILABLE") for entry in await self._index())

    async def _index(self) -> Any:
        try:
            index = await self._client.get_model_repository_index(
                headers=self._headers, client_timeout=CALL_TIMEOUT_SECONDS
            )
        except InferenceServerException as error:
            raise self._unavailable(error) from error
        return index.models

    async def load(self, name: str, timeout_seconds: float) -> None:
        """Have Triton read a model's configuration and load, keep and drop versions by it.

        Raises FactoryError: LoadFailed with Triton's own words, NoRoom where they say that memory is wanting.
        """
        try:
            await self._client.load_model(name, headers=self._headers, client_timeout=timeout_seconds)
        except InferenceServerException as error:
            if error.status() in _GONE:
                raise FactoryError(Reason.LOAD_FAILED, f"Triton went away while it loaded model {name}") from error
            if error.status() == _LATE:
                message = f"Triton has not loaded {name} within {timeout_seconds:.0f} s; if it hangs, delete the pod"
                raise FactoryError(Reason.LOAD_FAILED, message) from error
            words = _words(error)
            raise FactoryError(Reason.NO_ROOM if is_no_room(words) else Reason.LOAD_FAILED, words) from error

    async def unload(self, name: str) -> None:
        """Drop every version of a model; requests under way are finished."""
        try:
            await self._client.unload_model(name, headers=self._headers, client_timeout=CALL_TIMEOUT_SECONDS)
        except InferenceServerException as error:
            raise self._unavailable(error) from error

    async def confirm(self, key: ModelKey, serving: Serving) -> None:
        """Ask a version for one answer of the right shape.

        Raises FactoryError: ConfirmFailed with Triton's own words, TooLate if it does not answer in time, which says
        little about the model, or TritonUnavailable, which says nothing.
        """
        async with self._asking(PROBE_TIMEOUT_SECONDS):
            ready = await self._client.is_model_ready(
                key.name, str(key.version), headers=self._headers, client_timeout=CALL_TIMEOUT_SECONDS
            )
            if not ready:
                raise FactoryError(Reason.CONFIRM_FAILED, "it is in Triton's index but Triton says it is not ready")
            answers = await self._answers(key, serving, _probe(serving), PROBE_TIMEOUT_SECONDS)
        if not answers:
            raise FactoryError(Reason.CONFIRM_FAILED, "it was loaded but gave an empty answer")
        outputs = serving.signature.outputs
        for output in outputs[:1] if serving.decoupled else outputs:
            check_output(output, answers[0].outputs.as_numpy(output.name), serving.batched)

    async def ask(self, key: ModelKey, serving: Serving, values: Mapping[str, Any], seconds: float) -> list[Answer]:
        """All answers of a version to a request with these inputs, as numpy arrays. Raises as `confirm` does."""
        async with self._asking(seconds):
            return await self._answers(key, serving, values, seconds)

    async def answers(self, key: ModelKey) -> int:
        """Requests that a version has answered or refused since it was loaded; 0 if Triton does not say."""
        try:
            found = await self._client.get_inference_statistics(
                key.name, str(key.version), client_timeout=CALL_TIMEOUT_SECONDS
            )
        except InferenceServerException:
            return 0
        stats = [model.inference_stats for model in found.model_stats]
        return sum(int(one.success.count) + int(one.fail.count) for one in stats)

    @asynccontextmanager
    async def _asking(self, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise TooLate(f"it has not answered within {seconds:.0f} s") from error
        except InferenceServerException as error:
            if error.status() in (*_GONE, _LATE):
                raise self._unavailable(error) from error
            message = f"it was loaded but does not answer: {_words(error)}"
            raise FactoryError(Reason.CONFIRM_FAILED, message) from error

    async def _answers(
        self, key: ModelKey, serving: Serving, values: Mapping[str, Any], seconds: float
    ) -> list[Answer]:
        inputs = [_input(tensor, values[tensor.name]) for tensor in serving.signature.inputs if tensor.name in values]
        arguments: dict[str, Any] = {"model_name": key.name, "model_version": str(key.version), "inputs": inputs}
        arguments["parameters"] = {PROBE_PARAMETER: self._sign}
        started = time.monotonic()
        if not serving.decoupled:
            result = await self._client.infer(**arguments, client_timeout=seconds)
            return [Answer(time.monotonic() - started, result)]

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield arguments

        # Read to the end: a stream cancelled in the moment its request ends can leave Triton 2.51 with a request that
        # never ends, and then the model can never be unloaded.
        answers = []
        async for result, error in self._client.stream_infer(requests()):
            if error is not None:
                raise error
            answers.append(Answer(time.monotonic() - started, result))
        return answers

    def _unavailable(self, error: InferenceServerException) -> FactoryError:
        # gRPC's words for a refused connection change from try to try; a status message must not.
        words = "" if error.status() in _GONE else f": {_words(error)}"
        if error.status() == _LATE:
            return TooLate(f"Triton does not answer in time at {self._address}{words}")
        return FactoryError(Reason.TRITON_UNAVAILABLE, f"Triton does not answer at {self._address}{words}")


def type_of(tensor: TensorSpec) -> Any:
    """Of the numpy arrays that carry a tensor's values here."""
    if tensor.data_type == "BYTES":
        return np.object_
    return np.float32 if tensor.data_type == "BF16" else triton_to_np_dtype(tensor.data_type)


def least_shape(tensor: TensorSpec, batched: bool) -> list[int]:
    """The shape of the smallest request."""
    shape = [1 if dim == -1 else dim for dim in tensor.wire_dims]
    return [1, *shape] if batched else shape


def _probe(serving: Serving) -> dict[str, Any]:
    """The request that confirms a load."""

    def values(tensor: TensorSpec) -> Any:
        nothing = b"" if tensor.data_type == "BYTES" else 0
        return np.full(
            least_shape(tensor, serving.batched), serving.probe.get(tensor.name, nothing), dtype=type_of(tensor)
        )

    wanted = (tensor for tensor in serving.signature.inputs if not tensor.optional or tensor.name in serving.probe)
    return {tensor.name: values(tensor) for tensor in wanted}


def _input(tensor: TensorSpec, values: Any) -> Any:
    given = InferInput(tensor.name, list(values.shape), tensor.data_type)
    given.set_data_from_numpy(values)
    return given


def check_output(tensor: TensorSpec, value: Any, batched: bool) -> None:
    """Raises FactoryError (ConfirmFailed) if an output is missing, or has another shape than the artifact says."""
    if value is None:
        raise FactoryError(Reason.CONFIRM_FAILED, f"it was loaded but its answer has no output {tensor.name}")
    shape = list(value.shape[1:] if batched else value.shape)
    dims = tensor.wire_dims
    fits = len(shape) == len(dims) and all(dim in (-1, got) for dim, got in zip(dims, shape, strict=True))
    if not fits:
        message = f"it was loaded but output {tensor.name} has dims {shape}, not {list(tensor.dims)} as stated"
        raise FactoryError(Reason.CONFIRM_FAILED, message)


def _words(error: InferenceServerException) -> str:
    """Triton's own message, on one line, without the call stack of the worker process and the mark after it."""
    lines = (line.strip() for line in str(error.message()).splitlines())
    told = (line for line in lines if line and line != "At:" and not _FRAME.fullmatch(line))
    return " ".join(told).removesuffix(";").rstrip()[:_WORDS_LIMIT]

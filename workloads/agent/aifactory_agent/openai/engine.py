"""Asking the pod's Triton: by the interface of its vLLM back end for one sequence of text, or for vectors of texts.

Each sequence has a gRPC stream of its own on one connection, closed for writing at once: cancelling it frees the
sequence in the engine and touches no other. Nothing waits for a Triton that is away: a refused connection is an answer
within milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from aifactory_agent.openai.errors import ApiError, ModelGone, unavailable
from aifactory_contract import refusals

CALL_TIMEOUT_SECONDS = 5.0
_DRAIN_SECONDS = 5.0
_CHANNEL = [
    # gRPC's own reconnect backoff grows to two minutes; Triton's start must be seen at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
_UNKNOWN_MODEL = "Request for unknown model"
_TRUE = b"\x01"
_WORDS_LIMIT = 1000
_FINISH = ("", "stop", "length")
TEXT_INPUT, SAMPLING = "text_input", "sampling_parameters"
LOGPROBS = "logprobs"
TOKENS, EMBEDDING = "input_ids", "embedding"
_COUNT = "num_input_tokens"
STRUCTURE = "structured_outputs"
"""The sampling parameter that a chat's `response_format` becomes, or a `tool_choice` that forces a call."""


Token = list[Mapping[str, Any]]
"""A token's alternatives, each with `decoded_token`, `logprob` and `rank`."""


class Piece(NamedTuple):
    """A part of a sequence, or, when nothing is streamed, the whole of it."""

    text: str
    finish: str
    """`stop` or `length` with the last piece; empty before."""
    prompt_tokens: int | None
    tokens: int
    """How many came with this piece."""
    logprobs: list[Token] | None
    """For each token the alternatives by token id, the chosen one first."""


class Interface(NamedTuple):
    """A model as Triton describes it."""

    versions: tuple[int, ...]
    inputs: frozenset[str]
    outputs: frozenset[str]


class Sequence(NamedTuple):
    """What is asked of the engine."""

    model: str
    version: int
    prompt: bytes
    sampling: Mapping[str, Any]
    stream: bool
    logprobs: bool


class Texts(NamedTuple):
    """What vectors are asked for: several texts, or else the tokens of one."""

    texts: tuple[bytes, ...]
    tokens: tuple[int, ...]


class Vectors(NamedTuple):
    """Their vectors, each the bytes of its float32 numbers, and the tokens that were read for all of them."""

    rows: list[bytes]
    tokens: int


class Engine:
    """The connection to the pod's Triton."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        # A stream of requests that has one: said so, gRPC sends it with the call, which takes a fifth less of the CPU.
        self._ask = self._channel.unary_stream(
            _STREAM_INFER,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        self._draining: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End the connection and all streams on it."""
        await self._channel.close()

    async def live(self) -> bool:
        """Whether Triton answers."""
        try:
            answer = await self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=CALL_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.live)

    async def interface(self, model: str) -> Interface | None:
        """A model's loaded versions and its tensors; None if none is loaded. Raises ApiError if Triton is away."""
        request = service_pb2.ModelMetadataRequest(name=model)
        try:
            answer = await self._stub.ModelMetadata(request, timeout=CALL_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if _is_unknown_model(error):
                return None
            raise _failure(error) from error
        return Interface(
            tuple(sorted(int(version) for version in answer.versions if version.isdecimal())),
            frozenset(tensor.name for tensor in answer.inputs),
            frozenset(tensor.name for tensor in answer.outputs),
        )

    async def pieces(self, sequence: Sequence, timeout: float) -> AsyncGenerator[Piece, None]:
        """The sequence, as it comes. Closing the iterator frees it in the engine.

        Raises ApiError, ModelGone if Triton does not have the version.
        """
        call = self._ask(_request(sequence), timeout=timeout)
        finished = over = False
        try:
            async for answer in call:
                if answer.error_message:
                    finished = True
                    raise _refusal(answer.error_message)
                piece = _piece(answer.infer_response)
                if piece.finish not in _FINISH:
                    raise unavailable(f"the engine has ended the sequence: {_one_line(piece.finish)}", "engine_error")
                finished = bool(piece.finish)
                yield piece
                if finished:
                    return
            over = True
            raise unavailable("the engine has dropped the sequence before its end", "engine_error")
        except grpc.aio.AioRpcError as error:
            over = True
            raise _failure(error, timeout) from error
        finally:
            if finished:
                # A stream cancelled in the very moment its request ends can leave Triton 2.51 with a request that
                # never ends, and then the model can never be unloaded: so nobody waits for the end, or cuts it off.
                self._read_out(call)
            elif not over:
                call.cancel()

    async def vectors(self, model: str, version: int, texts: Texts, timeout: float) -> Vectors:
        """The vectors of some texts. Raises ApiError, ModelGone if Triton does not have the version."""
        try:
            answer = await self._stub.ModelInfer(_vectors_request(model, version, texts), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            if str(error.details()).startswith(refusals.BEGINNING):
                raise _refusal(str(error.details())) from error
            raise _failure(error, timeout) from error
        found = {
            tensor.name: raw for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=False) if raw
        }
        many, counts = len(texts.texts) or 1, found.get(_COUNT, b"")
        data = found.get(EMBEDDING, b"")
        if len(data) < 4 * many or len(data) % (4 * many) or len(counts) != 4 * many:
            raise ApiError(500, f"the engine has not given {many} vectors", code="engine_error")
        size = len(data) // many
        rows = [data[place * size : (place + 1) * size] for place in range(many)]
        return Vectors(rows, sum(struct.unpack(f"<{many}I", counts)))

    def _read_out(self, call: Any) -> None:
        async def read() -> None:
            with suppress(grpc.aio.AioRpcError, TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    async for _ in call:
                        pass

        task = asyncio.get_running_loop().create_task(read())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)


def _failure(error: Any, timeout: float = CALL_TIMEOUT_SECONDS) -> ApiError:
    code, words = error.code(), _one_line(error.details())
    if _is_unknown_model(error):
        return ModelGone(words)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ApiError(504, f"the answer was not whole after {timeout:.0f} s; ask for less at once", code="timeout")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return unavailable("the engine of this pod is starting again; ask again in a moment", "engine_restarting")
    return ApiError(500, words, code="engine_error")


def _is_unknown_model(error: Any) -> bool:
    # Triton says UNAVAILABLE of a version that is not loaded, as gRPC does of a server that is away.
    return error.code() is grpc.StatusCode.NOT_FOUND or str(error.details()).startswith(_UNKNOWN_MODEL)


def _refusal(told: str) -> ApiError:
    """Of what Triton tells in a stream."""
    kind, words = refusals.read(_one_line(told))
    if words.startswith(_UNKNOWN_MODEL):
        return ModelGone(words)
    if kind == refusals.INVALID:
        field = "response_format" if STRUCTURE in words else None
        return ApiError(
            400,
            words.replace(STRUCTURE, "response_format (or tools that are to be called by their schemas)"),
            param=field,
        )
    if kind == refusals.UNAVAILABLE:
        return unavailable(words, "overloaded")
    return ApiError(500, words, code="engine_error")


def _request(sequence: Sequence) -> Any:
    request = service_pb2.ModelInferRequest(model_name=sequence.model, model_version=str(sequence.version))
    sampling = json.dumps(sequence.sampling).encode()
    for name, value in ((TEXT_INPUT, sequence.prompt), (SAMPLING, sampling)):
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(len(value).to_bytes(4, "little") + value)
    request.parameters[refusals.PARAMETER].bool_param = True
    flags = ["exclude_input_in_output", "return_finish_reason", "return_num_input_tokens", "return_num_output_tokens"]
    flags += ["stream"] if sequence.stream else []
    flags += ["return_logprobs"] if sequence.logprobs else []
    for name in flags:
        request.inputs.add(name=name, datatype="BOOL", shape=[1])
        request.raw_input_contents.append(_TRUE)
    return request


def _vectors_request(model: str, version: int, texts: Texts) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model, model_version=str(version))
    request.parameters[refusals.PARAMETER].bool_param = True
    if texts.tokens:
        request.inputs.add(name=TOKENS, datatype="INT32", shape=[1, len(texts.tokens)])
        request.raw_input_contents.append(struct.pack(f"<{len(texts.tokens)}i", *texts.tokens))
    else:
        request.inputs.add(name=TEXT_INPUT, datatype="BYTES", shape=[len(texts.texts), 1])
        request.raw_input_contents.append(b"".join(len(text).to_bytes(4, "little") + text for text in texts.texts))
    return request


def _piece(answer: Any) -> Piece:
    found = {
        tensor.name: raw
        for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=False)
        if len(raw) >= 4
    }
    finish = _text(found.get("finish_reason"))
    prompt = found.get(_COUNT)
    logprobs = _text(found.get(LOGPROBS))
    return Piece(
        _text(found.get("text_output")),
        "" if finish == "None" else finish,
        int.from_bytes(prompt[:4], "little") if prompt else None,
        int.from_bytes(found.get("num_output_tokens", b"")[:4], "little"),
        [list(token.values()) for token in json.loads(logprobs) or ()] if logprobs else None,
    )


def _text(raw: bytes | None) -> str:
    """The first element of a BYTES tensor: its length in four bytes, then as many bytes."""
    return raw[4 : 4 + int.from_bytes(raw[:4], "little")].decode("utf-8", "replace") if raw else ""


def _one_line(words: object) -> str:
    return " ".join(str(words).split())[:_WORDS_LIMIT]

"""Asking the pod's Triton: by the interface of its vLLM back end for one sequence of text, or for vectors of texts.

Each sequence has a gRPC stream to itself: cancelling it frees the sequence in the engine and touches no other. A stream
whose sequence has come to its end serves the next one, because to begin and end one takes as much of the CPU as half of
a short answer. Nothing waits for a Triton that is away: a refused connection is an answer within milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
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
_FINAL, _TELL_FINAL = "triton_final_response", "triton_enable_empty_final_response"
"""Parameters of Triton's streams: that a response is the request's last, and that this is to be told."""
_IDLE_STREAMS = 64
_IDLE_SECONDS = 0.5
"""Longer no stream waits for its next sequence: Triton does not end while there is one, whatever its time for that."""
_USES = 1000
"""Of a stream, so that none lives for ever."""
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
        self._idle: list[_Stream] = []
        """Used last, last."""
        self._sweeping: asyncio.TimerHandle | None = None
        self._draining: set[asyncio.Task[None]] = set()
        self._asked = 0

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
        deadline = asyncio.get_running_loop().time() + timeout
        self._asked += 1
        name = str(self._asked)
        stream: _Stream | None = None
        try:
            stream, answer = await self._begin(_request(sequence, name), deadline)
            while answer is not None:
                if answer.error_message:
                    self._read_out(stream)
                    stream = None
                    raise _refusal(answer.error_message)
                found = answer.infer_response
                piece, last = _piece(found), _FINAL in found.parameters and found.parameters[_FINAL].bool_param
                if piece.finish not in _FINISH:
                    raise unavailable(f"the engine has ended the sequence: {_one_line(piece.finish)}", "engine_error")
                if last or piece.finish:
                    self._keep(stream) if last and found.id == name else self._read_out(stream)
                    stream = None
                    if not piece.finish:
                        break
                    yield piece
                    return
                yield piece
                answer = await stream.read(deadline)
            raise unavailable("the engine has dropped the sequence before its end", "engine_error")
        except grpc.aio.AioRpcError as error:
            raise _failure(error, timeout) from error
        except TimeoutError:
            raise _too_late(timeout) from None
        finally:
            if stream is not None:
                stream.call.cancel()

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

    async def _begin(self, request: Any, deadline: float) -> tuple[_Stream, Any]:
        """Ask, on a stream that is there or a new one; the first answer too, None at the stream's end.

        One that was there may have ended with its Triton unseen: then it is asked once more.
        """
        while True:
            kept = bool(self._idle)
            stream = self._idle.pop() if kept else _Stream(self._stub.ModelStreamInfer())
            try:
                await stream.call.write(request)
                answer = await stream.read(deadline)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                if not kept:
                    raise
                continue
            except BaseException:
                stream.call.cancel()
                raise
            if answer is not None or not kept:
                return stream, answer

    def _keep(self, stream: _Stream) -> None:
        """A sequence has come to its end, and its stream may serve another."""
        stream.uses += 1
        if stream.uses >= _USES or len(self._idle) >= _IDLE_STREAMS:
            self._read_out(stream)
            return
        stream.idle_since = time.monotonic()
        self._idle.append(stream)
        if self._sweeping is None:
            self._sweep()

    def _sweep(self) -> None:
        """End the streams that nobody has used for a while."""
        self._sweeping = None
        oldest = time.monotonic() - _IDLE_SECONDS
        while self._idle and self._idle[0].idle_since <= oldest:
            self._read_out(self._idle.pop(0))
        if self._idle:
            self._sweeping = asyncio.get_running_loop().call_later(_IDLE_SECONDS / 2, self._sweep)

    def _read_out(self, stream: _Stream) -> None:
        """End a stream. One that is cancelled in the very moment in which its request ends can leave Triton 2.51 with a
        request that never ends, and then the model can never be unloaded: so nobody waits for the end, or cuts it off.
        """

        async def read() -> None:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
                deadline = asyncio.get_running_loop().time() + _DRAIN_SECONDS
                await stream.call.done_writing()
                while await stream.read(deadline) is not None:
                    pass

        task = asyncio.get_running_loop().create_task(read())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)


class _Stream:
    """A stream of requests, which are one after the other, and their answers."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.uses = 0
        self.idle_since = 0.0

    async def read(self, deadline: float) -> Any:
        """The next answer; None at the end. Raises TimeoutError, and AioRpcError."""
        async with asyncio.timeout_at(deadline):
            answer = await self.call.read()
        return None if answer is grpc.aio.EOF else answer


def _too_late(timeout: float) -> ApiError:
    return ApiError(504, f"the answer was not whole after {timeout:.0f} s; ask for less at once", code="timeout")


def _failure(error: Any, timeout: float = CALL_TIMEOUT_SECONDS) -> ApiError:
    code, words = error.code(), _one_line(error.details())
    if _is_unknown_model(error):
        return ModelGone(words)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _too_late(timeout)
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


def _request(sequence: Sequence, name: str) -> Any:
    request = service_pb2.ModelInferRequest(model_name=sequence.model, model_version=str(sequence.version), id=name)
    sampling = json.dumps(sequence.sampling).encode()
    for name, value in ((TEXT_INPUT, sequence.prompt), (SAMPLING, sampling)):
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(len(value).to_bytes(4, "little") + value)
    request.parameters[refusals.PARAMETER].bool_param = True
    request.parameters[_TELL_FINAL].bool_param = True
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

"""Triton's gRPC protocol in front of an engine that answers at once, or as a test tells it.

It speaks the interface of Triton's vLLM back end, made from `tritonclient`'s own protobufs. As a program it serves one
model for measurements: `python stand_in.py PORT`.
"""

from __future__ import annotations

import json
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from aifactory_contract import refusals

INPUTS = ("text_input", "stream", "sampling_parameters", "exclude_input_in_output", "return_finish_reason")
INPUTS += ("return_cumulative_logprob", "return_logprobs", "return_num_input_tokens", "return_num_output_tokens")
OUTPUTS = ("text_output", "finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")


@dataclass
class Asked:
    """One request, as the engine sees it."""

    model: str
    version: int
    prompt: str
    sampling: dict[str, Any]
    flags: frozenset[str]
    id: str = ""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when the request is cancelled or over."""
    gone_at: float = 0.0


@dataclass(frozen=True)
class Answer:
    """One response."""

    text: str
    finish: str = "None"
    tokens: int = 1
    logprobs: list[dict[str, dict[str, Any]]] | None = None
    after: float = 0.0
    """Seconds to wait before it."""


class Refusal(Exception):
    """The engine refuses a request: with a kind of `refusals`, or as Triton itself without one."""

    def __init__(self, kind: str | None, words: str) -> None:
        super().__init__(words)
        self.kind = kind
        self.words = words


class Lost(Exception):
    """The connection breaks off, with the words that gRPC has for it."""


Script = Callable[[Asked], Iterable[Answer]]


def count_up(asked: Asked) -> Iterator[Answer]:
    """As many words as are asked for."""
    many = asked.sampling["max_tokens"]
    for number in range(many):
        yield Answer(f"w{number} ", "length" if number == many - 1 else "None")


class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A Triton. `models` are its loaded versions; those in `tensors` do not speak the interface, those in `encoders`
    make vectors: of a text its length and that of the request, of tokens their sum."""

    def __init__(self, port: int, script: Script = count_up) -> None:
        self.port = port
        self.script = script
        self.models: dict[str, list[int]] = {}
        self.tensors: set[str] = set()
        self.encoders: set[str] = set()
        self.embedded: list[int] = []
        """Texts of each request for vectors."""
        self.without_outputs: set[str] = set()
        self.tells_kinds = True
        """As our engines do; vLLM's back end does not."""
        self.asked: list[Asked] = []
        self.opened = 0
        """Streams so far."""
        self.open: set[object] = set()
        """Streams that there are."""
        self._server: Any = None

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(256))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        assert self._server.add_insecure_port(f"127.0.0.1:{self.port}") == self.port
        self._server.start()

    def stop(self) -> None:
        """As a killed Triton: streams break off, connections are refused from now on."""
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    def ServerLive(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        versions = self.models.get(request.name)
        if not versions:
            words = f"Request for unknown model: '{request.name}' is not found"
            context.abort(grpc.StatusCode.NOT_FOUND, words)
        answer = service_pb2.ModelMetadataResponse(name=request.name, versions=map(str, versions or ()))
        inputs, outputs = INPUTS, OUTPUTS
        if request.name in self.tensors:
            inputs, outputs = ("x",), ("y",)
        elif request.name in self.encoders:
            inputs, outputs = ("text_input", "input_ids"), ("embedding", "num_input_tokens")
        for name in inputs:
            answer.inputs.add(name=name, datatype="BYTES", shape=[1])
        for name in outputs:
            if name not in self.without_outputs:
                answer.outputs.add(name=name, datatype="BYTES", shape=[-1])
        return answer

    def ModelInfer(self, request: Any, context: Any) -> Any:
        version = int(request.model_version)
        if version not in self.models.get(request.model_name, ()):
            words = f"Request for unknown model: '{request.model_name}' version {version} is not at ready state"
            context.abort(grpc.StatusCode.UNAVAILABLE, words)
        (given,), (raw,) = request.inputs, request.raw_input_contents
        rows = _texts(raw) if given.name == "text_input" else [struct.unpack(f"<{len(raw) // 4}i", raw)]
        self.embedded.append(len(rows))
        if b"slow" in rows:
            time.sleep(2)
        if b"refuse" in rows:
            asks = {refusals.PARAMETER: request.parameters[refusals.PARAMETER].bool_param}
            words = f"{given.name}[{rows.index(b'refuse')}] has 9 tokens, and this model reads 8 at most: shorten it"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, refusals.tell(refusals.INVALID, words, asks))
        if b"broken" in rows:
            context.abort(grpc.StatusCode.INTERNAL, "the graphics card is on fire")
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version=str(version))
        vectors = [
            (float(len(row)), float(len(rows))) if isinstance(row, bytes) else (float(sum(row)), 0) for row in rows
        ]
        answer.outputs.add(name="embedding", datatype="FP32", shape=[len(rows), 2])
        answer.raw_output_contents.append(b"".join(struct.pack("<2f", *vector) for vector in vectors))
        answer.outputs.add(name="num_input_tokens", datatype="UINT32", shape=[len(rows), 1])
        answer.raw_output_contents.append(struct.pack(f"<{len(rows)}I", *map(len, rows)))
        return answer

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:
        stream = object()
        self.opened += 1
        self.open.add(stream)
        context.add_callback(lambda: self.open.discard(stream))
        for request in requests:
            yield from self._answer(request, context)

    def _answer(self, request: Any, context: Any) -> Iterator[Any]:
        name, version = request.model_name, int(request.model_version or 0)
        try:
            if version not in self.models.get(name, ()):
                words = f"Request for unknown model: '{name}' version {version} is not at ready state"
                raise Refusal(None, words)
            asked = _read(name, version, request)
            self.asked.append(asked)

            def over() -> None:
                asked.gone_at = time.monotonic()
                asked.gone.set()

            context.add_callback(over)
            ended = False
            for answer in self.script(asked):
                if answer.after:
                    asked.gone.wait(answer.after)
                if asked.gone.is_set():
                    return
                ended = answer.finish != "None"
                yield service_pb2.ModelStreamInferResponse(infer_response=_response(asked, answer, last=ended))
            if not ended:
                yield service_pb2.ModelStreamInferResponse(infer_response=_empty(asked, last=True))
        except Lost as lost:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(lost))
        except Refusal as refusal:
            words = refusal.words
            if refusal.kind is not None and self.tells_kinds:
                asks = {refusals.PARAMETER: request.parameters[refusals.PARAMETER].bool_param}
                words = refusals.tell(refusal.kind, words, asks)
            yield service_pb2.ModelStreamInferResponse(error_message=words)


def _texts(raw: bytes) -> list[bytes]:
    """The elements of a BYTES tensor, each with its length before it."""
    found = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return found


def _read(name: str, version: int, request: Any) -> Asked:
    inputs = dict(zip((one.name for one in request.inputs), request.raw_input_contents, strict=True))
    text, sampling = (inputs.pop(key)[4:].decode() for key in ("text_input", "sampling_parameters"))
    flags = frozenset(key for key, value in inputs.items() if value == b"\1")
    return Asked(name, version, text, json.loads(sampling), flags, request.id)


def _empty(asked: Asked, *, last: bool) -> Any:
    response = service_pb2.ModelInferResponse(model_name=asked.model, model_version=str(asked.version), id=asked.id)
    response.parameters["triton_final_response"].bool_param = last
    return response


def _response(asked: Asked, answer: Answer, *, last: bool) -> Any:
    response = _empty(asked, last=last)

    def put(name: str, kind: str, raw: bytes) -> None:
        response.outputs.add(name=name, datatype=kind, shape=[1])
        response.raw_output_contents.append(raw)

    def text(name: str, value: str) -> None:
        data = value.encode()
        put(name, "BYTES", len(data).to_bytes(4, "little") + data)

    text("text_output", answer.text)
    if "return_finish_reason" in asked.flags:
        text("finish_reason", answer.finish)
    if "return_logprobs" in asked.flags:
        text("logprobs", json.dumps(answer.logprobs))
    if "return_num_input_tokens" in asked.flags:
        put("num_input_tokens", "UINT32", len(asked.prompt.split()).to_bytes(4, "little"))
    if "return_num_output_tokens" in asked.flags:
        put("num_output_tokens", "UINT32", answer.tokens.to_bytes(4, "little"))
    return response


if __name__ == "__main__":
    triton = StandIn(int(sys.argv[1]))
    triton.models["tiny"] = [1]
    triton.start()
    print("ready", flush=True)
    threading.Event().wait()

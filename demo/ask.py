"""Asking a served model with `tritonclient`: a whole answer over HTTP, and token by token over gRPC."""

from __future__ import annotations

import json
import queue
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http

from demo.tools import DemoError

ANSWER_SECONDS = 60


@dataclass(frozen=True)
class Stream:
    """What came over a stream."""

    text: str
    tokens: int
    first_token_at: float
    """Monotonic time of the first piece."""
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens over the whole time, the first one's wait included."""
        return self.tokens / self.seconds


def whole_answer(host: str, port: int, model: str, *, prompt: str, max_tokens: int) -> str:
    """One answer over HTTP.

    Triton's `infer` endpoint refuses models that answer in pieces, so this is its `generate` endpoint, for which
    tritonclient has no method of its own yet.

    Raises:
        DemoError: the server refused, with its words.
    """
    with http.InferenceServerClient(f"{host}:{port}", network_timeout=ANSWER_SECONDS) as client:
        if not client.is_model_ready(model):
            raise DemoError(f"Triton says that model {model} is not ready")
        asked = {"text_input": prompt, "max_tokens": max_tokens, "temperature": 0.5, "seed": 1}
        body = json.dumps({**asked, "exclude_input_in_output": True})
        answer = client._post(f"v2/models/{model}/generate", body, headers=None, query_params=None)
        content = answer.read()
        if answer.status_code != 200:
            raise DemoError(f"Triton answered {answer.status_code}: {content!r}")
        return str(json.loads(content)["text_output"])


def stream(host: str, port: int, model: str, *, prompt: str, max_tokens: int) -> Stream:
    """One answer over gRPC, printed piece by piece as it comes.

    Raises:
        DemoError: the server refused, with its words, or fell silent.
    """
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    pieces: list[str] = []
    started = time.monotonic()
    first = 0.0
    tokens = 0
    print(f"\n    | {prompt}", end="", flush=True)
    with grpc.InferenceServerClient(f"{host}:{port}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        sampling = {"max_tokens": max_tokens, "temperature": 0.5, "seed": 1}
        inputs = [_text("text_input", prompt), _text("sampling_parameters", json.dumps(sampling))]
        inputs += [_yes("stream"), _yes("return_num_output_tokens")]
        client.async_stream_infer(model, inputs, enable_empty_final_response=True)
        while True:
            result, error = _next(answers)
            if error is not None:
                raise DemoError(f"Triton: {error}")
            piece = result.as_numpy("text_output")
            if piece is not None and (text := piece.flatten()[0].decode()):
                first = first or time.monotonic()
                pieces.append(text)
                print(text.replace("\n", "\n    | "), end="", flush=True)
            count = result.as_numpy("num_output_tokens")
            tokens += int(count.flatten()[0]) if count is not None else 0
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
        client.stop_stream()
    print(flush=True)
    if not pieces:
        raise DemoError(f"model {model} answered with no text")
    return Stream("".join(pieces), tokens or len(pieces), first, time.monotonic() - started)


def _next(answers: queue.Queue[tuple[Any, Any]]) -> tuple[Any, Any]:
    try:
        return answers.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        raise DemoError(f"no answer within {ANSWER_SECONDS} s") from None


def _text(name: str, value: str) -> Any:
    tensor = grpc.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value.encode()], dtype=np.object_))
    return tensor


def _yes(name: str) -> Any:
    tensor = grpc.InferInput(name, [1], "BOOL")
    tensor.set_data_from_numpy(np.array([True]))
    return tensor

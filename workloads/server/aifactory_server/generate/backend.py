"""The Triton side: requests in, responses out. Triton calls `TritonPythonModel`.

The model is decoupled: `execute` only queues and returns, and the engine's sender thread gives the responses. A request
that asks for `stream` gets a response for every piece of text, the others exactly one, which is what Triton's HTTP
endpoint `generate` needs. As in Triton's vLLM back end, every count and log probability is that of its response alone.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb  # provided by Triton's worker process

from aifactory_contract import refusals
from aifactory_contract.control import is_probe, probe_sign
from aifactory_server.device import device_of, free_memory
from aifactory_server.engines.engine import Engine, Limits
from aifactory_server.engines.paged import PagedModel
from aifactory_server.engines.request import BadRequest, Piece, Unavailable
from aifactory_server.generate.request import Asked, read_request
from aifactory_server.generate.tensors import count, values
from aifactory_server.metrics import GenerationMeter

_log = logging.getLogger(__name__)
_DRAIN_SECONDS = 60.0


class TritonPythonModel:
    """One loaded model version; Triton makes it and calls these methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's files. An exception fails the load, and its text is what the operator reports."""
        folder = Path(args["model_repository"]) / args["model_version"]
        device = device_of(args)
        slots = int(_setting("SLOTS") or (16 if device.type == "cpu" else 64))
        context, cache_bytes = _setting("CONTEXT"), _setting("CACHE_BYTES")
        model = PagedModel(
            folder,
            device,
            lambda: free_memory(device),
            slots=slots,
            context=int(context) if context else None,
            cache_bytes=int(cache_bytes) if cache_bytes else None,
        )
        limits = Limits(
            slots=slots,
            waiting=int(_setting("MAX_WAITING") or Limits.waiting),
            waiting_seconds=float(_setting("WAITING_SECONDS") or Limits.waiting_seconds),
            seconds=float(_setting("SECONDS") or Limits.seconds),
        )
        self._model = model
        self._engine = Engine(model, limits, GenerationMeter(pb, args))
        self._engine.start()
        self._sign = probe_sign(Path(args["model_repository"]).parents[1])

    def execute(self, requests: list[Any]) -> None:
        """Queue requests."""
        for request in requests:
            try:
                self._queue(request, request.get_response_sender())
            except Exception:  # it would leave the other requests without an answer
                _log.exception("a client could not be told that its request was refused")

    def _queue(self, request: Any, sender: Any) -> None:
        parameters: dict[str, Any] = {}
        try:
            parameters = json.loads(request.parameters() or "{}")
            seconds = request.timeout() / 1e6 or None
            probe = is_probe(parameters, self._sign)
            asked = read_request(values(request), parameters, seconds=seconds, probe=probe)
            self._engine.submit(asked.request, _Responses(sender, asked, self._model.decode, parameters))
        except Exception as error:
            _send_error(sender, error, parameters)

    def finalize(self) -> None:
        """The version is being unloaded: finish what was taken."""
        self._engine.stop(_DRAIN_SECONDS)


class _Responses:
    """Answer of one request as Triton responses."""

    def __init__(
        self, sender: Any, asked: Asked, decode: Callable[[list[int], bool], str], parameters: Mapping[str, Any]
    ) -> None:
        self._sender, self._asked, self._decode, self._parameters = sender, asked, decode, parameters
        self._pieces: list[Piece] = []
        self._logprob = 0.0
        # Triton 2.51 crashes as a whole when it is asked whether a request is cancelled that has had its last response.
        self._asking, self._ended = threading.Lock(), False

    def piece(self, piece: Piece, prompt_tokens: int) -> None:
        """Send it, or keep it until the answer is whole."""
        self._pieces.append(piece)
        last = piece.finish_reason is not None
        if last or self._asked.stream:
            response = pb.InferenceResponse(self._tensors(prompt_tokens))
            self._pieces.clear()
            if last:
                self._end()
            self._sender.send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0)

    def failed(self, error: Exception) -> None:
        """Send the words."""
        self._end()
        _send_error(self._sender, error, self._parameters)

    def dropped(self) -> None:
        """Triton waits for the end even if the client does not."""
        self._end()
        self._sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def cancelled(self) -> bool:
        """Asking costs a message to the server process."""
        with self._asking:
            return not self._ended and bool(self._sender.is_cancelled())

    def _end(self) -> None:
        """No question is under way, and none comes any more."""
        with self._asking:
            self._ended = True

    def _tensors(self, prompt_tokens: int) -> list[Any]:
        asked, pieces = self._asked, self._pieces
        tensors = [_texts("text_output", asked.prepend + "".join(piece.text for piece in pieces))]
        if asked.finish_reason:
            tensors.append(_texts("finish_reason", str(pieces[-1].finish_reason)))
        if asked.cumulative_logprob:
            self._logprob += sum(likely[0].logprob for piece in pieces for likely in piece.logprobs)
            tensors.append(pb.Tensor("cumulative_logprob", np.array([self._logprob], dtype=np.float32)))
        if asked.logprobs:
            tensors.append(_texts("logprobs", json.dumps(self._likely())))
        if asked.input_tokens:
            tensors.append(count("num_input_tokens", prompt_tokens))
        if asked.output_tokens:
            tensors.append(count("num_output_tokens", sum(piece.tokens for piece in pieces)))
        return tensors

    def _likely(self) -> list[dict[str, dict[str, object]]]:
        """In the form in which vLLM's back end has them."""
        return [
            {
                str(one.token): {
                    "logprob": one.logprob,
                    "rank": one.rank,
                    "decoded_token": self._decode([one.token], False),
                }
                for one in likely
            }
            for piece in self._pieces
            for likely in piece.logprobs
        ]


def _setting(name: str) -> str | None:
    """An environment variable of the engine; an empty one counts as not given."""
    return os.environ.get(f"AIFACTORY_ENGINE_{name}") or None


def _texts(name: str, text: str) -> Any:
    return pb.Tensor(name, np.array([text.encode(errors="replace")], dtype=np.object_))


def _send_error(sender: Any, error: Exception, parameters: Mapping[str, Any]) -> None:
    kind, code = refusals.INTERNAL, pb.TritonError.INTERNAL
    if isinstance(error, BadRequest):
        kind, code = refusals.INVALID, pb.TritonError.INVALID_ARG
    elif isinstance(error, Unavailable):
        kind, code = refusals.UNAVAILABLE, pb.TritonError.UNAVAILABLE
    words = refusals.tell(kind, str(error) or repr(error), parameters)
    response = pb.InferenceResponse(error=pb.TritonError(words, code))
    sender.send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


torch.set_grad_enabled(False)

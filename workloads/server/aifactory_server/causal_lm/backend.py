"""The Triton side of the engine `bytes`: requests in, responses out. Triton calls `TritonPythonModel`.

The model is decoupled: `execute` only queues and returns, and the engine's thread sends the responses. A request that
asks for `stream` gets a response for every piece of text, the others exactly one, which is what Triton's HTTP endpoint
`generate` needs. The interface is that of Triton's vLLM back end, as far as this engine goes; see `generate.request`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb  # provided by Triton's worker process

from aifactory_contract import refusals
from aifactory_contract.control import is_probe, probe_sign
from aifactory_server.causal_lm.config import read_config
from aifactory_server.causal_lm.engine import Engine, Outcome, QueueFull
from aifactory_server.causal_lm.network import Network, load_weights
from aifactory_server.causal_lm.request import BadRequest, Request, request_of
from aifactory_server.device import device_of, useful_threads
from aifactory_server.generate.request import Asked, read_request
from aifactory_server.generate.tensors import count, values
from aifactory_server.metrics import TokenMeter

_log = logging.getLogger(__name__)
_DRAIN_SECONDS = 60.0
_CANCEL_CHECK_SECONDS = 0.05


class TritonPythonModel:
    """One loaded model version; Triton makes it and calls these methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's files. An exception fails the load, and its text is what the operator reports."""
        folder = Path(args["model_repository"]) / args["model_version"]
        device = device_of(args)
        config = read_config(folder)
        weights = load_weights(sorted(folder.glob("model*.safetensors")), config, device)
        torch.set_num_threads(min(torch.get_num_threads(), useful_threads(weights.values())))
        # Sequences computed together; the cache has room for each at full context.
        network = Network(config, weights, int(os.environ.get("AIFACTORY_CAUSAL_LM_SLOTS", "16")))
        network.prefill(0, [config.end_of_text])  # the first call is the slow one; not at a client's expense
        # One request more than may wait is refused with UNAVAILABLE, so that a client can turn to another pod.
        max_waiting = int(os.environ.get("AIFACTORY_CAUSAL_LM_MAX_WAITING", "256"))
        self._meter = TokenMeter(pb, args)
        self._engine = Engine(network, max_waiting, self._meter)
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
            asked = read_request(values(request), parameters, probe=is_probe(parameters, self._sign))
            wanted = request_of(asked.request)
            self._engine.submit(wanted, _Responses(sender, asked, wanted, parameters, self._meter))
        except BadRequest as error:
            _send_error(sender, str(error), refusals.INVALID, parameters, self._meter)
        except QueueFull as error:
            _send_error(sender, str(error), refusals.UNAVAILABLE, parameters, self._meter)
        except Exception as error:
            _send_error(sender, f"cannot read the request: {error!r}", refusals.INTERNAL, parameters, self._meter)

    def finalize(self) -> None:
        """The version is being unloaded: finish what was taken."""
        self._engine.stop(_DRAIN_SECONDS)


class _Responses:
    """Answer of one request as Triton responses."""

    def __init__(
        self, sender: Any, asked: Asked, request: Request, parameters: Mapping[str, Any], meter: TokenMeter
    ) -> None:
        self._sender, self._asked, self._parameters, self._meter = sender, asked, parameters, meter
        self._prompt_tokens = len(request.prompt)
        self._whole: list[str] = []
        self._cancelled = False
        self._look_at = time.monotonic() + _CANCEL_CHECK_SECONDS

    def piece(self, text: str) -> None:
        if self._asked.stream:
            # Tokens are told with the last response, whose sum with these is theirs in all.
            self._sender.send(pb.InferenceResponse(self._tensors(text, None, 0)))
        else:
            self._whole.append(text)

    def done(self, outcome: Outcome) -> None:
        text = self._asked.prepend + "".join(self._whole)
        tensors = self._tensors(text, outcome.finish_reason, outcome.generated_tokens)
        self._sender.send(pb.InferenceResponse(tensors), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _tensors(self, text: str, finish_reason: str | None, tokens: int) -> list[Any]:
        tensors = [_text("text_output", text)]
        if self._asked.finish_reason:
            tensors.append(_text("finish_reason", str(finish_reason)))
        if self._asked.input_tokens:
            tensors.append(count("num_input_tokens", self._prompt_tokens))
        if self._asked.output_tokens:
            tensors.append(count("num_output_tokens", tokens))
        return tensors

    def failed(self, message: str) -> None:
        _send_error(self._sender, message, refusals.INTERNAL, self._parameters, self._meter)

    def cancelled(self) -> bool:
        # Asking costs a message to the server process.
        now = time.monotonic()
        if not self._cancelled and now >= self._look_at:
            self._look_at = now + _CANCEL_CHECK_SECONDS
            self._cancelled = self._sender.is_cancelled()
            if self._cancelled:
                self._sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return self._cancelled


def _text(name: str, text: str) -> Any:
    return pb.Tensor(name, np.array([text.encode()], dtype=np.object_))


def _send_error(sender: Any, message: str, kind: str, parameters: Mapping[str, Any], meter: TokenMeter) -> None:
    if kind != refusals.INVALID:
        meter.failed()
    # What Triton's worker adds to the module is not there yet when this file is imported.
    codes = {refusals.INVALID: pb.TritonError.INVALID_ARG, refusals.UNAVAILABLE: pb.TritonError.UNAVAILABLE}
    error = pb.TritonError(refusals.tell(kind, message, parameters), codes.get(kind, pb.TritonError.INTERNAL))
    response = pb.InferenceResponse(error=error)
    sender.send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


torch.set_grad_enabled(False)

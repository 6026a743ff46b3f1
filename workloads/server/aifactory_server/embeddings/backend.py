"""The Triton side of `embeddings`: the texts of a batch that Triton has put together, in one go.

A request has one text or more, as `text_input`, or their tokens, as `input_ids`, a row each. Each is answered by its
vectors or an error of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb  # provided by Triton's worker process
from torch import Tensor

from aifactory_contract import refusals
from aifactory_contract.control import is_probe, probe_sign
from aifactory_contract.names import FAILED_REQUESTS, PROBE_REQUESTS
from aifactory_server.attempts import attempt
from aifactory_server.counters import PROMPT_TOKENS, Counters
from aifactory_server.device import device_of, free_memory, useful_threads
from aifactory_server.embeddings.encoder import BadText, Encoder

_TEXTS, _TOKENS = "text_input", "input_ids"
_FIRST_TEXT = "a"
Rows = list[list[int]]
"""The tokens of each text of a request."""


class TritonPythonModel:
    """One loaded model version; Triton makes it and calls these methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's files. An exception fails the load, and its text is what the operator reports."""
        folder, device = Path(args["model_repository"]) / args["model_version"], device_of(args)
        self._encoder = Encoder(folder, device, free_memory(device))
        torch.set_num_threads(min(torch.get_num_threads(), useful_threads(self._encoder.parameters)))
        # The first one is slow, and a model that can not compute it must not answer: nobody's request finds that out.
        self._encoder.vectors(self._encoder.tokens([_FIRST_TEXT]))
        self._counters = Counters(pb, args, PROMPT_TOKENS, PROBE_REQUESTS, FAILED_REQUESTS)
        self._sign = probe_sign(Path(args["model_repository"]).parents[1])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests, each by an answer or an error of its own."""
        parameters = [json.loads(request.parameters() or "{}") for request in requests]
        read = [attempt(self._read, request) for request in requests]
        good = [one for one in read if not isinstance(one, Exception)]
        answers = iter(self._answers(good))
        outcomes = [one if isinstance(one, Exception) else next(answers) for one in read]
        told = list(zip(parameters, read, outcomes, strict=True))
        attempt(self._count, told)  # a counter is for nobody's answer to fail by
        return [_response(*one) for one in told]

    def _read(self, request: Any) -> Rows:
        texts, tokens = (pb.get_input_tensor_by_name(request, name) for name in (_TEXTS, _TOKENS))
        if (texts is None) == (tokens is None):
            raise BadText(f"a request has either {_TEXTS} or {_TOKENS}")
        if tokens is None:
            name, rows = _TEXTS, self._encoder.tokens([_text(*one) for one in enumerate(texts.as_numpy().flatten())])
        else:
            name, rows = _TOKENS, tokens.as_numpy().tolist()
        for place, row in enumerate(rows):
            try:
                self._encoder.check(row)
            except BadText as error:
                raise BadText(f"{name}[{place}] {error}") from None
        return rows

    def _answers(self, requests: Sequence[Rows]) -> Iterator[Tensor | Exception]:
        """The vectors of each; if all together fail each is computed alone, and only the bad one fails."""
        together = attempt(self._encoder.vectors, [row for rows in requests for row in rows]) if requests else None
        if isinstance(together, Exception):
            yield from (attempt(self._encoder.vectors, rows) for rows in requests)
        elif together is not None:
            yield from together.split([len(rows) for rows in requests])

    def _count(self, told: Sequence[tuple[Mapping[str, Any], Rows | Exception, Tensor | Exception]]) -> None:
        for parameters, rows, outcome in told:
            probe = is_probe(parameters, self._sign)
            if isinstance(rows, Exception) or isinstance(outcome, Exception):
                if not probe and not isinstance(outcome, BadText):
                    self._counters.add(FAILED_REQUESTS)
            elif probe:
                self._counters.add(PROBE_REQUESTS)
            else:
                self._counters.add(PROMPT_TOKENS, sum(map(len, rows)))
        self._counters.flush()


def _text(place: int, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise BadText(f"{_TEXTS}[{place}] must be UTF-8 text, byte {error.start} is not") from None


def _response(parameters: Mapping[str, Any], rows: Rows | Exception, outcome: Tensor | Exception) -> Any:
    if isinstance(rows, Exception) or isinstance(outcome, Exception):
        bad, words = isinstance(outcome, BadText), str(outcome) or repr(outcome)
        kind, code = (
            (refusals.INVALID, pb.TritonError.INVALID_ARG) if bad else (refusals.INTERNAL, pb.TritonError.INTERNAL)
        )
        return pb.InferenceResponse(error=pb.TritonError(refusals.tell(kind, words, parameters), code))
    counts = np.array([[len(row)] for row in rows], dtype=np.uint32)
    return pb.InferenceResponse(
        [pb.Tensor("embedding", outcome.contiguous().numpy()), pb.Tensor("num_input_tokens", counts)]
    )

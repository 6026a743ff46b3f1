"""What a version is asked before it is Ready, and what its answers must be like.

The requests are those of `spec.validation.requests`; where there are none, one is made from what the model takes. An
answer has the outputs, shapes and types that the artifact says, and numbers in them. Single values may be infinite, as
models mask with them, but not all of an output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aifactory_agent.serve.triton import Answer, check_output, least_shape, type_of
from aifactory_contract.errors import FactoryError
from aifactory_contract.formats.rules import Serving
from aifactory_contract.signature import EMBED, TensorSpec

GREETING = "Hello"
MAX_TOKENS = 16
"""Of the answer to a request that does not say how many."""
TOLERANCE = 1e-4
_SAID = 200
"""Characters of an answer that a message tells."""

Render = Callable[[Sequence[Mapping[str, Any]]], str]
"""The prompt of a conversation. Raises WrongAnswer with words for a person."""


class WrongAnswer(Exception):
    """The version does not answer as it must, or can not be asked so; the message names the request and says what."""


@dataclass(frozen=True)
class Request:
    """One request and what is expected of its answer."""

    name: str
    """In messages."""
    values: Mapping[str, Any]
    """Inputs, as numpy arrays."""
    contains: str = ""
    """Text that must be in the answer."""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    """Outputs that must be so, as numpy arrays."""
    tolerance: float = TOLERANCE

    def check(self, serving: Serving, answers: Sequence[Answer]) -> None:
        """Raises WrongAnswer."""
        if not answers:
            raise WrongAnswer(f"{self.name} had an empty answer")
        outputs = serving.signature.outputs
        if serving.decoupled:
            self._check_text(outputs[0], answers)
            return
        for output in outputs:
            value = answers[0].outputs.as_numpy(output.name)
            try:
                check_output(output, value, serving.batched)
            except FactoryError as error:
                raise WrongAnswer(f"{self.name}: {error.message}") from error
            self._check_values(output, value)

    def _check_text(self, output: TensorSpec, answers: Sequence[Answer]) -> None:
        pieces = [answer.outputs.as_numpy(output.name) for answer in answers]
        if any(piece is None for piece in pieces):
            raise WrongAnswer(f"{self.name} has an answer without {output.name}")
        text = b"".join(bytes(part) for piece in pieces for part in piece.flatten()).decode(errors="replace")
        if self.contains not in text:
            raise WrongAnswer(f"{self.name}: the answer {_short(text)} does not contain {_short(self.contains)}")

    def _check_values(self, output: TensorSpec, value: Any) -> None:
        where = f"{self.name}: output {output.name}"
        if value.dtype != type_of(output):
            raise WrongAnswer(f"{where} is of type {value.dtype}, not {output.data_type} as stated")
        if value.dtype.kind == "f" and value.size:
            bad = int(np.isnan(value).sum())
            if bad:
                raise WrongAnswer(f"{where} has {bad} of {value.size} values that are no numbers (NaN)")
            if not np.isfinite(value).any():
                raise WrongAnswer(f"{where} has no finite number among its {value.size} values")
        expected = self.outputs.get(output.name)
        if expected is None:
            return
        if expected.shape != value.shape:
            raise WrongAnswer(f"{where} has shape {list(value.shape)}, expected is {list(expected.shape)}")
        same = expected == value
        if value.dtype.kind == "f":
            same = np.isclose(value, expected, rtol=self.tolerance, atol=self.tolerance)
        if not same.all():
            first = tuple(np.argwhere(~np.asarray(same))[0])
            place = "".join(f"[{index}]" for index in first)
            said, wanted = _short(value[first]), _short(expected[first])
            raise WrongAnswer(f"{where}{place} is {said}, expected is {wanted} (tolerance {self.tolerance:g})")


def requests_of(given: Sequence[Mapping[str, Any]], serving: Serving, render: Render) -> list[Request]:
    """The requests of a version: those that its spec gives, or one that is made from what it takes.

    Raises WrongAnswer if one can not be asked of such a model.
    """
    if not given:
        return [Request("a request made from its signature", _made_up(serving, render))]
    return [_given(index, request, serving, render) for index, request in enumerate(given)]


def _made_up(serving: Serving, render: Render) -> dict[str, Any]:
    if serving.decoupled:
        try:
            prompt = render([{"role": "user", "content": GREETING}])
        except WrongAnswer:  # no template, or one for other conversations
            prompt = GREETING
        return _prompt(prompt, MAX_TOKENS)
    if serving.signature is EMBED:
        return {"text_input": _text(GREETING, 2)}
    numbers = np.random.default_rng(0)

    def values(tensor: TensorSpec) -> Any:
        shape = least_shape(tensor, serving.batched)
        if tensor.data_type == "BYTES":
            return np.full(shape, GREETING.encode(), dtype=np.object_)
        kind = np.dtype(type_of(tensor)).kind
        # Zeros are valid indices of anything; of floats they may well be the one row that can not be normalized.
        return (numbers.standard_normal(shape) if kind == "f" else np.zeros(shape)).astype(type_of(tensor))

    return {tensor.name: values(tensor) for tensor in serving.signature.inputs if not tensor.optional}


def _given(index: int, request: Mapping[str, Any], serving: Serving, render: Render) -> Request:
    name = f"request {request.get('name') or index}"
    expect: Mapping[str, Any] = request.get("expect") or {}
    speaks = serving.decoupled or serving.signature is EMBED
    asks_text = "prompt" in request or "messages" in request
    if asks_text != speaks and not (serving.signature is EMBED and "inputs" in request):
        instead = "prompt or messages" if speaks else "inputs"
        raise WrongAnswer(f"{name}: such a model is asked by {instead}; correct spec.validation.requests")
    if asks_text:
        prompt = request["prompt"] if "prompt" in request else _rendered(name, request["messages"], render)
        many = int(request.get("maxTokens", MAX_TOKENS))
        values = _prompt(prompt, many) if serving.decoupled else {"text_input": _text(prompt, 2)}
    else:
        values = _tensors(name, "inputs", request["inputs"], serving.signature.inputs, serving.batched)
    outputs = _tensors(name, "expect.outputs", expect.get("outputs") or {}, serving.signature.outputs, serving.batched)
    tolerance = float(expect.get("tolerance", TOLERANCE))
    return Request(name, values, str(expect.get("contains", "")), outputs, tolerance)


def _rendered(name: str, messages: Sequence[Mapping[str, Any]], render: Render) -> str:
    try:
        return render(messages)
    except WrongAnswer as error:
        raise WrongAnswer(f"{name}: {error}") from error


def _prompt(text: str, max_tokens: int) -> dict[str, Any]:
    """The likeliest tokens, which are the same each time."""
    sampling = json.dumps({"max_tokens": max_tokens, "temperature": 0})
    return {
        "text_input": _text(text, 1),
        "sampling_parameters": _text(sampling, 1),
        "stream": np.array([True]),
        "exclude_input_in_output": np.array([True]),
    }


def _text(text: str, rank: int) -> Any:
    return np.full([1] * rank, text.encode(), dtype=np.object_)


def _tensors(
    name: str, place: str, given: Mapping[str, Any], known: Sequence[TensorSpec], batched: bool
) -> dict[str, Any]:
    specs = {tensor.name: tensor for tensor in known}
    found = {}
    for key, value in given.items():
        if key not in specs:
            raise WrongAnswer(f"{name}: {place}.{key}: the model has {', '.join(specs)}")
        found[key] = _array(f"{name}: {place}.{key}", value, specs[key], batched)
    missing = [tensor.name for tensor in known if not tensor.optional and tensor.name not in found]
    if place == "inputs" and missing:
        raise WrongAnswer(f"{name}: inputs.{missing[0]} is missing")
    return found


def _array(place: str, value: Any, tensor: TensorSpec, batched: bool) -> Any:
    dims = ([-1] if batched else []) + list(tensor.wire_dims)
    try:
        if tensor.data_type == "BYTES":
            texts = np.array(value, dtype=np.str_)
            array = np.array([text.encode() for text in texts.flatten()], dtype=np.object_).reshape(texts.shape)
        else:
            array = np.array(value, dtype=type_of(tensor))
    except (ValueError, TypeError, OverflowError) as error:
        raise WrongAnswer(f"{place} is no {tensor.data_type} of shape {dims}: {error}") from error
    shape: list[int] = list(array.shape)
    if len(shape) != len(dims) or any(dim not in (-1, size) for dim, size in zip(dims, shape, strict=True)):
        batch = ", the first being the requests" if batched else ""
        raise WrongAnswer(f"{place} has shape {shape}, the model takes {dims} (-1: any{batch})")
    return array


def _short(value: Any) -> str:
    text = repr(value.decode(errors="replace") if isinstance(value, bytes) else value)
    if isinstance(value, np.generic):
        text = str(value)
    return text if len(text) <= _SAID else text[: _SAID - 1] + "…"

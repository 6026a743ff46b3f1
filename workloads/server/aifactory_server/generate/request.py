"""What a client asks for, read and checked: the tensors and parameters of Triton's vLLM back end.

Sampling parameters come as JSON in the tensor `sampling_parameters`, or else as parameters of the request; numbers may
be written as strings, as that back end takes them. What is not known is refused by name, never left out in silence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aifactory_contract import refusals
from aifactory_contract.names import PROBE_PARAMETER
from aifactory_contract.signature import GENERATE
from aifactory_contract.userjson import parse_json
from aifactory_server.engines.request import BadRequest, Request
from aifactory_server.engines.sampling import Sampling

INPUTS = tuple(tensor.name for tensor in GENERATE.inputs)
_MAX_TOKENS = 1_000_000
_MAX_ITEMS = 64
"""Of a list in the parameters."""
_MAX_BIASES = 300
_MAX_STOP = 256
_MAX_LOGPROBS = 20
_MAX_JSON = 64 * 1024


@dataclass(frozen=True)
class Asked:
    """A request, and what is to be in its responses."""

    request: Request
    stream: bool
    prepend: str
    """Text before the answer: the prompt, unless it is excluded."""
    finish_reason: bool
    cumulative_logprob: bool
    logprobs: bool
    input_tokens: bool
    output_tokens: bool


def read_request(
    inputs: Mapping[str, Sequence[Any]],
    parameters: Mapping[str, Any],
    *,
    seconds: float | None = None,
    probe: bool = False,
) -> Asked:
    """Build a request from its tensors' flat values and its parameters. Raises BadRequest.

    Args:
        seconds: the time limit that came with it.
        probe: whether the parameters have shown that the agent asks.
    """
    text = _text(_one(inputs, "text_input"), "text_input")
    stream = bool(_one(inputs, "stream", False))
    exclude = bool(_one(inputs, "exclude_input_in_output", stream))
    if stream and not exclude:
        raise BadRequest("exclude_input_in_output must be true with stream: a stream has the answer only")
    if "sampling_parameters" in inputs:
        found = _json(_text(_one(inputs, "sampling_parameters"), "sampling_parameters"))
    else:
        ours = {refusals.PARAMETER, *([PROBE_PARAMETER] if probe else [])}
        found = {
            name: value for name, value in parameters.items() if not name.startswith("triton_") and name not in ours
        }
    wants = {name: bool(_one(inputs, f"return_{name}", False)) for name in _RETURNS}
    given = _Parameters(found)
    request = _request(text, given, wants["logprobs"] or wants["cumulative_logprob"], seconds, probe)
    given.refuse_others()
    return Asked(
        request,
        stream,
        "" if exclude else text,
        wants["finish_reason"],
        wants["cumulative_logprob"],
        wants["logprobs"],
        wants["num_input_tokens"],
        wants["num_output_tokens"],
    )


_RETURNS = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")


class _Parameters:
    """Takes parameters one by one; what is left at the end nobody knows."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        # None is how a client writes that it has not chosen.
        self._given = {name: value for name, value in given.items() if value is not None}
        self._known: list[str] = []

    def whole(self, name: str, default: Any, low: int, high: int) -> Any:
        return self._take(name, default, lambda value: _whole(value, name, low, high))

    def number(self, name: str, default: float, low: float, high: float) -> float:
        return float(self._take(name, default, lambda value: _number(value, name, low, high)))

    def flag(self, name: str, default: bool) -> bool:
        return bool(self._take(name, default, lambda value: _flag(value, name)))

    def list(self, name: str, read: Callable[[Any], Any]) -> tuple[Any, ...]:
        return tuple(self._take(name, (), lambda value: [read(item) for item in _items(value, name)]))

    def mapping(self, name: str) -> dict[int, float]:
        return dict(self._take(name, {}, lambda value: _biases(value, name)))

    def schema(self, name: str) -> str | None:
        found = self._take(name, None, lambda value: _schema(value, name))
        return None if found is None else str(found)

    def refuse_others(self) -> None:
        for name in self._given:
            raise BadRequest(f"{name} is not known; this model takes {', '.join(self._known)}")

    def _take(self, name: str, default: Any, read: Callable[[Any], Any]) -> Any:
        self._known.append(name)
        return read(self._given.pop(name)) if name in self._given else default


def _request(text: str, given: _Parameters, logprobs: bool, seconds: float | None, probe: bool) -> Request:
    if given.whole("n", 1, 1, _MAX_TOKENS) != 1:
        raise BadRequest("n must be 1: a request has one answer; ask again for another one, with another seed")
    sampling = Sampling(
        temperature=given.number("temperature", 1.0, 0.0, 100.0),
        top_p=given.number("top_p", 1.0, 1e-6, 1.0),
        # vLLM writes "no limit" as 0 or -1.
        top_k=max(0, given.whole("top_k", 0, -1, _MAX_TOKENS)),
        min_p=given.number("min_p", 0.0, 0.0, 1.0),
        presence_penalty=given.number("presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=given.number("frequency_penalty", 0.0, -2.0, 2.0),
        repetition_penalty=given.number("repetition_penalty", 1.0, 1e-3, 100.0),
        logit_bias=given.mapping("logit_bias"),
        logprobs=given.whole("logprobs", 0 if logprobs else None, 0, _MAX_LOGPROBS),
    )
    most, least = given.whole("max_tokens", 16, 1, _MAX_TOKENS), given.whole("min_tokens", 0, 0, _MAX_TOKENS)
    if least > most:
        raise BadRequest(f"min_tokens {least} is more than max_tokens {most}")
    return Request(
        text=text,
        max_tokens=most,
        min_tokens=least,
        stop=given.list("stop", _stop),
        stop_token_ids=given.list("stop_token_ids", lambda value: _whole(value, "stop_token_ids", 0, 2**31)),
        ignore_eos=given.flag("ignore_eos", False),
        skip_special_tokens=given.flag("skip_special_tokens", True),
        seed=given.whole("seed", None, -(2**63), 2**64 - 1),
        structured_outputs=given.schema("structured_outputs"),
        sampling=sampling,
        seconds=seconds,
        probe=probe,
    )


def _one(inputs: Mapping[str, Sequence[Any]], name: str, default: Any = None) -> Any:
    values = inputs.get(name)
    if values is None:
        if default is None:
            raise BadRequest(f"{name} is missing")
        return default
    if len(values) != 1:
        raise BadRequest(f"{name} must have one value, it has {len(values)}")
    return values[0]


def _text(value: Any, name: str) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise BadRequest(f"{name} must be UTF-8 text, byte {error.start} is not") from None


def _json(text: str) -> dict[str, Any]:
    if len(text) > _MAX_JSON:
        raise BadRequest(f"sampling_parameters has {len(text)} characters, {_MAX_JSON} at most are read")
    try:
        found = parse_json(text)
    except ValueError as error:
        raise BadRequest(f"sampling_parameters is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadRequest('sampling_parameters must be a JSON object like {"temperature": 0.5}')
    return found


def _whole(value: Any, name: str, low: int, high: int) -> int:
    try:
        number = int(value) if not isinstance(value, float) or value.is_integer() else None
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, bool) or not low <= number <= high:
        raise BadRequest(f"{name} must be a whole number from {low} to {high}, it is {value!r:.100}")
    return number


def _number(value: Any, name: str, low: float, high: float) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise BadRequest(f"{name} must be from {low:g} to {high:g}, it is {value!r:.100}")
    return number


def _flag(value: Any, name: str) -> bool:
    words = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise BadRequest(f"{name} must be true or false, it is {value!r:.100}")


def _items(value: Any, name: str) -> list[Any]:
    items = value if isinstance(value, list) else [value]
    if len(items) > _MAX_ITEMS:
        raise BadRequest(f"{name} takes up to {_MAX_ITEMS}, it has {len(items)}")
    return items


def _stop(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_STOP:
        raise BadRequest(f"stop must be strings of 1 to {_MAX_STOP} characters, one is {value!r:.100}")
    return value


def _schema(value: Any, name: str) -> str:
    """A JSON schema or a structural tag out of what vLLM calls StructuredOutputsParams, which its back end takes as a
    string of JSON."""
    given = _decoded(value, name)
    if "structural_tag" in given:
        schema = {**_decoded(given.pop("structural_tag"), name), "type": "structural_tag"}
    elif given.pop("json_object", False) is True:
        schema = {"type": "object"}
    else:
        schema = _decoded(given.pop("json", None), name)
    for other in given:
        raise BadRequest(f"{name} has {other}, which this engine does not keep to; it {_STRUCTURED}")
    try:
        return json.dumps(schema)
    except RecursionError as error:
        raise BadRequest(f"{name} is nested too deep") from error


_STRUCTURED = 'must be like {"json": {"type": "object"}} or {"json_object": true}'


def _decoded(value: Any, name: str) -> dict[str, Any]:
    """An object, which may be written as a string of JSON."""
    try:
        found = parse_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise BadRequest(f"{name} is not JSON: {error}; it {_STRUCTURED}") from None
    if not isinstance(found, dict):
        raise BadRequest(f"{name} {_STRUCTURED}")
    return {key: item for key, item in found.items() if item is not None}


def _biases(value: Any, name: str) -> dict[int, float]:
    if not isinstance(value, dict) or len(value) > _MAX_BIASES:
        raise BadRequest(f'{name} must be an object like {{"50256": -100}} of up to {_MAX_BIASES} tokens')
    return {
        _whole(token, f"a token of {name}", 0, 2**31): _number(bias, name, -100.0, 100.0)
        for token, bias in value.items()
    }

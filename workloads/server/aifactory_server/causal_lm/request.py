"""What a client asks for, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aifactory_contract.signature import GENERATE

MAX_TOKENS_LIMIT = 65_536
MAX_TEMPERATURE = 100.0
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
INPUTS = tuple(tensor.name for tensor in GENERATE.inputs)


class BadRequest(ValueError):
    """The request can not be answered; the message tells the client what to write instead."""


@dataclass(frozen=True)
class Request:
    """One generation.

    Attributes:
        temperature: 0 takes the likeliest token always, and so does all below 1e-5.
        seed: the same seed, prompt and temperature give the same answer; None: a fresh one each time.
        stream: several responses as the text grows, or one whole response.
        probe: the agent asks; it is answered before all others, and its tokens are not counted.
    """

    prompt: bytes
    max_tokens: int = 16
    temperature: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    stream: bool = False
    probe: bool = False


def read_request(inputs: Mapping[str, Sequence[Any]], parameters: Mapping[str, Any], *, probe: bool = False) -> Request:
    """Build a request from its tensors' flat values and its parameters. Raises BadRequest.

    Args:
        probe: whether the parameters have shown that the agent asks.
    """
    unknown = [name for name in parameters if not name.startswith("triton_")] if not probe else []
    if unknown:
        raise BadRequest(f"{unknown[0]} is not known; this model takes {', '.join(INPUTS)}")
    text = _one(inputs, "text_input", None)
    if text is None:
        raise BadRequest("text_input is missing")
    return Request(
        prompt=text if isinstance(text, bytes) else str(text).encode(),
        max_tokens=_max_tokens(_one(inputs, "max_tokens", Request.max_tokens)),
        temperature=_temperature(_one(inputs, "temperature", Request.temperature)),
        seed=_seed(_one(inputs, "seed", None)),
        stops=_stops(inputs.get("stop", ())),
        stream=bool(_one(inputs, "stream", False)),
        probe=probe,
    )


def _one(inputs: Mapping[str, Sequence[Any]], name: str, default: Any) -> Any:
    values = inputs.get(name)
    if values is None:
        return default
    if len(values) != 1:
        raise BadRequest(f"{name} must have one value, it has {len(values)}")
    return values[0]


def _max_tokens(value: Any) -> int:
    if not 1 <= int(value) <= MAX_TOKENS_LIMIT:
        raise BadRequest(f"max_tokens must be from 1 to {MAX_TOKENS_LIMIT}, it is {value}")
    return int(value)


def _temperature(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and 0.0 <= number <= MAX_TEMPERATURE):
        raise BadRequest(f"temperature must be from 0 (always the likeliest) to {MAX_TEMPERATURE:.0f}, it is {value}")
    return number


def _seed(value: Any) -> int | None:
    # torch takes 64 bits, signed.
    return None if value is None else int(value) & (2**63 - 1)


def _stops(values: Sequence[Any]) -> tuple[str, ...]:
    if len(values) > MAX_STOPS:
        raise BadRequest(f"stop takes up to {MAX_STOPS} strings, it has {len(values)}")
    stops = []
    for value in values:
        try:
            stop = value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError:
            raise BadRequest("stop must be UTF-8 text") from None
        if not 0 < len(stop) <= MAX_STOP_LENGTH:
            raise BadRequest(f"a stop string must have from 1 to {MAX_STOP_LENGTH} characters, one has {len(stop)}")
        stops.append(stop)
    return tuple(stops)

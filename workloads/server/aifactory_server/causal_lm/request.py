"""What the small engine is asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields

from aifactory_server.engines.request import BadRequest as BadRequest
from aifactory_server.engines.request import Request as Full
from aifactory_server.engines.sampling import Sampling

MAX_TOKENS_LIMIT = 65_536
_TAKES = "max_tokens, temperature, seed, stop"


@dataclass(frozen=True)
class Request:
    """One generation.

    Attributes:
        temperature: 0 takes the likeliest token always, and so does all below 1e-5.
        seed: the same seed, prompt and temperature give the same answer; None: a fresh one each time.
        probe: the agent asks; it is answered before all others, and its tokens are not counted.
    """

    prompt: bytes
    max_tokens: int = 16
    temperature: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    probe: bool = False


def request_of(full: Full) -> Request:
    """Raises BadRequest if it asks for what this engine can not do: nothing is left out in silence."""
    plain = Full(full.text)
    others = ("min_tokens", "stop_token_ids", "ignore_eos", "structured_outputs")
    asked = {name: getattr(full, name) != getattr(plain, name) for name in others}
    asked |= {
        field.name: getattr(full.sampling, field.name) != getattr(plain.sampling, field.name)
        for field in fields(Sampling)
        if field.name != "temperature"
    }
    for name, wanted in asked.items():
        if wanted:
            raise BadRequest(f"{name} is not known to the engine of this model; it takes {_TAKES}")
    if full.max_tokens > MAX_TOKENS_LIMIT:
        raise BadRequest(f"max_tokens must be from 1 to {MAX_TOKENS_LIMIT}, it is {full.max_tokens}")
    # A seed is 64 bits, signed.
    seed = None if full.seed is None else full.seed & (2**63 - 1)
    return Request(full.text.encode(), full.max_tokens, full.sampling.temperature, seed, full.stop, full.probe)

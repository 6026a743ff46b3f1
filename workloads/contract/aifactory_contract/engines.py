"""The engines of the server image that serve language models.

An engine is a Triton back end of its name, with the interface of `signature.GENERATE`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Engine:
    """One engine."""

    name: str
    architecture: str
    """As config.json names it."""


BYTES = Engine("bytes", "Qwen3ForCausalLM")
"""The server's own small one (`aifactory_server.causal_lm`), for models whose tokens are bytes."""

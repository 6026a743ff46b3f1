"""The kinds of this operator, a line each. Everything else is derived from what they declare (`engine.domain`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aifactory.app.options import Options
from aifactory.engine.domain import Domain
from aifactory.models.domain import Models
from aifactory.serving.domain import Serving
from aifactory.training.domain import Training

DOMAINS: tuple[type[Domain[Any, Any]], ...] = (
    Training,
    Models,
    Serving,
)


def make(options: Options, kinds: Sequence[type[Domain[Any, Any]]] = DOMAINS) -> list[Domain[Any, Any]]:
    """One of each, with what the command line says about it."""
    return [kind(options.settings_of(kind), f"http://{options.endpoint}") for kind in kinds]

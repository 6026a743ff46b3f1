"""Comparing figures with what is expected of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import yaml

from tests.bench.plane import HERE


@dataclass(frozen=True)
class Verdict:
    """One expectation and what was measured; None if the scenario was not run."""

    scenario: str
    what: str
    target: float
    low: float
    high: float
    more: bool
    value: float | None
    scale: float = 1.0
    """Share of the full number of objects that was measured."""

    @property
    def met(self) -> bool:
        """The target is reached."""
        return self.value is not None and (self.value >= self.target if self.more else self.value <= self.target)

    @property
    def in_range(self) -> bool:
        """The run may pass."""
        return self.value is None or self.low <= self.value <= self.high


def judge(scenarios: Mapping[str, Any]) -> list[Verdict]:
    """Every expectation, in the order of expected.yaml."""
    found = []
    for entry in yaml.safe_load((HERE / "expected.yaml").read_text()):
        figures = scenarios.get(entry["scenario"])
        value = None if figures is None else _at(figures, entry["path"])
        low, high = entry["range"]
        scale = 1.0 if figures is None else float(figures.get("scale", 1.0))
        more = entry.get("more", False)
        found.append(Verdict(entry["scenario"], entry["what"], entry["target"], low, high, more, value, scale))
    return found


def _at(figures: Any, path: str) -> float | None:
    """A figure by its path; `writes.total` is the sum of a table of writes. None if an older run did not measure it."""
    try:
        found = reduce(lambda value, key: value[key], path.removesuffix(".total").split("."), figures)
    except KeyError:
        return None
    return float(sum(found.values()) if path.endswith(".total") else found)

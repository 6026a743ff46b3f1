"""The figures of record: what docs/performance.md shows, committed beside it.

A run of one scenario replaces that scenario's figures and leaves the others as they were, whoever measured them on
which machine. Time lines are left out: they make pictures, which are committed as pictures, and are nine tenths of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

Json = dict[str, Any]

FILE: Final = "performance.json"
TIME_LINES: Final = frozenset({"timeline", "createTimeline"})


def load(docs: Path) -> Json:
    """The record; an empty one if there is none."""
    path = docs / FILE
    found: Json = json.loads(path.read_text()) if path.exists() else {"scenarios": {}}
    return found


def merged(record: Mapping[str, Any], measured: Mapping[str, Any], order: Iterable[str]) -> Json:
    """The record with the scenarios that were measured now in place of the old ones, in that order.

    A scenario that no longer exists is dropped.
    """
    scenarios = {**record["scenarios"], **{name: _without_time_lines(value) for name, value in measured.items()}}
    return {**record, "scenarios": {name: scenarios[name] for name in order if name in scenarios}}


def save(record: Mapping[str, Any], docs: Path) -> None:
    """Write it so that a change of one scenario is a change of a few lines."""
    (docs / FILE).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _without_time_lines(figures: Any) -> Any:
    if isinstance(figures, Mapping):
        return {key: _without_time_lines(value) for key, value in figures.items() if key not in TIME_LINES}
    return figures

"""The page shows every scenario, whoever measured it: a run of one leaves the others as they were."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import record
from tests.bench.__main__ import SCENARIOS, publish
from tests.bench.peers import __main__ as peers
from tests.bench.plane import ROOT
from tests.bench.verdict import judge

Json = dict[str, Any]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A copy of the committed record, as a fresh clone has it."""
    (tmp_path / record.FILE).write_text((ROOT / "docs" / record.FILE).read_text())
    return tmp_path


def measured(docs: Path, name: str) -> Json:
    """As if the scenario had been run again, with other figures."""
    figures = copy.deepcopy(record.load(docs)["scenarios"][name])
    figures["taken"]["commit"] = "abcdef0"
    for side in ("limit", "ours"):
        figures[side] |= {"timeline": [0.1, 0.2], "podsCreatedSeconds": 123.45}
    return {name: figures}


def test_one_scenario_keeps_the_rows_of_the_others_in_a_fresh_clone(docs: Path) -> None:
    publish({}, docs)
    before = (docs / "performance.md").read_text().splitlines()
    publish(measured(docs, "restart"), docs)
    after = (docs / "performance.md").read_text().splitlines()
    assert len(before) == len(after)
    changed = [line for old, line in zip(before, after, strict=True) if old != line]
    assert len(changed) == 3, "where it was measured, and both sides"
    assert all("restart" in line for line in changed)
    assert [path.name for path in (docs / "images").iterdir()] == ["bench-restart.svg"]


def test_time_lines_are_pictures_and_not_in_the_record(docs: Path) -> None:
    publish(measured(docs, "large"), docs)
    kept = record.load(docs)["scenarios"]
    assert kept["large"]["ours"]["podsCreatedSeconds"] == 123.45
    assert "timeline" not in json.dumps(kept)
    assert list(kept) == [name for name in SCENARIOS if name in kept]


def test_the_committed_page_is_made_from_the_committed_record(docs: Path) -> None:
    publish({}, docs)
    assert (docs / "performance.md").read_text() == (ROOT / "docs" / "performance.md").read_text()
    assert (docs / record.FILE).read_text() == (ROOT / "docs" / record.FILE).read_text()


def test_without_a_record_a_page_begins(tmp_path: Path) -> None:
    publish({}, tmp_path)
    assert "# Performance" in (tmp_path / "performance.md").read_text()


def test_every_figure_of_record_has_the_paths_that_are_expected_of_it(docs: Path) -> None:
    scenarios = record.load(docs)["scenarios"]
    verdicts = [verdict for verdict in judge(scenarios) if verdict.scenario in scenarios]
    assert all(verdict.value is not None for verdict in verdicts)
    assert {verdict.scenario for verdict in judge({})} <= set(SCENARIOS)


def test_a_comparison_with_others_stays_when_a_scenario_is_run_again(docs: Path) -> None:
    life = dict.fromkeys(("podsCreatedSeconds", "podsRunningSeconds", "completeSeconds", "writesPerJob"), 1.5)
    cpu = dict.fromkeys(("own", "kube-controller-manager", "kube-apiserver"), 1.0)
    sides = {"as shipped": {"jobset": life | {"jobSeconds": {"p50": 1.0, "p99": 2.0}, "cpuSeconds": cpu}}}
    taken = record.load(docs)["scenarios"]["jobs-1"]["taken"]
    found = {"taken": taken, "scale": 1.0, "versions": {"jobset": "v7", "trainer": "v8"}}
    found["scenarios"] = {"jobs-1": {"jobs": 1000, "nodes": 1, "measured": sides}}
    peers.publish(found, docs)
    publish(measured(docs, "restart"), docs)
    assert record.load(docs)["peers"] == found
    assert "| 1,000 x 1 | as shipped | JobSet | 1.5 s |" in (docs / "performance.md").read_text()

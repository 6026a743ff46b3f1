"""The comparison runs: JobSet, Kubeflow Trainer and ours bring a few jobs to their end and restart them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.bench.peers.__main__ import main
from tests.bench.peers.measure import SIDES

NIGHT = pytest.mark.skipif(os.environ.get("AIFACTORY_LONG") != "1", reason="long: make test-night runs it")


@NIGHT
@pytest.mark.timeout(3600)  # others' programs may have to be built
def test_every_side_does_the_same_work(tmp_path: Path) -> None:
    assert main(["jobs-8", "restart", "--scale=0.05", "--limits=raised", f"--output={tmp_path}"]) == 0
    found = json.loads((tmp_path / "peers.json").read_text())["scenarios"]
    lives, restarts = (found[name]["measured"]["raised"] for name in ("jobs-8", "restart"))
    assert {side: figures["pods"] for side, figures in lives.items()} == dict.fromkeys(SIDES, 5 * 8)
    assert all(figures["restartSeconds"]["p50"] > 0 for figures in restarts.values())
    assert restarts.keys() == SIDES.keys()

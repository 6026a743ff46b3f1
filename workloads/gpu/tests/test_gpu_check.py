"""The GPU check in miniature on a CPU, so that it works the first time on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from gpu_check import report

WORKLOADS = Path(__file__).resolve().parents[2]
PATHS = [str(WORKLOADS / name) for name in ("gpu", "trainer", "server", "contract")]


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1", **env}
    command = [sys.executable, "-m", "gpu_check", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_every_part_holds_in_miniature(tmp_path: Path) -> None:
    done = run("--tiny", "--out", str(tmp_path))
    result = json.loads((tmp_path / "result.json").read_text())
    bad = {name: part for name, part in result["parts"].items() if report.failed(part)}
    assert done.returncode == 0, (bad, done.stderr)
    assert set(result["parts"]) == {
        *("resumed", "random-state", "ranks", "export", "answers", "engine", "speed", "tests"),
    }
    assert all(part["checks"] for part in result["parts"].values())
    assert result["parts"]["speed"]["figures"]["plainLoop"]["programToThis"] > 0
    page = report.page(result)
    assert "| speed | plainLoop.tokensPerSecond |" in page


def test_a_part_that_fails_is_reported_and_the_next_one_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(  # as a crash in a driver would end it
        "import os, sys\nif {'random-state', '--work'} <= {*sys.orig_argv}: os._exit(9)\n"
    )
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *PATHS])}
    done = run("random-state", "ranks", "--tiny", "--out", str(tmp_path / "out"), **env)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert done.returncode == 1
    assert result["parts"]["random-state"]["error"] == "its process ended with 9"
    assert not report.failed(result["parts"]["ranks"])
    assert "FAILED" in (tmp_path / "out" / "table.txt").read_text()


def test_what_does_not_hold_is_a_failure() -> None:
    assert report.failed(
        {"checks": [{"what": "x", "holds": True, "seen": 1}, {"what": "y", "holds": False, "seen": 2}]}
    )
    assert not report.failed({"checks": [{"what": "x", "holds": True, "seen": 1}]})


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "PyTorch sees no GPU here" in done.stderr

"""The GPU check in miniature on a CPU, so that it works the first time on a GPU."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gpu_check import __main__ as program
from gpu_check import report

ROOT = Path(__file__).resolve().parents[3]
PATHS = [str(ROOT / "workloads" / name) for name in ("gpu", "trainer", "server", "contract")]
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of the processes that parts start; and gradients, which a back end turns off in its process."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(PATHS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("AIFACTORY_CAUSAL_LM_SLOTS", "AIFACTORY_ENGINE_SLOTS"):  # parts set them: as before afterwards
        monkeypatch.setenv(name, "16")
    with torch.enable_grad():
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


NIGHT = {"divided", "speed-1b"}
"""The longest two; the trainer's tests of pretraining go through the same code."""
LONG = os.environ.get("AIFACTORY_LONG") == "1"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(name in NIGHT and not LONG, reason="long: make test-night runs it"))
        for name in program.PARTS
        if name != "tests"
    ],
)
def test_a_part_holds_in_miniature(name: str, work: Path) -> None:
    """In this process, which has PyTorch already; `tests` is the suites beside this one."""
    program.run_part(name, work, tiny=True)
    part = json.loads((work / f"{name}.json").read_text())
    assert part["checks"]
    assert not report.failed(part), part


def test_a_part_that_fails_is_reported_and_the_next_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(  # as a crash in a driver would end it
        "import os, sys\nif {'speed', '--work'} <= {*sys.orig_argv}: os._exit(9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *PATHS]))
    assert program.run_all(["speed", "random-state", "export"], tmp_path / "out", tiny=True) == 1
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["parts"]["speed"]["error"] == "its process ended with 9"
    assert not report.failed(result["parts"]["random-state"])
    assert not report.failed(result["parts"]["export"])
    assert "FAILED" in (tmp_path / "out" / "table.txt").read_text()


def test_a_part_whose_packages_are_missing_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "find_spec", lambda name: None if name in ("llguidance", "psutil") else name)
    program.run_part("generate", tmp_path, tiny=True)
    said = json.loads((tmp_path / "generate.json").read_text())["error"]
    assert said == "not run: install llguidance psutil (workloads/server/requirements-test.lock)"


def test_what_does_not_hold_is_a_failure() -> None:
    assert report.failed(
        {"checks": [{"what": "x", "holds": True, "seen": 1}, {"what": "y", "holds": False, "seen": 2}]}
    )
    assert not report.failed({"checks": [{"what": "x", "holds": True, "seen": 1}]})


def test_the_committed_page_is_made_from_the_committed_record() -> None:
    parts = json.loads((ROOT / "docs" / "gpu.json").read_text())
    assert (ROOT / "docs" / "gpu.md").read_text() == report.page(parts)


def test_a_run_of_some_parts_keeps_the_others(tmp_path: Path) -> None:
    for day, names in (("1", ("speed", "ranks")), ("2", ("ranks",))):
        parts = {name: {"checks": [], "seconds": 1.0, "figures": {"x": day}} for name in names}
        machine = {"device": f"card {day}", "torch": "2.15"}
        report.publish({"taken": f"day {day}", "machine": machine, "parts": parts}, tmp_path)
    page = (tmp_path / "gpu.md").read_text()
    assert "| speed | holds | nothing | day 1, card 1, PyTorch 2.15 |" in page
    assert "| ranks | holds | nothing | day 2, card 2, PyTorch 2.15 |" in page
    assert "| ranks | x | 2 |" in page
    assert "| ranks | x | 1 |" not in page


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert "PyTorch sees no GPU here" in capsys.readouterr().err

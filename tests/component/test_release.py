"""`make release` of a clone: Helm and an API server take what it packs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.chart import helm
from tests.support.kubectl import ROOT, Kubectl


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("release") / "clone"
    subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(target)], check=True)
    return target


def run(clone: Path, *command: str, seconds: float) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, *command)
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=seconds)


def test_a_release(clone: Path, tmp_path: Path, kubectl: Kubectl) -> None:
    first = tmp_path / "first"
    done = run(clone, "-m", "release", "pack", "--folder", str(first), seconds=300)
    assert done.returncode == 0, done.stderr
    sums = (first / "SHA256SUMS").read_text()
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=first, check=True)
    assert {line.split()[1] for line in sums.splitlines()} == {path.name for path in first.iterdir()} - {"SHA256SUMS"}

    (chart,) = first.glob("aifactory-[0-9]*.tgz")
    rendered = helm("template", "aifactory", str(chart))
    assert rendered.returncode == 0, rendered.stderr
    images = set((first / "images.txt").read_text().split())
    assert all(image in images for image in (f"aifactory/{name}:0.1.0" for name in ("operator", "trainer", "gateway")))
    kubectl.run("apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", str(first / "crds.yaml"))
    sbom = json.loads((first / "sbom-server.cdx.json").read_text())
    assert sbom["metadata"]["component"]["name"] == "aifactory/server"
    assert {"torch", "transformers"} <= {component["name"] for component in sbom["components"]}
    krew = yaml.safe_load((first / "krew.yaml").read_text())
    assert krew["spec"]["platforms"][0]["sha256"] in sums


def test_the_same_commit_makes_the_same_charts(clone: Path, tmp_path: Path) -> None:
    """Whenever its files were checked out."""
    made = []
    for time in (1_000_000_000, 1_700_000_000):
        for path in (clone / "charts").rglob("*"):
            os.utime(path, (time, time))
        folder = tmp_path / str(time)
        folder.mkdir()
        code = f"import pathlib, release.__main__ as r; r.pack_charts(pathlib.Path({str(folder)!r}), 1_600_000_000)"
        done = run(clone, "-c", code, seconds=60)
        assert done.returncode == 0, done.stderr
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1]
    assert len(made[0]) == 2


def test_what_is_not_committed_stops_it(clone: Path) -> None:
    with (clone / "charts/aifactory/values.yaml").open("a") as file:
        file.write("\n# a change\n")
    done = run(clone, "-m", "release", "pack", seconds=60)
    assert done.returncode == 1
    assert "commit or remove first" in done.stderr
    assert "charts/aifactory/values.yaml" in done.stderr

"""Every file that users copy is accepted as it stands; every mistake that users make is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster import objects
from tests.support.kubectl import ROOT, Kubectl


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_accepted(path: Path, ns: Kubectl) -> None:
    ns.run("apply", "--dry-run=server", "-f", str(path))


def test_columns_tell_the_story(trained: Kubectl) -> None:
    lines = trained.run("get", "tjob").out.splitlines()
    assert lines[0].split() == ["NAME", "PHASE", "NODES", "PROGRESS", "LOSS", "RESTARTS", "REASON", "AGE"]
    assert lines[1].split()[:4] == ["tiny", "Succeeded", "1/1", "100%"]
    header = trained.run("get", "mver").out.splitlines()[0]
    assert header.split() == ["NAME", "MODEL", "VERSION", "FORMAT", "READY", "REASON", "IN", "USE", "SIZE", "AGE"]
    everything = trained.run("get", "aifactory").out
    assert "trainingjob.aifactory.dev/tiny" in everything
    assert "modelversion.aifactory.dev/tiny-v1" in everything


def test_mistakes_are_answered_with_the_way_out(ns: Kubectl) -> None:
    typo = objects.job("typo", ["true"])
    typo["spec"]["nodez"] = {"count": 2}
    assert 'unknown field "spec.nodez"' in ns.refuse(typo)

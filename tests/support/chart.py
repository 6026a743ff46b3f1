"""The chart as Helm renders it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.kubectl import ROOT, Json, binary

CHART = ROOT / "charts/aifactory"
SYSTEM = "aifactory-system"
Manifests = dict[tuple[str, str], Json]


def helm(*args: str, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm; values go in as a file."""
    given = ["--values=-"] if values is not None else []
    return subprocess.run(
        [_program(), *args, *given], input=json.dumps(values), capture_output=True, text=True, timeout=60, cwd=ROOT
    )


@cache
def _program() -> str:
    return binary("helm")


def rendered(values: Mapping[str, Any], *, release: str = "aifactory", chart: Path = CHART) -> Manifests:
    """What the chart makes of values, by kind and name."""
    return _rendered(json.dumps(values), release, chart)


@lru_cache
def _rendered(values: str, release: str, chart: Path) -> Manifests:
    done = helm("template", release, str(chart), f"--namespace={SYSTEM}", values=json.loads(values))
    assert done.returncode == 0, done.stderr
    found = [entry for entry in yaml.safe_load_all(done.stdout) if entry]
    made = {(entry["kind"], entry["metadata"]["name"]): entry for entry in found}
    assert len(made) == len(found), "two objects have one name"
    return made


def pod(made: Manifests, name: str = "aifactory-operator") -> Json:
    """The template of the operator's pods."""
    return dict(made["Deployment", name]["spec"]["template"])


def container(made: Manifests, name: str = "aifactory-operator") -> Json:
    """The operator's container."""
    (found,) = pod(made, name)["spec"]["containers"]
    return dict(found)

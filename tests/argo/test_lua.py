"""The real Argo CD's reading of the chart's `argocd-cm.yaml`, without a cluster: what its own tests would compare."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.kubectl import ROOT, binary, command

CUSTOMIZATIONS = ROOT / "argo/resource_customizations/aifactory.dev"
KINDS = sorted(path.name for path in CUSTOMIZATIONS.iterdir())
SHOW_WHAT_BECOMES = "sh -c 'cat \"$1\"'"
"""Argo CD gives two files to the program that it shows differences with; this one prints the second."""


def overrides(what: str, obj: Path, *more: str) -> str:
    told = ["admin", "settings", "resource-overrides", what, str(obj), *more]
    settings = ["--argocd-cm-path", str(ROOT / "charts/aifactory/files/argocd-cm.yaml")]
    return command([binary("argocd"), *told, *settings], KUBECTL_EXTERNAL_DIFF=SHOW_WHAT_BECOMES)


@pytest.mark.parametrize("kind", KINDS)
def test_health(kind: str) -> None:
    for case in yaml.safe_load((CUSTOMIZATIONS / kind / "health_test.yaml").read_text())["tests"]:
        told = overrides("health", CUSTOMIZATIONS / kind / case["inputPath"])
        wanted = case["healthStatus"]
        assert told == f"STATUS: {wanted['status']}\nMESSAGE: {wanted['message']}\n", case["inputPath"]


@pytest.mark.parametrize("kind", KINDS)
def test_actions(kind: str) -> None:
    home = CUSTOMIZATIONS / kind / "actions"
    tests = yaml.safe_load((home / "action_test.yaml").read_text())
    for case in tests["discoveryTests"]:
        _, *rows = overrides("list-actions", home / case["inputPath"]).splitlines()
        assert {tuple(row.split()) for row in rows} == {
            (found["name"], str(found["disabled"]).lower()) for found in case["result"]
        }
    for case in tests["actionTests"]:
        before, after = (yaml.safe_load((home / case[key]).read_text()) for key in ("inputPath", "expectedOutputPath"))
        _, _, becomes = overrides("run-action", home / case["inputPath"], case["action"]).partition("\n\n")
        assert before != after == yaml.safe_load(becomes), case["action"]

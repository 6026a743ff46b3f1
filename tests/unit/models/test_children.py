"""The verifier: golden files, Kubernetes' own types, and how little it may do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aifactory.models import children
from tests.unit.golden import assert_golden, assert_known_to_kubernetes, assert_restricted
from tests.unit.models.builders import DIGEST, SETTINGS, version

GOLDEN = Path(__file__).parent / "golden"
MIRROR = "https://hub.example.com"
CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "claim": lambda: children.verifier(version(digest=DIGEST), 0, SETTINGS),
    "mirror": lambda: children.verifier(version(uri="hf://org/tiny@main"), 0, replace(SETTINGS, hub_endpoint=MIRROR)),
    "bucket": lambda: children.verifier(version(uri="s3://b/tiny", source={"secretRef": {"name": "s3"}}), 3, SETTINGS),
}


@pytest.mark.parametrize("case", CASES)
def test_the_verifier_is_the_golden_one(case: str) -> None:
    assert_golden(GOLDEN / f"{case}.yaml", [CASES[case]()])


@pytest.mark.parametrize("case", CASES)
def test_the_verifier_is_restricted_and_can_only_read(case: str) -> None:
    body = CASES[case]()
    assert_known_to_kubernetes(body)
    assert_restricted(body["spec"])
    assert body["spec"]["automountServiceAccountToken"] is False
    (container,) = body["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["/tmp"]
    for volume in body["spec"]["volumes"]:
        assert volume.get("persistentVolumeClaim", {"readOnly": True})["readOnly"] is True


def test_the_digest_is_compared_only_if_one_is_given() -> None:
    assert "--digest" not in CASES["bucket"]()["spec"]["containers"][0]["args"]
    args = CASES["claim"]()["spec"]["containers"][0]["args"]
    assert args[args.index("--digest") + 1] == DIGEST


def test_only_who_asks_a_hub_is_told_which() -> None:
    body = children.verifier(version(), 0, replace(SETTINGS, hub_endpoint=MIRROR))
    assert body == children.verifier(version(), 0, SETTINGS)


def test_the_highest_number_is_written_down_where_it_outlives_every_version() -> None:
    body = children.counter(version())
    assert_known_to_kubernetes(body)
    assert body == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "aifactory-tiny-versions",
            "namespace": "ns",
            "labels": {"app.kubernetes.io/managed-by": "aifactory", "aifactory.dev/model": "tiny"},
            "annotations": {"aifactory.dev/highest-version": "1"},
        },
    }

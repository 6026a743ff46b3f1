"""The verifier: golden files, Kubernetes' own types, and how little it may do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aifactory.engine.taskpods import TaskPods
from aifactory.models import children
from tests.unit.golden import assert_golden, assert_known_to_kubernetes, assert_restricted
from tests.unit.models.builders import DIGEST, SETTINGS, version

GOLDEN = Path(__file__).parent / "golden"
MIRROR = "https://hub.example.com"
CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "claim": lambda: children.verifier(version(digest=DIGEST), 0, SETTINGS),
    "mirror": lambda: children.verifier(version(uri="hf://org/tiny@main"), 0, replace(SETTINGS, hub_endpoint=MIRROR)),
    "bucket": lambda: children.verifier(version(uri="s3://b/tiny", source={"secretRef": {"name": "s3"}}), 3, SETTINGS),
    "untried": lambda: children.verifier(version(validation={"enabled": False}), 0, SETTINGS),
    "requests": lambda: children.verifier(version(validation=REQUESTS), 0, SETTINGS),
}
REQUESTS = {
    "requests": [
        {"name": "one", "inputs": {"x": [[0.5, 1]]}, "expect": {"outputs": {"y": [[2.0]]}, "tolerance": "0.01"}},
        {"messages": [{"role": "user", "content": "Hi"}], "maxTokens": 4, "expect": {"contains": "hello"}},
    ],
    "timeoutSeconds": 60,
    "resources": {"limits": {"memory": "40Gi", "nvidia.com/gpu": "1"}},
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
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == ({"/tmp"} if case == "untried" else {"/tmp", "/repository"})
    for beside in body["spec"].get("initContainers", ()):
        assert beside["securityContext"]["readOnlyRootFilesystem"] is True
        assert {mount["mountPath"] for mount in beside["volumeMounts"]} == {"/repository", "/dev/shm", "/tmp"}
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


def test_a_version_may_say_what_it_is_tried_with() -> None:
    (triton,) = CASES["requests"]()["spec"]["initContainers"]
    assert triton["resources"] == {
        "requests": {"cpu": "100m", "memory": "40Gi"},
        "limits": {"cpu": "2", "memory": "40Gi", "nvidia.com/gpu": "1"},
    }


def test_a_version_may_ask_for_less_than_it_is_allowed() -> None:
    resources = {"limits": {"memory": "40Gi", "cpu": "3"}, "requests": {"memory": "1Gi"}}
    (triton,) = children.verifier(version(validation={"resources": resources}), 0, SETTINGS)["spec"]["initContainers"]
    assert triton["resources"]["requests"] == {"cpu": "3", "memory": "1Gi"}


def test_the_version_is_asked_what_its_spec_says() -> None:
    args = CASES["requests"]()["spec"]["containers"][0]["args"]
    assert json.loads(args[args.index("--requests") + 1]) == REQUESTS["requests"]
    assert args[args.index("--memory") + 1] == str(40 * 2**30)
    assert args[args.index("--timeout-seconds") + 1] == "60"


def test_without_a_limit_nothing_is_too_large() -> None:
    pods = TaskPods.model_validate({"defaults": {"validation": {"resources": {}}}})
    body = children.verifier(version(), 0, replace(SETTINGS, task_pods=pods))
    assert "--memory" not in body["spec"]["containers"][0]["args"]
    assert body["spec"]["initContainers"][0]["resources"] == {}

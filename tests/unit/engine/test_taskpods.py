"""What an installation says about the pods of tasks reaches them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aifactory.engine.taskpods import TaskPodDefaults, TaskPodError, TaskPods, build, read
from tests.unit.golden import assert_known_to_kubernetes, assert_restricted

META = {"name": "copy-0", "namespace": "ns", "labels": {"app": "ours"}}
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists"}
FULL = {
    "imagePullSecrets": [{"name": "registry"}],
    "tolerations": [TOLERATION],
    "nodeSelector": {"pool": "cpu"},
    "serviceAccountName": "copier",
    "priorityClassName": "high",
    "resources": {"limits": {"memory": "2Gi"}},
    "labels": {"app": "theirs", "team": "a"},
    "annotations": {"sidecar.istio.io/inject": "false"},
    "activeDeadlineSeconds": 60,
}


def pod(defaults: TaskPodDefaults, like: dict[str, Any] | None = None) -> dict[str, Any]:
    container = {"name": "copy", "image": "agent", "volumeMounts": [{"name": "in", "mountPath": "/in"}]}
    body = build(defaults, metadata=META, container=container, volumes=[{"name": "in", "emptyDir": {}}], like=like)
    assert_known_to_kubernetes(body)
    assert_restricted(body["spec"])
    return body


def test_everything_that_is_said_is_in_the_pod() -> None:
    body = pod(TaskPodDefaults.model_validate(FULL))
    spec = body["spec"]
    for field in ("imagePullSecrets", "tolerations", "nodeSelector", "serviceAccountName", "priorityClassName"):
        assert spec[field] == FULL[field]
    assert spec["activeDeadlineSeconds"] == 60
    assert spec["containers"][0]["resources"] == FULL["resources"]
    assert body["metadata"]["labels"] == {"app": "ours", "team": "a"}, "ours win: by them we find the pod"
    assert body["metadata"]["annotations"] == FULL["annotations"]
    assert spec["automountServiceAccountToken"] is False


def test_nothing_said_is_a_small_pod_with_a_time_limit() -> None:
    spec = pod(TaskPodDefaults())["spec"]
    assert spec["activeDeadlineSeconds"] == 86_400
    assert {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]} == {"/in", "/tmp"}
    assert not spec.keys() & {"imagePullSecrets", "tolerations", "nodeSelector", "serviceAccountName"}


def test_it_reads_as_the_user_who_wrote() -> None:
    like = {
        "securityContext": {"runAsUser": 1000, "fsGroup": 3000, "supplementalGroups": [4000], "sysctls": []},
        "containers": [{"name": "trainer", "securityContext": {"runAsUser": 2000, "privileged": True}}],
        "tolerations": [TOLERATION, {"key": "spot"}],
        "imagePullSecrets": [{"name": "mine"}],
        "nodeSelector": {"gpu": "h100"},
    }
    spec = pod(TaskPodDefaults.model_validate({"tolerations": [TOLERATION]}), like)["spec"]
    context = spec["securityContext"]
    assert (context["runAsUser"], context["fsGroup"], context["supplementalGroups"]) == (2000, 3000, [4000])
    assert "sysctls" not in context
    assert spec["tolerations"] == [TOLERATION, {"key": "spot"}]
    assert spec["imagePullSecrets"] == [{"name": "mine"}]
    assert "nodeSelector" not in spec, "a copy needs no GPU node"


def test_a_namespace_replaces_what_it_sets() -> None:
    settings = TaskPods.model_validate(
        {"defaults": FULL, "namespaces": {"team-a": {"nodeSelector": {"zone": "a"}, "activeDeadlineSeconds": 5}}}
    )
    own, others = settings.of("team-a"), settings.of("team-b")
    assert (own.node_selector, own.active_deadline_seconds) == ({"zone": "a"}, 5)
    assert own.service_account_name == others.service_account_name == "copier"
    assert others.node_selector == {"pool": "cpu"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults: {nodeselector: {a: b}}", "taskPods.defaults.nodeselector: Extra inputs are not permitted"),
        ("namespaces: {a: {activeDeadlineSeconds: 0}}", "taskPods.namespaces.a.activeDeadlineSeconds"),
        ("default: {}", "taskPods.default: Extra"),
        ("a: [", "while parsing"),
    ],
)
def test_a_mistake_names_its_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "task-pods.yaml"
    file.write_text(text)
    with pytest.raises(TaskPodError, match=message.replace("[", r"\[")):
        read(str(file))


def test_no_file_and_an_empty_one_are_no_settings(tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    assert read("") == read(str(empty)) == TaskPods()
    with pytest.raises(TaskPodError, match="No such file"):
        read(str(tmp_path / "missing.yaml"))

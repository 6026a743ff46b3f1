"""What an installation says about the pods of tasks reaches them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from aifactory.api import names
from aifactory.engine.taskpods import (
    TaskPodDefaults,
    TaskPodError,
    TaskPods,
    TaskSettings,
    build,
    hub_environment,
    hub_url,
    read,
)
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
    tmp = {"name": "tmp", "mountPath": "/tmp"}
    assert pod(TaskPodDefaults()) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": META,
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 86_400,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": names.RUN_AS_UID,
                "runAsGroup": names.RUN_AS_UID,
                "fsGroup": names.RUN_AS_UID,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "copy",
                    "image": "agent",
                    "volumeMounts": [{"name": "in", "mountPath": "/in"}, tmp],
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "128Mi"},
                        "limits": {"cpu": "1", "memory": "1Gi"},
                    },
                    "securityContext": {
                        "readOnlyRootFilesystem": True,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                }
            ],
            "volumes": [{"name": "in", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
        },
    }


def test_it_reads_as_the_user_who_wrote() -> None:
    context = {
        "runAsUser": 1000,
        "runAsGroup": 1001,
        "runAsNonRoot": True,
        "fsGroup": 3000,
        "fsGroupChangePolicy": "Always",
        "supplementalGroups": [4000],
        "seLinuxOptions": {"level": "s0:c1"},
    }
    trainer = {"runAsUser": 2000, "runAsGroup": 2001}
    like = {
        "securityContext": {**context, "sysctls": []},
        "containers": [
            {"name": "logger", "securityContext": {"runAsUser": 5}},
            {"name": "trainer", "securityContext": {**trainer, "privileged": True}},
        ],
        "tolerations": [TOLERATION, {"key": "spot"}],
        "imagePullSecrets": [{"name": "mine"}],
        "nodeSelector": {"gpu": "h100"},
    }
    spec = pod(TaskPodDefaults.model_validate({"tolerations": [TOLERATION]}), like)["spec"]
    assert spec["securityContext"] == context | trainer | {"seccompProfile": {"type": "RuntimeDefault"}}
    assert spec["tolerations"] == [TOLERATION, {"key": "spot"}]
    assert spec["imagePullSecrets"] == [{"name": "mine"}]
    assert "nodeSelector" not in spec, "a copy needs no GPU node"


@pytest.mark.parametrize("context", [{}, {"securityContext": None}])
def test_a_writer_that_says_nothing_of_its_user_is_read_as_any_other(context: dict[str, Any]) -> None:
    like = {**context, "containers": [{"name": "trainer", **context}]}
    assert pod(TaskPodDefaults(), like) == pod(TaskPodDefaults())


def test_a_writer_that_may_be_root_is_read_as_root() -> None:
    """What it wrote may be readable by root alone."""
    root = {"runAsUser": 0, "runAsNonRoot": False}
    like = {"securityContext": {"runAsNonRoot": True}, "containers": [{"name": "trainer", "securityContext": root}]}
    body = build(TaskPodDefaults(), metadata=META, container={"name": "copy"}, volumes=(), like=like)
    context = body["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsNonRoot"]) == (0, False)


def test_what_runs_beside_a_task_is_there_before_it_and_keeps_its_pod_for_a_moment_at_most() -> None:
    container = {"name": "copy", "image": "agent"}
    body = build(TaskPodDefaults(), metadata=META, container=container, volumes=[], beside=[{"name": "triton"}])
    (beside,) = body["spec"]["initContainers"]
    assert (beside["name"], beside["restartPolicy"]) == ("triton", "Always")
    assert beside["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert body["spec"]["terminationGracePeriodSeconds"] == 5


def test_versions_are_tried_unless_the_installation_says_otherwise() -> None:
    usual = TaskPodDefaults().validation
    assert (usual.enabled, usual.resources) == (
        True,
        {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}},
    )


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
        ("defaults: {validation: {enable: false}}", "taskPods.defaults.validation.enable: Extra"),
        ("defaults: {check: {activeDeadlineSeconds: 0}}", "taskPods.defaults.check.activeDeadlineSeconds: Input"),
        ("a: [", "while parsing"),
    ],
)
def test_a_mistake_names_its_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "task-pods.yaml"
    file.write_text(text)
    with pytest.raises(TaskPodError, match=message.replace("[", r"\[")):
        read(str(file))


def test_an_installation_names_a_file_with_settings_and_the_image_of_its_agent(tmp_path: Path) -> None:
    assert TaskSettings() == TaskSettings(agent_image=names.image("agent"), task_pods=TaskPods())
    file = tmp_path / "task-pods.yaml"
    file.write_text("defaults: {nodeSelector: {pool: cpu}}")
    (option,) = [field for field in fields(TaskSettings) if field.name == "task_pods"]
    assert option.metadata["parse"](str(file)) == read(str(file)) != TaskPods()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://hub.example.com", "https://hub.example.com"),
        (" http://hub:8080/api/ \n", "http://hub:8080/api"),
        ("", ""),
        (" ", ""),
    ],
)
def test_a_hub_is_named_by_its_url(text: str, url: str) -> None:
    (option,) = [field for field in fields(TaskSettings) if field.name == "hub_endpoint"]
    assert option.metadata["parse"](text) == url


@pytest.mark.parametrize(
    "text", ["hub.example.com", "ftp://hub.example.com", "https:///models", "https://me@hub", "https://hub/?token=x"]
)
def test_what_is_no_address_of_a_hub_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"hub.endpoint: .* is no address of a hub: write https://<host>, without"):
        hub_url(text)


def test_who_asks_a_hub_is_told_which() -> None:
    told = {"env": [{"name": "HF_ENDPOINT", "value": "https://hub.example.com"}]}
    assert hub_environment("https://hub.example.com", "hf://org/model@main") == told
    assert hub_environment("https://hub.example.com", "s3://bucket/hf://model") == {}
    assert hub_environment("", "hf://org/model@main") == {}


def test_settings_that_all_domains_share_are_changed_by_none() -> None:
    shared = TaskPods()
    with pytest.raises(ValidationError, match="frozen"):
        shared.namespaces = {}
    with pytest.raises(ValidationError, match="frozen"):
        shared.defaults.labels = {}
    with pytest.raises(ValidationError, match="frozen"):
        shared.defaults.validation.enabled = False
    with pytest.raises(ValidationError, match="frozen"):
        shared.defaults.check.enabled = False


def test_programs_are_asked_ahead_unless_the_installation_says_otherwise() -> None:
    assert TaskPods().defaults.check.enabled
    with pytest.raises(ValidationError, match=r"check\.seconds"):
        TaskPods.model_validate({"defaults": {"check": {"seconds": 5}}})


def test_no_file_and_an_empty_one_are_no_settings(tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    assert read("") == read(str(empty)) == TaskPods()
    with pytest.raises(TaskPodError, match="No such file"):
        read(str(tmp_path / "missing.yaml"))

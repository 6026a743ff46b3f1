"""What leaves the cluster in a report holds no secret."""

from __future__ import annotations

import json

import pytest

from plugin import kubectl_aifactory as plugin


def test_values_of_users_variables_are_hidden_and_ours_are_not() -> None:
    env = [
        {"name": "HF_HOME", "value": "hunter2"},
        {"name": "PET_NNODES", "value": "2"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}},
    ]
    pod = {"kind": "Pod", "spec": {"containers": [{"env": env}], "initContainers": [{"env": env}]}}
    found = plugin.redacted(pod)
    assert "hunter2" not in json.dumps(found)
    shown = found["spec"]["containers"][0]["env"]
    assert shown == [{"name": "HF_HOME", "value": "REDACTED"}, *env[1:]]
    assert pod["spec"]["containers"][0]["env"][0]["value"] == "hunter2", "the original is left alone"


def test_annotations_that_repeat_the_object_are_left_out() -> None:
    notes = {
        "kubectl.kubernetes.io/last-applied-configuration": "hunter2",
        "aifactory.dev/applied": "hunter2",
        "a": "b",
    }
    found = plugin.redacted({"metadata": {"annotations": notes, "managedFields": ["hunter2"]}})
    assert found == {"metadata": {"annotations": {"a": "b"}}}


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@host/x",
        "https://hunter2@host/x",
        "password=hunter2 rest",
        'api_key: "hunter2"',
        "--auth-token hunter2",
        "https://bucket/x?X-Amz-Signature=hunter2&b=1",
        "https://account/x?sv=1&sig=hunter2",
        "Authorization: Bearer hunter2",
        '{"secret": "hunter2"}',
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    assert "hunter2" not in plugin.redacted_text(text)


def test_tokens_of_known_forms_are_hidden() -> None:
    text = "hf_abcdefghijklmnopqrst AKIAABCDEFGHIJKLMNOP eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc"
    assert plugin.redacted_text(text) == "REDACTED REDACTED REDACTED"


def test_an_argument_that_follows_its_name_is_hidden() -> None:
    args = ["python", "x.py", "--hub-token", "hunter2", "--password=hunter2", "--steps", "5"]
    assert plugin.redacted({"args": args})["args"] == [
        "python",
        "x.py",
        "--hub-token",
        "REDACTED",
        "--password=REDACTED",
        "--steps",
        "5",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "s3://team/models with Secret keys: pod probe-0: access denied (403)",
        "27337 tokens/s, max_tokens=5",
        "sha256:0000000000000000",
    ],
)
def test_words_that_support_needs_stay(text: str) -> None:
    assert plugin.redacted_text(text) == text

"""Pods pass Pod Security `restricted` whatever a template leaves out, and keep whatever it says."""

from __future__ import annotations

import copy
from typing import Any

from aifactory.engine.podspec import memory_volume, merge_mounts, merge_named, owner_reference, restricted_pod


def test_what_a_template_leaves_out_is_filled_in() -> None:
    spec = {"containers": [{"name": "main"}], "initContainers": [{"name": "fetch"}]}
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert restricted_pod(spec, 1000) == {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{"name": "main", "securityContext": own}],
        "initContainers": [{"name": "fetch", "securityContext": own}],
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
    }


def test_what_a_template_says_is_kept() -> None:
    spec: dict[str, Any] = {
        "securityContext": {
            "runAsNonRoot": False,
            "runAsUser": 5,
            "runAsGroup": 6,
            "fsGroup": 7,
            "fsGroupChangePolicy": "Always",
            "seccompProfile": {"type": "Localhost"},
        },
        "containers": [
            {
                "name": "main",
                "securityContext": {"allowPrivilegeEscalation": True, "capabilities": {"add": ["SYS_PTRACE"]}},
            }
        ],
        "automountServiceAccountToken": True,
        "enableServiceLinks": True,
    }
    assert restricted_pod(spec, 1000) == spec


def test_who_names_a_service_account_wants_its_token() -> None:
    assert "automountServiceAccountToken" not in restricted_pod({"serviceAccountName": "trainer"}, 1)
    assert restricted_pod({"serviceAccountName": ""}, 1)["automountServiceAccountToken"] is False


def test_the_template_is_not_changed() -> None:
    spec = {"containers": [{"name": "main", "securityContext": {"capabilities": {}}}], "securityContext": {}}
    before = copy.deepcopy(spec)
    restricted_pod(spec, 1000)
    assert spec == before


def test_an_entry_of_the_same_name_is_replaced_in_its_place_and_others_follow() -> None:
    base = [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]
    extra = [{"name": "c", "value": "3"}, {"name": "a", "value": "4"}]
    assert merge_named(base, extra) == [
        {"name": "a", "value": "4"},
        {"name": "b", "value": "2"},
        {"name": "c", "value": "3"},
    ]
    paths = merge_named([{"mountPath": "/a", "name": "x"}], [{"mountPath": "/b", "name": "x"}], key="mountPath")
    assert [mount["mountPath"] for mount in paths] == ["/a", "/b"]
    assert base[0] == {"name": "a", "value": "1"}


def test_at_a_path_our_mount_counts_and_where_it_is_free_the_user_s_volume() -> None:
    theirs = [{"name": "own", "mountPath": path} for path in ("/data", "/models", "/dev/shm/")]
    ours = [{"name": "ours", "mountPath": path} for path in ("/models", "/dev/shm", "/tmp", "/run")]
    merged = merge_mounts(iter(theirs), ours, free=("/dev/shm", "/tmp"))
    assert [(mount["mountPath"], mount["name"]) for mount in merged] == [
        ("/data", "own"),
        ("/models", "ours"),
        ("/dev/shm/", "own"),
        ("/tmp", "ours"),
        ("/run", "ours"),
    ]


def test_an_owner_that_controls_and_does_not_block_its_own_deletion() -> None:
    assert owner_reference("g/v1", "Job", "a", "u") == {
        "apiVersion": "g/v1",
        "kind": "Job",
        "name": "a",
        "uid": "u",
        "controller": True,
    }


def test_a_volume_in_memory() -> None:
    assert memory_volume("shm") == {"name": "shm", "emptyDir": {"medium": "Memory"}}
    assert memory_volume("shm", "1Gi") == {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}


def test_a_privileged_container_is_not_contradicted() -> None:
    """`privileged` with `allowPrivilegeEscalation: false` is refused by the API server."""
    spec = {"containers": [{"name": "a", "securityContext": {"privileged": True}}, {"name": "b"}]}
    privileged, plain = (c["securityContext"] for c in restricted_pod(spec, 1)["containers"])
    assert "allowPrivilegeEscalation" not in privileged
    assert plain["allowPrivilegeEscalation"] is False

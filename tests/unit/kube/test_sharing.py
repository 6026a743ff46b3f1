"""What many objects say in the same words is kept once, and means the same as before."""

from __future__ import annotations

import json
from typing import Any

from aifactory.kube import sharing
from aifactory.kube.objects import Condition, Pod, decoder

decode = decoder(Pod)


def body(name: str, message: str = "") -> bytes:
    owner = {
        "apiVersion": "aifactory.dev/v1alpha1",
        "kind": "TrainingJob",
        "name": "job",
        "uid": "u",
        "controller": True,
    }
    metadata: dict[str, Any] = {"name": name, "namespace": "team", "uid": name, "resourceVersion": "1"}
    metadata |= {"labels": {"aifactory.dev/role": "node", "index": name}, "ownerReferences": [owner]}
    running = {"name": "trainer", "image": "trainer:1", "state": {"running": {}}}
    status = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True", "message": message}, {"type": "Other", "status": "True"}],
        "containerStatuses": [running],
    }
    return json.dumps({"metadata": metadata, "spec": {"nodeName": "node-1"}, "status": status}).encode()


def test_siblings_share_what_they_have_in_common() -> None:
    one, other = decode(body("a")), decode(body("b"))
    assert one.metadata.owner_references is other.metadata.owner_references
    assert one.metadata.namespace is other.metadata.namespace
    assert one.metadata.labels["aifactory.dev/role"] is other.metadata.labels["aifactory.dev/role"]
    assert one.spec.node_name is other.spec.node_name
    assert one.status.conditions is other.status.conditions
    assert one.status.container_statuses is other.status.container_statuses


def test_sharing_changes_nothing_that_is_said() -> None:
    found = decode(body("a", message="words of its own"))
    assert found.metadata.labels == {"aifactory.dev/role": "node", "index": "a"}
    assert found.metadata.controller is not None
    assert found.metadata.controller.uid == "u"
    assert found.status.conditions == (Condition(type="Ready", status="True", message="words of its own"),)
    assert found.status.container_statuses[0].image == "trainer:1"


def test_the_table_of_shared_values_is_bounded() -> None:
    for number in range(2 * sharing.TABLE_SIZE):
        sharing.shared((Condition(type="Ready", reason=str(number)),))
    assert len(sharing._table) <= sharing.TABLE_SIZE
    long = "x" * (sharing.MAX_TEXT + 1)
    assert sharing.shared_text(long) is long

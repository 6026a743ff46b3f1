"""Which parts of a pod are kept once: what siblings say too, and not what is said once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aifactory.kube import sharing
from aifactory.kube.objects import AppliedMetadata, Pod, decoder

decode = decoder(Pod)
RUNS = {"state": {"running": {}}}
ENDED = {"state": {"terminated": {"exitCode": 1, "message": "loss is nan"}}}


def pod(**status: Any) -> Pod:
    return decode(msgspec.json.encode({"metadata": {"name": "a", "namespace": "ns"}, "status": status}))


def remembered(**status: Any) -> int:
    """How many values more the table holds for such a pod."""
    sharing._table.clear()
    pod(**status)
    return len(sharing._table)


def test_phases_and_the_statuses_of_init_containers_are_shared() -> None:
    status = {"phase": "Running", "initContainerStatuses": [{"name": "fetch", **RUNS}]}
    one, other = pod(**status), pod(**status)
    assert one.status.phase is other.status.phase
    assert one.status.init_container_statuses is other.status.init_container_statuses


@pytest.mark.parametrize("field", ["containerStatuses", "initContainerStatuses"])
def test_a_container_that_ended_has_a_story_of_its_own(field: str) -> None:
    assert remembered(**{field: [{"name": "main", **RUNS}]}) == 1
    assert remembered(**{field: [{"name": "main", **ENDED}]}) == 0
    assert remembered(**{field: [{"name": "main", **RUNS}, {"name": "side", **ENDED}]}) == 0


def test_a_container_that_runs_again_has_one_too() -> None:
    ended = {"lastState": ENDED["state"]}
    assert remembered(containerStatuses=[{"name": "main", **RUNS, **ended}]) == 0


def test_conditions_with_words_are_not_remembered() -> None:
    ready = {"type": "Ready", "status": "True"}
    waits = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    assert remembered(conditions=[ready]) == 1
    assert remembered(conditions=[ready, waits]) == 0
    assert remembered() == 0, "nothing said is nothing to share"


def test_children_that_are_applied_share_as_the_others_do() -> None:
    def metadata() -> AppliedMetadata:
        owner = {"kind": "InferencePool", "name": "chat", "uid": "u", "controller": True}
        return decoder(AppliedMetadata)(msgspec.json.encode({"name": "a", "ownerReferences": [owner]}))

    assert metadata().owner_references is metadata().owner_references

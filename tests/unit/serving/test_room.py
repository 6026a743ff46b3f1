"""A version that is larger than its pods' memory is told before a pod is made for it."""

from __future__ import annotations

from typing import Any

import pytest

from aifactory.serving import room
from tests.unit.serving.builders import World, conditions, message, pool, serving, version

GIB = 2**30


def template(**resources: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "triton", "resources": resources}]}}


def world(size: int | None, **resources: Any) -> World:
    made = World(pool(template=template(**resources)))
    made.publish(1, size_bytes=size)
    made.settle()
    return made


def test_no_pod_is_made_for_what_it_can_not_hold() -> None:
    found = world(2 * GIB, limits={"memory": "1Gi"})
    assert conditions(found.status)["Stalled"] == ("True", "ModelTooLarge")
    assert not found.pods
    words = message(found.status)
    assert words.startswith("ModelVersion tiny-v1 is too large for the memory of its pods: it is 2GiB")
    assert "resources.limits.memory of container triton in spec.template is 1Gi; raise it" in words
    assert words.endswith("or use a GPU")
    found.edit(template=template(limits={"memory": "5Gi"}))
    found.roll_out()
    assert found.status.phase == "Serving"


@pytest.mark.parametrize(
    ("size", "resources"),
    [
        pytest.param(GIB, {"limits": {"memory": "1Gi"}}, id="just fits"),
        pytest.param(GIB + 1, {"limits": {"memory": 2 * GIB}}, id="a number"),
        pytest.param(9 * GIB, {}, id="no limit"),
        pytest.param(9 * GIB, {"requests": {"memory": "1Gi"}}, id="a request is no limit"),
        pytest.param(9 * GIB, {"limits": {"cpu": "4"}}, id="a limit of something else"),
        pytest.param(9 * GIB, {"limits": {"memory": "much"}}, id="the API server's to refuse"),
        pytest.param(None, {"limits": {"memory": "1Gi"}}, id="size not known"),
        pytest.param(9 * GIB, {"limits": {"memory": "1Gi", "nvidia.com/gpu": 1}}, id="on a GPU"),
        pytest.param(9 * GIB, {"limits": {"memory": "1Gi"}, "requests": {"amd.com/gpu": 1}}, id="on another GPU"),
        pytest.param(9 * GIB, {"limits": {"memory": "1Gi"}, "claims": [{"name": "gpu"}]}, id="on a claimed device"),
    ],
)
def test_only_what_is_certain_is_refused(size: int | None, resources: dict[str, Any]) -> None:
    assert len(world(size, **resources).pods) == 2


def test_a_runtime_class_may_bring_a_gpu() -> None:
    made = World(pool(template={"spec": {**template(limits={"memory": "1Gi"})["spec"], "runtimeClassName": "nvidia"}}))
    made.publish(1, size_bytes=9 * GIB)
    made.settle()
    assert len(made.pods) == 2


def test_what_serves_goes_on_when_a_newer_version_is_too_large() -> None:
    found = World(pool(template=template(limits={"memory": "1Gi"})))
    found.publish(1, size_bytes=GIB // 2)
    found.roll_out()
    found.publish(2, size_bytes=2 * GIB)
    found.settle()
    assert conditions(found.status)["Stalled"] == ("True", "ModelTooLarge")
    assert conditions(found.status)["Degraded"] == ("True", "ModelTooLarge")
    assert conditions(found.status)["Available"][0] == "True"
    assert [pod.ready for pod in found.live()] == [True, True]
    found.pin(1)
    found.settle()
    assert conditions(found.status)["Ready"][0] == "True"


def test_pods_that_serve_are_not_doubted() -> None:
    """An earlier release has made them; they answer."""
    found = serving(template=template(limits={"memory": "1Gi"}))
    found.publish(1, size_bytes=2 * GIB)
    found.settle()
    assert conditions(found.status)["Ready"][0] == "True"
    found.edit(template=template(limits={"memory": "900Mi"}))
    found.settle()
    assert conditions(found.status)["Stalled"] == ("True", "ModelTooLarge")
    assert len(found.live()) == 2


MIB = 2**20


def test_a_version_that_is_too_large_alone_is_told_so_beside_others_too() -> None:
    limited = pool(template=template(limits={"memory": "1Gi"}))
    large = version(1, size_bytes=2 * GIB)
    assert room.too_many(limited, large, [version(2)]) == room.too_large(limited, large) != ""


@pytest.mark.parametrize(("taken", "fits"), [(960 * MIB, True), (960 * MIB + 1, False)])
def test_several_fit_up_to_the_limit(taken: int, fits: bool) -> None:
    limited = pool(template=template(limits={"memory": "1Gi"}))
    found = room.too_many(limited, version(1, memory_bytes=taken - 60 * MIB), [version(2, memory_bytes=60 * MIB)])
    assert (found == "") == fits


def test_one_of_several_may_have_no_room_beside_triton_alone() -> None:
    found = room.too_many(pool(template=template(limits={"memory": "1Gi"})), version(1, memory_bytes=GIB), [])
    assert found == (
        "ModelVersion tiny-v1 does not fit: it takes 1GiB of memory, beside it Triton 64MiB, 1.06GiB together, and "
        "resources.limits.memory of container triton in spec.template is 1Gi; raise it, or give tiny a pool of its own"
    )


@pytest.mark.parametrize(
    ("known", "taken"),
    [
        ({"memory_bytes": 7, "size_bytes": 5}, 7),
        ({"memory_bytes": 0, "size_bytes": 5}, 0),
        ({"size_bytes": 5}, 5),
        ({}, 0),
    ],
)
def test_what_was_measured_counts_before_the_size(known: dict[str, int], taken: int) -> None:
    assert version(1, **known).taken_bytes == taken

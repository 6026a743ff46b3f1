"""Who is woken by a change in a store."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest

from aifactory.engine.wakeups import wake_by, wake_owner
from aifactory.kube.objects import Metadata, OwnerReference, Pod, PodStatus
from aifactory.kube.queue import WorkQueue
from aifactory.kube.resources import Key
from aifactory.kube.store import Change, Listener
from tests.support.faketime import run

GROUP = "test.dev"


def pod(
    owner: str = "",
    *,
    kind: str = "Herd",
    api_version: str = f"{GROUP}/v1",
    controller: bool = True,
    phase: str = "Pending",
    namespace: str = "ns",
) -> Pod:
    reference = OwnerReference(kind=kind, name=owner, uid="u", api_version=api_version, controller=controller)
    owners = (reference,) if owner else ()
    metadata = Metadata(name="p", namespace=namespace, owner_references=owners)
    return Pod(metadata=metadata, status=PodStatus(phase=phase))


def woken(listener: Any, *changes: Change[Pod]) -> list[str]:
    """Keys in the order they are handed out, after a fresh one that was added last."""

    async def main() -> list[str]:
        queue: WorkQueue[Key] = WorkQueue("test", rng=random.Random(0))
        listen: Listener[Pod] = listener(queue)
        for change in changes:
            listen(change)
        queue.add(Key("", "fresh"))
        found = []
        while len(queue):
            key = await queue.get()
            queue.done(key)
            found.append(str(key))
        return found

    return run(main)


def owner(queue: WorkQueue[Key]) -> Listener[Any]:
    return wake_owner(queue, "Herd", GROUP)


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        (None, pod("a"), ["ns/a"]),
        (pod("a"), None, ["ns/a"]),
        (pod("a"), pod("a", phase="Running"), ["ns/a"]),
        (pod("a"), pod("b"), ["ns/a", "ns/b"]),
        (pod("a"), pod(), ["ns/a"]),
        (pod(), pod("b"), ["ns/b"]),
        (None, pod("a", namespace="other"), ["other/a"]),
        (None, pod(), []),
        (None, pod("a", kind="Flock"), []),
        (None, pod("a", api_version="other.dev/v1"), []),
        (None, pod("a", api_version="v1"), []),
        (None, pod("a", api_version=f"{GROUP}/v2"), ["ns/a"]),
        (None, pod("a", controller=False), []),
    ],
)
def test_the_owner_that_controls_a_child_is_woken(old: Pod | None, new: Pod | None, keys: list[str]) -> None:
    assert woken(owner, Change(old, new)) == [*keys, "fresh"]


def test_a_first_list_wakes_in_the_background() -> None:
    assert woken(owner, Change(None, pod("a"), background=True)) == ["fresh", "ns/a"]
    assert woken(phases, Change(None, pod(), background=True)) == ["fresh", "Pending/1", "Pending/2"]


def phases(queue: WorkQueue[Key]) -> Listener[Any]:
    def keys(found: Pod) -> Iterable[Key]:
        return [Key(found.status.phase, "1"), Key(found.status.phase, "2")]

    return wake_by(queue, keys)


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        (None, pod(), ["Pending/1", "Pending/2"]),
        (pod(), None, ["Pending/1", "Pending/2"]),
        (pod(), pod(phase="Running"), ["Pending/1", "Pending/2", "Running/1", "Running/2"]),
    ],
)
def test_whoever_the_old_or_the_new_object_concerns_is_woken(old: Pod | None, new: Pod | None, keys: list[str]) -> None:
    assert woken(phases, Change(old, new)) == [*keys, "fresh"]


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        (pod("a"), pod("b"), []),
        (pod("a"), pod("a", phase="Running"), ["x/y"]),
        (None, pod("a"), ["x/y"]),
        (pod("a"), None, ["x/y"]),
    ],
)
def test_what_those_who_are_woken_do_not_see_wakes_nobody(old: Pod | None, new: Pod | None, keys: list[str]) -> None:
    def seen(queue: WorkQueue[Key]) -> Listener[Any]:
        return wake_by(queue, lambda _: [Key("x", "y")], view=lambda found: found.status.phase)

    assert woken(seen, Change(old, new)) == [*keys, "fresh"]

"""The store: facts arrive in any order, twice or late, and what is known only moves forward."""

from __future__ import annotations

import json
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory.kube.objects import Metadata, OwnerReference, Pod, decoder, same_but_version
from aifactory.kube.resources import Key
from aifactory.kube.store import Change, Store, by_controller


def pod(name: str, version: int, uid: str = "", owner: str = "", **labels: str) -> Pod:
    owners = (OwnerReference(kind="TrainingJob", name="j", uid=owner, controller=True),) if owner else ()
    metadata = Metadata(
        name=name,
        namespace="ns",
        uid=uid or f"{name}-uid",
        resource_version=str(version),
        labels=labels,
        owner_references=owners,
    )
    return Pod(metadata=metadata)


class View:
    """What a subscriber that hears only of changes believes."""

    def __init__(self, store: Store[Pod]) -> None:
        self.objects: dict[Key, Pod] = {}
        self.changes: list[Change[Pod]] = []
        store.subscribe(self)

    def __call__(self, change: Change[Pod]) -> None:
        self.changes.append(change)
        key = change.object.metadata.key
        known = self.objects.get(key)
        assert (known is None) == (change.old is None), "a change was told that does not start from the last one"
        assert known is None or same_but_version(known, change.old)
        if change.new is None:
            del self.objects[key]
        else:
            self.objects[key] = change.new


def by_job(obj: Pod) -> tuple[str, ...]:
    """Index: the value of a label, if there is one."""
    value = obj.metadata.labels.get("job")
    return () if value is None else (value,)


def test_an_older_event_changes_nothing() -> None:
    store: Store[Pod] = Store()
    view = View(store)
    assert store.put(pod("a", 5))
    assert not store.put(pod("a", 4))
    assert not store.put(pod("a", 5))
    assert len(view.changes) == 1


def test_the_deleted_does_not_come_back_but_the_recreated_does() -> None:
    store: Store[Pod] = Store()
    store.put(pod("a", 5, "one"))
    assert store.remove(pod("a", 6, "one"))
    assert not store.put(pod("a", 5, "one"))
    assert store.put(pod("a", 7, "two"))
    assert not store.remove(pod("a", 6, "one"))
    assert store.get("ns", "a") is not None


def test_a_new_version_that_shows_nothing_new_is_kept_but_not_told() -> None:
    store: Store[Pod] = Store(indexes={"job": by_job})
    view = View(store)
    store.put(pod("a", 5, job="x"))
    assert not store.put(pod("a", 6, job="x"))
    assert len(view.changes) == 1
    assert [found.metadata.resource_version for found in store.by("job", "x")] == ["6"]
    assert store.put(pod("a", 7, job="y"))
    assert store.remove(pod("a", 8))


def test_a_condition_that_nobody_reads_is_no_news() -> None:
    def reported(version: int, *conditions: tuple[str, str]) -> bytes:
        told = [{"type": type_, "status": status, "lastTransitionTime": None} for type_, status in conditions]
        metadata = {"name": "a", "uid": "u", "resourceVersion": str(version)}
        return json.dumps({"metadata": metadata, "status": {"conditions": told}}).encode()

    decode = decoder(Pod)
    store: Store[Pod] = Store()
    assert store.put(decode(reported(1, ("Ready", "False"))))
    assert not store.put(decode(reported(2, ("Ready", "False"), ("ContainersReady", "True"))))
    assert store.put(decode(reported(3, ("Ready", "True"), ("ContainersReady", "True"))))


def test_an_object_that_left_the_label_selector_may_come_back() -> None:
    store: Store[Pod] = Store()
    store.put(pod("a", 5, "one"))
    store.remove(pod("a", 6, "one"))
    assert store.put(pod("a", 7, "one"))


def test_a_new_incarnation_is_told_as_deletion_and_creation() -> None:
    store: Store[Pod] = Store()
    view = View(store)
    first, second = pod("a", 5, "one"), pod("a", 9, "two")
    store.put(first)
    store.put(second)
    assert [(change.old, change.new) for change in view.changes] == [(None, first), (first, None), (None, second)]


def test_an_answer_the_watch_has_passed_is_ignored() -> None:
    """The create's answer comes after the watch has already told the deletion by a list that skipped it."""
    store: Store[Pod] = Store()
    store.replace([], "20")
    assert not store.apply_response(pod("a", 15))
    assert store.apply_response(pod("b", 21))


def test_a_list_does_not_delete_what_is_newer_than_itself() -> None:
    store: Store[Pod] = Store()
    store.put(pod("old", 5))
    store.put(pod("new", 30))
    store.replace([pod("listed", 7)], "20")
    assert sorted(found.metadata.name for found in store.all()) == ["listed", "new"]


def test_indexes_follow_every_change() -> None:
    store: Store[Pod] = Store(indexes={"owner": by_controller, "job": by_job})
    store.put(pod("a", 1, owner="j1", job="x"))
    store.put(pod("b", 2, owner="j1", job="x"))
    store.put(pod("b", 3, owner="j2", job="y"))
    assert [found.metadata.name for found in store.by("owner", ("ns", "j1"))] == ["a"]
    assert [found.metadata.name for found in store.by("job", "y")] == ["b"]
    store.remove(pod("a", 4))
    assert store.by("owner", ("ns", "j1")) == []
    assert store.by("owner", ("ns", "nobody")) == []


def test_one_failing_listener_does_not_silence_the_others() -> None:
    store: Store[Pod] = Store()

    def broken(_: Change[Pod]) -> None:
        raise RuntimeError("broken")

    store.subscribe(broken)
    view = View(store)
    store.put(pod("a", 1))
    assert len(view.changes) == 1


@given(seed=st.integers(0, 2**32))
@settings(max_examples=500, deadline=None)
def test_any_interleaving_of_watch_lists_and_answers_ends_in_the_truth(seed: int) -> None:
    """A random history is delivered by an ordered watch with repeats, by lists old and new, and by late answers."""
    rng = random.Random(seed)
    names = [f"p{number}" for number in range(4)]
    alive: dict[str, Pod] = {}
    history: list[tuple[str, Pod]] = []
    snapshots: list[tuple[int, list[Pod]]] = [(0, [])]
    for version in range(1, 40):
        name = rng.choice(names)
        known = alive.get(name)
        if known is None:
            alive[name] = pod(name, version, f"{name}-{version}", owner=rng.choice("xy"))
            history.append(("ADDED", alive[name]))
        elif rng.random() < 0.4:
            del alive[name]
            history.append(("DELETED", pod(name, version, known.metadata.uid)))
        else:
            alive[name] = pod(name, version, known.metadata.uid, owner=rng.choice("xy"))
            history.append(("MODIFIED", alive[name]))
        snapshots.append((version, list(alive.values())))

    store: Store[Pod] = Store(indexes={"owner": by_controller})
    view = View(store)
    position = 0
    newest: dict[str, int] = {}

    def watch(steps: int) -> None:
        nonlocal position
        for type_, obj in history[position : position + steps]:
            if type_ == "DELETED":
                store.remove(obj)
            else:
                store.put(obj)
            store.advance(obj.metadata.resource_version)
        position = min(position + steps, len(history))

    while position < len(history):
        what = rng.random()
        if what < 0.4:
            watch(rng.randrange(1, 4))
        elif what < 0.55:  # a reconnect delivers some events again
            position = max(0, position - rng.randrange(5))
        elif what < 0.8:  # the answer to a write of ours, early or late
            type_, obj = rng.choice(history)
            if type_ != "DELETED":
                store.apply_response(obj)
        else:  # a list, maybe an old one; the watch goes on from there
            version, objects = rng.choice(snapshots)
            store.replace(objects, str(version))
            position = version
        for obj in store.all():
            uid, seen = obj.metadata.uid, int(obj.metadata.resource_version)
            assert newest.get(uid, 0) <= seen, "an object went back in time"
            newest[uid] = seen

    truth = {obj.metadata.key: obj for obj in alive.values()}
    assert {obj.metadata.key: obj for obj in store.all()} == truth
    assert view.objects.keys() == truth.keys()
    assert all(same_but_version(view.objects[key], obj) for key, obj in truth.items())
    for owner in "xy":
        expected = {name for name, obj in alive.items() if obj.metadata.owner_references[0].uid == owner}
        assert {found.metadata.name for found in store.by("owner", ("ns", owner))} == expected


def test_a_late_answer_does_not_bring_back_what_a_list_did_not_contain() -> None:
    """A list is taken in piece by piece; answers to our own writes may come between any two of them."""
    store: Store[Pod] = Store()
    listed: set[str] = set()
    store.put_listed(pod("kept", 7), listed, background=False)
    store.apply_response(pod("created and deleted before the list", 15))
    store.advance("20")
    assert not store.apply_response(pod("later still", 16))
    assert store.retain(listed, "20") == 1
    assert [found.metadata.name for found in store.all()] == ["kept"]


def test_what_a_list_repeats_is_noted_and_told_once() -> None:
    store: Store[Pod] = Store()
    view = View(store)
    known = pod("a", 5)
    store.put(known)
    listed: set[str] = set()
    store.put_listed(pod("a", 5), listed, background=False)
    assert listed == {known.metadata.uid}
    assert len(view.changes) == 1
    assert store.retain(listed, "9") == 0


def test_groups_are_the_values_of_an_index() -> None:
    store: Store[Pod] = Store(indexes={"job": by_job})
    for name, job in (("a", "x"), ("b", "x"), ("c", "y")):
        store.put(pod(name, 1, job=job))
    found = {value: sorted(one.metadata.name for one in pods) for value, pods in store.groups("job")}
    assert found == {"x": ["a", "b"], "y": ["c"]}

"""The store at its edges: equal versions, deletions it never saw, what it remembers and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from aifactory.kube import store as store_module
from aifactory.kube.objects import Metadata, OwnerReference, Pod, PodStatus, decoder
from aifactory.kube.resources import Key
from aifactory.kube.store import Change, Store, version_number


def by_job(obj: Pod) -> tuple[str, ...]:
    """Index: the value of a label, if there is one."""
    value = obj.metadata.labels.get("job")
    return () if value is None else (value,)


def pod(
    name: str, version: object, uid: str = "", *, namespace: str = "ns", phase: str = "Pending", **labels: str
) -> Pod:
    metadata = Metadata(
        name=name, namespace=namespace, uid=uid or f"{name}-uid", resource_version=str(version), labels=labels
    )
    return Pod(metadata=metadata, status=PodStatus(phase=phase))


def raw(name: str, version: int, uid: str = "") -> bytes:
    metadata = f'"name":"{name}","namespace":"ns","uid":"{uid or name + "-uid"}","resourceVersion":"{version}"'
    return f'{{"metadata":{{{metadata}}}}}'.encode()


def told(store: Store[Pod]) -> list[Change[Pod]]:
    changes: list[Change[Pod]] = []
    store.subscribe(changes.append)
    return changes


@pytest.mark.parametrize(("text", "number"), [("12", 12), ("0", 0), ("", 0), ("abc", 0), ("-3", 0), ("1.5", 0)])
def test_a_version_that_is_no_number_counts_as_the_oldest(text: str, number: int) -> None:
    assert version_number(text) == number


def test_objects_are_found_by_namespace_and_name() -> None:
    store: Store[Pod] = Store()
    one, other = pod("a", 1, "u1"), pod("a", 2, "u2", namespace="other")
    store.put(one)
    store.put(other)
    assert len(store) == 2
    assert store.get("ns", "a") == one
    assert store.get("other", "a") == other
    assert store.get("nowhere", "a") is None
    assert store.keys() == [Key("ns", "a"), Key("other", "a")]
    assert store.all() == [one, other]


def test_a_change_shows_the_newest_view_and_where_it_came_from() -> None:
    store: Store[Pod] = Store()
    changes = told(store)
    store.put(pod("a", 1), background=True)
    store.put(pod("a", 2, phase="Running"), origin="trainingjob")
    store.remove(pod("a", 3))
    assert [change.object.metadata.resource_version for change in changes] == ["1", "2", "2"]
    assert [(change.background, change.origin) for change in changes] == [
        (True, ""),
        (False, "trainingjob"),
        (False, ""),
    ]


def test_an_object_without_a_version_is_taken_in_once() -> None:
    """Nothing is older than it, so it must not be taken for something deleted before."""
    store: Store[Pod] = Store()
    assert store.put(pod("a", ""))
    assert not store.put(pod("a", "", phase="Running"))
    assert store.put(pod("a", 1, phase="Running"))


@pytest.mark.parametrize(("version", "taken"), [(5, False), (6, False), (7, True)])
def test_what_is_as_old_as_its_deletion_stays_deleted(version: int, taken: bool) -> None:
    store: Store[Pod] = Store()
    store.put(pod("a", 4))
    store.remove(pod("a", 6))
    assert store.put(pod("a", version)) is taken


def test_a_deletion_that_comes_before_its_object_is_remembered() -> None:
    store: Store[Pod] = Store()
    changes = told(store)
    assert store.delete(Key("ns", "a"), "a-uid", "9") is False
    assert not store.put(pod("a", 8))
    assert changes == []
    assert store.remove(pod("unknown", 9)) is False


def test_a_deletion_without_a_version_forbids_nothing_that_has_one() -> None:
    store: Store[Pod] = Store()
    store.delete(Key("ns", "a"), "a-uid", "")
    assert not store.put(pod("a", ""))
    assert store.put(pod("a", 1))


def test_an_old_deletion_does_not_shorten_what_is_remembered() -> None:
    store: Store[Pod] = Store()
    store.delete(Key("ns", "a"), "a-uid", "9")
    store.delete(Key("ns", "a"), "a-uid", "5")
    assert not store.put(pod("a", 8))


def test_an_incarnation_that_was_replaced_does_not_come_back() -> None:
    store: Store[Pod] = Store(indexes={"job": by_job})
    store.put(pod("a", 5, "one", job="x"))
    changes = told(store)
    assert store.put(pod("a", 9, "two", job="y"), background=True)
    assert [(change.new is None, change.background) for change in changes] == [(True, True), (False, True)]
    assert store.by("job", "x") == []
    assert not store.put(pod("a", 9, "one"))
    found = store.get("ns", "a")
    assert found is not None
    assert found.metadata.uid == "two"
    store.remove(pod("a", 10, "two"))
    assert not store.put(pod("a", 8, "one"))


def test_the_deletion_of_an_earlier_incarnation_changes_nothing() -> None:
    store: Store[Pod] = Store()
    store.put(pod("a", 9, "two"))
    assert store.delete(Key("ns", "a"), "one", "10") is False
    assert store.get("ns", "a") is not None


def test_only_so_many_deletions_are_remembered_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_TOMBSTONES", 3)
    store: Store[Pod] = Store()
    for number in range(5):
        store.remove(pod(f"p{number}", 10 + number))
        assert len(store._tombstones) <= 3
    assert [store.put(pod(f"p{number}", 5)) for number in range(5)] == [True, True, False, False, False]


def test_objects_without_a_uid_leave_no_grave() -> None:
    store: Store[Pod] = Store()
    bare = Pod(metadata=Metadata(name="a", namespace="ns", resource_version="5"))
    store.put(bare)
    assert store.remove(Pod(metadata=Metadata(name="a", namespace="ns", resource_version="6")))
    assert len(store._tombstones) == 0
    assert store.put(bare)


# --- Answers to writes ---


def test_an_answer_is_decoded_and_says_whose_write_it_was() -> None:
    store: Store[Pod] = Store(decoder(Pod))
    changes = told(store)
    assert store.put_response(raw("a", 5), origin="herd") is True
    assert [(change.object.metadata.name, change.origin) for change in changes] == [("a", "herd")]
    assert store.put_response(raw("a", 5), origin="herd") is False


@pytest.mark.parametrize(("version", "taken"), [(19, False), (20, False), (21, True)])
def test_an_answer_counts_only_if_the_watch_has_not_come_so_far(version: int, taken: bool) -> None:
    store: Store[Pod] = Store(decoder(Pod))
    store.advance("20")
    store.advance("10")  # a list may be older than the watch
    assert store.put_response(raw("a", version)) is taken
    assert (store.get("ns", "a") is not None) is taken


def test_before_the_first_list_every_answer_counts() -> None:
    store: Store[Pod] = Store(decoder(Pod))
    assert store.put_response(raw("a", 1)) is True


def test_what_the_watch_has_reported_as_deleted_comes_back_by_the_watch_only() -> None:
    store: Store[Pod] = Store()
    store.put(pod("a", 5))
    store.remove(pod("a", 6))
    assert store.apply_response(pod("a", 9)) is False
    assert store.get("ns", "a") is None
    assert store.put(pod("a", 9)) is True


def test_what_was_read_is_taken_in_however_old_unless_more_is_known() -> None:
    store: Store[Pod] = Store(decoder(Pod))
    store.advance("20")
    store.put_unwatched(raw("a", 5))
    assert [found.metadata.resource_version for found in store.all()] == ["5"]
    store.put_unwatched(raw("a", 4))
    assert [found.metadata.resource_version for found in store.all()] == ["5"]
    store.remove(pod("a", 6))
    store.put_unwatched(raw("a", 5))
    assert store.all() == []


# --- Lists ---


def test_a_list_deletes_what_it_does_not_hold_up_to_its_own_version() -> None:
    store: Store[Pod] = Store()
    store.put(pod("older", 19))
    store.put(pod("same", 20, "same-uid"))
    store.put(pod("newer", 21))
    changes = told(store)
    store.replace([pod("listed", 7)], "20", background=True)
    assert sorted(found.metadata.name for found in store.all()) == ["listed", "newer"]
    assert [(change.object.metadata.name, change.background) for change in changes] == [
        ("listed", True),
        ("older", False),
        ("same", False),
    ]
    assert not store.put(pod("older", 20)), "it was deleted by version 20"
    assert store.put(pod("older", 21))
    assert not store.apply_response(pod("late", 20)), "the list has seen everything up to its version"


@pytest.mark.parametrize("kind", [list, set, frozenset, iter])
def test_what_is_not_retained_is_dropped_and_counted(kind: Any) -> None:
    store: Store[Pod] = Store()
    for name in "abcd":
        store.put(pod(name, 5))
    assert store.retain(kind(["d-uid", "a-uid"]), "10") == 2
    assert [found.metadata.name for found in store.all()] == ["a", "d"]


def test_a_list_is_news_unless_it_is_the_first() -> None:
    store: Store[Pod] = Store()
    changes = told(store)
    store.replace([pod("a", 5)], "10")
    assert [change.background for change in changes] == [False]


def test_a_list_in_pieces_holds_what_it_names_even_where_the_store_knows_better() -> None:
    store: Store[Pod] = Store()
    store.put(pod("newer", 9))
    store.put(pod("taken-over", 8, "second"))
    store.put(pod("unlisted", 7))
    changes = told(store)
    listed: set[str] = set()
    store.put_listed(pod("newer", 5), listed, background=False)
    store.put_listed(pod("taken-over", 4, "first"), listed, background=False)
    store.put_listed(pod("new", 6), listed, background=True)
    assert listed == {"newer-uid", "first", "new-uid"}
    assert [(change.object.metadata.name, change.background) for change in changes] == [("new", True)]
    assert store.missing(listed, "7") == [(Key("ns", "unlisted"), "unlisted-uid")]
    assert store.missing(listed, "6") == []
    assert {uid for _, uid in store.missing(listed, "8")} == {"unlisted-uid", "second"}
    store.remove(pod("new", 10))
    store.put_listed(pod("new", 9), listed, background=False)
    assert store.get("ns", "new") is None, "it was deleted after the list was read"


def test_of_a_listed_uid_no_second_copy_is_kept() -> None:
    store: Store[Pod] = Store(decoder(Pod))
    store.put_response(raw("a", 5, uid := "u" * 300))
    listed: set[str] = set()
    store.put_listed(decoder(Pod)(raw("a", 5, uid)), listed, background=False)
    (noted,), (known,) = listed, store.all()
    assert noted is known.metadata.uid


# --- Indexes and subscribers ---


def test_an_index_can_be_read_group_by_group() -> None:
    store: Store[Pod] = Store(indexes={"phase": lambda found: [found.status.phase]})
    for number, phase in enumerate(["Pending", "Running", "Pending"]):
        store.put(pod(f"p{number}", number + 1, phase=phase))
    found = {value: [obj.metadata.name for obj in group] for value, group in store.groups("phase")}
    assert found == {"Pending": ["p0", "p2"], "Running": ["p1"]}


def test_an_object_may_stand_under_several_values_of_an_index() -> None:
    store: Store[Pod] = Store(indexes={"labels": lambda found: found.metadata.labels.items()})
    store.put(pod("a", 1, x="1", y="2"))
    store.put(pod("b", 2, x="1"))
    assert [found.metadata.name for found in store.by("labels", ("x", "1"))] == ["a", "b"]
    store.put(pod("a", 3, y="2", z="3"))
    assert [found.metadata.name for found in store.by("labels", ("x", "1"))] == ["b"]
    assert [found.metadata.resource_version for found in store.by("labels", ("y", "2"))] == ["3"]
    assert [found.metadata.name for found in store.by("labels", ("z", "3"))] == ["a"]
    store.remove(pod("a", 4))
    store.remove(pod("b", 5))
    assert store._indexes["labels"][1] == {}, "values that nothing stands under would pile up"


def test_a_value_that_an_index_names_twice_counts_once() -> None:
    store: Store[Pod] = Store(indexes={"phase": lambda found: [found.status.phase] * 2})
    store.put(pod("a", 1))
    assert [found.metadata.name for found in store.by("phase", "Pending")] == ["a"]
    store.put(pod("a", 2, phase="Running"))
    assert store.by("phase", "Pending") == []
    assert store.remove(pod("a", 3))


def test_of_objects_that_are_no_structs_each_version_is_told() -> None:
    @dataclass(frozen=True)
    class Custom:
        metadata: Metadata

    store: Store[Custom] = Store()
    changes: list[Change[Custom]] = []
    store.subscribe(changes.append)
    assert store.put(Custom(pod("a", 1).metadata))
    assert store.put(Custom(pod("a", 2).metadata))
    assert len(changes) == 2


def test_an_object_is_indexed_by_the_owner_that_controls_it() -> None:
    owners = (
        OwnerReference(kind="Queue", name="q", uid="q-uid"),
        OwnerReference(kind="Job", name="j", uid="j-uid", controller=True),
    )
    metadata = Metadata(name="a", namespace="ns", uid="a-uid", resource_version="1", owner_references=owners)
    assert metadata.controller == owners[1]
    assert metadata.key == Key("ns", "a")
    assert Metadata(name="b", owner_references=owners[:1]).controller is None


def test_a_subscriber_hears_of_a_change_after_it_was_taken_in() -> None:
    store: Store[Pod] = Store()
    seen: list[int] = []
    store.subscribe(lambda change: seen.append(len(store)))
    store.put(pod("a", 1))
    store.remove(pod("a", 2))
    assert seen == [1, 0]

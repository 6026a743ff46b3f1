"""Who is woken by a change in a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from aifactory.engine import custom
from aifactory.engine.cluster import Cluster
from aifactory.engine.domain import Child, Watch
from aifactory.kube.objects import Metadata, OwnerReference, PartialObject, Pod, PodStatus
from aifactory.kube.resources import CONFIGMAPS, PODS, Key
from tests.support.herd import HERDS, Herd, Herds

GROUP = HERDS.group


def pod(
    owner: str = "",
    *,
    kind: str = "Herd",
    api_version: str = f"{GROUP}/v1alpha1",
    controller: bool = True,
    phase: str = "Pending",
    namespace: str = "ns",
) -> Pod:
    reference = OwnerReference(kind=kind, name=owner, uid="u", api_version=api_version, controller=controller)
    owners = (reference,) if owner else ()
    metadata = Metadata(name="p", namespace=namespace, uid="p", owner_references=owners)
    return Pod(metadata=metadata, status=PodStatus(phase=phase))


def herd(size: int, version: int) -> dict[str, Any]:
    metadata = {"name": "h", "namespace": "ns", "uid": "h", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"size": size}}


class Listening:
    """A cluster of herds, and who was woken how."""

    def __init__(self, kind: Herds) -> None:
        self.woken: list[tuple[str, bool]] = []
        self.later: list[str] = []
        self.cluster = Cluster([kind])
        self.cluster.connect(
            {HERDS: lambda key, *, background: self.woken.append((str(key), background))},
            {HERDS: lambda key: self.later.append(str(key))},
        )

    def pod_changes(self, *views: Pod | None) -> list[str]:
        """Keys woken by a pod that is seen in these ways, one after another; None for its deletion."""
        store = self.cluster.stores[PODS]
        for version, found in enumerate(views, start=1):
            self.woken.clear()
            self.later.clear()
            if found is None:
                store.delete(store.keys()[0], "p", str(version))
            else:
                metadata = found.metadata
                store.put(
                    Pod(
                        metadata=Metadata(
                            name=metadata.name,
                            namespace=metadata.namespace,
                            uid=metadata.uid,
                            resource_version=str(version),
                            owner_references=metadata.owner_references,
                        ),
                        status=found.status,
                    )
                )
        return [key for key, _ in self.woken]


@pytest.mark.parametrize(
    ("views", "keys"),
    [
        ([pod("a")], ["ns/a"]),
        ([pod("a"), None], ["ns/a"]),
        ([pod("a"), pod("a", phase="Running")], ["ns/a"]),
        ([pod("a"), pod("b")], ["ns/a", "ns/b"]),
        ([pod("a"), pod()], ["ns/a"]),
        ([pod(), pod("b")], ["ns/b"]),
        ([pod("a", namespace="other")], ["other/a"]),
        ([pod()], []),
        ([pod("a", kind="Flock")], []),
        ([pod("a", api_version="other.dev/v1")], []),
        ([pod("a", api_version="v1")], []),
        ([pod("a", api_version=f"{GROUP}/v2")], ["ns/a"]),
        ([pod("a", controller=False)], []),
    ],
)
def test_the_owner_that_controls_a_child_is_woken(views: list[Pod | None], keys: list[str]) -> None:
    assert Listening(Herds()).pod_changes(*views) == keys


def test_a_first_list_wakes_in_the_background() -> None:
    found = Listening(Herds())
    found.cluster.stores[PODS].put(pod("a"), background=True)
    assert found.woken == [("ns/a", True)]


class Patient(Herds):
    """Herds that look at pods which have yet to start when there is time."""

    children = (Child(PODS, Pod, halfway=lambda found: found.status.phase != "Running"),)


@pytest.mark.parametrize(
    ("views", "waits"),
    [
        ([pod("a")], True),
        ([pod("a"), pod("a", phase="Bound")], True),
        ([pod("a", phase="Running")], False),
        ([pod("a"), pod("a", phase="Running")], False),
        ([pod("a", phase="Running"), pod("a")], False),
        ([pod("a"), None], False),
    ],
)
def test_what_is_on_its_way_and_stays_so_can_wait(views: list[Pod | None], waits: bool) -> None:
    found = Listening(Patient())
    assert found.pod_changes(*views) == ([] if waits else ["ns/a"])
    assert found.later == (["ns/a"] if waits else [])


def test_where_nobody_looks_later_all_is_looked_at_at_once() -> None:
    woken: list[str] = []
    found = Listening(Patient())
    found.cluster.connect({HERDS: lambda key, *, background: woken.append(str(key))})
    found.pod_changes(pod("a"))
    assert woken == ["ns/a"]


def test_nothing_of_a_first_list_is_kept_back() -> None:
    found = Listening(Patient())
    found.cluster.stores[PODS].put(pod("a"), background=True)
    assert (found.woken, found.later) == ([("ns/a", True)], [])


class Fed(Herds):
    """Herds whose pods eat what belongs to nobody."""

    food = Child(CONFIGMAPS, PartialObject, concerns=lambda food, cluster: [p.metadata for p in eaters(food, cluster)])
    children = (*Herds.children, food)


def eaters(food: PartialObject, cluster: Cluster) -> list[Pod]:
    return [found for found in cluster.objects(Herds.children[0]).all() if found.status.phase == food.metadata.name]


def test_whose_objects_a_change_concerns_is_woken_though_it_owns_nothing_of_it() -> None:
    found = Listening(Fed())
    store = found.cluster.stores[CONFIGMAPS]
    grass = PartialObject(metadata=Metadata(name="grass", namespace="else", uid="g", resource_version="2"))
    found.pod_changes(pod("a", phase="grass"))
    found.woken.clear()
    store.put(grass, background=True)
    assert found.woken == [("ns/a", True)]
    found.woken.clear()
    store.delete(Key("else", "grass"), "g", "3")
    assert found.woken == [("ns/a", False)]
    found.woken.clear()
    store.put(PartialObject(metadata=Metadata(name="hay", namespace="else", uid="h", resource_version="4")))
    assert found.woken == [], "nobody's pod eats it"


@pytest.mark.parametrize("eater", [pod(phase="grass"), pod("a", kind="Flock", phase="grass")])
def test_what_concerns_objects_of_somebody_else_wakes_nobody(eater: Pod) -> None:
    found = Listening(Fed())
    found.pod_changes(eater)
    grass = PartialObject(metadata=Metadata(name="grass", namespace="else", uid="g", resource_version="2"))
    found.cluster.stores[CONFIGMAPS].put(grass)
    assert found.woken == []


class Neighbours(Herds):
    """Herds that concern others by their size."""

    view: Callable[[Herd], Any] | None = None

    def watches(self) -> Sequence[Watch[Any]]:
        return (Watch(Herd, self._keys, view=self.view),)

    def _keys(self, found: Herd, cluster: Cluster) -> Iterable[Key]:
        assert isinstance(cluster, Cluster)
        return [Key(str(found.spec.size), "1"), Key(str(found.spec.size), "2")]


def put(found: Listening, body: dict[str, Any], *, background: bool = False) -> list[tuple[str, bool]]:
    found.woken.clear()
    found.cluster.stored(HERDS).put(custom.parser(Herd)(body), background=background)
    return list(found.woken)


def test_whoever_the_old_or_the_new_object_concerns_is_woken() -> None:
    found = Listening(Neighbours())
    assert put(found, herd(1, 1), background=True) == [("1/1", True), ("1/2", True)]
    assert [key for key, _ in put(found, herd(2, 2))] == ["1/1", "1/2", "2/1", "2/2"]
    found.woken.clear()
    found.cluster.stored(HERDS).delete(Key("ns", "h"), "h", "3")
    assert [key for key, _ in found.woken] == ["2/1", "2/2"]


def test_what_those_who_are_woken_do_not_see_wakes_nobody() -> None:
    kind = Neighbours()
    kind.view = lambda found: found.spec.size > 1
    found = Listening(kind)
    assert put(found, herd(0, 1)), "that it is there is news"
    assert put(found, herd(1, 2)) == []
    assert put(found, herd(2, 3))
    assert put(found, {**herd(2, 4), "spec": {"size": "many"}}), "it can not be read any more"


def test_who_is_gone_is_forgotten() -> None:
    class Remembering(Herds):
        forgotten: list[str] = []  # noqa: RUF012 # of this class alone

        def gone(self, uid: str) -> None:
            self.forgotten.append(uid)

    found = Listening(Remembering())
    put(found, herd(1, 1))
    assert Remembering.forgotten == []
    found.cluster.stored(HERDS).delete(Key("ns", "h"), "h", "2")
    assert Remembering.forgotten == ["h"]

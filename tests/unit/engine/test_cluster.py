"""What domains declare becomes stores and wake-ups; what they declare differently is a mistake."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest

from aifactory.app.domains import DOMAINS
from aifactory.engine.cluster import Cluster, Declaration, declared_children
from aifactory.engine.domain import Child, Index
from aifactory.kube.objects import PartialObject, Pod, PodGroup
from aifactory.kube.podstate import starting
from aifactory.kube.resources import PODGROUPS, PODS, Resource
from tests.support.herd import HERDS, Herd, Herds


class Watchers(Herds):
    """Herds that see pods through another window."""

    children = (Child(PODS, PartialObject),)


class Finders(Herds):
    """Herds with an index of a name that is in use."""

    def indexes(self) -> Sequence[Index[Any]]:
        return (Index(Herd, "size", lambda herd: (herd.spec.size,)), Index(Herd, "size", lambda _: ()))


def test_a_resource_of_several_domains_has_one_store_and_all_their_verbs() -> None:
    first, second = Child(PODS, Pod, verbs=("create",)), Child(PODS, Pod, verbs=("delete", "create"), optional=True)

    class One(Herds):
        children = (first,)

    class Two(Herds):
        children = (second,)

    (child,) = declared_children([One, Two])
    assert (child.verbs, child.optional, child.writes_status) == (("create", "delete"), False, False)


def test_one_of_several_that_writes_a_status_is_enough() -> None:
    kinds = [
        type("Kind", (Herds,), {"children": (Child(PODS, Pod, writes_status=writes),)}) for writes in (True, False)
    ]
    for order in permutations(kinds):
        assert declared_children(order)[0].writes_status


def test_what_several_domains_look_up_and_wake_by_is_kept_of_all() -> None:
    def concerns(_: Pod, cluster: Cluster) -> tuple[()]:
        return ()

    def halfway(_: Pod) -> bool:
        return True

    plain = Child(PODS, Pod, halfway=halfway)
    named = Child(PODS, Pod, indexes={"name": lambda pod: (pod.metadata.name,)})
    placed = Child(PODS, Pod, indexes={"node": lambda pod: (pod.spec.node_name,)}, concerns=concerns)
    kinds = [type("Kind", (Herds,), {"children": (child,)}) for child in (plain, named, placed)]
    for order in permutations(kinds):
        (child,) = declared_children(order)
        assert child.indexes.keys() == {"name", "node"}
        assert child.concerns is concerns
        assert child.halfway is halfway


@pytest.mark.parametrize("kind", DOMAINS)
def test_pods_that_have_yet_to_start_are_looked_at_when_there_is_time_whosever_they_are(kind: type[Any]) -> None:
    (pods,) = (child for child in declared_children([kind]) if child.resource == PODS)
    assert pods.halfway is starting


def test_two_choices_of_labels_are_a_mistake() -> None:
    class One(Herds):
        children = (Child(PODS, Pod),)

    class Two(Herds):
        children = (Child(PODS, Pod, selector=""),)

    with pytest.raises(Declaration, match="pods is declared with labels None and"):
        declared_children([One, Two])


def test_two_windows_on_one_resource_are_a_mistake() -> None:
    with pytest.raises(Declaration, match="pods is declared as Pod and as PartialObject"):
        Cluster([Herds(), Watchers()])


def test_two_indexes_of_one_name_are_a_mistake() -> None:
    with pytest.raises(Declaration, match="index size of Herd is declared twice"):
        Cluster([Finders()])


def test_what_is_not_served_is_a_fact_and_not_an_error() -> None:
    kinds = [kind() for kind in DOMAINS]
    gangs = Child(PODGROUPS, PodGroup, optional=True)
    without, with_ = Cluster(kinds), Cluster(kinds, {PODGROUPS})
    assert not without.serves(gangs)
    assert without.owned(gangs, "ns", "u") == []
    assert without.get(gangs, "ns", "a") is None
    assert with_.serves(gangs)
    assert PODGROUPS in with_.stores
    assert PODGROUPS not in without.stores


@pytest.mark.parametrize(
    ("served", "watched", "known"),
    [({PODGROUPS}, None, True), ({PODGROUPS}, "ns", True), ({PODGROUPS}, "other", False), (set(), "ns", False)],
)
def test_that_an_object_is_not_there_is_known_where_it_is_looked_for(
    served: set[Resource], watched: str | None, known: bool
) -> None:
    gangs = Child(PODGROUPS, PodGroup, optional=True)
    assert Cluster([kind() for kind in DOMAINS], served, watched).reads(gangs, "ns") is known


def test_every_kind_that_a_plan_can_name_is_one_resource() -> None:
    """Plans name kinds, and the executor looks the resource up."""
    resources = list(Cluster([*(kind() for kind in DOMAINS), Herds()], {PODGROUPS}).stores)
    assert len({resource.kind for resource in resources}) == len(resources)
    assert HERDS in resources
    assert all(isinstance(resource, Resource) for resource in resources)

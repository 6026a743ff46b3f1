"""What domains and the engine read of the cluster: by name, by owner, by index, and up the line of owners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from aifactory.api import names
from aifactory.engine import custom
from aifactory.engine.cluster import MAX_OWNERS, Cluster, declared_children
from aifactory.engine.domain import Child, Index
from aifactory.kube.objects import Deployment, Metadata, OwnerReference, PartialObject, Pod, PodStatus
from aifactory.kube.resources import DEPLOYMENTS, PODGROUPS, PODS, Key, Resource
from tests.support.herd import HERDS, Herd, Herds

REPLICASETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
POD, DEPLOYMENT, REPLICASET = Child(PODS, Pod), Child(DEPLOYMENTS, Deployment), Child(REPLICASETS, PartialObject)
BY_SIZE = Index(Herd, "size", lambda herd: (herd.spec.size,))


class Shepherds(Herds):
    """Herds whose pods come from Deployments, with an index."""

    children = (POD, DEPLOYMENT, REPLICASET)

    def indexes(self) -> Sequence[Index[Any]]:
        return (BY_SIZE,)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster([Shepherds()])


def owned(name: str, owner: tuple[str, str, str, str] | None, version: int = 1) -> Metadata:
    """Metadata of an object that is controlled by an API version, kind, name and UID."""
    references: tuple[OwnerReference, ...] = ()
    if owner is not None:
        api_version, kind, owner_name, uid = owner
        references = (OwnerReference(api_version=api_version, kind=kind, name=owner_name, uid=uid, controller=True),)
    return Metadata(
        name=name, namespace="ns", uid=f"{name}-uid", resource_version=str(version), owner_references=references
    )


def put_herd(cluster: Cluster, name: str, size: Any) -> None:
    metadata = {"name": name, "namespace": "ns", "uid": f"{name}-uid", "resourceVersion": "1"}
    cluster.stored(HERDS).put(custom.parser(Herd)({"metadata": metadata, "spec": {"size": size}}))


def test_children_are_found_by_name_and_by_owner(cluster: Cluster) -> None:
    herd = (names.API_VERSION, "Herd", "h", "h-uid")
    mine, strange = Pod(metadata=owned("p", herd)), Pod(metadata=owned("q", None))
    cluster.objects(POD).put(mine)
    cluster.objects(POD).put(strange)
    assert cluster.get(POD, "ns", "p") == mine
    assert cluster.get(POD, "other", "p") is None
    assert cluster.owned(POD, "ns", "h-uid") == [mine]
    assert cluster.owned(POD, "other", "h-uid") == []
    assert cluster.stores[PODS] is cluster.objects(POD)


def test_custom_resources_are_found_by_an_index_unless_they_can_not_be_read(cluster: Cluster) -> None:
    put_herd(cluster, "a", 3)
    put_herd(cluster, "b", 4)
    put_herd(cluster, "bad", "many")
    assert [herd.metadata.name for herd in cluster.find(BY_SIZE, 3)] == ["a"]
    assert cluster.find(BY_SIZE, 5) == []
    assert len(cluster.stored(HERDS)) == 3
    assert Cluster([]).find(BY_SIZE, 3) == []


def test_children_are_found_by_an_index_whoever_owns_them() -> None:
    by_phase = Child(PODS, Pod, indexes={"phase": lambda pod: (pod.status.phase,)}, optional=True)

    class Ranger(Herds):
        children = (by_phase,)

    cluster = Cluster([Ranger()], {PODS})
    strange = Pod(metadata=owned("p", None), status=PodStatus(phase="Running"))
    cluster.objects(by_phase).put(strange)
    assert cluster.having(by_phase, "phase", "Running") == [strange]
    assert cluster.having(by_phase, "phase", "Pending") == []
    assert cluster.owned(by_phase, "ns", "h-uid") == [], "they are found by their owner all the same"
    assert Cluster([Ranger()]).having(by_phase, "phase", "Running") == [], "what is not served is not there"


def chain(cluster: Cluster, *, deployment_uid: str = "d-uid") -> Metadata:
    """A pod of a ReplicaSet of a Deployment of a herd; returns the pod's metadata."""
    herd = (names.API_VERSION, "Herd", "h", "h-uid")
    cluster.objects(DEPLOYMENT).put(Deployment(metadata=owned("d", herd)))
    cluster.objects(REPLICASET).put(PartialObject(metadata=owned("r", ("apps/v1", "Deployment", "d", deployment_uid))))
    return owned("p", ("apps/v1", "ReplicaSet", "r", "r-uid"))


def test_an_object_belongs_to_what_stands_at_the_end_of_its_owners(cluster: Cluster) -> None:
    assert cluster.owner(chain(cluster)) == (HERDS, Key("ns", "h"))
    assert cluster.owner(owned("d", (names.API_VERSION, "Herd", "h", "h-uid"))) == (HERDS, Key("ns", "h"))
    later = (f"{names.GROUP}/v9", "Herd", "h", "h-uid")
    assert cluster.owner(owned("d", later)) == (HERDS, Key("ns", "h")), "whatever version the reference was written in"


@pytest.mark.parametrize(
    "reference",
    [
        None,
        ("apps/v1", "StatefulSet", "s", "s-uid"),
        ("other.dev/v1", "Herd", "h", "h-uid"),
        ("v1", "Pod", "gone", "gone-uid"),
        ("apps/v1", "ReplicaSet", "r", "uid of an earlier one"),
    ],
)
def test_an_object_of_somebody_else_is_nobodys(cluster: Cluster, reference: tuple[str, str, str, str] | None) -> None:
    chain(cluster)
    assert cluster.owner(owned("p", reference)) is None


def test_an_owner_in_between_that_was_made_anew_breaks_the_line(cluster: Cluster) -> None:
    assert cluster.owner(chain(cluster, deployment_uid="uid of an earlier one")) is None


def test_owners_in_a_ring_come_to_an_end(cluster: Cluster) -> None:
    ring = owned("ring", ("v1", "Pod", "ring", "ring-uid"))
    cluster.objects(POD).put(Pod(metadata=ring))
    assert cluster.owner(ring) is None


def test_the_longest_line_of_owners_is_followed(cluster: Cluster) -> None:
    """Of the core group too, whose version stands alone: `v1` was taken for the name of a group."""
    metadata = owned("p0", (names.API_VERSION, "Herd", "h", "h-uid"))
    for number in range(1, MAX_OWNERS):
        cluster.objects(POD).put(Pod(metadata=metadata))
        metadata = owned(f"p{number}", ("v1", "Pod", f"p{number - 1}", f"p{number - 1}-uid"))
    assert cluster.owner(metadata) == (HERDS, Key("ns", "h"))


def test_what_one_domain_needs_is_not_optional_because_another_can_do_without() -> None:
    def optional(*needs: bool) -> bool:
        kinds = [
            type("Kind", (Herds,), {"children": (Child(PODGROUPS, PartialObject, optional=one),)}) for one in needs
        ]
        return declared_children(kinds)[0].optional

    assert [optional(*needs) for needs in [(True, True), (True, False), (False, True), (False, False)]] == [
        True,
        False,
        False,
        False,
    ]

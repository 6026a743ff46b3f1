"""Server-side apply in the simulated API server behaves as the real one where clients of ours lean on it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from aifactory.kube.errors import Conflict
from aifactory.kube.resources import DEPLOYMENTS, SERVICES, Key
from tests.sim.cluster import Body, Cluster
from tests.support.faketime import FakeTimeLoop

US = "aifactory-operator"
KEY = Key("team", "a")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    loop = FakeTimeLoop()
    yield Cluster(loop, random.Random(0), gangs=True)
    loop.close()


def service(**spec: Any) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "a", "namespace": "team", "labels": {"ours": "yes"}},
        "spec": spec,
    }


def apply(cluster: Cluster, body: Body, *, force: bool = True) -> Body:
    return cluster.apply(SERVICES, body, "operator", field_manager=US, force=force)


def owners(body: Body) -> list[tuple[str, str, str]]:
    return [(entry["manager"], entry["operation"], entry["time"]) for entry in body["metadata"]["managedFields"]]


def test_an_apply_creates_and_then_changes_nothing_and_no_version(cluster: Cluster) -> None:
    first = apply(cluster, service(clusterIP="None"))
    assert owners(first) == [(US, "Apply", "2026-01-01T00:00:00Z")]
    assert first["metadata"]["managedFields"][0]["fieldsV1"] == {
        "f:metadata": {"f:labels": {"f:ours": {}}},
        "f:spec": {"f:clusterIP": {}},
    }
    cluster.loop.now += 60
    assert apply(cluster, service(clusterIP="None")) is first


def test_what_is_left_out_goes_unless_somebody_else_owns_it(cluster: Cluster) -> None:
    apply(cluster, service(clusterIP="None", selector={"a": "1", "b": "2"}, type="ClusterIP"))
    patch = {"spec": {"selector": {"b": "3"}, "sessionAffinity": "None"}}
    cluster.patch(SERVICES, KEY, patch, "user", resource_version=None)
    found = apply(cluster, service(clusterIP="None", selector={"a": "1"}))
    assert found["spec"] == {"clusterIP": "None", "selector": {"a": "1", "b": "3"}, "sessionAffinity": "None"}


def test_drift_is_taken_back_by_force_and_only_by_force(cluster: Cluster) -> None:
    apply(cluster, service(type="ClusterIP"))
    drifted = cluster.patch(SERVICES, KEY, {"spec": {"type": "NodePort"}}, "user", resource_version=None)
    assert [entry[:2] for entry in owners(drifted)] == [(US, "Apply"), ("user", "Update")]
    with pytest.raises(Conflict, match=r"spec.f:type \(user\)"):
        apply(cluster, service(type="ClusterIP"), force=False)
    found = apply(cluster, service(type="ClusterIP"))
    assert found["spec"] == {"type": "ClusterIP"}
    assert [entry[:2] for entry in owners(found)] == [(US, "Apply")]


def test_items_of_lists_with_keys_are_owned_one_by_one(cluster: Cluster) -> None:
    def deployment(*containers: Body, replicas: int = 1) -> Body:
        template = {"metadata": {"labels": {"a": "1"}}, "spec": {"containers": list(containers)}}
        spec = {"replicas": replicas, "template": template}
        return {**service(), "apiVersion": "apps/v1", "kind": "Deployment", "spec": spec}

    triton = {"name": "triton", "image": "triton:1", "args": ["a", "b"]}
    agent = {"name": "agent", "image": "agent:1"}
    cluster.apply(DEPLOYMENTS, deployment(triton, agent), "operator", field_manager=US)
    injected = [triton, agent, {"name": "mesh", "image": "mesh:1"}]
    template = {"spec": {"template": {"spec": {"containers": injected}}}}
    cluster.patch(DEPLOYMENTS, KEY, template, "mesh", resource_version=None)
    newer = {**triton, "image": "triton:2", "args": ["c"]}
    found = cluster.apply(DEPLOYMENTS, deployment(newer), "operator", field_manager=US)
    assert found["spec"]["template"]["spec"]["containers"] == [newer, {"name": "mesh", "image": "mesh:1"}]
    assert found["metadata"]["generation"] == 3


def test_an_object_that_was_created_otherwise_keeps_what_an_apply_does_not_name(cluster: Cluster) -> None:
    cluster.create(SERVICES, service(type="NodePort", clusterIP="10.0.0.1"), "user")
    found = apply(cluster, service(type="ClusterIP"))
    assert found["spec"] == {"type": "ClusterIP", "clusterIP": "10.0.0.1"}


def test_an_apply_may_name_the_incarnation_it_means(cluster: Cluster) -> None:
    known = apply(cluster, service(type="ClusterIP"))
    body = service(type="NodePort")
    body["metadata"]["uid"] = known["metadata"]["uid"] + "0"
    with pytest.raises(Conflict):
        apply(cluster, body)

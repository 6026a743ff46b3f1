"""Where resources live under an API server's root."""

from __future__ import annotations

import pytest

from aifactory.kube import resources
from aifactory.kube.resources import Key, Resource


@pytest.mark.parametrize(
    ("resource", "api_version", "path", "words"),
    [
        (resources.PODS, "v1", "/api/v1/namespaces/n/pods/a", "pods"),
        (resources.SERVICES, "v1", "/api/v1/namespaces/n/services/a", "services"),
        (resources.CONFIGMAPS, "v1", "/api/v1/namespaces/n/configmaps/a", "configmaps"),
        (resources.PVCS, "v1", "/api/v1/namespaces/n/persistentvolumeclaims/a", "persistentvolumeclaims"),
        (resources.NODES, "v1", "/api/v1/nodes/a", "nodes"),
        (resources.NAMESPACES, "v1", "/api/v1/namespaces/a", "namespaces"),
        (resources.DEPLOYMENTS, "apps/v1", "/apis/apps/v1/namespaces/n/deployments/a", "deployments.apps"),
        (
            resources.REPLICASETS,
            "apps/v1",
            "/apis/apps/v1/namespaces/n/replicasets/a",
            "replicasets.apps",
        ),
        (
            resources.BUDGETS,
            "policy/v1",
            "/apis/policy/v1/namespaces/n/poddisruptionbudgets/a",
            "poddisruptionbudgets.policy",
        ),
        (resources.CORE_EVENTS, "v1", "/api/v1/namespaces/n/events/a", "events"),
        (
            resources.EVENTS,
            "events.k8s.io/v1",
            "/apis/events.k8s.io/v1/namespaces/n/events/a",
            "events.events.k8s.io",
        ),
        (
            resources.LEASES,
            "coordination.k8s.io/v1",
            "/apis/coordination.k8s.io/v1/namespaces/n/leases/a",
            "leases.coordination.k8s.io",
        ),
        (
            resources.PODGROUPS,
            "scheduling.k8s.io/v1beta1",
            "/apis/scheduling.k8s.io/v1beta1/namespaces/n/podgroups/a",
            "podgroups.scheduling.k8s.io",
        ),
        (
            resources.TOKENREVIEWS,
            "authentication.k8s.io/v1",
            "/apis/authentication.k8s.io/v1/tokenreviews/a",
            "tokenreviews.authentication.k8s.io",
        ),
        (
            resources.CRDS,
            "apiextensions.k8s.io/v1",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/a",
            "customresourcedefinitions.apiextensions.k8s.io",
        ),
        *(
            (one, f"{group}/{version}", f"/apis/{group}/{version}/{where}{plural}/a", f"{plural}.{group}")
            for one, group, version, where, plural in (
                (resources.GATEWAYS, "gateway.networking.k8s.io", "v1", "namespaces/n/", "gateways"),
                (resources.HTTPROUTES, "gateway.networking.k8s.io", "v1", "namespaces/n/", "httproutes"),
                (resources.GRPCROUTES, "gateway.networking.k8s.io", "v1", "namespaces/n/", "grpcroutes"),
                (resources.WORKLOADS, "kueue.x-k8s.io", "v1beta2", "namespaces/n/", "workloads"),
                (resources.RESOURCEFLAVORS, "kueue.x-k8s.io", "v1beta2", "", "resourceflavors"),
                (resources.WORKLOADPRIORITYCLASSES, "kueue.x-k8s.io", "v1beta2", "", "workloadpriorityclasses"),
            )
        ),
    ],
)
def test_names_and_paths(resource: Resource, api_version: str, path: str, words: str) -> None:
    assert resource.api_version == api_version
    assert resource.path("n", "a") == path
    assert str(resource) == words
    assert resource.plural in (f"{resource.kind.lower()}s", f"{resource.kind.lower()}es")


def test_a_collection_is_that_of_a_namespace_or_of_all() -> None:
    deployments = "/apis/apps/v1/deployments"
    assert resources.DEPLOYMENTS.collection("n") == "/apis/apps/v1/namespaces/n/deployments"
    assert resources.DEPLOYMENTS.collection() == resources.DEPLOYMENTS.collection("") == deployments
    assert resources.NAMESPACES.collection("n") == "/api/v1/namespaces"


def test_a_subresource_is_below_its_object() -> None:
    assert resources.PODS.path("n", "a", "status") == "/api/v1/namespaces/n/pods/a/status"


def test_equal_resources_are_one_key() -> None:
    same = Resource("apps", "v1", "deployments", "Deployment")
    assert {resources.DEPLOYMENTS: 1}[same] == 1
    others = {
        Resource("apps", "v1", "statefulsets", "StatefulSet"),
        Resource("apps", "v2", "deployments", "Deployment"),
        Resource("extensions", "v1", "deployments", "Deployment"),
    }
    assert resources.DEPLOYMENTS not in others
    assert len({hash(other) for other in {*others, same}}) == 4


def test_a_key_is_written_as_kubectl_does() -> None:
    assert str(Key("n", "a")) == "n/a"
    assert str(Key("", "a")) == "a"

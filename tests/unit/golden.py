"""Golden files, and Kubernetes' own types as a second opinion on the objects we make.

A golden file shows a reviewer what a change does to the cluster. To accept a change: AIFACTORY_UPDATE_GOLDENS=1 pytest
tests/unit, then read the difference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

Json = Mapping[str, Any]

TYPES = {
    "ConfigMap": client.V1ConfigMap,
    "Deployment": client.V1Deployment,
    "PersistentVolumeClaim": client.V1PersistentVolumeClaim,
    "Pod": client.V1Pod,
    "PodGroup": client.V1beta1PodGroup,
    "NetworkPolicy": client.V1NetworkPolicy,
    "PodDisruptionBudget": client.V1PodDisruptionBudget,
    "Service": client.V1Service,
}


def assert_golden(path: Path, documents: list[Any]) -> None:
    """The documents are those in the golden file."""
    if os.environ.get("AIFACTORY_UPDATE_GOLDENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump_all(documents, sort_keys=False, width=120))
    wanted = list(yaml.safe_load_all(path.read_text())) if path.exists() else []
    assert documents == wanted, f"{path.name} differs; if that is meant: AIFACTORY_UPDATE_GOLDENS=1 pytest tests/unit"


def assert_known_to_kubernetes(body: Json) -> None:
    """Every field of the object exists in Kubernetes and has a value of the right type.

    The typed client drops what it does not know and refuses wrong types, so what comes back must be what went in.
    """
    type_ = TYPES[body["kind"]]
    assert client.ApiClient().sanitize_for_serialization(type_.from_dict(dict(body))) == body


def containers(pod_spec: Json) -> Iterator[Json]:
    yield from pod_spec.get("initContainers", ())
    yield from pod_spec["containers"]


def assert_restricted(pod_spec: Json) -> None:
    """The pod passes Pod Security `restricted`.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    pod = pod_spec["securityContext"]
    assert pod["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
    assert not any(pod_spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in pod_spec["volumes"]:
        assert volume.keys() - {"name"} <= allowed, volume
    for container in containers(pod_spec):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False, container["name"]
        assert own["capabilities"]["drop"] == ["ALL"], container["name"]
        assert set(own["capabilities"].get("add", ())) <= {"NET_BIND_SERVICE"}
        assert own.get("runAsNonRoot", pod["runAsNonRoot"]) is True, container["name"]
        assert own.get("runAsUser", pod["runAsUser"]) != 0, container["name"]
        assert not own.get("privileged"), container["name"]
        assert all("hostPort" not in port for port in container.get("ports", ()))

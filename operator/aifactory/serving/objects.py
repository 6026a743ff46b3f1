"""What every object of an InferencePool is called and labelled."""

from __future__ import annotations

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool
from aifactory.engine.podspec import Json, owner_reference


def child_name(pool: str, revision: str) -> str:
    """Name of a revision's Deployment and ConfigMap."""
    return f"{pool}-{revision}"


def selector(pool: InferencePool, role: str = names.ROLE_SERVE) -> dict[str, str]:
    """Labels that select the pods with a role: the serving pods of every revision, or the gateway's."""
    return {names.LABEL_POOL: pool.metadata.name, names.LABEL_ROLE: role}


def metadata(pool: InferencePool, name: str, labels: dict[str, str]) -> Json:
    """Metadata of a child: an allow-list of labels, never a copy of the pool's (Argo CD prunes copies)."""
    return {
        "name": name,
        "namespace": pool.metadata.namespace,
        "labels": {
            names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE,
            names.LABEL_POOL: pool.metadata.name,
            **labels,
        },
        "ownerReferences": [owner_reference(names.API_VERSION, "InferencePool", pool.metadata.name, pool.metadata.uid)],
    }

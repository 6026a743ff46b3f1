"""From a URI to the store behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aifactory_agent.artifacts.objects import ObjectStore, read_credentials
from aifactory_agent.artifacts.store import Store
from aifactory_agent.artifacts.volume import VolumeStore
from aifactory_contract.uri import ArtifactUri


@dataclass(frozen=True)
class Mounts:
    """Where Kubernetes put claims and secrets into this container."""

    claims: Path = Path("/mnt/claims")
    secrets: Path = Path("/etc/aifactory/secrets")


def open_store(uri: ArtifactUri, mounts: Mounts, secret: str | None) -> Store:
    """The store of a URI; `secret` names a mounted secret with credentials for an object store."""
    if uri.scheme == "pvc":
        return VolumeStore(uri, mounts.claims)
    return ObjectStore(uri, read_credentials(mounts.secrets, secret) if secret else None)

"""From a URI to what is behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aifactory_agent.artifacts.buckets import access_to
from aifactory_agent.artifacts.objects import ObjectStore
from aifactory_agent.artifacts.secret import Secret
from aifactory_agent.artifacts.store import Source, Store
from aifactory_agent.artifacts.volume import VolumeStore
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.uri import ArtifactUri


@dataclass(frozen=True)
class Mounts:
    """Where Kubernetes put claims and secrets into this container."""

    claims: Path = Path("/mnt/claims")
    secrets: Path = Path("/etc/aifactory/secrets")


def open_source(uri: ArtifactUri, mounts: Mounts, secret: str | None) -> Source:
    """The source of a URI; `secret` names a mounted secret with what it asks for: keys, a token, a CA's certificate.

    Raises FactoryError: the secret is no good.
    """
    given = Secret(secret, mounts.secrets / secret) if secret else None
    match uri.scheme:  # imported when asked for: a small copy takes hardly longer than the start of this program
        case "hf":
            from aifactory_agent.artifacts.hub import HubSource

            return HubSource(uri, given)
        case "https":
            from aifactory_agent.artifacts.https import HttpsSource

            return HttpsSource(uri, given)
        case "oci":
            from aifactory_agent.artifacts.oci import OciSource

            return OciSource(uri, given)
        case "gs" | "az":
            return ObjectStore(uri, access_to(uri, given))
        case _:
            return open_store(uri, mounts, secret)


def open_store(uri: ArtifactUri, mounts: Mounts, secret: str | None) -> Store:
    """The store of a URI, to publish to. Raises FactoryError: the secret is no good, or it can only be read from."""
    if uri.scheme == "pvc":
        return VolumeStore(uri, mounts.claims)
    if uri.scheme == "s3":
        return ObjectStore(uri, access_to(uri, Secret(secret, mounts.secrets / secret) if secret else None))
    message = f"{uri}: nothing can be published there; write pvc://<claim>[/<path>] or s3://<bucket>[/<prefix>]"
    raise FactoryError(Reason.INVALID_ARTIFACT, message)

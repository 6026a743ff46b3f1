"""How buckets are reached: S3 and what speaks it, Google Cloud Storage, Azure Blob Storage; all through obstore.

obstore (the Rust crate object_store) was chosen by measure against s3fs, with ranges read by eight threads: a third of
the CPU time, and twice (one large object) to three times (1,000 small ones) the speed.

A mounted secret has the credentials, under the names that each provider's own tools read from the environment.
Without one its own chain applies (workload identity, environment).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aifactory_agent.artifacts.secret import Secret
from aifactory_agent.artifacts.web import check_endpoint
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.uri import ArtifactUri

CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 30
"""Without a byte for this long a request is tried again; a slow store that sends something is waited for."""
REQUEST_TIMEOUT_SECONDS = 600
"""One request in all, and all tries of it."""
ATTEMPTS = 3

_TEMPORARY = "ASIA"
"""How AWS begins access keys that are good with a session token only (IAM User Guide, "IAM identifiers")."""


@dataclass(frozen=True)
class Access:
    """What is needed to open one bucket. Credentials are not part of repr."""

    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    """Of the provider's store in obstore; those that are None are left to its own chain."""
    endpoint: str | None = None
    """Another one than the provider's own."""
    authority: Path | None = None
    """PEM file of the certificate authority of a store with TLS of its own."""


def open_bucket(uri: ArtifactUri, access: Access) -> Any:
    """The bucket of a URI, as obstore has it. Raises whatever obstore says of settings that are no good."""
    from obstore.store import AzureStore, GCSStore, S3Store  # only who talks to a bucket pays for it

    make: dict[str, Callable[..., Any]] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    client: dict[str, Any] = {
        "connect_timeout": f"{CONNECT_TIMEOUT_SECONDS}s",
        "read_timeout": f"{READ_TIMEOUT_SECONDS}s",
        "timeout": f"{REQUEST_TIMEOUT_SECONDS}s",
    }
    if access.authority is not None:
        client["root_certificate"] = access.authority.read_bytes()
    if access.endpoint is not None and urlsplit(access.endpoint).scheme == "http":
        client["allow_http"] = True
    settings = {key: value for key, value in access.settings.items() if value is not None}
    retries = {"max_retries": ATTEMPTS - 1, "retry_timeout": timedelta(seconds=REQUEST_TIMEOUT_SECONDS)}
    return make[uri.scheme](uri.root, **settings, client_options=client, retry_config=retries)


def access_to(uri: ArtifactUri, secret: Secret | None) -> Access:
    """Read a mounted secret.

    Raises FactoryError: AccessDenied if it or a key in it is missing or no good, InvalidArtifact for an endpoint.
    """
    if secret is None:
        if uri.scheme == "az":
            message = f"{uri}: give a secret with the key {AZURE_ACCOUNT}: the storage account that the container is in"
            raise FactoryError(Reason.ACCESS_DENIED, message)
        return Access()
    key, read = _READERS[uri.scheme]
    access = read(secret)
    if access.endpoint is not None:
        check_endpoint(uri, f"{key} in its secret", access.endpoint)
    return access


def _s3(secret: Secret) -> Access:
    access, key = secret.value("AWS_ACCESS_KEY_ID"), secret.value("AWS_SECRET_ACCESS_KEY")
    if access is None or key is None:
        raise secret.needs("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    token = secret.value("AWS_SESSION_TOKEN")
    if token is None and access.startswith(_TEMPORARY):
        message = (
            f"secret {secret.name} has temporary keys ({_TEMPORARY}...) but not their AWS_SESSION_TOKEN; add that key"
        )
        raise FactoryError(Reason.ACCESS_DENIED, message)
    endpoint = secret.value("AWS_ENDPOINT_URL")
    settings = {
        "access_key_id": access,
        "secret_access_key": key,
        "token": token,
        "region": secret.value("AWS_REGION"),
        "endpoint": endpoint,
        # Stores other than AWS's: many know no virtual-hosted buckets.
        "virtual_hosted_style_request": False if endpoint else None,
    }
    return Access(settings, endpoint, secret.authority())


def _google(secret: Secret) -> Access:
    """The account's key as it is downloaded; with another server than Google's also none."""
    endpoint = secret.value("STORAGE_EMULATOR_HOST")
    text = secret.value("GOOGLE_APPLICATION_CREDENTIALS")
    if text is None and endpoint is None:
        raise secret.needs("GOOGLE_APPLICATION_CREDENTIALS")
    if text is not None:
        _check_account(secret, text)
    settings = {"service_account_key": text, "base_url": endpoint, "skip_signature": True if text is None else None}
    return Access(settings, endpoint, secret.authority())


def _check_account(secret: Secret, text: str) -> None:
    """What a service account's key file has; other kinds (of a person, of another cloud's identity) send the client to
    addresses that they name."""
    try:
        found = json.loads(text)
        good = found["type"] == "service_account" and all(found[key] for key in ("client_email", "private_key"))
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good or found.keys() & {"gcs_base_url", "disable_oauth"}:
        message = (
            f"secret {secret.name}: GOOGLE_APPLICATION_CREDENTIALS is not the JSON key file of a service account: "
            "create the secret with --from-file=GOOGLE_APPLICATION_CREDENTIALS=<file>"
        )
        raise FactoryError(Reason.ACCESS_DENIED, message)


AZURE_ACCOUNT = "AZURE_STORAGE_ACCOUNT"
_AZURE_LOGIN = {
    "client_id": "AZURE_CLIENT_ID",
    "client_secret": "AZURE_CLIENT_SECRET",
    "tenant_id": "AZURE_TENANT_ID",
}


def _azure(secret: Secret) -> Access:
    """A key, a signature or an application's login; without them the pod's identity."""
    account, endpoint = secret.value(AZURE_ACCOUNT), secret.value("AZURE_STORAGE_SERVICE_ENDPOINT")
    if account is None:
        raise secret.needs(AZURE_ACCOUNT)
    login = {key: secret.value(name) for key, name in _AZURE_LOGIN.items()}
    if any(login.values()) and not all(login.values()):
        raise secret.needs(*_AZURE_LOGIN.values())
    settings = {
        "account_name": account,
        "account_key": secret.value("AZURE_STORAGE_KEY"),
        "sas_key": secret.value("AZURE_STORAGE_SAS_TOKEN"),
        "endpoint": endpoint.rstrip("/") if endpoint else None,
        **login,
    }
    return Access(settings, endpoint, secret.authority())


_READERS: dict[str, tuple[str, Callable[[Secret], Access]]] = {
    "s3": ("AWS_ENDPOINT_URL", _s3),
    "gs": ("STORAGE_EMULATOR_HOST", _google),
    "az": ("AZURE_STORAGE_SERVICE_ENDPOINT", _azure),
}

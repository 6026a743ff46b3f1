"""Artifacts in an S3-compatible object store, through obstore (the Rust crate object_store).

It was chosen by measure against s3fs, with ranges read by eight threads: a third of the CPU time, and twice (one large
object) to three times (1,000 small ones) the speed.

Credentials come from the files of a mounted secret, read anew for each use so that a rotated secret takes effect.
Without a secret its own chain applies (workload identity, environment). Objects appear one by one; that is why readers
compare the digest, and why publishing is only done when everything was read back.
"""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from aifactory_agent.artifacts.secret import AUTHORITY_KEYS, Secret
from aifactory_agent.artifacts.store import PROBE_BYTES, StoredFile, changed, check_probe
from aifactory_agent.artifacts.web import check_endpoint
from aifactory_agent.logs import fields
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import BOOKKEEPING, Manifest, check_path, is_part
from aifactory_contract.uri import ArtifactUri

_log = logging.getLogger(__name__)
CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 30
"""Without a byte for this long a request is tried again; a slow store that sends something is waited for."""
REQUEST_TIMEOUT_SECONDS = 600
"""One request in all, and all tries of it."""
ATTEMPTS = 3

_TEMPORARY = "ASIA"
"""How AWS begins access keys that are good with a session token only (IAM User Guide, "IAM identifiers")."""
_FULL_CODES = frozenset({"QuotaExceeded", "InsufficientStorage", "StorageFull", "XMinioStorageFull", "507"})
_DENIED_CODES = frozenset(
    {
        "403",
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "CredentialsNotSupported",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidIdentityToken",
        "InvalidSecurity",
        "InvalidToken",
        "NotSignedUp",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
"""With which S3 and STS refuse who asks, some of them with status 400 (their API references, "Error responses")."""


@dataclass(frozen=True)
class Credentials:
    """What a secret holds. The key is not part of repr."""

    access_key: str
    secret_key: str = field(repr=False)
    endpoint: str | None = None
    region: str | None = None
    token: str | None = field(default=None, repr=False)
    """What makes temporary keys good ones."""
    authority: Path | None = None
    """PEM file of the certificate authority of a store with TLS of its own."""


def read_credentials(secret: Secret) -> Credentials:
    """Read a mounted secret. Raises FactoryError (AccessDenied) if it or a key in it is missing or no good."""
    access, key = secret.value("AWS_ACCESS_KEY_ID"), secret.value("AWS_SECRET_ACCESS_KEY")
    if access is None or key is None:
        raise secret.needs("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    token = secret.value("AWS_SESSION_TOKEN")
    if token is None and access.startswith(_TEMPORARY):
        message = (
            f"secret {secret.name} has temporary keys ({_TEMPORARY}...) but not their AWS_SESSION_TOKEN; add that key"
        )
        raise FactoryError(Reason.ACCESS_DENIED, message)
    region, endpoint = secret.value("AWS_REGION"), secret.value("AWS_ENDPOINT_URL")
    return Credentials(access, key, endpoint, region, token, secret.authority())


class ObjectStore:
    """See `Store`."""

    def __init__(self, uri: ArtifactUri, credentials: Credentials | None) -> None:
        self.uri = uri
        self._credentials = credentials
        if credentials is not None and credentials.endpoint is not None:
            check_endpoint(uri, "AWS_ENDPOINT_URL in its secret", credentials.endpoint)

    def files(self) -> list[StoredFile]:
        prefix = f"{self.uri.path}/" if self.uri.path else ""
        with self._failures(Reason.SOURCE_NOT_FOUND):
            listing = [item for chunk in self._bucket.list(prefix) for item in chunk]
        found = []
        for item in sorted(listing, key=lambda item: str(item["path"])):
            key, size = str(item["path"]), int(item["size"])
            path = key.removeprefix(prefix)
            if key.startswith(prefix) and path and is_part(path) and not (size == 0 and self._is_marker(key)):
                found.append(StoredFile(check_path(path), size, str(item["e_tag"] or "")))
        if not found:
            raise FactoryError(Reason.SOURCE_NOT_FOUND, f"nothing at {self.uri}: no object has that prefix")
        return found

    def _is_marker(self, key: str) -> bool:
        """Consoles and mounts mark a folder by an empty object whose key ends in "/", which listings here leave away:
        it is none of the files. A real one is found without it."""
        with self._failures(Reason.SOURCE_NOT_FOUND):
            try:
                self._bucket.head(key)
            except FileNotFoundError:
                return True
        return False

    def read(self, file: StoredFile, start: int, end: int, stop: threading.Event) -> memoryview:
        options: dict[str, Any] = {"range": (start, end)}
        if file.pin.startswith('"'):
            options["if_match"] = file.pin
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._failures(Reason.SOURCE_NOT_FOUND, file.path):
                    return memoryview(self._bucket.get(self._key(file.path), options=options).bytes())
            except FactoryError as error:  # what broke off in the middle obstore does not ask for again
                if error.reason is not Reason.STORE_UNAVAILABLE or attempt == ATTEMPTS or stop.wait(attempt):
                    raise
        raise AssertionError("unreachable")

    def create(self, source: Path, manifest: Manifest) -> None:
        with self._failures(Reason.STORE_UNAVAILABLE):
            listing = [item for chunk in self._bucket.list(f"{self.uri.path}/") for item in chunk]
        present = {str(item["path"]): int(item["size"]) for item in listing}
        for entry in manifest.files:
            key = self._key(entry.path)
            # What an earlier, interrupted try has put there stays; the read-back will tell if it is wrong.
            if present.get(key) != entry.size:
                with self._failures(Reason.STORE_UNAVAILABLE):
                    self._bucket.put(key, source / entry.path)

    def probe(self) -> None:
        key = self._key(f"{BOOKKEEPING}/probe-{uuid.uuid4().hex}")
        with self._failures(Reason.STORE_UNAVAILABLE):
            for _ in self._bucket.list(key):  # who publishes lists too
                pass
            self._bucket.put(key, PROBE_BYTES)
            try:
                found = bytes(self._bucket.get(key).bytes())
            finally:
                self._remove(key)
        check_probe(self.uri, found)

    def _key(self, path: str) -> str:
        return f"{self.uri.path}/{path}" if self.uri.path else path

    def _remove(self, key: str) -> None:
        """Delete one object; who may not, may publish all the same."""
        try:
            self._bucket.delete(key)
        except Exception as error:
            known = self._translate(error, Reason.STORE_UNAVAILABLE)
            _log.warning("the probe's object stays", extra=fields(key=key, detail=known.message))

    @cached_property
    def _bucket(self) -> Any:
        from obstore.store import S3Store  # only who talks to a bucket pays for it

        given = self._credentials
        client: dict[str, Any] = {
            "connect_timeout": f"{CONNECT_TIMEOUT_SECONDS}s",
            "read_timeout": f"{READ_TIMEOUT_SECONDS}s",
            "timeout": f"{REQUEST_TIMEOUT_SECONDS}s",
        }
        retries = {"max_retries": ATTEMPTS - 1, "retry_timeout": timedelta(seconds=REQUEST_TIMEOUT_SECONDS)}
        config: dict[str, Any] = {}
        if given is not None:
            config = {"access_key_id": given.access_key, "secret_access_key": given.secret_key}
            config |= {"token": given.token, "region": given.region, "endpoint": given.endpoint}
            if given.authority is not None:
                client["root_certificate"] = given.authority.read_bytes()
            if given.endpoint:
                # Stores other than AWS's: many know no virtual-hosted buckets.
                config["virtual_hosted_style_request"] = False
                client["allow_http"] = True
        known = {key: value for key, value in config.items() if value is not None}
        with self._failures(Reason.STORE_UNAVAILABLE):
            return S3Store(self.uri.root, **known, client_options=client, retry_config=retries)

    @contextmanager
    def _failures(self, missing: Reason, path: str = "") -> Iterator[None]:
        try:
            yield
        except FactoryError:
            raise
        except Exception as error:
            raise self._translate(error, missing, path) from error

    def _translate(self, error: Exception, missing: Reason, path: str = "") -> FactoryError:
        code, words = _code_and_words(error)
        name = type(error).__name__
        hint = "check the secret's keys and what they may do in the bucket"
        if code in ("RequestTimeTooSkewed", "RequestExpired"):
            hint = "check the clocks of the node and the store"
        if path and (name == "PreconditionError" or code == "InvalidRange"):
            return changed(self.uri, path)
        if code in _FULL_CODES:
            message = f"{self.uri}: the store is full ({words}): make room or raise the quota"
            return FactoryError(Reason.STORE_FULL, message)
        if name in ("PermissionDeniedError", "UnauthenticatedError", "PermissionError") or code in _DENIED_CODES:
            return FactoryError(Reason.ACCESS_DENIED, f"{self.uri}: access denied ({words}): {hint}")
        if isinstance(error, FileNotFoundError) or code in ("NoSuchBucket", "NoSuchKey", "404"):
            hint = f"check bucket {self.uri.root} and the prefix"
            return FactoryError(missing, f"{self.uri}: not found ({words}): {hint}")
        place = self._credentials.endpoint if self._credentials and self._credentials.endpoint else "its endpoint"
        if "CaUsedAsEndEntity" in str(error):
            message = (
                f"{self.uri}: TLS: the certificate of {place} is a CA's own: make the server one that is signed by it, "
                f"and put the CA's into the secret under the key {AUTHORITY_KEYS[0]}"
            )
            return FactoryError(Reason.STORE_UNAVAILABLE, message)
        if "InvalidCertificate" in str(error):
            message = (
                f"{self.uri}: TLS: the certificate of {place} is of a CA that is not known here ({words}): put the "
                f"CA's certificate into the secret under the key {AUTHORITY_KEYS[0]}"
            )
            return FactoryError(Reason.STORE_UNAVAILABLE, message)
        return FactoryError(Reason.STORE_UNAVAILABLE, f"{self.uri}: {place} does not answer as it should: {words}")


_STATUS = re.compile(r"status code: (\d{3}[^:\n]*)")
_ELEMENT = r"<{0}>(.*?)</{0}>"


def _code_and_words(error: Exception) -> tuple[str, str]:
    """The store's error code, or the HTTP status, and its words; they are in the text only, with much beside them."""
    text = str(error) or type(error).__name__
    code = re.search(_ELEMENT.format("Code"), text, re.DOTALL)
    message = re.search(_ELEMENT.format("Message"), text, re.DOTALL)
    if code is not None:
        return code[1], f"{code[1]}: {message[1]}" if message else code[1]
    if (status := _STATUS.search(text)) is not None:
        return status[1][:3], f"HTTP {status[1].strip()}"
    inner = re.findall(r'message: "(.*?)"', text)
    return "", f"{text.partition(chr(10))[0]}{f': {inner[-1]}' if inner else ''}"

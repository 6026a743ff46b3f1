"""Artifacts in an S3-compatible object store, through fsspec's s3fs.

Credentials come from the files of a mounted secret, read anew for each use so that a rotated secret takes effect.
Without a secret botocore's own chain applies (workload identity, environment). Objects appear one by one; that is why
readers compare the digest, and why publishing is only done when everything was read back.
"""

from __future__ import annotations

import logging
import ssl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

from aifactory_agent.artifacts.store import PROBE_BYTES, StoredFile, check_probe
from aifactory_agent.logs import fields
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import BOOKKEEPING, CHUNK, Manifest, check_path, is_part
from aifactory_contract.uri import ArtifactUri

_log = logging.getLogger(__name__)
CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 30
"""Without a byte for this long a request is tried again; a slow store that sends something is waited for."""
ATTEMPTS = 3

AUTHORITY_KEYS = ("ca.crt", "AWS_CA_BUNDLE")
"""Under which a secret has the certificate of a private CA: the first is what cert-manager writes."""
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


def read_credentials(secrets: Path, name: str) -> Credentials:
    """Read a mounted secret. Raises FactoryError (AccessDenied) if it or a key in it is missing or no good."""
    folder = secrets / name

    def value(key: str) -> str | None:
        try:
            return (folder / key).read_text().strip() or None
        except OSError:
            return None
        except UnicodeDecodeError as error:
            message = f"secret {name}: {key} is not text; write the key as it was given out"
            raise FactoryError(Reason.ACCESS_DENIED, message) from error

    access, secret = value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY")
    if access is None or secret is None:
        message = f"secret {name} needs the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (looked in {folder})"
        raise FactoryError(Reason.ACCESS_DENIED, message)
    token = value("AWS_SESSION_TOKEN")
    if token is None and access.startswith(_TEMPORARY):
        message = f"secret {name} has temporary keys ({_TEMPORARY}...) but not their AWS_SESSION_TOKEN; add that key"
        raise FactoryError(Reason.ACCESS_DENIED, message)
    authority = next((folder / key for key in AUTHORITY_KEYS if value(key) is not None), None)
    if authority is not None:
        _check_authority(name, authority)
    return Credentials(access, secret, value("AWS_ENDPOINT_URL"), value("AWS_REGION"), token, authority)


def _check_authority(secret: str, path: Path) -> None:
    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ValueError) as error:  # SSLError is an OSError
        message = f"secret {secret}: {path.name} is no certificate in PEM form ({error}); write the CA's certificate"
        raise FactoryError(Reason.ACCESS_DENIED, message) from error


class ObjectStore:
    """See `Store`."""

    def __init__(self, uri: ArtifactUri, credentials: Credentials | None) -> None:
        self.uri = uri
        self._credentials = credentials
        self._prefix = f"{uri.root}/{uri.path}".rstrip("/")

    def files(self) -> list[StoredFile]:
        with self._failures(Reason.SOURCE_NOT_FOUND):
            listing = self._filesystem.find(self._prefix, detail=True)
        found = []
        for key, info in sorted(listing.items()):
            path, size = key.removeprefix(f"{self._prefix}/"), int(info["size"] or 0)
            # Consoles and mounts mark a folder by an empty object whose key ends in "/". It is none of the files; one
            # with contents is no marker, and the check of the path refuses it.
            marker = key.endswith("/") and size == 0
            if key != self._prefix and info["type"] == "file" and is_part(path) and not marker:
                found.append(StoredFile(check_path(path), size))
        if not found:
            raise FactoryError(Reason.SOURCE_NOT_FOUND, f"nothing at {self.uri}: no object has that prefix")
        return found

    def open(self, path: str) -> BinaryIO:
        with self._failures(Reason.SOURCE_NOT_FOUND):
            stream = self._filesystem.open(f"{self._prefix}/{path}", "rb", block_size=CHUNK, cache_type="readahead")
        return cast(BinaryIO, _Translated(stream, self))

    def create(self, source: Path, manifest: Manifest) -> None:
        with self._failures(Reason.STORE_UNAVAILABLE):
            present = {key: info["size"] for key, info in self._filesystem.find(self._prefix, detail=True).items()}
        for entry in manifest.files:
            key = f"{self._prefix}/{entry.path}"
            # What an earlier, interrupted try has put there stays; the read-back will tell if it is wrong.
            if present.get(key) != entry.size:
                with self._failures(Reason.STORE_UNAVAILABLE):
                    self._filesystem.put_file(str(source / entry.path), key)

    def probe(self) -> None:
        key = f"{self._prefix}/{BOOKKEEPING}/probe-{uuid.uuid4().hex}"
        with self._failures(Reason.STORE_UNAVAILABLE):
            self._filesystem.find(key)  # who publishes lists too
            self._filesystem.pipe_file(key, PROBE_BYTES)
            try:
                found = self._filesystem.cat_file(key)
            finally:
                self._remove(key)
        check_probe(self.uri, found)

    def _remove(self, key: str) -> None:
        """Delete one object; who may not, may publish all the same."""
        try:
            self._filesystem.rm_file(key)
        except Exception as error:
            known = self._translate(error, Reason.STORE_UNAVAILABLE)
            _log.warning("the probe's object stays", extra=fields(key=key, detail=known.message))

    @cached_property
    def _filesystem(self) -> Any:
        import s3fs  # 0.4 s: only who talks to a bucket pays for it

        given = self._credentials
        config: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "read_timeout": READ_TIMEOUT_SECONDS,
            "retries": {"max_attempts": ATTEMPTS, "mode": "standard"},
        }
        arguments: dict[str, Any] = {}
        if given is not None:
            arguments = {"key": given.access_key, "secret": given.secret_key, "endpoint_url": given.endpoint}
            arguments["token"] = given.token
            client = {"region_name": given.region, "verify": given.authority and str(given.authority)}
            arguments["client_kwargs"] = {key: value for key, value in client.items() if value}
            if given.endpoint:
                # Stores other than AWS's: many know no virtual-hosted buckets and not the newer checksum headers.
                config["s3"] = {"addressing_style": "path"}
                config["request_checksum_calculation"] = "when_required"
                config["response_checksum_validation"] = "when_required"
        return s3fs.S3FileSystem(**arguments, config_kwargs=config, use_listings_cache=False, skip_instance_cache=True)

    @contextmanager
    def _failures(self, missing: Reason) -> Iterator[None]:
        try:
            yield
        except FactoryError:
            raise
        except Exception as error:
            raise self._translate(error, missing) from error

    def _translate(self, error: Exception, missing: Reason) -> FactoryError:
        code, words = _code(error), str(error) or type(error).__name__
        hint = "check the secret's keys and what they may do in the bucket"
        if code in ("RequestTimeTooSkewed", "RequestExpired"):
            hint = "check the clocks of the node and the store"
        if code in _FULL_CODES:
            return FactoryError(
                Reason.STORE_FULL, f"{self.uri}: the store is full ({words}): make room or raise the quota"
            )
        if isinstance(error, PermissionError) or code in _DENIED_CODES or "Credentials" in type(error).__name__:
            return FactoryError(Reason.ACCESS_DENIED, f"{self.uri}: access denied ({words}): {hint}")
        if isinstance(error, FileNotFoundError):
            hint = f"check bucket {self.uri.root} and the prefix"
            return FactoryError(missing, f"{self.uri}: not found ({words}): {hint}")
        place = self._credentials.endpoint if self._credentials and self._credentials.endpoint else "its endpoint"
        if "CERTIFICATE_VERIFY_FAILED" in words:
            message = (
                f"{self.uri}: TLS: the certificate of {place} is of a CA that is not known here ({words}): put the "
                f"CA's certificate into the secret under the key {AUTHORITY_KEYS[0]}"
            )
            return FactoryError(Reason.STORE_UNAVAILABLE, message)
        return FactoryError(Reason.STORE_UNAVAILABLE, f"{self.uri}: {place} does not answer as it should: {words}")


class _Translated:
    """A stream whose failures are FactoryErrors too: with an object store most of them come while reading."""

    def __init__(self, stream: Any, store: ObjectStore) -> None:
        self._stream = stream
        self._store = store

    def read(self, size: int = -1) -> bytes:
        with self._store._failures(Reason.SOURCE_NOT_FOUND):
            return cast(bytes, self._stream.read(size))

    def seek(self, offset: int, whence: int = 0) -> int:
        return cast(int, self._stream.seek(offset, whence))

    def tell(self) -> int:
        return cast(int, self._stream.tell())

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> _Translated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _code(error: BaseException | None) -> str:
    """The S3 error code in an exception or in what caused it."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""

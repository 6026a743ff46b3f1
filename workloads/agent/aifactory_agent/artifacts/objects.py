"""Artifacts in buckets: objects below a prefix. How a bucket is reached is in `buckets`.

Credentials come from the files of a mounted secret, read anew for each use so that a rotated secret takes effect.
Objects appear one by one; that is why readers compare the digest, and why publishing is only done when everything was
read back.
"""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from aifactory_agent.artifacts.buckets import ATTEMPTS, Access, open_bucket
from aifactory_agent.artifacts.secret import AUTHORITY_KEYS
from aifactory_agent.artifacts.store import PROBE_BYTES, StoredFile, changed, check_probe
from aifactory_agent.logs import fields
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import BOOKKEEPING, Manifest, check_path, is_part
from aifactory_contract.uri import ArtifactUri

_log = logging.getLogger(__name__)
_FULL_CODES = frozenset({"QuotaExceeded", "InsufficientStorage", "StorageFull", "XMinioStorageFull", "507"})
_MISSING_CODES = frozenset({"404", "NoSuchBucket", "NoSuchKey", "ContainerNotFound", "BlobNotFound"})
_DENIED_CODES = frozenset(
    {
        "401",
        "403",
        "AccessDenied",
        "AccountIsDisabled",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthenticationFailed",
        "AuthorizationFailure",
        "AuthorizationHeaderMalformed",
        "AuthorizationPermissionMismatch",
        "CredentialsNotSupported",
        "ExpiredToken",
        "ExpiredTokenException",
        "InsufficientAccountPermissions",
        "InvalidAccessKeyId",
        "InvalidAuthenticationInfo",
        "InvalidClientTokenId",
        "InvalidIdentityToken",
        "InvalidSecurity",
        "InvalidToken",
        "KeyBasedAuthenticationNotPermitted",
        "NoAuthenticationInformation",
        "NotSignedUp",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
"""With which S3, STS and Azure refuse who asks, some of them with status 400 (their API references, "Error responses",
"Common REST API error codes")."""


class ObjectStore:
    """See `Store`."""

    def __init__(self, uri: ArtifactUri, access: Access) -> None:
        self.uri = uri
        self._access = access

    def files(self) -> list[StoredFile]:
        prefix = f"{self.uri.path}/" if self.uri.path else ""
        with self._failures(Reason.SOURCE_NOT_FOUND):
            listing = [item for chunk in self._bucket.list(prefix) for item in chunk]
        found = []
        for item in sorted(listing, key=lambda item: str(item["path"])):
            key, size = str(item["path"]), int(item["size"])
            path = key.removeprefix(prefix)
            if key.startswith(prefix) and path and is_part(path) and not (size == 0 and self._is_marker(key)):
                found.append(StoredFile(check_path(path), size, self._pin(str(item["e_tag"] or ""))))
        if not found:
            raise FactoryError(Reason.SOURCE_NOT_FOUND, f"nothing at {self.uri}: no object has that prefix")
        return found

    def _pin(self, tag: str) -> str:
        """An ETag as headers have it; some listings leave the quotes away."""
        return f'"{tag}"' if self.uri.scheme != "s3" and tag and not tag.startswith('"') else tag

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
                    got = self._bucket.get(self._key(file.path), options=options)
                    if "if_match" in options and _bare(got.meta["e_tag"]) not in ("", _bare(file.pin)):
                        raise changed(self.uri, file.path)  # a server that does not know If-Match
                    return memoryview(got.bytes())
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
        with self._failures(Reason.STORE_UNAVAILABLE):
            return open_bucket(self.uri, self._access)

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
        if isinstance(error, FileNotFoundError) or code in _MISSING_CODES:
            hint = f"check bucket {self.uri.root} and the prefix"
            return FactoryError(missing, f"{self.uri}: not found ({words}): {hint}")
        place = self._access.endpoint or "its endpoint"
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


def _bare(tag: str | None) -> str:
    return (tag or "").strip('"')


_STATUS = re.compile(r"status code: (\d{3}[^:\n]*)")
_ELEMENT = r"<{0}>(.*?)</{0}>"


def _code_and_words(error: Exception) -> tuple[str, str]:
    """The store's error code, or the HTTP status, and its words; they are in the text only, with much beside them."""
    text = str(error) or type(error).__name__
    code = re.search(_ELEMENT.format("Code"), text, re.DOTALL)
    message = re.search(_ELEMENT.format("Message"), text, re.DOTALL)
    if code is not None:
        words = " ".join(message[1].split()) if message else ""
        return code[1], f"{code[1]}: {words}" if words else code[1]
    if (status := _STATUS.search(text)) is not None:
        return status[1][:3], f"HTTP {status[1].strip()}"
    inner = re.findall(r'message: "(.*?)"', text)
    return "", f"{text.partition(chr(10))[0]}{f': {inner[-1]}' if inner else ''}"

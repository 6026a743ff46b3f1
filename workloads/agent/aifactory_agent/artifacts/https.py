"""Artifacts on a web server: one file, or a directory that a file SHA256SUMS lists as sha256sum writes it.

A web server lists nothing by itself; SHA256SUMS is how distributors of large files do it, and it brings digests, but no
sizes: those are told by the first request for each file, whose bytes are kept where it is a small one.
"""

from __future__ import annotations

import base64
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, unquote

from aifactory_agent.artifacts.reading import PIECE, THREADS
from aifactory_agent.artifacts.secret import Secret
from aifactory_agent.artifacts.store import Data, StoredFile
from aifactory_agent.artifacts.web import Refused, Web, without_ranges
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import check_path
from aifactory_contract.uri import ArtifactUri

SUMS = "SHA256SUMS"
_SMALL_BYTES = 256 * 1024
"""Files up to this size cost one request instead of two."""
_KEPT_BYTES = 64 * 1024 * 1024
"""Of all small files together; of those behind them the first byte alone is asked for."""
_MAX_SUMS_BYTES = 16 * 1024 * 1024
_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")
_KEYS = ("token", "username", "password")


class HttpsSource:
    """See `Source`."""

    def __init__(self, uri: ArtifactUri, secret: Secret | None) -> None:
        self.uri = uri
        self._web = Web(uri, secret.authority() if secret else None)
        self._has_secret = False
        if secret is not None and (credential := _credential(secret)) is not None:
            self._web.authorize(str(uri), credential)
            self._has_secret = True
        self._kept: dict[str, bytes] = {}
        self._room = _KEPT_BYTES
        self._room_lock = threading.Lock()
        self._base = str(uri) if str(uri).endswith("/") else str(uri).rpartition("/")[0] + "/"

    def files(self) -> list[StoredFile]:
        if not str(self.uri).endswith("/"):
            name = unquote(self.uri.path.rpartition("/")[2])
            return [self._listed(check_path(name), "")]
        url = f"{self._base}{SUMS}"
        try:
            text = self._web.get(url, _MAX_SUMS_BYTES).body.decode(errors="replace")
        except Refused as refused:
            if refused.answer.status == 404:
                message = (
                    f"{self.uri}: there is no {SUMS} that says which files the directory has: write one there with "
                    f"sha256sum, or name a single file without a slash at the end"
                )
                raise FactoryError(Reason.SOURCE_NOT_FOUND, message) from refused
            raise self._explained(refused, SUMS) from refused
        sums = dict(self._sums(text))
        with ThreadPoolExecutor(THREADS, "size") as pool:
            return list(pool.map(lambda path: self._listed(path, sums[path]), sorted(sums)))

    def read(self, file: StoredFile, start: int, end: int, stop: threading.Event) -> Data:
        if (kept := self._kept.pop(file.path, None)) is not None and len(kept) == file.size:
            return kept[start:end]
        try:
            return self._web.read(self._url(file.path), file, start, end, stop, file.pin)
        except Refused as refused:
            raise self._explained(refused, file.path) from refused

    def _sums(self, text: str) -> list[tuple[str, str]]:
        found = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                message = f"{self.uri}: line {number} of {SUMS} is no `<sha256>  <path>`: write it with sha256sum"
                raise FactoryError(Reason.INVALID_ARTIFACT, message)
            if match[2] != SUMS:
                found.append((check_path(match[2]), match[1]))
        if not found:
            raise FactoryError(Reason.SOURCE_NOT_FOUND, f"{self.uri}: {SUMS} lists no files")
        return found

    def _listed(self, path: str, sha256: str) -> StoredFile:
        most = self._promised(min(_SMALL_BYTES, PIECE))
        try:
            found = self._web.begin(self._url(path), most or 1)
        except Refused as refused:
            raise self._explained(refused, path) from refused
        size, pin = found.size, found.pin
        if found.content is not None:
            self._kept[path] = found.content
        self._promised(len(found.content or b"") - most)
        if size > PIECE and not found.in_parts:
            raise FactoryError(Reason.INVALID_ARTIFACT, without_ranges(self.uri, f"https://{self.uri.root}"))
        if size > PIECE and not pin and not sha256:
            message = (
                f"{self.uri}: its server sends neither ETag nor Last-Modified, so that a change while {path} is read "
                f"would not be seen; put a {SUMS} beside it and name the directory"
            )
            raise FactoryError(Reason.INVALID_ARTIFACT, message)
        return StoredFile(path, size, pin, sha256)

    def _promised(self, size: int) -> int:
        """Room for the bytes of a small file, as far as there is any; a negative size gives some back."""
        with self._room_lock:
            given = size if size <= self._room else 0
            self._room -= given
            return given

    def _url(self, path: str) -> str:
        if str(self.uri).endswith("/"):
            return self._base + quote(path)
        return str(self.uri)

    def _explained(self, refused: Refused, path: str) -> FactoryError:
        status = refused.answer.status
        if status in (401, 403, 407):
            hint = "check the secret's keys" if self._has_secret else f"give a secret with {' or '.join(_KEYS)}"
            message = f"{self.uri}: access to {path} is denied (HTTP {status}): {hint}"
            return FactoryError(Reason.ACCESS_DENIED, message)
        if status in (404, 410):
            return FactoryError(
                Reason.SOURCE_NOT_FOUND, f"{self.uri}: {path} is not there (HTTP {status}): correct it or the URI"
            )
        return FactoryError(Reason.STORE_UNAVAILABLE, f"{self.uri}: its server answers HTTP {status} for {path}")


def basic(username: str, password: str) -> str:
    """Value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _credential(secret: Secret) -> str | None:
    if (token := secret.value("token")) is not None:
        return f"Bearer {token}"
    username, password = secret.value("username"), secret.value("password")
    if username is not None and password is not None:
        return basic(username, password)
    if secret.authority() is None:
        message = f"secret {secret.name} needs the key token, or username and password (looked in {secret.folder})"
        raise FactoryError(Reason.ACCESS_DENIED, message)
    return None

"""Artifacts in a repository of the Hugging Face hub, of a mirror of it, or of one's own that speaks as it does.

A revision is resolved to its commit once, and everything is asked for by the commit: files of two commits are never
mixed. Large files (LFS, Xet) are listed with their SHA-256, which is checked while they are read. They come from
another host by a signed URL that is good for a while; it is asked for once a file, not once a range.

Files and folders whose names begin with a dot (.gitattributes, .cache) are tools' and not the model's: left out.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import quote, urljoin

from aifactory_agent.artifacts.reading import PIECE
from aifactory_agent.artifacts.secret import Secret
from aifactory_agent.artifacts.store import StoredFile
from aifactory_agent.artifacts.web import Answer, Refused, Web, check_endpoint
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import check_path
from aifactory_contract.uri import ArtifactUri

TOKEN, ENDPOINT = "HF_TOKEN", "HF_ENDPOINT"
"""Keys of a secret, and variables of the environment: those of huggingface_hub."""
DEFAULT_ENDPOINT = "https://huggingface.co"
_MAX_PAGE_BYTES = 16 * 1024 * 1024
_MAX_PAGES = 1000
"""Of a listing; the hub puts 1,000 files on one."""
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')
T = TypeVar("T", dict[str, Any], list[Any])


class HubSource:
    """See `Source`."""

    def __init__(self, uri: ArtifactUri, secret: Secret | None) -> None:
        self.uri = uri
        self._secret = secret
        token = secret.value(TOKEN) if secret else None
        given = secret.value(ENDPOINT) if secret else None
        authority = secret.authority() if secret else None
        if secret is not None and token is None and given is None and authority is None:
            message = f"secret {secret.name} needs the key {TOKEN} or {ENDPOINT} (looked in {secret.folder})"
            raise FactoryError(Reason.ACCESS_DENIED, message)
        self._endpoint = (given or os.environ.get(ENDPOINT) or DEFAULT_ENDPOINT).rstrip("/")
        check_endpoint(uri, f"{ENDPOINT} in its secret" if given else f"{ENDPOINT} of the pod", self._endpoint)
        self._page = f"{self._endpoint}/{uri.root}"
        kind = "" if uri.root.startswith("datasets/") else "models/"
        self._api = f"{self._endpoint}/api/{kind}{uri.root}"
        self._revision = uri.revision or "main"
        self._web = Web(uri, authority)
        self._token = token is not None
        if token is not None:
            self._web.authorize(self._endpoint, f"Bearer {token}")
        self._places: dict[str, str] = {}
        """Where the bytes of a file really are, by its path."""

    def files(self) -> list[StoredFile]:
        prefix = f"{self.uri.path}/" if self.uri.path else ""
        try:
            wanted = [file for entry in self._tree() if (file := self._listed(entry, prefix)) is not None]
        except (KeyError, TypeError, AttributeError) as error:
            raise self._no_hub(error) from error
        if not wanted:
            where = f"below {self.uri.path} " if self.uri.path else ""
            message = f"{self.uri}: the repository has no files {where}at revision {self._revision}; correct the URI"
            raise FactoryError(Reason.SOURCE_NOT_FOUND, message)
        return sorted(wanted, key=lambda file: file.path)

    def read(self, file: StoredFile, start: int, end: int, stop: threading.Event) -> bytearray:
        known = self._places.get(file.path)
        try:
            if known is not None:
                return self._web.read(known, file, start, end, stop)
        except Refused:  # the signed URL is good no longer
            self._places.pop(file.path, None)
        try:
            place = self._url(file.path)
            if file.size > PIECE:
                place = self._places[file.path] = self._place(place)
            return self._web.read(place, file, start, end, stop)
        except Refused as refused:
            raise self._explained(refused.answer) from refused

    def _place(self, url: str) -> str:
        """Where the bytes of a file are: in the repository, or where it redirects to."""
        answer = self._web.get(url, 0, {"Range": "bytes=0-0"}, method="HEAD", follow=False)
        return self._web.redirected(answer)

    def _listed(self, entry: dict[str, Any], prefix: str) -> StoredFile | None:
        full = str(entry["path"])
        path = full.removeprefix(prefix)
        hidden = any(part.startswith(".") for part in path.split("/"))
        if entry["type"] != "file" or not full.startswith(prefix) or hidden:
            return None
        check_path(path)
        lfs = entry.get("lfs") or {}
        sha256, size = str(lfs.get("oid", "")).removeprefix("sha256:"), lfs.get("size", entry["size"])
        if not isinstance(size, int) or size < 0:
            raise TypeError(f"size {size!r}")
        return StoredFile(path, size, sha256 or str(entry["oid"]), sha256)

    def _tree(self) -> Iterator[dict[str, Any]]:
        """What is in the repository, page by page."""
        url = f"{self._api}/tree/{self._commit}?recursive=true"
        if self.uri.path:
            url = f"{self._api}/tree/{self._commit}/{quote(self.uri.path)}?recursive=true"
        for _ in range(_MAX_PAGES):
            answer = self._ask(url)
            yield from self._parsed(answer, list)
            following = _NEXT.search(answer.headers.get("Link", ""))
            if following is None:
                return
            url = urljoin(url, following[1])
        message = f"{self.uri}: the repository has more files than {_MAX_PAGES} pages list; name a folder of it"
        raise FactoryError(Reason.INVALID_ARTIFACT, message)

    def _url(self, path: str) -> str:
        full = f"{self.uri.path}/{path}" if self.uri.path else path
        return f"{self._page}/resolve/{self._commit}/{quote(full)}"

    @cached_property
    def _commit(self) -> str:
        """The commit that the revision stands for now."""
        found = self._parsed(self._ask(f"{self._api}/revision/{quote(self._revision, safe='')}"), dict)
        return str(found["sha"])

    def _ask(self, url: str) -> Answer:
        try:
            return self._web.get(url, _MAX_PAGE_BYTES)
        except Refused as refused:
            raise self._explained(refused.answer) from refused

    def _parsed(self, answer: Answer, kind: type[T]) -> T:
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise self._no_hub(error) from error
        if not isinstance(found, kind):
            raise self._no_hub(TypeError(f"no {kind.__name__}"))
        return found

    def _no_hub(self, error: Exception) -> FactoryError:
        message = f"{self.uri}: {self._endpoint} does not answer as a hub does ({error!r}); correct {ENDPOINT}"
        return FactoryError(Reason.STORE_UNAVAILABLE, message)

    def _explained(self, answer: Answer) -> FactoryError:
        """What the hub means (huggingface_hub, utils/_http.py, hf_raise_for_status): codes before statuses."""
        code, status = answer.headers.get("X-Error-Code", ""), answer.status
        words = answer.headers.get("X-Error-Message", "")
        said = f" ({words})" if words else ""
        secret = f"secret {self._secret.name}" if self._secret else "a secret"
        if code == "GatedRepo":
            has = (
                f"have {TOKEN} in {secret} be of an account that was let in"
                if self._token
                else f"give {TOKEN} in {secret}"
            )
            message = f"{self.uri}: the repository is gated{said}: accept its terms at {self._page} and {has}"
            return FactoryError(Reason.ACCESS_DENIED, message)
        if code == "RevisionNotFound":
            message = f"{self.uri}: the repository has no revision {self._revision}: name a branch, a tag or a commit"
            return FactoryError(Reason.SOURCE_NOT_FOUND, message)
        if code == "EntryNotFound":
            return FactoryError(
                Reason.SOURCE_NOT_FOUND, f"{self.uri}: a file or folder of it is not there{said}: correct the URI"
            )
        if (status in (401, 404) and not self._token) or code == "RepoNotFound" or status == 404:
            way = "check the name" if self._token else f"check the name, or, if it is private, give {TOKEN} in {secret}"
            message = f"{self.uri}: {self._endpoint} has no such repository or shows it to nobody unknown: {way}"
            return FactoryError(Reason.SOURCE_NOT_FOUND, message)
        if status in (401, 403):
            message = f"{self.uri}: access denied (HTTP {status}){said}: check {TOKEN} in {secret} and what it may read"
            return FactoryError(Reason.ACCESS_DENIED, message)
        return FactoryError(Reason.STORE_UNAVAILABLE, f"{self.uri}: {self._endpoint} answers HTTP {status}{said}")

"""Artifacts in an OCI registry: a manifest whose layers are the files, as `oras push` and CNCF ModelPack write it.

A tag is resolved to the manifest's digest once. The manifest names each file's SHA-256, which is checked while it is
read, so that neither registry nor tag can put other bytes in. Layers that are archives are not unpacked.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from functools import cached_property
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode, urlsplit

from aifactory_agent.artifacts.https import basic
from aifactory_agent.artifacts.secret import Secret
from aifactory_agent.artifacts.store import StoredFile
from aifactory_agent.artifacts.web import Answer, Refused, Web
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import check_digest, check_path
from aifactory_contract.uri import ArtifactUri

_MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_PATH_KEYS = ("org.opencontainers.image.title", "org.cncf.model.filepath")
"""Annotations of a layer that name its file (ORAS, "Artifact format"; CNCF ModelPack, "Annotations")."""
_ORAS_MEDIA = "application/vnd.oci.image.layer.v1.tar"
"""What `oras push` calls any file, whatever it is, unless it is told another type."""
_UNPACK_KEY = "io.deis.oras.content.unpack"
"""With which `oras push` marks a directory that it has made an archive of."""
_ARCHIVE = re.compile(r"[.+](tar|tgz)(\b|$)|\bdiff\.tar")
_MAX_MANIFEST_BYTES = 4 * 1024 * 1024
"""As large as registries take one (OCI distribution specification, "Pushing manifests")."""
_MAX_TOKEN_BYTES = 64 * 1024
_DOCKER_CONFIG = ".dockerconfigjson"
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class OciSource:
    """See `Source`."""

    def __init__(self, uri: ArtifactUri, secret: Secret | None) -> None:
        self.uri = uri
        self._secret = secret
        self._registry, _, self._repository = uri.root.partition("/")
        self._api = f"https://{self._registry}/v2/{self._repository}"
        self._web = Web(uri, secret.authority() if secret else None)
        self._login = _login(secret, self._registry) if secret else None
        self._authorizing = threading.Lock()

    def files(self) -> list[StoredFile]:
        layers = self._manifest.get("layers")
        if not isinstance(layers, list) or not layers:
            message = f"{self.uri}: the manifest has no layers, so there are no files; push the files with `oras push`"
            raise FactoryError(Reason.SOURCE_NOT_FOUND, message)
        files = sorted((self._listed(layer) for layer in layers), key=lambda file: file.path)
        for one, next_one in pairwise(files):
            if one.path == next_one.path:
                message = f"{self.uri}: two layers are called {one.path}; push each file under a name of its own"
                raise FactoryError(Reason.INVALID_ARTIFACT, message)
        return files

    def read(self, file: StoredFile, start: int, end: int, stop: threading.Event) -> bytearray:
        url = f"{self._api}/blobs/sha256:{file.sha256}"
        try:
            return self._web.read(url, file, start, end, stop)
        except Refused as refused:
            self._authorize(refused.answer)  # tokens are good for some minutes only
        try:
            return self._web.read(url, file, start, end, stop)
        except Refused as refused:
            raise self._explained(refused.answer) from refused

    def _listed(self, layer: Any) -> StoredFile:
        try:
            annotations = layer.get("annotations") or {}
            media, digest, size = str(layer["mediaType"]), str(layer["digest"]), layer["size"]
            if not isinstance(size, int) or size < 0:
                raise TypeError(f"size {size!r}")
            name = next((str(annotations[key]) for key in _PATH_KEYS if annotations.get(key)), None)
        except (AttributeError, KeyError, TypeError) as error:
            raise FactoryError(Reason.INVALID_ARTIFACT, f"{self.uri}: its manifest is none: {error!r}") from error
        packed = _ARCHIVE.search(media) and not (media == _ORAS_MEDIA and annotations.get(_PATH_KEYS[0]))
        if name is None or packed or annotations.get(_UNPACK_KEY) == "true":
            what = name or digest
            message = (
                f"{self.uri}: layer {what} ({media}) is an archive or has no file name: archives are not unpacked; "
                "push the files one by one: oras push <repository> config.json model.safetensors ..."
            )
            raise FactoryError(Reason.INVALID_ARTIFACT, message)
        sha256 = check_digest(digest).removeprefix("sha256:")
        return StoredFile(check_path(name), size, digest, sha256)

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        answer = self._ask(f"{self._api}/manifests/{self.uri.revision}")
        digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        stated = self.uri.revision if ":" in self.uri.revision else answer.headers.get("Docker-Content-Digest", digest)
        if digest != stated:
            message = f"{self.uri}: the registry gave a manifest with digest {digest} for {stated}: it is damaged there"
            raise FactoryError(Reason.DIGEST_MISMATCH, message)
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise FactoryError(Reason.INVALID_ARTIFACT, f"{self.uri}: its manifest is not JSON: {error}") from error
        if isinstance(found, dict) and isinstance(found.get("manifests"), list):
            message = f"{self.uri} is an index of several manifests; name the one that is wanted by its digest"
            raise FactoryError(Reason.INVALID_ARTIFACT, message)
        if not isinstance(found, dict):
            raise FactoryError(Reason.INVALID_ARTIFACT, f"{self.uri}: its manifest is no JSON object")
        return found

    def _ask(self, url: str) -> Answer:
        headers = {"Accept": ", ".join(_MANIFEST_TYPES)}
        try:
            return self._web.get(url, _MAX_MANIFEST_BYTES, headers)
        except Refused as refused:
            self._authorize(refused.answer)
        try:
            return self._web.get(url, _MAX_MANIFEST_BYTES, headers)
        except Refused as refused:
            raise self._explained(refused.answer) from refused

    def _authorize(self, answer: Answer) -> None:
        """Do what a 401 asks for (distribution, "Token authentication"). Raises FactoryError if it can not."""
        challenge = answer.headers.get("WWW-Authenticate", "")
        kind, _, rest = challenge.partition(" ")
        if answer.status != 401 or kind.lower() not in ("bearer", "basic"):
            raise self._explained(answer)
        with self._authorizing:
            if kind.lower() == "basic":
                if self._login is None:
                    raise self._explained(answer)
                self._web.authorize(self._api, self._login)
            else:
                self._web.authorize(self._api, f"Bearer {self._token(dict(_CHALLENGE.findall(rest)), answer)}")

    def _token(self, challenge: dict[str, str], answer: Answer) -> str:
        realm = challenge.get("realm", "")
        if urlsplit(realm).scheme != "https":
            message = f"{self.uri}: the registry sends for tokens to {realm!r}, not https://; correct its setting"
            raise FactoryError(Reason.INVALID_ARTIFACT, message)
        query = {"scope": challenge.get("scope", f"repository:{self._repository}:pull")}
        if "service" in challenge:
            query["service"] = challenge["service"]
        headers = {"Authorization": self._login} if self._login else {}
        try:
            body = self._web.get(f"{realm}?{urlencode(query)}", _MAX_TOKEN_BYTES, headers, follow=False).body
            found = json.loads(body)
            return str(found.get("token") or found["access_token"])
        except Refused as refused:
            raise self._explained(refused.answer) from refused
        except (ValueError, KeyError, AttributeError, RecursionError) as error:
            message = f"{self.uri}: {urlsplit(realm).netloc} gave no token ({error!r}); is it the registry's?"
            raise FactoryError(Reason.STORE_UNAVAILABLE, message) from error

    def _explained(self, answer: Answer) -> FactoryError:
        status, words = answer.status, _words(answer)
        said = f" ({words})" if words else ""
        if status in (401, 403):
            hint = "check the secret's user and password and what they may pull"
            if self._login is None:
                hint = "give a secret of type kubernetes.io/dockerconfigjson, or with username and password"
            return FactoryError(Reason.ACCESS_DENIED, f"{self.uri}: access denied (HTTP {status}){said}: {hint}")
        if status == 404:
            message = f"{self.uri}: the registry has no such repository, tag or file{said}: correct the URI"
            return FactoryError(Reason.SOURCE_NOT_FOUND, message)
        return FactoryError(Reason.STORE_UNAVAILABLE, f"{self.uri}: the registry answers HTTP {status}{said}")


def _words(answer: Answer) -> str:
    """What a registry says of an error (OCI distribution specification, "Error codes")."""
    try:
        first = json.loads(answer.body)["errors"][0]
        return f"{first['code']}: {first.get('message', '')}"[:200]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""


def _login(secret: Secret, registry: str) -> str | None:
    """Value of an Authorization header from a secret; None if it is there for its certificate alone."""
    username, password = secret.value("username"), secret.value("password")
    if username is not None and password is not None:
        return basic(username, password)
    if (text := secret.value(_DOCKER_CONFIG)) is not None:
        return _docker_login(secret, text, registry)
    if secret.authority() is not None:
        return None
    message = (
        f"secret {secret.name} needs the key {_DOCKER_CONFIG}, or username and password (looked in {secret.folder})"
    )
    raise FactoryError(Reason.ACCESS_DENIED, message)


def _docker_login(secret: Secret, text: str, registry: str) -> str:
    try:
        auths = json.loads(text)["auths"]
        for place, entry in auths.items():
            if place.removeprefix("https://").partition("/")[0] == registry:
                if entry.get("auth"):
                    return f"Basic {entry['auth']}"
                return basic(str(entry["username"]), str(entry["password"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"secret {secret.name}: {_DOCKER_CONFIG} is not what `kubectl create secret docker-registry` writes"
        raise FactoryError(Reason.ACCESS_DENIED, message) from error
    message = f"secret {secret.name}: {_DOCKER_CONFIG} has no login for {registry} (it has: {', '.join(auths)[:200]})"
    raise FactoryError(Reason.ACCESS_DENIED, message)

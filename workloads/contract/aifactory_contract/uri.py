"""Where artifacts live. One form a scheme:

    pvc://<claim>/<path>                                a directory in a claim of the namespace
    s3://<bucket>/<prefix>                              objects in a bucket
    gs://<bucket>/<prefix>                              the same in Google Cloud Storage
    az://<container>/<prefix>                           the same in Azure Blob Storage
    hf://[datasets/]<org>/<repo>[@<revision>][/<path>]  a repository of a hub, as huggingface_hub writes it
    https://<host>/<path>                               one file, or with a slash at the end what SHA256SUMS lists
    oci://<registry>/<repository>:<tag>                 files in a registry; also @sha256:<64 hex digits>

`pvc` and `s3` are stores: artifacts can be published there. The others are only read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, NoReturn, cast
from urllib.parse import unquote

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import check_path

Scheme = Literal["pvc", "s3", "gs", "az", "hf", "https", "oci"]

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
_FORMS: dict[str, re.Pattern[str]] = {
    "pvc": re.compile(r"(?P<root>[A-Za-z0-9][A-Za-z0-9.-]*)(?:/(?P<path>.*))?"),
    "s3": re.compile(r"(?P<root>[A-Za-z0-9][A-Za-z0-9.-]*)(?:/(?P<path>.*))?"),
    "gs": re.compile(r"(?P<root>[a-z0-9][a-z0-9._-]*)(?:/(?P<path>.*))?"),
    "az": re.compile(r"(?P<root>[a-z0-9][a-z0-9-]*)(?:/(?P<path>.*))?"),
    # A slash in a revision is written %2F (refs%2Fpr%2F1), as everywhere in this notation.
    "hf": re.compile(rf"(?P<root>(?:datasets/)?{_NAME}/{_NAME})(?:@(?P<revision>[A-Za-z0-9._%-]+))?(?:/(?P<path>.*))?"),
    "https": re.compile(rf"(?P<root>{_HOST})/(?P<path>[^?#]*)"),
    "oci": re.compile(
        rf"(?P<root>{_HOST}/[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
        r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})|@(?P<digest>sha256:[0-9a-f]{64}))"
    ),
}
_FORM_WORDS = {
    "pvc": "pvc://<claim>/<path>",
    "s3": "s3://<bucket>/<prefix>",
    "gs": "gs://<bucket>/<prefix>",
    "az": "az://<container>/<prefix>, with the storage account in a secret",
    "hf": "hf://<org>/<repo>@<revision> or hf://datasets/<org>/<repo>@<revision>",
    "https": "https://<host>/<path>, without user, query or fragment (a token belongs into a secret)",
    "oci": "oci://<registry>/<repository>:<tag> or oci://<registry>/<repository>@sha256:<64 hex digits>",
}


@dataclass(frozen=True)
class ArtifactUri:
    """A parsed URI.

    `root` is what is asked for the artifact: a claim, a bucket, a repository, a host. `path` is what is wanted in it;
    it has no slash in front and only with https one at its end, and may be empty. `revision` is a hub's revision, a
    registry's tag, or a digest.
    """

    scheme: Scheme
    root: str
    path: str
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> ArtifactUri:
        """Raises FactoryError (InvalidArtifact) for other schemes and unsafe paths."""
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in _FORMS:
            _refuse(text, "it begins with none of pvc://, s3://, gs://, az://, hf://, https:// and oci://")
        match = _FORMS[scheme].fullmatch(rest)
        if match is None:
            _refuse(text, f"write {_FORM_WORDS[scheme]}")
        found = match.groupdict()
        path = found.get("path") or ""
        if scheme == "https":
            _check_https(text, path)
        else:
            path = path.strip("/")
            if path:
                check_path(path)
        revision = found.get("revision") or found.get("digest") or found.get("tag") or ""
        return cls(cast(Scheme, scheme), found["root"], path, unquote(revision))

    def child(self, *parts: str) -> ArtifactUri:
        """The URI of something below."""
        path = "/".join([*([self.path] if self.path else []), *parts])
        return replace(self, path=check_path(path))

    def __str__(self) -> str:
        if self.scheme == "https":
            return f"https://{self.root}/{self.path}"
        revision = self.revision
        if self.scheme == "oci":
            revision = f"@{revision}" if ":" in revision else f":{revision}"
        elif revision:
            revision = "@" + revision.replace("/", "%2F")
        return f"{self.scheme}://{self.root}{revision}/{self.path}".rstrip("/")


def _check_https(text: str, path: str) -> None:
    """Each name in it becomes a file's or a folder's; percent signs must not hide what `check_path` refuses."""
    plain = unquote(path).removesuffix("/")
    if plain:
        check_path(plain)
    elif path:
        _refuse(text, "it names no file and no directory")


def _refuse(text: str, why: str) -> NoReturn:
    raise FactoryError(Reason.INVALID_ARTIFACT, f"{text[:200]!r} is no artifact URI: {why}")

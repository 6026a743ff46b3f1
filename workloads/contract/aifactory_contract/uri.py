"""Where artifacts live: `pvc://<claim>/<path>` and `s3://<bucket>/<prefix>`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, cast

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import check_path

Scheme = Literal["pvc", "s3"]
_FORM = re.compile(r"(pvc|s3)://([A-Za-z0-9][A-Za-z0-9.-]*)(?:/(.*))?")


@dataclass(frozen=True)
class ArtifactUri:
    """A parsed URI. `root` is the claim or the bucket, `path` has no leading or trailing slash and may be empty."""

    scheme: Scheme
    root: str
    path: str

    @classmethod
    def parse(cls, text: str) -> ArtifactUri:
        """Raises FactoryError (InvalidArtifact) for other schemes and unsafe paths."""
        match = _FORM.fullmatch(text)
        if match is None:
            message = f"{text!r} is no artifact URI: write pvc://<claim>/<path> or s3://<bucket>/<prefix>"
            raise FactoryError(Reason.INVALID_ARTIFACT, message)
        scheme, root, path = match.groups()
        path = (path or "").strip("/")
        if path:
            check_path(path)
        return cls(cast(Scheme, scheme), root, path)

    def child(self, *parts: str) -> ArtifactUri:
        """The URI of something below."""
        path = "/".join([*([self.path] if self.path else []), *parts])
        return replace(self, path=check_path(path))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.root}/{self.path}".rstrip("/")

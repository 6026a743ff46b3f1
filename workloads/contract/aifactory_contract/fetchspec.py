"""What a pod that fetches an input is asked for: the JSON object that the operator writes into its arguments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from aifactory_contract.data import check_name
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.uri import ArtifactUri
from aifactory_contract.userjson import parse_json

_IN_USE = "inUse"
_KEYS = {"uri": True, "destination": True, "digest": False, "secret": False, "format": False}
"""And whether it must be there."""
_BEGINNING = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class InUse:
    """What jobs need of the inputs that lie beside this one: what nobody has needed for long may go."""

    time: int
    """When that was seen, in seconds since 1970."""
    digests: tuple[str, ...]
    """Hexadecimal, their beginnings."""


@dataclass(frozen=True)
class FetchSpec:
    """One input to be fetched."""

    uri: ArtifactUri
    destination: ArtifactUri
    """A directory in a claim."""
    digest: str | None = None
    """That it must have."""
    secret: str | None = None
    format: str | None = None
    """That its files have to be of: of data, or of a model, whose digest is that of the files that its format keeps."""
    in_use: InUse | None = None
    """Not known: nothing is removed."""


def parse(text: str) -> FetchSpec:
    """Raises FactoryError (InvalidArtifact) with the key that is wrong. The digest is looked at by who compares it."""
    try:
        spec = parse_json(text)
    except ValueError as error:
        raise _refusal(f"--spec is not JSON: {error}") from error
    if not isinstance(spec, dict):
        raise _refusal("--spec must be a JSON object")
    spec = {key: value for key, value in spec.items() if value is not None}
    in_use = _in_use(spec.pop(_IN_USE)) if _IN_USE in spec else None
    for key, value in spec.items():
        if key not in _KEYS or not isinstance(value, str):
            raise _refusal(f"--spec: {key!r} must be one of {', '.join(_KEYS)}, each with a text")
    for key, needed in _KEYS.items():
        if needed and key not in spec:
            raise _refusal(f"--spec needs {key!r}")
    if "format" in spec:
        check_name(spec["format"])
    uri, place = ArtifactUri.parse(spec.pop("uri")), ArtifactUri.parse(spec.pop("destination"))
    if place.scheme != "pvc" or not place.path:
        raise _refusal(f"--spec: destination is {place}; write pvc://<claim>/<path>")
    return FetchSpec(uri, place, in_use=in_use, **spec)


def _in_use(found: Any) -> InUse:
    try:
        if type(found["time"]) is int and all(_BEGINNING.fullmatch(digest) for digest in found["digests"]):
            return InUse(found["time"], tuple(found["digests"]))
    except (KeyError, TypeError):
        pass
    raise _refusal(f'--spec: {_IN_USE!r} must be {{"time": <seconds>, "digests": [<8 to 64 hex digits>, ...]}}')


def _refusal(message: str) -> FactoryError:
    return FactoryError(Reason.INVALID_ARTIFACT, message)

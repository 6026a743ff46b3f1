"""Children that are kept as we want them: what is there is compared with what we would send, by a stamp.

The stamp is an annotation with a hash of everything we sent, so that an upgraded operator that would send something
else does. It also names what others have changed in the object's spec or data (the API server notes that in
`metadata.managedFields`): their change differs from the one in the stamp, so the object is applied again and drift is
repaired; what they have added beside our fields stays, and is in the stamp from then on. Nothing is remembered here.

What is missing is created, not applied: applying would merge our fields into an object of that name that somebody else
has made. So a field that a later release sends no more stays on what an earlier one has made.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aifactory.api import names
from aifactory.engine.plan import Apply, Create, Write
from aifactory.kube.objects import AppliedMetadata

_HASH_LENGTH = 12
_AS_MADE = "as-made"
"""Stands for the hash where it does not count."""


class Found(Protocol):
    """An object whose metadata tell who has changed it."""

    @property
    def metadata(self) -> AppliedMetadata:
        """Its metadata."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A child that exists, as far as applying it again needs to know."""

    name: str
    uid: str
    stamp: str = ""
    """What we noted on it when we applied it last."""
    edits: str = ""
    """Stands for what others have changed in its spec or data; empty when they have not."""


def applied(found: Found) -> Applied:
    """What exists."""
    meta = found.metadata
    return Applied(meta.name, meta.uid, meta.annotations.get(names.ANNOTATION_APPLIED, ""), meta.edits)


def create(body: Mapping[str, Any]) -> Create:
    """Make a child that is put right by `repair` only."""
    return Create(_stamped(body, f"{_AS_MADE}."))


def ensure(body: Mapping[str, Any], found: Applied | None) -> tuple[Write, ...]:
    """Bring a child to `body`: made if missing, applied again if we would send something else or others meddled."""
    if found is None:
        return (Create(_stamped(body, f"{content_hash(body)}.")),)
    stamp = f"{content_hash(body)}.{found.edits}"
    return () if found.stamp == stamp else (Apply(_stamped(body, stamp), uid=found.uid),)


def is_meddled_with(found: Applied) -> bool:
    """Whether others have changed a child since we wrote it last."""
    return found.stamp.partition(".")[2] != found.edits


def repair(body: Mapping[str, Any], found: Applied) -> Apply:
    """Put back a child that others have changed and that must not change with an upgrade (its pods would)."""
    return Apply(_stamped(body, f"{_AS_MADE}.{found.edits}"), uid=found.uid)


def content_hash(value: Any) -> str:
    """A short hash of JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:_HASH_LENGTH]


def _stamped(body: Mapping[str, Any], stamp: str) -> dict[str, Any]:
    metadata = dict(body["metadata"])
    metadata["annotations"] = {**metadata.get("annotations", {}), names.ANNOTATION_APPLIED: stamp}
    return {**body, "metadata": metadata}

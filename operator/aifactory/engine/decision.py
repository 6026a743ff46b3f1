"""What a pure planner answers, in words that know neither HTTP nor a clock.

A domain's planner returns a `Decision`; its kind adapter turns it into the engine's `Plan`. Creates name their kind in
the body; removals carry the UID that was seen, so that nothing newer of the same name can be deleted by an older view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Status = TypeVar("Status")


@dataclass(frozen=True, slots=True)
class Removal:
    """An object to delete, if it is still the one that was seen."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Patch:
    """A merge patch (RFC 7396) of an object of ours."""

    kind: str
    name: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Notice:
    """A Kubernetes Event for people who read `kubectl describe`."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision(Generic[Status]):
    """What to do about one object now."""

    status: Status
    """What the status should be; written only if it differs."""
    creates: tuple[Mapping[str, Any], ...] = ()
    """Objects to create; one that exists already and is ours is left as it is."""
    patches: tuple[Patch, ...] = ()
    removals: tuple[Removal, ...] = ()
    urgent: bool = False
    """The status is a fact that later steps build on, or an end: it is written at once."""
    again_after: float | None = None
    """Seconds until the decision is due again though nothing was reported; 0 means at once."""
    notices: tuple[Notice, ...] = ()
    """Events, sent only after the status was written."""

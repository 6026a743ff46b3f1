"""What a planner asks for: writes, at most one status, Events, and when to look again. Values only.

The engine's promises about a plan:
1. Writes run at the same time, in no order, bounded across the controller.
2. If one of them is refused for good (invalid, forbidden, the name belongs to somebody else), the kind's `on_error`
   answers with another plan whose status is written instead; its writes are not carried out, and the key is tried again
   with growing delays, or when that plan is due. If one fails for a passing reason, the key is tried again and nothing
   else is done.
3. Then the status is written, if it differs from the object's: at once when `urgent`, else at most `status_delay` after
   it first differed, computed anew by then. It is written only on top of the resource version it was planned from.
4. Events are sent only after the status they speak about is in the API server (at once, if it did not differ).
5. Answers to writes go into the stores, so the next plan sees them.
6. Whatever changes in a store wakes the key. The object's own status write does not: a plan that builds on it must set
   `requeue_after=0`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from aifactory.kube.api import Propagation
from aifactory.kube.errors import ApiError
from aifactory.kube.resources import Key, Resource

EventType = Literal["Normal", "Warning"]


@dataclass(frozen=True, slots=True)
class Create:
    """Create an object. One that exists already is fine if it has the same controller as `body`."""

    resource: Resource
    body: Mapping[str, Any]
    shared: bool = False
    """An object that exists already is fine whoever made it (a claim that several objects use)."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply, forced: the fields in `body` are ours."""

    resource: Resource
    body: Mapping[str, Any]
    field_manager: str = "aifactory-operator"


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete exactly the incarnation that was seen. One that is gone already is fine."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    grace_seconds: int | None = None
    propagation: Propagation = "Background"


@dataclass(frozen=True, slots=True)
class MergePatch:
    """Merge `patch` into an object; with `resource_version` only if it has not changed since. Gone is fine."""

    resource: Resource
    namespace: str
    name: str
    patch: Mapping[str, Any]
    resource_version: str | None = None


@dataclass(frozen=True, slots=True)
class JsonPatch:
    """Apply a list of RFC 6902 operations; with `resource_version` only if it has not changed since. Gone is fine."""

    resource: Resource
    namespace: str
    name: str
    patch: Sequence[Mapping[str, Any]]
    resource_version: str | None = None


Write: TypeAlias = Create | Apply | Delete | MergePatch | JsonPatch


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about the reconciled object."""

    type: EventType
    reason: str
    message: str
    action: str = "Reconcile"
    """What was being done, in one CamelCase word."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about one object now."""

    writes: tuple[Write, ...] = ()
    status: Mapping[str, Any] | None = None
    """The whole status as it should stand in JSON; None leaves it alone."""
    urgent: bool = False
    """The status is a fact that later steps build on, or an end: write it at once."""
    requeue_after: float | None = None
    """Seconds until the plan is due again though nothing changed; 0 means right away."""
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class WriteError:
    """A write that the API server refused for good."""

    write: Write
    error: ApiError

    @property
    def target(self) -> str:
        """Kind and name, for a message: `Pod train-0-0`."""
        write = self.write
        if isinstance(write, (Create, Apply)):
            return f"{write.resource.kind} {write.body.get('metadata', {}).get('name', '')}"
        return f"{write.resource.kind} {write.name}"

    @property
    def message(self) -> str:
        """One line in the API server's own words."""
        return f"{self.target}: {self.error.message or self.error.reason}"


@dataclass(frozen=True, slots=True)
class Subject:
    """The reconciled object as the engine needs to know it."""

    key: Key
    uid: str
    resource_version: str
    status: Mapping[str, Any]
    """The status as it stands in the API server (JSON); empty when there is none."""

"""What a planner asks for: writes, at most one status, Events, and when to look again. Values only, the same for all.

Objects are named by their kind; the executor knows where each kind is served. Everything lies in the namespace of the
reconciled object. The engine's promises about a plan:
1. Writes run at the same time, in no order, bounded across the process.
2. If one of them is refused for good (invalid, forbidden, the name belongs to somebody else), the domain's `refused`
   answers with another plan whose status is written instead; its writes are not carried out, and the key is tried again
   with growing delays, or when that plan is due. If one fails for a passing reason, the key is tried again and nothing
   else is done. So a status may say what a `DryRun` beside it has found out: it is written only if that was passed.
3. Then the status is written, if it differs from the object's: at once when `urgent`, else at most `status_delay` after
   it first differed, computed anew by then. It is written only on top of the resource version it was planned from.
4. Events are sent only after the status they speak about is in the API server (at once, if it did not differ).
5. Answers to writes go into the stores, so the next plan sees them.
6. Whatever changes in a store wakes the key. The object's own status write does not: a plan that builds on it must set
   `requeue_after=0`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from aifactory.api.base import Model
from aifactory.kube.errors import ApiError
from aifactory.kube.resources import Key

EventType = Literal["Normal", "Warning"]
StatusModel = TypeVar("StatusModel", bound=Model)


@dataclass(frozen=True, slots=True)
class _Whole:
    """A write of a whole object, which says itself what it is."""

    body: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """As in the body."""
        return str(self.body["kind"])

    @property
    def name(self) -> str:
        """As in the body."""
        return str(self.body["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class Create(_Whole):
    """Create an object. One that exists already is fine if it has the same controller as `body`."""

    shared: bool = False
    """An object that exists already is fine whoever made it (a claim that several objects use)."""


@dataclass(frozen=True, slots=True)
class Apply(_Whole):
    """Server-side apply: the fields in `body` are ours, whoever has changed them; of exactly the incarnation seen."""

    uid: str


@dataclass(frozen=True, slots=True)
class Patch:
    """Merge `body` (RFC 7396) into an object of ours. One that is gone is fine."""

    kind: str
    name: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete exactly the incarnation that was seen. One that is gone already is fine."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class DryRun(_Whole):
    """Have the API server say whether it would create an object; nothing is made.

    A name that is taken is fine: that is found out last, when all else is in order. So is a cluster with an admission
    webhook that can not tell.
    """


@dataclass(frozen=True, slots=True)
class PatchStatus:
    """Merge `status` into that of an object of ours which another controller writes too; None removes a field.

    It is done only if the object is still as it was seen; else it passes by looking again. One that is gone is fine.
    """

    kind: str
    name: str
    status: Mapping[str, Any]
    resource_version: str


Write: TypeAlias = Create | Apply | Patch | PatchStatus | Delete | DryRun


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about the reconciled object, for people who read `kubectl describe`.

    Only for what the status does not show for good: a failure, a restart, a version that takes over or is taken back.
    That something has ended well is in its conditions, and would cost a write for each object.
    """

    type: EventType
    reason: str
    message: str
    action: str = "Reconcile"
    """What was being done, in one CamelCase word."""


@dataclass(frozen=True, slots=True)
class Plan(Generic[StatusModel]):
    """What to do about one object now."""

    status: StatusModel
    """The whole status as it should stand; written only if it differs."""
    writes: tuple[Write, ...] = ()
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
        return f"{self.write.kind} {self.write.name}"

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

"""What a pure planner answers, in words that know neither HTTP nor a clock.

A domain's planner returns a `Decision`; its kind adapter turns it into the engine's `Plan`. Creates name their kind in
the body; removals carry the UID that was seen, so that nothing newer of the same name can be deleted by an older view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aifactory.api.base import Model
from aifactory.engine.plan import Create, Delete, Event, EventType, MergePatch, Plan, Write
from aifactory.kube.resources import Resource

StatusModel = TypeVar("StatusModel", bound=Model)


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
    """A Kubernetes Event for people who read `kubectl describe`.

    Only for what the status does not show for good: a failure, a restart, a version that takes over or is taken back.
    That something has ended well is in its conditions, and would cost a write for each object.
    """

    type: EventType
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision(Generic[StatusModel]):
    """What to do about one object now."""

    status: StatusModel
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


def to_plan(
    decision: Decision[StatusModel],
    *,
    namespace: str,
    resources: Mapping[str, Resource],
    shared: Callable[[Mapping[str, Any]], bool] = lambda _: False,
) -> Plan:
    """The engine's plan for a decision.

    Args:
        decision: what the planner answered.
        namespace: namespace of the object and of everything it owns.
        resources: the resource of each kind that bodies, patches and removals name.
        shared: tells of a body whether the object is fine whoever made it.
    """
    writes: list[Write] = [Create(resources[str(body["kind"])], body, shared=shared(body)) for body in decision.creates]
    writes += [MergePatch(resources[patch.kind], namespace, patch.name, patch.body) for patch in decision.patches]
    writes += [Delete(resources[gone.kind], namespace, gone.name, gone.uid) for gone in decision.removals]
    return Plan(
        writes=tuple(writes),
        status=decision.status.dump(),
        urgent=decision.urgent,
        requeue_after=decision.again_after,
        events=tuple(Event(notice.type, notice.reason, notice.message) for notice in decision.notices),
    )

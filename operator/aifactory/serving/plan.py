"""One decision about one InferencePool: the story of a reconcile.

Resolve the wish to a version, give each revision its number of pods, tell the truth about it. Nothing here does I/O or
reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from aifactory.api.conditions import shorten
from aifactory.api.inferencepool import InferencePoolStatus
from aifactory.api.reasons import Reason
from aifactory.engine import apply
from aifactory.engine.plan import Delete, Event, Patch, Plan, Write
from aifactory.serving import assignment, disruption, engines, rollout, room, scaling, shape, traffic
from aifactory.serving.assignment import Waiting
from aifactory.serving.state import Observed, VersionView
from aifactory.serving.status import StatusDraft
from aifactory.serving.traffic import Course


def plan_pool(observed: Observed, now: datetime) -> Plan[InferencePoolStatus] | None:
    """What to do about one pool now; None when it is being deleted.

    Args:
        observed: the pool and everything that belongs to it, from one moment's stores.
        now: the time, in UTC.
    """
    pool = observed.pool
    if pool.metadata.deletion_timestamp is not None:
        return None
    wanted = scaling.wanted(pool.spec)
    draft = StatusDraft(observed, wanted, now)
    stable = traffic.stable_revision(pool.status)
    target = assignment.resolve(pool.spec.models[0], observed.versions)
    if isinstance(target, Waiting):
        return _plan_waiting(observed, target, stable, wanted, draft)
    if (waiting := engines.unfit(pool, target)) is not None:
        return _plan_waiting(observed, waiting, stable, wanted, draft)

    revision, image = _wanted_revision(observed, target)
    # Pods that serve are never stopped for a doubt about their memory.
    if revision != stable and (words := room.too_large(pool, target)):
        return _plan_waiting(observed, Waiting(Reason.MODEL_TOO_LARGE, words), stable, wanted, draft)
    draft.resolved(target)
    match traffic.course(pool, revision, remains=_is_being_removed(observed, revision, stable), now=now):
        case Course.STEADY:
            return _plan_steady(observed, target, revision, image, wanted, draft)
        case Course.HELD_BACK:
            return _plan_held_back(observed, stable, revision, wanted, draft, now)
        case Course.RETRY:
            # In status first: what is made before this is known would be taken for the rest of the earlier try.
            draft.rolling(stable, revision, image, target, rollout.progress(observed, revision, now))
            return Plan(draft.result(), urgent=True, requeue_after=0)
        case Course.ROLL_OUT:
            return _plan_rollout(observed, target, stable, revision, image, wanted, draft, now)


def _is_being_removed(observed: Observed, revision: str, stable: str) -> bool:
    """Something is left of an earlier try of the revision.

    Not what goes on serving because nothing of the stable revision is there any more: it stays, and a new try starts
    from it.
    """
    view = observed.find(revision)
    return view is not None and (view.terminating or not view.ready or observed.find(stable) is not None)


def _wanted_revision(observed: Observed, target: VersionView) -> tuple[str, str]:
    """The revision to be served and its image of Triton.

    A pool that only an upgrade of the installation would change stays as it is until it is its turn.
    """
    pool, stable = observed.pool, observed.pool.status.stable
    image = shape.image_of(pool, observed.settings)
    if stable is not None and not observed.may_upgrade:
        as_made = shape.revision_of(pool, target, stable.image, shape.shape_version(stable.revision))
        if as_made == stable.revision:
            return stable.revision, stable.image
    return shape.revision_of(pool, target, image), image


def _plan_waiting(
    observed: Observed, waiting: Waiting, stable: str, wanted: int, draft: StatusDraft
) -> Plan[InferencePoolStatus]:
    """Nothing new can be served; what is served goes on."""
    writes = _Writes(observed, stable)
    writes.surroundings()
    writes.restore(wanted)
    draft.waiting(waiting, stable)
    return Plan(draft.result(), writes.all())


def _plan_steady(
    observed: Observed, target: VersionView, revision: str, image: str, wanted: int, draft: StatusDraft
) -> Plan[InferencePoolStatus]:
    """One revision, for now or for good."""
    writes = _Writes(observed, revision)
    writes.surroundings()
    writes.grow(target, revision, image, wanted)
    complete = draft.steady(revision, image, target)
    return Plan(draft.result(), writes.all(), urgent=complete or draft.stable_changed)


def _plan_held_back(
    observed: Observed, stable: str, failed: str, wanted: int, draft: StatusDraft, now: datetime
) -> Plan[InferencePoolStatus]:
    """The wanted revision was taken back: the stable one keeps all traffic until it is tried again, if ever."""
    writes = _Writes(observed, stable)
    writes.surroundings()
    writes.restore(wanted)
    draft.held_back(stable, failed)
    again = observed.pool.status.rollout.retry_time if observed.pool.status.rollout is not None else None
    wait = max(1.0, (again - now).total_seconds()) if again is not None else None
    return Plan(draft.result(), writes.all(), requeue_after=wait)


def _plan_rollout(
    observed: Observed,
    target: VersionView,
    stable: str,
    revision: str,
    image: str,
    wanted: int,
    draft: StatusDraft,
    now: datetime,
) -> Plan[InferencePoolStatus]:
    """The candidate comes up beside the stable revision and takes over pod by pod, or is taken back."""
    candidate = observed.find(revision)
    if (candidate.ready if candidate is not None else 0) >= wanted:
        # In status first: if what it replaces were removed before, and then the wish changed, nobody would know it.
        draft.promoted(revision, image, target)
        event = Event("Normal", str(Reason.ROLLED_OUT), f"{target.name} takes all traffic")
        return Plan(draft.result(), urgent=True, requeue_after=0, events=(event,))
    reached = rollout.progress(observed, revision, now)
    if (verdict := rollout.verdict(observed, revision, reached, wanted, now)) is not None:
        draft.failed(stable, revision, target, verdict)
        event = Event("Warning", str(verdict.reason), shorten(f"{target.name} is taken back: {verdict.message}"))
        return Plan(draft.result(), urgent=True, requeue_after=0, events=(event,))
    draft.rolling(stable, revision, image, target, reached)
    if reached.resumed:
        # In status first: a pod that is asked for now would be late already.
        return Plan(draft.result(), urgent=True, requeue_after=0)
    writes = _Writes(observed, stable)
    writes.surroundings()
    writes.grow(target, revision, image, wanted)
    left = (reached.since + rollout.deadline(observed.pool.spec) - now).total_seconds()
    return Plan(draft.result(), writes.all(), requeue_after=max(1.0, left))


class _Writes:
    """Collects what has to be made, put right, resized and removed, around the revision that takes the traffic."""

    def __init__(self, observed: Observed, stable: str) -> None:
        self._observed = observed
        self._stable = stable
        self._writes: list[Write] = []

    def all(self) -> tuple[Write, ...]:
        """All of it."""
        return tuple(self._writes)

    def surroundings(self) -> None:
        """What pods of every revision share exists as it should."""
        pool = self._observed.pool
        self._writes += apply.ensure(
            traffic.service(pool, openai=self._observed.generates_text), self._observed.service
        )
        if self._observed.budget is not None or disruption.wants_budget(pool):
            self._writes += apply.ensure(disruption.budget(pool), self._observed.budget)

    def grow(self, version: VersionView, revision: str, image: str, wanted: int) -> None:
        """The revision exists and gets all pods, one by one where others hold the traffic."""
        sizes = self._share(revision, wanted)
        self._ensure(version, revision, image, sizes[revision])
        self._resize(sizes, kept={revision, self._stable})

    def restore(self, wanted: int) -> None:
        """The stable revision gets all pods back, and is made again if somebody removed it.

        Before there was one, what has become ready goes on serving, and nothing is started.
        """
        if not self._stable:
            self._resize(self._share("", wanted), kept=set())
            return
        sizes = self._share(self._stable, wanted)
        if (found := self._stable_version()) is not None:
            self._ensure(*found, sizes[self._stable])
        self._resize(sizes, kept={self._stable})

    def _share(self, growing: str, wanted: int) -> dict[str, int]:
        ready = {view.revision: view.ready for view in self._observed.revisions if not view.terminating}
        return scaling.share(wanted, ready, growing, self._stable)

    def _ensure(self, version: VersionView, revision: str, image: str, replicas: int) -> None:
        pool, settings = self._observed.pool, self._observed.settings
        config = next((view.child for view in self._observed.configs if view.revision == revision), None)
        self._writes += apply.ensure(assignment.config(pool, version, revision), config)
        found = self._observed.find(revision)
        if found is None or apply.is_meddled_with(found.child):
            body = shape.deployment(pool, version, settings, revision, image, replicas)
            self._writes.append(apply.create(body) if found is None else apply.repair(body, found.child))

    def _resize(self, sizes: Mapping[str, int], kept: set[str]) -> None:
        """Each revision gets its number; one with none that is not kept goes, its pods drain on their way out."""
        for view in self._observed.revisions:
            if view.terminating:
                continue
            size = sizes[view.revision]
            if size or view.revision in kept:
                if view.wanted != size:
                    self._writes.append(Patch("Deployment", view.child.name, {"spec": {"replicas": size}}))
            else:
                self._writes.append(Delete("Deployment", view.child.name, view.child.uid))
        for config in self._observed.configs:
            if config.revision not in kept and not sizes.get(config.revision):
                self._writes.append(Delete("ConfigMap", config.child.name, config.child.uid))

    def _stable_version(self) -> tuple[VersionView, str, str] | None:
        """The version, name and image of the stable revision, if its pods would still be made in the same way."""
        pool, stable = self._observed.pool, self._observed.pool.status.stable
        if stable is None:
            return None
        found = next((view for view in self._observed.versions if view.name == stable.model_version), None)
        made_by = shape.shape_version(stable.revision)
        if found is None or shape.revision_of(pool, found, stable.image, made_by) != self._stable:
            return None
        return found, stable.revision, stable.image

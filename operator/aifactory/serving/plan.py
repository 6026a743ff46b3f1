"""One decision about one InferencePool: the story of a reconcile.

Resolve the wish to a version, give each revision its number of pods, tell the truth about it. Nothing here does I/O or
reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from aifactory.api.inferencepool import InferencePoolStatus
from aifactory.api.reasons import Reason
from aifactory.engine.decision import Decision, Notice, Patch, Removal
from aifactory.serving import children
from aifactory.serving.resolve import Waiting, resolve
from aifactory.serving.rollout import surge_step
from aifactory.serving.state import Observed, RevisionView, ServingPodView, VersionView
from aifactory.serving.status import StatusDraft

DEFAULT_REPLICAS = 1


def plan_pool(observed: Observed, now: datetime) -> Decision[InferencePoolStatus] | None:
    """What to do about one pool now; None when it is being deleted.

    Args:
        observed: the pool and everything that belongs to it, from one moment's stores.
        now: the time, in UTC.
    """
    pool = observed.pool
    if pool.metadata.deletion_timestamp is not None:
        return None
    wanted = DEFAULT_REPLICAS if pool.spec.replicas is None else pool.spec.replicas
    draft = StatusDraft(observed, wanted, now)
    stable = pool.status.stable.revision if pool.status.stable is not None else ""
    target = resolve(pool.spec.models[0], observed.versions)
    if isinstance(target, Waiting):
        return _plan_waiting(observed, target, stable, wanted, draft)

    revision = children.revision_of(pool, target, observed.settings)
    draft.resolved(target)
    if stable in ("", revision):
        return _plan_steady(observed, target, revision, wanted, draft)
    if pool.status.rollout is not None and pool.status.rollout.failed_revision == revision:
        return _plan_held_back(observed, stable, revision, wanted, draft)
    return _plan_rollout(observed, target, stable, revision, wanted, draft)


def _plan_waiting(
    observed: Observed, waiting: Waiting, stable: str, wanted: int, draft: StatusDraft
) -> Decision[InferencePoolStatus]:
    """Nothing new can be served; what is served goes on."""
    changes = _Changes(observed)
    changes.service()
    changes.size(stable, wanted)
    changes.keep(stable, wanted=wanted)
    draft.waiting(waiting, stable)
    return changes.decision(draft.result())


def _plan_steady(
    observed: Observed, target: VersionView, revision: str, wanted: int, draft: StatusDraft
) -> Decision[InferencePoolStatus]:
    """One revision, for now or for good."""
    changes = _Changes(observed)
    changes.service()
    changes.ensure(target, revision, wanted)
    changes.keep(revision, wanted=wanted)
    became_stable = draft.steady(revision, target)
    notices = (Notice("Normal", "Serving", f"{target.name} is served by {wanted} pods"),) if became_stable else ()
    return changes.decision(draft.result(), urgent=became_stable, notices=notices)


def _plan_held_back(
    observed: Observed, stable: str, failed: str, wanted: int, draft: StatusDraft
) -> Decision[InferencePoolStatus]:
    """The wanted revision has failed: the stable one keeps all traffic, and it is not tried again."""
    changes = _Changes(observed)
    changes.service()
    changes.size(stable, wanted)
    changes.keep(stable, wanted=wanted)
    draft.held_back(stable, failed)
    return changes.decision(draft.result())


def _plan_rollout(
    observed: Observed, target: VersionView, stable: str, revision: str, wanted: int, draft: StatusDraft
) -> Decision[InferencePoolStatus]:
    """The candidate comes up beside the stable revision and takes over pod by pod."""
    changes = _Changes(observed)
    changes.service()
    if words := _load_error(observed.pods, revision):
        draft.failed(stable, revision, target, words)
        notice = Notice("Warning", str(Reason.MODEL_LOAD_FAILED), f"{target.name} is taken back: {words}")
        return changes.decision(draft.result(), urgent=True, again_after=0, notices=(notice,))
    candidate = _revision(observed.revisions, revision)
    step = surge_step(wanted, candidate.ready if candidate is not None else 0)
    changes.ensure(target, revision, step.candidate)
    changes.size(stable, step.stable)
    changes.keep(stable, revision, wanted=wanted)
    if step.done:
        draft.promoted(revision, target)
        notice = Notice("Normal", str(Reason.ROLLED_OUT), f"{target.name} takes all traffic")
        return changes.decision(draft.result(), urgent=True, again_after=0, notices=(notice,))
    draft.rolling(stable, revision, target)
    return changes.decision(draft.result())


def _revision(revisions: Iterable[RevisionView], revision: str) -> RevisionView | None:
    return next((view for view in revisions if view.revision == revision), None)


def _load_error(pods: Iterable[ServingPodView], revision: str) -> str:
    return next((pod.load_error for pod in pods if pod.revision == revision and pod.load_error), "")


class _Changes:
    """Collects what has to be created, resized and removed."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._creates: list[Mapping[str, Any]] = []
        self._patches: list[Patch] = []
        self._removals: list[Removal] = []

    def service(self) -> None:
        """The Service exists."""
        if not self._observed.service_exists:
            self._creates.append(children.service(self._observed.pool))

    def ensure(self, version: VersionView, revision: str, replicas: int) -> None:
        """The revision exists with this many pods."""
        pool = self._observed.pool
        if all(view.revision != revision for view in self._observed.configs):
            self._creates.append(children.config(pool, version, revision))
        if _revision(self._observed.revisions, revision) is None:
            self._creates.append(children.deployment(pool, version, self._observed.settings, revision, replicas))
        self.size(revision, replicas)

    def size(self, revision: str, replicas: int) -> None:
        """The revision, if it exists, has this many pods."""
        view = _revision(self._observed.revisions, revision)
        if view is not None and not view.terminating and view.wanted != replicas:
            self._patches.append(Patch("Deployment", view.name, {"spec": {"replicas": replicas}}))

    def keep(self, *revisions: str, wanted: int) -> None:
        """Every other revision goes, its ready pods only as those that are kept replace them.

        An abandoned candidate may carry most of the traffic: removed at once, it would leave the pool short.
        """
        short = wanted - sum(view.ready for view in self._observed.revisions if view.revision in revisions)
        needed: set[str] = set()
        for view in sorted(self._observed.revisions, key=lambda view: (-view.ready, view.name)):
            if view.revision in revisions or view.terminating:
                continue
            rest = max(0, min(view.ready, short))
            short -= rest
            if rest:
                needed.add(view.revision)
                self.size(view.revision, rest)
            else:
                self._removals.append(Removal("Deployment", view.name, view.uid))
        for config in self._observed.configs:
            if config.revision not in revisions and config.revision not in needed:
                self._removals.append(Removal("ConfigMap", config.name, config.uid))

    def decision(
        self,
        status: InferencePoolStatus,
        *,
        urgent: bool = False,
        again_after: float | None = None,
        notices: tuple[Notice, ...] = (),
    ) -> Decision[InferencePoolStatus]:
        """All of it."""
        return Decision(
            status=status,
            creates=tuple(self._creates),
            patches=tuple(self._patches),
            removals=tuple(self._removals),
            urgent=urgent,
            again_after=again_after,
            notices=notices,
        )

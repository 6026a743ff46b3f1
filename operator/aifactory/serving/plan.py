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
from aifactory.serving import children, trouble
from aifactory.serving.resolve import Waiting, resolve
from aifactory.serving.rollout import share
from aifactory.serving.state import Observed, RevisionView, VersionView
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
    changes = _Changes(observed, stable)
    changes.service()
    changes.restore(wanted)
    draft.waiting(waiting, stable)
    return changes.decision(draft.result())


def _plan_steady(
    observed: Observed, target: VersionView, revision: str, wanted: int, draft: StatusDraft
) -> Decision[InferencePoolStatus]:
    """One revision, for now or for good."""
    changes = _Changes(observed, revision)
    changes.service()
    changes.grow(target, revision, wanted)
    complete = draft.steady(revision, target)
    return changes.decision(draft.result(), urgent=complete or draft.stable_changed)


def _plan_held_back(
    observed: Observed, stable: str, failed: str, wanted: int, draft: StatusDraft
) -> Decision[InferencePoolStatus]:
    """The wanted revision has failed: the stable one keeps all traffic, and it is not tried again."""
    changes = _Changes(observed, stable)
    changes.service()
    changes.restore(wanted)
    draft.held_back(stable, failed)
    return changes.decision(draft.result())


def _plan_rollout(
    observed: Observed, target: VersionView, stable: str, revision: str, wanted: int, draft: StatusDraft
) -> Decision[InferencePoolStatus]:
    """The candidate comes up beside the stable revision and takes over pod by pod."""
    if words := trouble.load_error(observed.pods, revision):
        draft.failed(stable, revision, target, words)
        notice = Notice("Warning", str(Reason.MODEL_LOAD_FAILED), f"{target.name} is taken back: {words}")
        return Decision(draft.result(), urgent=True, again_after=0, notices=(notice,))
    candidate = _revision(observed.revisions, revision)
    carries_all = (candidate.ready if candidate is not None else 0) >= wanted
    # The status that says who is stable comes after the writes; if it is lost, the same is decided again.
    changes = _Changes(observed, revision if carries_all else stable)
    changes.service()
    changes.grow(target, revision, wanted)
    if carries_all:
        draft.promoted(revision, target)
        notice = Notice("Normal", str(Reason.ROLLED_OUT), f"{target.name} takes all traffic")
        return changes.decision(draft.result(), urgent=True, again_after=0, notices=(notice,))
    draft.rolling(stable, revision, target)
    return changes.decision(draft.result())


def _revision(revisions: Iterable[RevisionView], revision: str) -> RevisionView | None:
    return next((view for view in revisions if view.revision == revision), None)


class _Changes:
    """Collects what has to be created, resized and removed, around the revision that takes the traffic."""

    def __init__(self, observed: Observed, stable: str) -> None:
        self._observed = observed
        self._stable = stable
        self._creates: list[Mapping[str, Any]] = []
        self._patches: list[Patch] = []
        self._removals: list[Removal] = []

    def service(self) -> None:
        """The Service exists."""
        if not self._observed.service_exists:
            self._creates.append(children.service(self._observed.pool))

    def grow(self, version: VersionView, revision: str, wanted: int) -> None:
        """The revision exists and gets all pods, one by one where others hold the traffic."""
        sizes = self._share(revision, wanted)
        self._ensure(version, revision, sizes[revision])
        self._sizes(sizes, kept={revision, self._stable})

    def restore(self, wanted: int) -> None:
        """The stable revision gets all pods back, and is made again if somebody removed it.

        Before there was one, what has become ready goes on serving, and nothing is started.
        """
        if not self._stable:
            sizes = self._share("", wanted)
            self._sizes(sizes, kept=set())
            return
        sizes = self._share(self._stable, wanted)
        if (
            _revision(self._observed.revisions, self._stable) is None
            and (version := self._stable_version()) is not None
        ):
            self._ensure(version, self._stable, sizes[self._stable])
        self._sizes(sizes, kept={self._stable})

    def _share(self, growing: str, wanted: int) -> dict[str, int]:
        ready = {view.revision: view.ready for view in self._observed.revisions if not view.terminating}
        return share(wanted, ready, growing, self._stable)

    def _ensure(self, version: VersionView, revision: str, replicas: int) -> None:
        pool = self._observed.pool
        if all(view.revision != revision for view in self._observed.configs):
            self._creates.append(children.config(pool, version, revision))
        if _revision(self._observed.revisions, revision) is None:
            self._creates.append(children.deployment(pool, version, self._observed.settings, revision, replicas))

    def _sizes(self, sizes: Mapping[str, int], kept: set[str]) -> None:
        """Each revision gets its number; one with none that is not kept goes, its pods drain on their way out."""
        for view in self._observed.revisions:
            if view.terminating:
                continue
            size = sizes[view.revision]
            if size or view.revision in kept:
                if view.wanted != size:
                    self._patches.append(Patch("Deployment", view.name, {"spec": {"replicas": size}}))
            else:
                self._removals.append(Removal("Deployment", view.name, view.uid))
        for config in self._observed.configs:
            if config.revision not in kept and not sizes.get(config.revision):
                self._removals.append(Removal("ConfigMap", config.name, config.uid))

    def _stable_version(self) -> VersionView | None:
        """The version the stable revision serves, if its pods would still be made in the same way."""
        pool, settings = self._observed.pool, self._observed.settings
        name = pool.status.stable.model_version if pool.status.stable is not None else ""
        found = next((view for view in self._observed.versions if view.name == name), None)
        if found is None or children.revision_of(pool, found, settings) != self._stable:
            return None
        return found

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

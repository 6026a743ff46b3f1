"""The status of an InferencePool under construction: one method for each thing that can be true about it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from aifactory.api import names
from aifactory.api.conditions import ConditionSet
from aifactory.api.inferencepool import (
    InferencePoolStatus,
    ResolvedModel,
    RevisionStatus,
    RolloutStatus,
    Throughput,
)
from aifactory.api.reasons import ConditionType, Reason
from aifactory.serving import children, trouble
from aifactory.serving.resolve import Waiting
from aifactory.serving.state import Observed, RevisionView, VersionView


class StatusDraft:
    """Collects changes to a pool's status; `result()` is the status to be written if it differs."""

    def __init__(self, observed: Observed, wanted: int, now: datetime) -> None:
        pool = observed.pool
        self._observed = observed
        self._wanted = wanted
        self._status = pool.status
        self._conditions = ConditionSet(pool.status.conditions, pool.metadata.generation, now.replace(microsecond=0))
        ready = sum(view.ready for view in observed.revisions)
        self._ready = ready
        self._changes: dict[str, Any] = {
            "observed_generation": pool.metadata.generation,
            "replicas": sum(view.replicas for view in observed.revisions),
            "ready_replicas": ready,
            "summary": f"{ready}/{wanted}",
            "selector": ",".join(f"{key}={value}" for key, value in sorted(children.selector(pool).items())),
            "url": f"http://{pool.metadata.name}.{pool.metadata.namespace}.svc:{names.TRITON_HTTP_PORT}",
        }
        if observed.throughput is not None:
            self._changes["throughput"] = observed.throughput
        elif not ready and pool.status.throughput is not None:
            self._changes["throughput"] = Throughput()

    @property
    def stable_changed(self) -> bool:
        """Which revision takes the traffic has changed: what a rollout builds on."""
        before, after = self._status.stable, self._changes.get("stable", self._status.stable)
        return (before.revision if before is not None else "") != (after.revision if after is not None else "")

    def resolved(self, target: VersionView) -> None:
        """What the wish means now."""
        model = ResolvedModel(name=target.model, version=target.version, model_version=target.name)
        self._changes["resolved"] = (model,)

    def waiting(self, waiting: Waiting, stable: str) -> None:
        """No version that fits is Ready; what is served, if anything, goes on."""
        self._changes |= {"resolved": (), "candidate": None}
        if self._status.rollout is not None and self._status.rollout.phase == "Progressing":
            self._changes["rollout"] = None
        self._stable(stable)
        self._available()
        self._conditions.set(ConditionType.DEGRADED, bool(stable), waiting.reason, waiting.message if stable else "")
        stalled = waiting.reason is Reason.MODEL_NOT_READY
        self._conditions.kstatus(
            ConditionType.STALLED if stalled else ConditionType.RECONCILING, waiting.reason, waiting.message
        )
        self._phase("Waiting", waiting.reason)

    def steady(self, revision: str, target: VersionView) -> bool:
        """One revision; returns whether it has just become complete.

        It takes the traffic from its first ready pod on: a change after that must not take it away at once.
        """
        view = _find(self._observed.revisions, revision)
        ready = view.ready if view is not None else 0
        complete = view is not None and ready >= self._wanted and self._observed.service_exists
        was_stable = self._status.stable is not None and self._status.stable.revision == revision
        before = self._status.rollout
        was_complete = before is not None and before.phase == "Complete" and before.revision == revision
        self._changes["candidate"] = None
        if complete or ready or was_stable:
            self._changes["stable"] = self._revision(revision, target)
            self._changes["version"] = str(target.version)
        if complete and not was_complete:
            self._changes["rollout"] = RolloutStatus(phase="Complete", revision=revision)
        elif before is not None and before.revision != revision:
            # The wish has returned to what is served; a revision that failed may be tried again after another change.
            self._changes["rollout"] = RolloutStatus(
                phase="Progressing", revision=revision, reason=str(Reason.ROLLING_OUT)
            )
        self._available()
        self._steady_conditions(revision, target, complete, was_complete)
        return complete and not was_complete

    def rolling(self, stable: str, revision: str, target: VersionView) -> None:
        """The candidate comes up."""
        self._stable(stable)
        view = _find(self._observed.revisions, revision)
        ready = view.ready if view is not None else 0
        self._changes["candidate"] = self._revision(revision, target)
        message = f"{target.name}: {ready} of {self._wanted} pods are ready"
        problem = trouble.problem(self._observed.pods, revision)
        if problem is not None:
            message = f"{message}; {problem[1]}"
        self._changes["rollout"] = RolloutStatus(
            phase="Progressing", revision=revision, reason=str(Reason.ROLLING_OUT), message=message
        )
        self._available()
        self._conditions.set(ConditionType.DEGRADED, False, Reason.ROLLING_OUT)
        self._conditions.kstatus(ConditionType.RECONCILING, problem[0] if problem else Reason.ROLLING_OUT, message)
        self._phase("RollingOut", problem[0] if problem else Reason.ROLLING_OUT)

    def promoted(self, revision: str, target: VersionView) -> None:
        """The candidate carries everything."""
        self._changes |= {
            "stable": self._revision(revision, target),
            "candidate": None,
            "version": str(target.version),
            "rollout": RolloutStatus(phase="Complete", revision=revision, reason=str(Reason.ROLLED_OUT)),
        }
        self._available()
        self._conditions.set(ConditionType.DEGRADED, False, Reason.ROLLED_OUT)
        reason = Reason.SERVING if self._wanted else Reason.SCALED_TO_ZERO
        self._conditions.kstatus(ConditionType.READY, reason, self._serving_message(target))
        self._phase("Serving" if self._wanted else "ScaledToZero", reason)

    def failed(self, stable: str, revision: str, target: VersionView, words: str) -> None:
        """The candidate cannot load: it is taken back before it ever had traffic."""
        message = f"{target.name} was taken back, it does not load: {words}"
        self._changes["rollout"] = RolloutStatus(
            phase="Failed",
            revision=revision,
            failed_revision=revision,
            reason=str(Reason.MODEL_LOAD_FAILED),
            message=message,
        )
        self._degraded(stable, message)

    def held_back(self, stable: str, failed: str) -> None:
        """The wanted revision has failed before."""
        rollout = self._status.rollout
        self._degraded(stable, rollout.message if rollout is not None else f"revision {failed} failed")

    def rejected(self, reason: Reason, message: str) -> None:
        """The API server refused an object of ours."""
        self._available()
        self._conditions.kstatus(ConditionType.STALLED, reason, message)
        self._phase("Rejected", reason)

    def result(self) -> InferencePoolStatus:
        """The status to be written if it differs from the one that stands."""
        self._changes["conditions"] = self._conditions.result()
        return self._status.model_copy(update=self._changes)

    def _degraded(self, stable: str, message: str) -> None:
        self._stable(stable)
        self._changes["candidate"] = None
        self._available()
        advice = f"{message}. Publish a version that loads, or pin the one that is served"
        self._conditions.set(ConditionType.DEGRADED, True, Reason.MODEL_LOAD_FAILED, advice)
        self._conditions.kstatus(ConditionType.STALLED, Reason.MODEL_LOAD_FAILED, advice)
        self._phase("Degraded", Reason.MODEL_LOAD_FAILED)

    def _steady_conditions(self, revision: str, target: VersionView, complete: bool, was_complete: bool) -> None:
        view = _find(self._observed.revisions, revision)
        ready = view.ready if view is not None else 0
        pods = self._observed.pods
        loaded = f"{target.name}: {ready} of {self._wanted} pods have it loaded"
        if complete and not self._wanted:
            self._conditions.set(ConditionType.DEGRADED, False, Reason.SCALED_TO_ZERO)
            self._conditions.kstatus(ConditionType.READY, Reason.SCALED_TO_ZERO, "spec.replicas is 0")
            self._phase("ScaledToZero", Reason.SCALED_TO_ZERO)
        elif complete:
            self._conditions.set(ConditionType.DEGRADED, False, Reason.SERVING)
            self._conditions.kstatus(ConditionType.READY, Reason.SERVING, self._serving_message(target))
            self._phase("Serving", Reason.SERVING)
        elif (words := trouble.load_error(pods, revision)) and not self._ready:
            message = f"{target.name} does not load: {words}. Publish a version that loads"
            self._conditions.set(ConditionType.DEGRADED, True, Reason.MODEL_LOAD_FAILED, message)
            self._conditions.kstatus(ConditionType.STALLED, Reason.MODEL_LOAD_FAILED, message)
            self._phase("Failed", Reason.MODEL_LOAD_FAILED)
        elif (found := trouble.problem(pods, revision)) is not None:
            reason, message = found
            self._conditions.set(ConditionType.DEGRADED, self._ready > 0, reason, f"{loaded}; {message}")
            # A node may become free or be added: that is waiting, for every kind of ours.
            waits = reason is Reason.UNSCHEDULABLE
            true = ConditionType.RECONCILING if waits else ConditionType.STALLED
            self._conditions.kstatus(true, reason, f"{loaded}; {message}")
            self._phase("Starting" if not was_complete else "Degraded", reason)
        elif self._ready >= self._wanted:
            # The way back from a change that was given up: pods of the other revision hold the traffic so long.
            self._conditions.set(ConditionType.DEGRADED, False, Reason.ROLLING_OUT)
            self._conditions.kstatus(ConditionType.RECONCILING, Reason.ROLLING_OUT, loaded)
            self._phase("RollingOut", Reason.ROLLING_OUT)
        else:
            reason = Reason.PODS_NOT_READY if was_complete else Reason.STARTING
            self._conditions.set(ConditionType.DEGRADED, was_complete, reason, loaded if was_complete else "")
            self._conditions.kstatus(ConditionType.RECONCILING, reason, loaded)
            self._phase("Scaling" if was_complete else "Starting", reason)

    def _serving_message(self, target: VersionView) -> str:
        return f"{target.name} is loaded on {self._wanted} of {self._wanted} pods"

    def _stable(self, revision: str) -> None:
        """Keep the stable revision, with its numbers brought up to date."""
        previous = self._status.stable
        if not revision or previous is None:
            return
        view = _find(self._observed.revisions, revision)
        update = {"replicas": view.replicas if view else 0, "ready_replicas": view.ready if view else 0}
        self._changes["stable"] = previous.model_copy(update=update)

    def _revision(self, revision: str, target: VersionView) -> RevisionStatus:
        view = _find(self._observed.revisions, revision)
        return RevisionStatus(
            revision=revision,
            model_version=target.name,
            version=target.version,
            replicas=view.replicas if view is not None else 0,
            ready_replicas=view.ready if view is not None else 0,
        )

    def _available(self) -> None:
        """At least one pod answers."""
        up = self._ready > 0 and self._observed.service_exists
        down = Reason.PODS_NOT_READY if self._wanted else Reason.SCALED_TO_ZERO
        self._conditions.set(
            ConditionType.AVAILABLE, up, Reason.SERVING if up else down, f"{self._ready} pods are ready"
        )

    def _phase(self, phase: str, reason: Reason) -> None:
        self._changes |= {"phase": phase, "reason": str(reason)}


def _find(revisions: tuple[RevisionView, ...], revision: str) -> RevisionView | None:
    return next((view for view in revisions if view.revision == revision), None)

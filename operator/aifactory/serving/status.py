"""The status of an InferencePool under construction: one method for each thing that can be true about it."""

from __future__ import annotations

from datetime import datetime

from aifactory.api import names
from aifactory.api.base import format_time
from aifactory.api.conditions import ConditionSet, is_true
from aifactory.api.inferencepool import (
    FailedVersion,
    Finding,
    InferencePoolStatus,
    ModelStatus,
    ResolvedModel,
    RevisionStatus,
    RolloutStatus,
    ScalingStatus,
    Throughput,
)
from aifactory.api.reasons import ConditionType, Reason, reason_called
from aifactory.api.sizes import human_size
from aifactory.serving import (
    economics,
    gateway,
    packing,
    requests,
    rollout,
    route,
    scaling,
    shape,
    steps,
    swap,
    traffic,
    trouble,
)
from aifactory.serving.analysis import Look, Outcome
from aifactory.serving.assignment import Waiting
from aifactory.serving.objects import child_name, selector
from aifactory.serving.packing import Packed
from aifactory.serving.rollout import Progress, Verdict
from aifactory.serving.state import Observed, VersionView, Wish
from aifactory.serving.steps import Walk
from aifactory.serving.swap import Choice, Swapped
from aifactory.serving.trouble import Problem

_NEEDS_A_PERSON = frozenset(
    {
        Reason.MODEL_NOT_READY,
        Reason.MODEL_TOO_LARGE,
        Reason.UNSERVABLE,
        Reason.HOT_SWAP_IMPOSSIBLE,
        Reason.MODEL_LOAD_FAILED,
    }
)


class StatusDraft:
    """Starts from the status as it stands; `result()` is the one to be written if it differs."""

    def __init__(self, observed: Observed, wanted: int, now: datetime, scaled: ScalingStatus | None = None) -> None:
        pool = observed.pool
        self._observed = observed
        self._wanted = wanted
        self._before = pool.status
        self._now = now
        self._status = pool.status.model_copy()
        self._conditions = ConditionSet(pool.status.conditions, pool.metadata.generation, now.replace(microsecond=0))
        self._conditions.remove(ConditionType.ANALYSIS_INCONCLUSIVE)  # said only while it is so
        self._ready = sum(view.ready for view in observed.revisions)
        self._models: dict[str, ModelStatus] = {}
        """Of several models, each by its name."""
        self._leader: str | None = None
        status = self._status
        status.models = None
        status.observed_generation = pool.metadata.generation
        status.retried = traffic.retry_request(pool)
        status.requests = requests.seen(pool, now)
        status.replicas = sum(view.replicas for view in observed.revisions)
        status.ready_replicas = self._ready
        status.traffic = traffic.summary(swap.answering(observed)) + route.words(observed)
        status.summary = f"{self._ready}/{wanted}"
        status.scaling = scaled
        status.selector = ",".join(f"{key}={value}" for key, value in selector(pool).items())
        status.url = route.url(observed) or traffic.url(pool, openai=observed.generates_text)
        if observed.throughput is not None:
            status.throughput = observed.throughput
        elif not self._ready and pool.status.throughput is not None:
            status.throughput = Throughput()

    @property
    def stable_changed(self) -> bool:
        """Which revision takes the traffic has changed: what a rollout builds on."""
        return traffic.stable_revision(self._before) != traffic.stable_revision(self._status)

    def resolved(self, target: VersionView) -> None:
        """What the wish means now."""
        self._status.resolved = _resolved(target)

    def several(self, packed: Packed) -> None:
        """The pool is of several models."""
        self._models = {model.name: model for model in packed.models}
        self._leader = packed.leader

    @property
    def due(self) -> float | None:
        """Seconds until a model that was taken back is to be tried again."""
        failed = (model.failed for model in self._models.values() if model.state == packing.FAILED)
        times = [each.retry_time for each in failed if each is not None and each.retry_time is not None]
        return max(1.0, (min(times) - self._now).total_seconds()) if times else None

    def waiting(self, waiting: Waiting, stable: str) -> None:
        """No version that fits is Ready, or none that its pods could hold; what is served, if anything, goes on."""
        self._status.resolved, self._status.candidate = (), None
        if self._before.rollout is not None and self._before.rollout.phase == "Progressing":
            self._status.rollout = None
        self._stable(stable)
        self._available()
        message = f"{waiting.message}{self._trouble_of(stable)}"
        self._conditions.set(ConditionType.DEGRADED, bool(stable), waiting.reason, message if stable else "")
        stalled = waiting.reason in _NEEDS_A_PERSON
        self._conditions.kstatus(
            ConditionType.STALLED if stalled else ConditionType.RECONCILING, waiting.reason, message
        )
        self._phase("Waiting", waiting.reason)

    def steady(self, wish: Wish) -> bool:
        """One revision; returns whether it has just become complete.

        It takes the traffic from its first ready pod on: a change after that must not take it away at once.
        """
        revision = wish.revision
        ready = self._observed.ready(wish.pods)
        there = self._observed.find(wish.pods) is not None and self._observed.service is not None
        complete = there and ready >= self._wanted
        was_stable = traffic.stable_revision(self._before) == revision
        before = self._before.rollout
        was_complete = before is not None and before.phase == "Complete" and before.revision == revision
        self._status.candidate = None
        if complete or ready or was_stable:
            self._status.stable = self._served(wish)
            self._status.version = shape.numbers(wish.version)
        if self._status.previous is not None and swap.warm(self._observed, wish) is None:
            self._status.previous = None
        if complete and not was_complete:
            self._status.rollout = RolloutStatus(phase="Complete", revision=revision, most_ready=self._wanted)
        elif was_complete and before is not None:
            had = before.most_ready or self._before.ready_replicas  # 0: written by an earlier release
            most = min(self._wanted, max(had, ready))
            self._status.rollout = before.model_copy(update={"most_ready": most})
        elif before is not None and before.revision != revision:
            # The wish has returned to what is served; a revision that failed may be tried again after another change.
            self._status.rollout = RolloutStatus(
                phase="Progressing",
                revision=revision,
                reason=str(Reason.ROLLING_OUT),
                strategy=steps.CANARY if before.strategy == steps.CANARY else None,  # `traffic.weights` goes by it
            )
        self._available()
        self._steady_conditions(wish, complete, was_complete)
        return complete and not was_complete

    def rolling(
        self, stable: str, wish: Wish, reached: Progress, choice: Choice, note: str = "", look: Look | None = None
    ) -> None:
        """The candidate comes up in pods of its own."""
        self._stable(stable)
        ready = self._observed.ready(wish.pods)
        self._status.candidate = self._revision(wish)
        message = f"{wish.version.name}: {note or f'{ready} of {self._wanted} pods are ready'}; {self._status.traffic}"
        problem = trouble.problem(self._observed, wish.pods)
        message += f"; {problem.message}" if problem is not None else self._trouble_of(stable)
        self._progressing(wish, reached, choice, message, problem, look)

    def walking(
        self, stable: str, wish: Wish, reached: Progress, choice: Choice, walk: Walk, look: Look | None
    ) -> None:
        """The candidate of a Canary or a Shadow has its part of the requests or of their copies, or gets it."""
        self._stable(stable)
        ready = self._observed.ready(wish.pods)
        goal, _ = scaling.part(self._wanted, walk.part)
        self._status.candidate = self._revision(wish)
        reason, waits = steps.words(self._observed.pool, walk, look)
        message = f"{wish.version.name}: {steps.title(walk)}: {ready} of {goal} pods are ready; {self._status.traffic}"
        message += f"; {waits}" if waits else ""
        problem = trouble.problem(self._observed, wish.pods)
        if walk.mirrors and problem is None and not self._observed.gateway.routed:
            message += "; nothing is copied before the Service leads to the gateway"
            problem = trouble.of_gateway(self._observed)
        message += f"; {problem.message}" if problem is not None else self._trouble_of(stable)
        self._progressing(wish, reached, choice, message, problem or Problem(reason, message), look)
        assert self._status.rollout is not None
        sets, pool = self._observed.revisions, self._observed.pool
        split = traffic.weights(pool, sets) if self._observed.gateway.routed else ()
        shares = split or traffic.shares({each.revision: each.ready for each in sets})
        parts = route.parts(self._observed) or dict(shares)
        part = parts.get(wish.pods, 0)
        walking = {
            "step": walk.at,
            "step_time": walk.since,
            "steps_hash": steps.hash_of(walk.steps),
            "mirror": walk.part if walk.mirrors else None,
            "weight": None if walk.mirrors else walk.weight,
            "actual_weight": None if walk.mirrors else part,
            "summary": f"{wish.version.version}: {f'copies of {walk.part}' if walk.mirrors else part}%",
            "paused": walk.paused or None,
            "window": walk.window,
        }
        if walk.window is not None:
            open_ = look is not None and look.outcome is Outcome.INCONCLUSIVE
            self._conditions.set(ConditionType.ANALYSIS_INCONCLUSIVE, open_, reason, waits if open_ else "")
        # While no pod is missing no time runs: one that is lost later is not late at once.
        walking |= {"progress_time": None} if ready >= goal else {}
        self._status.rollout = self._status.rollout.model_copy(update=walking)

    def _found(self, wish: Wish, look: Look | None = None) -> tuple[Finding, ...] | None:
        """What the last comparison in this change has found, or one that is as good as over."""
        if look is not None and look.outcome is not Outcome.OPEN:
            return look.findings
        before = self._before.rollout
        return before.analysis if before is not None and before.revision == wish.revision else None

    def swapping(self, stable: str, wish: Wish, reached: Progress, choice: Choice, swapped: Swapped) -> None:
        """The pods that run change over to a version, or back to the one that they served before."""
        self._stable(stable)
        back = traffic.stable_revision(self._before) == wish.revision
        candidate = self._revision(wish).model_copy(update={"ready_replicas": len(swapped.done)})
        self._status.candidate = None if back else candidate
        message = f"{wish.version.name}: {len(swapped.done)} of {self._wanted} pods have changed over to it"
        message += f"; {self._status.traffic}"
        if failed := swap.failures(self._observed, wish):
            pod, words = failed[0]
            problem: Problem | None = Problem(Reason.MODEL_LOAD_FAILED, f"pod {pod.name}: {words}")
        else:
            problem = trouble.problem(self._observed, wish.pods)
        message += f"; {problem.message}" if problem is not None else ""
        self._progressing(wish, reached, choice, message, problem)
        assert self._status.rollout is not None
        pods = swap.pods_status(self._observed, wish)
        self._status.rollout = self._status.rollout.model_copy(update={"pods": pods})

    def _progressing(
        self,
        wish: Wish,
        reached: Progress,
        choice: Choice,
        message: str,
        problem: Problem | None,
        look: Look | None = None,
    ) -> None:
        before, revision = self._before.rollout, wish.revision
        again = before is not None and before.failed_revision == revision
        self._status.rollout = RolloutStatus(
            phase="Progressing",
            revision=revision,
            # Kept for its next tries, and so that an upgrade's other pools need not wait for this one.
            failed_revision=revision if again else "",
            attempts=before.attempts if before is not None and again else 0,
            reason=str(Reason.ROLLING_OUT),
            message=message,
            most_ready=reached.most_ready,
            progress_time=reached.since,
            model=self._leader,
            strategy=choice.strategy,
            strategy_reason=choice.reason,
            analysis=self._found(wish, look),
        )
        self._available()
        reason = problem.reason if problem is not None else Reason.ROLLING_OUT
        self._conditions.set(ConditionType.DEGRADED, False, Reason.ROLLING_OUT)
        self._conditions.kstatus(ConditionType.RECONCILING, reason, message)
        self._phase("RollingOut", reason)

    def promoted(self, wish: Wish, choice: Choice, load_seconds: float | None = None) -> None:
        """The candidate carries everything."""
        self._status.previous = self._before.stable if choice.strategy == swap.HOT_SWAP else None
        self._status.stable, self._status.candidate = self._served(wish), None
        self._status.version = shape.numbers(wish.version)
        self._status.rollout = RolloutStatus(
            phase="Complete",
            revision=wish.revision,
            reason=str(Reason.ROLLED_OUT),
            most_ready=self._wanted,
            model=self._leader,
            strategy=choice.strategy,
            strategy_reason=choice.reason,
            load_seconds=swap.seconds(load_seconds),
            analysis=self._found(wish),
        )
        answering = swap.answering(self._observed, self._status.stable)
        self._status.traffic = traffic.summary(answering) + route.words(self._observed)
        self._available()
        self._conditions.set(ConditionType.DEGRADED, False, Reason.ROLLED_OUT)
        if not gateway.is_in_place(self._observed):
            self._gateway_missing(self._serving_message(wish.version), lost=self._before.stable is not None)
            return
        reason = Reason.SERVING if self._wanted else Reason.SCALED_TO_ZERO
        self._conditions.kstatus(ConditionType.READY, reason, self._serving_message(wish.version))
        self._phase("Serving" if self._wanted else "ScaledToZero", reason)

    def failed(self, stable: str, wish: Wish, verdict: Verdict, choice: Choice) -> None:
        """The candidate is taken back; the stable revision gets all traffic again."""
        before, revision = self._before.rollout, wish.revision
        again = before is not None and before.failed_revision == revision
        attempts = (before.attempts if before is not None and again else 0) + 1
        message = f"{wish.version.name} was taken back, {verdict.message}"
        if self._leader is not None:
            attempts = self._fail(wish, verdict.reason, message, mendable=verdict.mendable)
        self._status.rollout = RolloutStatus(
            phase="Failed",
            revision=revision,
            failed_revision=revision,
            attempts=attempts,
            retry_time=rollout.retry_time(self._now, attempts) if verdict.mendable else None,
            reason=str(verdict.reason),
            message=message,
            model=self._leader,
            strategy=choice.strategy,
            strategy_reason=choice.reason,
            analysis=verdict.findings,
        )
        self._degraded(stable, verdict.reason, message)

    def held_back(self, stable: str, failed: str) -> None:
        """The wanted revision was taken back before."""
        before = self._before.rollout
        if before is not None and before.reason:
            self._degraded(stable, reason_called(before.reason), before.message)
        else:
            self._degraded(stable, Reason.MODEL_LOAD_FAILED, f"revision {failed} failed")

    def refused(self, reason: Reason, message: str) -> None:
        """The API server refused an object of ours."""
        self._status.retried, self._status.requests = self._before.retried, self._before.requests
        if self._observed.has_several:  # which versions were taken back is not forgotten
            self._status.models = self._before.models
        self._available()
        self._conditions.kstatus(ConditionType.STALLED, reason, message)
        self._phase("Rejected", reason)

    def result(self) -> InferencePoolStatus:
        """The status to be written if it differs from the one that stands."""
        status = self._status
        if self._models:
            self._each_model()
        status.conditions = self._conditions.result()
        status.cost = economics.follow(self._observed, status, self._wanted, self._now)
        if status.cost is not None:
            if status.throughput is not None:
                status.throughput = economics.priced(status.throughput, status.cost)
            if status != self._before:
                status.cost = economics.up_to(status.cost, self._now)  # it is written anyway
        return status

    # --- Several models ---

    def _fail(self, wish: Wish, reason: Reason, message: str, *, mendable: bool) -> int:
        """The model that changes is taken back; returns how often its version was."""
        model = self._models[wish.version.model]
        attempts = (model.failed.attempts if model.failed is not None else 0) + 1
        failed = FailedVersion(
            model_version=wish.version.name,
            revision=packing.trial(self._observed, wish.version),
            attempts=attempts,
            retry_time=rollout.retry_time(self._now, attempts) if mendable else None,
        )
        told = {"state": packing.FAILED, "reason": str(reason), "message": message, "failed": failed}
        self._models[model.name] = model.model_copy(update=told)
        return attempts

    def _each_model(self) -> None:
        """What is true about each, and about the pool if not every one is as it shall be."""
        stable, change = self._status.stable, self._status.rollout
        served = {each.name: each for each in stable.models or ()} if stable is not None else {}
        for name, model in self._models.items():
            if model.state == packing.CHANGING:  # no other one does than the leader
                self._models[name] = self._changed(model, served.get(name), change)
        self._status.models = tuple(self._models.values())
        if not self._conditions.holds(ConditionType.READY):
            return
        order = (packing.FAILED, packing.REFUSED, packing.CHANGING, packing.WAITING)
        others = [model for state in order for model in self._models.values() if model.state == state]
        if not others:
            return
        first = others[0]
        stuck = first.state in (packing.FAILED, packing.REFUSED)
        reason = reason_called(first.reason) if first.reason else Reason.ROLLING_OUT
        stalled = stuck or reason in _NEEDS_A_PERSON
        words = "; ".join(f"model {model.name}: {model.message or model.state}" for model in others)
        if first.state == packing.FAILED and first.failed is not None:
            words += f". {self._way_on(first.failed.retry_time)}"
        ready = stable.ready_replicas if stable is not None else 0
        message = f"{ready} of {self._wanted} pods serve {self._status.version}; {words}"
        self._conditions.set(ConditionType.DEGRADED, stuck, reason, message if stuck else "")
        self._conditions.kstatus(ConditionType.STALLED if stalled else ConditionType.RECONCILING, reason, message)
        self._phase("Degraded" if stuck else "RollingOut" if reason is Reason.ROLLING_OUT else "Waiting", reason)

    def _changed(self, model: ModelStatus, served: ResolvedModel | None, change: RolloutStatus | None) -> ModelStatus:
        """The model that changes: it may be there by now."""
        if served is None or served.version != model.wanted:
            words = change.message if change is not None else ""
            return model.model_copy(update={"message": words or None})
        view = self._observed.version(served.model_version)
        taken = view.memory_bytes if view is not None else None
        stable = self._status.stable
        told = {
            "state": packing.SERVING,
            "version": served.version,
            "model_version": served.model_version,
            "wanted": None,
            "failed": None,
            "memory_bytes": taken,
            "memory": human_size(taken) if taken is not None else None,
            "ready_replicas": stable.ready_replicas if stable is not None else 0,
        }
        return model.model_copy(update=told)

    def _degraded(self, stable: str, reason: Reason, message: str) -> None:
        self._stable(stable)
        self._status.candidate = None
        # A request to try again that has come meanwhile is still to be honoured.
        self._status.retried = self._before.retried
        self._available()
        again = self._status.rollout.retry_time if self._status.rollout is not None else None
        advice = f"{message}. {self._way_on(again)}{self._trouble_of(stable)}"
        self._conditions.set(ConditionType.DEGRADED, True, reason, advice)
        self._conditions.kstatus(ConditionType.STALLED, reason, advice)
        self._phase("Degraded", reason)

    def _trouble_of(self, stable: str) -> str:
        """What keeps pods of the revision away that serves meanwhile, to follow what is said about another one."""
        found = trouble.problem(self._observed, stable) if stable else None
        return f"; of what is served meanwhile, {found.message}" if found is not None else ""

    def _way_on(self, again: datetime | None) -> str:
        """What becomes of a version that was taken back."""
        meta = self._observed.pool.metadata
        command = f"kubectl -n {meta.namespace} annotate --overwrite ipool {meta.name}"
        command = f'{command} {names.ANNOTATION_RETRY}="$(date)"'
        if again is not None:
            return f"It is tried again at {format_time(again)}, or at once with: {command}"
        return f"Publish a version that works, pin the one that is served, or have it tried again with: {command}"

    def _steady_conditions(self, wish: Wish, complete: bool, was_complete: bool) -> None:
        revision, target = wish.pods, wish.version
        ready, pods = self._observed.ready(revision), self._observed.pods
        loaded = f"{target.title}: {ready} of {self._wanted} pods have it loaded"
        # Pods that are asked for in addition are missing from nobody; those that were there are.
        kept = self._status.rollout.most_ready if self._status.rollout is not None else 0
        lost = was_complete and self._ready < kept
        if not self._wanted:
            self._conditions.set(ConditionType.DEGRADED, False, Reason.SCALED_TO_ZERO)
            # Not complete: the Deployment or the Service is made, which costs no pod.
            there = complete and gateway.is_in_place(self._observed)
            true = ConditionType.READY if there else ConditionType.RECONCILING
            self._conditions.kstatus(true, Reason.SCALED_TO_ZERO, self._zero_message())
            self._phase("ScaledToZero", Reason.SCALED_TO_ZERO)
        elif complete and not gateway.is_in_place(self._observed):
            self._gateway_missing(loaded, lost=self._was_reached())
        elif complete:
            self._conditions.set(ConditionType.DEGRADED, False, Reason.SERVING)
            self._conditions.kstatus(ConditionType.READY, Reason.SERVING, self._serving_message(target))
            self._phase("Serving", Reason.SERVING)
        elif (text := trouble.load_error(pods, revision)) and not self._ready:
            message = f"{target.name} does not load: {text}. Mend that, or publish a version that loads"
            if self._leader is not None:  # the others are not to wait for it
                self._fail(wish, Reason.MODEL_LOAD_FAILED, message, mendable=rollout.is_mendable(text))
            self._conditions.set(ConditionType.DEGRADED, True, Reason.MODEL_LOAD_FAILED, message)
            self._conditions.kstatus(ConditionType.STALLED, Reason.MODEL_LOAD_FAILED, message)
            self._phase("Failed", Reason.MODEL_LOAD_FAILED)
        elif (found := trouble.problem(self._observed, revision)) is not None:
            message = f"{loaded}; {found.message}"
            degraded = lost or (self._ready > 0 and not found.waits)
            self._conditions.set(ConditionType.DEGRADED, degraded, found.reason, message)
            # A node may become free or be added: that is waiting, for every kind of ours.
            true = ConditionType.RECONCILING if found.waits else ConditionType.STALLED
            self._conditions.kstatus(true, found.reason, message)
            self._phase("Starting" if not was_complete else "Degraded" if degraded else "Scaling", found.reason)
        elif ready < self._wanted <= self._ready:
            # The way back from a change that was given up: pods of the other revision hold the traffic so long.
            self._conditions.set(ConditionType.DEGRADED, False, Reason.ROLLING_OUT)
            self._conditions.kstatus(ConditionType.RECONCILING, Reason.ROLLING_OUT, loaded)
            self._phase("RollingOut", Reason.ROLLING_OUT)
        else:
            if ready >= self._wanted:
                loaded += f"; Service {self._observed.pool.metadata.name} is made"
            reason = Reason.PODS_NOT_READY if was_complete else Reason.STARTING
            self._conditions.set(ConditionType.DEGRADED, lost, reason, loaded if lost else "")
            self._conditions.kstatus(ConditionType.RECONCILING, reason, loaded)
            self._phase("Starting" if not was_complete else "Degraded" if lost else "Scaling", reason)

    def _zero_message(self) -> str:
        if not scaling.sleeps(self._observed.pool):
            return "spec.replicas is 0"
        return "nobody asks, so there is no pod; requests wait in the gateway, and the first one starts a pod"

    def _was_reached(self) -> bool:
        """The pool was complete before, or answered at least, and now nobody can reach it."""
        was = self._before.conditions
        if is_true(was, ConditionType.READY) or is_true(was, ConditionType.DEGRADED):
            return True
        return is_true(was, ConditionType.AVAILABLE) and not self._observed.gateway.ready

    def _gateway_missing(self, loaded: str, *, lost: bool) -> None:
        """All pods serve, and the way to them is not, or no longer, the one that the spec asks for.

        Args:
            loaded: what is known of the pods.
            lost: it was there before. What a new pool waits for is missing from nobody.
        """
        observed = self._observed
        view, pool = observed.gateway, observed.pool
        if not view.routed and (missing := route.problem(observed)) is not None:
            message = f"{loaded}; {missing.message}"
            had = self._before.url not in ("", traffic.url(pool, openai=observed.generates_text))
            was = had or is_true(self._before.conditions, ConditionType.DEGRADED)
            degraded = lost and was and not route.is_reached(observed)
            self._not_in_place(missing.reason, message, degraded=degraded, stalled=not missing.waits)
            return
        found = trouble.of_gateway(observed)
        words = f"{view.ready} of {gateway.replicas(pool)} pods of its gateway are ready"
        if view.ready and not gateway.as_asked(observed):
            words += ", and not all of them have the Secrets that spec.gateway names: requests pass as before"
        if not gateway.is_wanted(pool):
            words = f"Service {pool.metadata.name} is led to them"
        message = f"{loaded}; {words}" + (f"; {found.message}" if found is not None else "")
        reason = found.reason if found is not None else Reason.GATEWAY_NOT_READY
        stalled = found is not None and not found.waits
        degraded = lost and view.routed and view.ready < gateway.replicas(pool)
        self._not_in_place(reason, message, degraded=degraded, stalled=stalled)

    def _not_in_place(self, reason: Reason, message: str, *, degraded: bool, stalled: bool) -> None:
        self._conditions.set(ConditionType.DEGRADED, degraded, reason, message if degraded else "")
        self._conditions.kstatus(ConditionType.STALLED if stalled else ConditionType.RECONCILING, reason, message)
        self._phase("Degraded" if degraded else "Starting", reason)

    def _serving_message(self, target: VersionView) -> str:
        return f"{target.title} is loaded on {self._wanted} of {self._wanted} pods"

    def _stable(self, revision: str) -> None:
        """Keep the stable revision, with its numbers brought up to date."""
        if self._before.stable is None:
            return
        view = self._observed.find(revision)
        numbers = {"replicas": view.replicas if view else 0, "ready_replicas": self._observed.ready(revision)}
        self._status.stable = self._before.stable.model_copy(update=numbers)

    def _revision(self, wish: Wish) -> RevisionStatus:
        view, pool = self._observed.find(wish.pods), self._observed.pool.metadata.name
        return RevisionStatus(
            revision=wish.revision,
            model_version=wish.version.name,
            version=wish.version.version,
            models=_resolved(wish.version) if wish.version.beside is not None else None,
            image=wish.image,
            deployment=child_name(pool, wish.pods) if wish.pods != wish.revision else None,
            replicas=view.replicas if view is not None else 0,
            ready_replicas=self._observed.ready(wish.pods),
        )

    def _served(self, wish: Wish) -> RevisionStatus:
        """The revision that takes the traffic; of several models the first one stands for it, whichever has led."""
        first = wish.version.all[0]
        return self._revision(wish).model_copy(update={"model_version": first.name, "version": first.version})

    def _available(self) -> None:
        """At least one pod answers."""
        view = self._observed.gateway
        shut = view.routed and not view.ready
        up = self._ready > 0 and self._observed.service is not None and not shut
        down = Reason.PODS_NOT_READY if self._wanted else Reason.SCALED_TO_ZERO
        if self._ready and shut:
            down = Reason.GATEWAY_NOT_READY
        self._conditions.set(ConditionType.AVAILABLE, up, Reason.SERVING if up else down, self._status.traffic)

    def _phase(self, phase: str, reason: Reason) -> None:
        self._status.phase, self._status.reason = phase, str(reason)


def _resolved(version: VersionView) -> tuple[ResolvedModel, ...]:
    return tuple(ResolvedModel(name=each.model, version=each.version, model_version=each.name) for each in version.all)

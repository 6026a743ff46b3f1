"""The status of a TrainingJob under construction: one method for each thing that can be true about it.

`phase` and `reason` exist for `kubectl get`; scripts read the conditions. kstatus sees: Ready while it runs or when it
is done, Reconciling on the way there, Stalled when a person is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from aifactory.api.conditions import ConditionSet, find
from aifactory.api.reasons import ConditionType, Reason
from aifactory.api.trainingjob import (
    CheckStatus,
    LastFailure,
    NodeCounts,
    OutputStatus,
    Resolved,
    Restarts,
    TrainingJob,
    TrainingJobStatus,
)
from aifactory.engine.pods import about_claims, needs_person
from aifactory.engine.refusals import Refusal
from aifactory.training import cache, children, economics, workspace
from aifactory.training.progress import fold
from aifactory.training.state import GangView, Observed, PodView, Preparation

UNSEEN_SECONDS = 60


class StatusDraft:
    """Starts from the status as it stands; `result()` is the one to be written if it differs."""

    def __init__(self, observed: Observed, current: tuple[PodView, ...], now: datetime) -> None:
        job = observed.job
        self._observed = observed
        self._now = now.replace(microsecond=0)
        self._before = job.status
        self._status = job.status.model_copy()
        self._conditions = ConditionSet(job.status.conditions, job.metadata.generation, self._now)
        self._forced = False
        self._count(current)
        folded = fold(job.status, observed.progress, now, force=False)
        self.due_after = folded.due_after
        self.all_up = False
        """All of its pods run."""
        self.became_running = False
        """The job was on its way and now all of its pods run."""
        self.restarts: Restarts = folded.restarts
        """Restarts so far, with what this draft has added."""
        self._status.progress, self._status.checkpoint = folded.progress, folded.checkpoint

    @property
    def output(self) -> OutputStatus:
        """The output so far."""
        return self._status.output or OutputStatus()

    @property
    def attempt(self) -> int:
        """The attempt as this draft has it."""
        return self._status.attempt

    def resolved(self, values: Resolved) -> None:
        """What the operator chose for the current attempt."""
        self._status.resolved = values

    def last_failure(self, failure: LastFailure) -> None:
        """The pod that decides."""
        self._status.last_failure = failure

    def published(self, **changes: Any) -> None:
        """What has become of the output so far; keywords are fields of `OutputStatus`."""
        self._status.output = self.output.model_copy(update=changes)

    def probing(self, message: str, trouble: Reason | None = None, *, stalled: bool = False) -> None:
        """Before the first pod: it is found out whether the store takes a result, or something is in the way."""
        self._not_suspended()
        self._not_running("Pending", trouble or Reason.PROBING_STORE, message, stalled=stalled)

    def inputs(self, prepared: Preparation) -> None:
        """How far the inputs are."""
        self._status.inputs = prepared.inputs or None
        if not prepared.inputs:
            self._conditions.remove(ConditionType.INPUTS_READY)
            return
        there = prepared.reason is Reason.INPUTS_PREPARED
        self._conditions.set(ConditionType.INPUTS_READY, there, prepared.reason, prepared.message)

    def checked(self, entry: CheckStatus, reason: Reason, message: str, *, passed: bool | None) -> None:
        """What the program says before it trains; None: it came to no answer."""
        self._status.check = entry
        self._conditions.set(ConditionType.CHECKED, passed, reason, message)

    def not_checked(self) -> None:
        """There is no check, or it is to come."""
        self._status.check = None
        self._conditions.remove(ConditionType.CHECKED)

    def preparing(self, prepared: Preparation) -> None:
        """No pod is made before every input is there and the check has passed."""
        self._not_suspended()
        self._not_running("Pending", prepared.reason, prepared.message, stalled=prepared.stalled)

    def running(self, current: tuple[PodView, ...], gangs: tuple[GangView, ...]) -> None:
        """Pods of the current attempt exist or are being created; none has failed."""
        count = self._observed.job.spec.nodes.count
        self._not_suspended()
        up = sum(1 for pod in current if pod.running or pod.succeeded)
        self._scheduled(current, gangs)
        if current and self._status.start_time is None:
            self._status.start_time = self._now
        down = sorted((pod for pod in current if not (pod.running or pod.succeeded)), key=lambda pod: pod.index)
        if up >= count:
            self._all_ready(count, [f"pod {pod.name}: {pod.beside}" for pod in current if pod.beside])
        elif (trouble := next(filter(None, map(needs_person, down)), None)) is not None:
            reason, message = trouble
            self._not_running("Pending", reason, message, stalled=True)
        elif len(current) < count:
            self._not_running("Pending", Reason.CREATING_PODS, f"{len(current)} of {count} pods exist")
        else:
            waiting = find(self._conditions.result(), ConditionType.SCHEDULED)
            if waiting is not None and waiting.status == "False":
                self._not_running("Pending", _reason(waiting.reason), waiting.message)
            else:
                self._not_running(
                    "Starting", Reason.WAITING_FOR_PODS, f"{up} of {count} pods run{self._held_back(current)}"
                )

    def stopping(self, stale: tuple[PodView, ...], stuck: str = "") -> None:
        """Pods of an earlier attempt are ending, or `stuck` says why one can not."""
        message = f"{len(stale)} pods of an earlier attempt are ending"
        if stuck:
            self._not_running("Restarting", Reason.NODE_LOST, f"{message}; {stuck}", stalled=True)
        else:
            self._not_running("Restarting", Reason.STOPPING_PODS, message)

    def backing_off(self) -> None:
        """The next attempt waits."""
        until = self.restarts.next_attempt_time
        message = f"attempt {self.attempt} starts at {until:%Y-%m-%dT%H:%M:%SZ}" if until is not None else ""
        self._not_running("Restarting", Reason.BACK_OFF, message)

    def next_attempt(self, cause: Reason, why: str) -> None:
        """All pods are replaced."""
        self._status.attempt += 1
        self._conditions.remove(ConditionType.SCHEDULED)
        self._conditions.set(ConditionType.SUSPENDED, False, Reason.NOT_SUSPENDED)
        self._conditions.set(ConditionType.RESTARTING, True, cause, why)
        self._not_running("Restarting", cause, why)

    def admitted(self, quota: str) -> None:
        """The job has quota, in these words; none: no queue decides about it."""
        if quota:
            self._conditions.set(ConditionType.ADMITTED, True, Reason.ADMITTED, quota)
        else:
            self._conditions.remove(ConditionType.ADMITTED)

    def queued(self, reason: Reason, message: str, *, stalled: bool) -> None:
        """No pod is left, and none is made before the job has quota."""
        self._not_suspended()
        self._conditions.set(ConditionType.ADMITTED, False, reason, message)
        self._conditions.remove(ConditionType.SCHEDULED)
        self._not_running("Queued", reason, message, stalled=stalled)

    def leaving(self, left: int, reason: Reason, why: str, stuck: str = "") -> None:
        """Pods of a job without quota are ending, or `stuck` says why one can not."""
        message = f"{left} pods are ending; they have their grace period to write a checkpoint; {why}"
        self._conditions.set(ConditionType.ADMITTED, False, reason, why)
        if self._status.start_time is None:  # as in `suspending`
            self._status.start_time = self._now
        if stuck:
            self._not_running("Suspending", Reason.NODE_LOST, f"{message}; {stuck}", stalled=True)
        else:
            self._not_running("Suspending", reason, message)

    def suspending(self, left: int, stuck: str = "") -> None:
        """Pods of a suspended job are ending, or `stuck` says why one can not."""
        self._fetch_no_more(Reason.STOPPING_PODS)
        message = f"{left} pods are ending; they have their grace period to write a checkpoint"
        self._conditions.set(ConditionType.SUSPENDED, False, Reason.STOPPING_PODS, message)
        if self._status.start_time is None:  # it has had pods, which are not to be taken for those of its first run
            self._status.start_time = self._now
        if stuck:
            self._not_running("Suspending", Reason.NODE_LOST, f"{message}; {stuck}", stalled=True)
        else:
            self._not_running("Suspending", Reason.STOPPING_PODS, message)

    def suspended(self) -> None:
        """No pod is left, on request."""
        self._forced = True
        self._fetch_no_more(Reason.SUSPENDED)
        message = "spec.suspend is true; set it to false to go on from the last checkpoint"
        if self._status.start_time is None:
            message = "spec.suspend is true and the job has never run; set it to false to start it"
        self._conditions.set(ConditionType.SUSPENDED, True, Reason.SUSPENDED, message)
        self._conditions.set(ConditionType.RUNNING, False, Reason.SUSPENDED)
        self._conditions.remove(ConditionType.SCHEDULED)
        self._conditions.remove(ConditionType.ADMITTED)
        self._conditions.kstatus(None, Reason.SUSPENDED, message)
        self._phase("Suspended", Reason.SUSPENDED)

    def deleted(self, left: int, stuck: str = "") -> None:
        """The job is being deleted and somebody's finalizer holds it; `stuck` says why a pod can not end."""
        self._fetch_no_more(Reason.STOPPING_PODS)
        held = ", ".join(self._observed.job.metadata.finalizers)
        ending = f"{left} pods are ending" if left else "none of its pods runs any more"
        message = f"the job is being deleted and {ending}; it goes when these finalizers have: {held}"
        self._conditions.set(ConditionType.RESTARTING, False, Reason.STOPPING_PODS)
        self._conditions.remove(ConditionType.SCHEDULED)
        if stuck:
            self._not_running("Terminating", Reason.NODE_LOST, f"{message}; {stuck}", stalled=True)
        else:
            self._not_running("Terminating", Reason.STOPPING_PODS, message)

    def publishing(self, message: str, trouble: Reason | None = None, *, stalled: bool = False) -> None:
        """All pods succeeded; the result is on its way to the store, or held up by something a person can mend."""
        self._succeeded()
        reason = trouble or Reason.PUBLISHING
        self._conditions.set(ConditionType.RUNNING, False, Reason.PUBLISHING)
        self._conditions.kstatus(ConditionType.STALLED if stalled else ConditionType.RECONCILING, reason, message)
        self._phase("Publishing", reason)

    def complete(self, message: str) -> None:
        """Done."""
        self._succeeded()
        self._conditions.set(ConditionType.COMPLETE, True, Reason.SUCCEEDED, message)
        self._conditions.set(ConditionType.RUNNING, False, Reason.SUCCEEDED)
        self._conditions.kstatus(ConditionType.READY, Reason.SUCCEEDED, message)
        self._status.completion_time = self._now
        self._phase("Succeeded", Reason.SUCCEEDED)

    def failed(self, reason: Reason, message: str) -> None:
        """The end, badly. What still runs is removed."""
        self._fetch_no_more(reason)
        nodes = self._status.nodes or NodeCounts()
        self._status.nodes = _summed(nodes.model_copy(update={"active": 0, "ready": 0}))
        self._conditions.set(ConditionType.FAILED, True, reason, message)
        self._conditions.remove(ConditionType.ADMITTED)
        self._conditions.set(ConditionType.RUNNING, False, reason)
        self._conditions.set(ConditionType.RESTARTING, False, reason)
        self._conditions.kstatus(ConditionType.STALLED, reason, message)
        self._status.completion_time = self._now
        self._phase("Failed", reason)

    def refused(self, refusal: Refusal) -> None:
        """The API server refused an object of ours."""
        if all_succeeded(self._status.nodes):
            self.publishing(refusal.message, refusal.reason, stalled=refusal.stalled)
        else:
            self._not_running("Pending", refusal.reason, refusal.message, stalled=refusal.stalled)

    def edit_refused(self, refusal: Refusal, current: tuple[PodView, ...]) -> None:
        """The API server would not make the pods of the edited spec, so those that there are go on."""
        if len(current) == self._observed.job.spec.nodes.count or not self._status.phase:
            self.running(current, self._observed.gangs)
        message = (
            f"the spec was edited and the API server refuses its pods: {refusal.message}; those of attempt "
            f"{self.attempt} run on as they are until the edit is corrected or taken back"
        )
        self._conditions.kstatus(ConditionType.STALLED, refusal.reason, message)
        self._status.reason = str(refusal.reason)

    def edit_waits(self, prepared: Preparation, current: tuple[PodView, ...]) -> None:
        """What the edited spec asks for is not all there, so the pods that there are go on."""
        soon = prepared.reason in (
            Reason.INPUTS_PREPARED,
            Reason.CHECK_PASSED,
        )  # the pods go in a moment: nothing new is told of them
        if not soon and (len(current) == self._observed.job.spec.nodes.count or not self._status.phase):
            self.running(current, self._observed.gangs)
        message = (
            f"the spec was edited: {prepared.message}; pods of attempt {self.attempt} run on as they are until "
            f"{prepared.until}"
        )
        true = ConditionType.STALLED if prepared.stalled else ConditionType.RECONCILING
        self._conditions.kstatus(true, prepared.reason, message)
        self._status.reason = str(prepared.reason)

    def name_taken(self, what: str, removal: str) -> None:
        """Objects we need exist and are not ours: left by an earlier job of the name, or somebody else's.

        `removal` is the command that removes them.
        """
        message = (
            f"{what} exists and does not belong to this job; if an earlier job of this name is being deleted it goes "
            f"by itself, else rename one of them, or, if nobody needs it: {removal}"
        )
        self._not_running("Pending", Reason.NAME_CONFLICT, message)

    def result(self) -> TrainingJobStatus:
        """The status to be written if it differs from the one that stands."""
        job, status = self._observed.job, self._status
        status.restarts = self.restarts
        status.conditions = self._conditions.result()
        status.observed_generation = job.metadata.generation
        status.selector = ",".join(f"{key}={value}" for key, value in children.selector(job).items())
        status.cost = economics.follow(self._observed, status, self._now)
        if self._forced or status != self._before:
            # The status is written anyway, so the newest figures ride along.
            folded = fold(self._before, self._observed.progress, self._now, force=True)
            status.progress, status.checkpoint = folded.progress, folded.checkpoint
            status.cost = economics.follow(self._observed, status, self._now)
            if status.cost is not None:
                status.cost = economics.up_to(status.cost, self._now)
        return status

    def _count(self, current: tuple[PodView, ...]) -> None:
        self._status.replicas = len(current)
        if all_succeeded(self._before.nodes):
            # A fact that stays, also when somebody cleans the pods up or changes nodes.count.
            return
        count = self._observed.job.spec.nodes.count
        self._status.nodes = _summed(
            NodeCounts(
                desired=count,
                active=sum(1 for pod in current if pod.live),
                ready=sum(1 for pod in current if pod.running and not (pod.succeeded or pod.terminating)),
                # A job that was made smaller is not done because nodes that it no longer has are.
                succeeded=sum(1 for pod in current if pod.succeeded and pod.index < count),
                failed=sum(1 for pod in current if pod.failed),
            )
        )

    def _succeeded(self) -> None:
        if not all_succeeded(self._before.nodes):
            count = self._observed.job.spec.nodes.count
            self._status.nodes = _summed(NodeCounts(desired=count, succeeded=count))
        self._conditions.set(ConditionType.RESTARTING, False, Reason.SUCCEEDED)
        self._conditions.remove(ConditionType.ADMITTED)
        self._fetch_no_more(Reason.SUCCEEDED)

    def _fetch_no_more(self, reason: Reason) -> None:
        """What is not there is not fetched now, and what has not been checked is not checked."""
        if self._status.check is not None and not self._status.check.ended:
            self.not_checked()
        before = self._status.inputs
        if before is None:
            return
        self._status.inputs = tuple(map(cache.put_aside, before))
        if any(found.phase != cache.READY for found in before):
            self._conditions.set(ConditionType.INPUTS_READY, False, reason)

    def _not_suspended(self) -> None:
        suspended = find(self._before.conditions, ConditionType.SUSPENDED)
        if suspended is not None and suspended.status == "True":
            self._conditions.set(ConditionType.SUSPENDED, False, Reason.NOT_SUSPENDED)

    def _all_ready(self, count: int, beside: Sequence[str]) -> None:
        """All trainers run; `beside` are words about other containers that do not."""
        self.all_up, self.became_running = True, self._before.phase != "Running"
        reason, message = Reason.ALL_NODES_READY, f"{count} of {count} pods run"
        if beside:
            others = f" (and {len(beside) - 1} more)" if len(beside) > 1 else ""
            reason, message = Reason.SIDE_CONTAINER_FAILED, f"{message}; {beside[0]}{others}; training goes on"
        self._conditions.set(ConditionType.RUNNING, True, reason, message)
        self._conditions.set(ConditionType.RESTARTING, False, Reason.ALL_NODES_READY)
        self._conditions.kstatus(ConditionType.READY, reason, message)
        self._phase("Running", reason)
        if self._status.first_running_time is None:
            self._status.first_running_time = self._now

    def _not_running(self, phase: str, reason: Reason, message: str, *, stalled: bool = False) -> None:
        self._conditions.set(ConditionType.RUNNING, False, reason, message)
        self._conditions.kstatus(ConditionType.STALLED if stalled else ConditionType.RECONCILING, reason, message)
        self._phase(phase, reason)

    def _phase(self, phase: str, reason: Reason) -> None:
        self._status.phase, self._status.reason = phase, str(reason)

    def _held_back(self, current: tuple[PodView, ...]) -> str:
        """That pods have scheduling gates, or that no scheduler has looked at them: one of that name may not exist."""
        if gated := sum(1 for pod in current if pod.gated):
            return f"; {gated} wait for scheduling gates, which whoever set them, a queue for example, removes"
        name = self._observed.job.spec.template.raw_spec().get("schedulerName")
        unseen = [pod.name for pod in current if pod.unseen]
        count = len(unseen)
        if not unseen:
            return ""
        if name in (None, "default-scheduler"):
            return self._overlooked(unseen[0])
        return f"; no scheduler has looked at {count} yet: check that one with the name {name} (schedulerName) runs"

    def _overlooked(self, pod: str) -> str:
        """That the cluster's own scheduler, which looks at once, has not looked at a pod for a minute."""
        before = find(self._before.conditions, ConditionType.RECONCILING)
        since = before.last_transition_time if before is not None and before.status == "True" else self._now
        left = UNSEEN_SECONDS - (self._now - since).total_seconds()
        if left > 0:
            self.due_after = min(left, self.due_after or left)
            return ""
        return (
            f"; no scheduler has looked at pod {pod} yet: something it names, a ResourceClaim for example, is missing"
        )

    def _scheduled(self, current: tuple[PodView, ...], gangs: tuple[GangView, ...]) -> None:
        count = self._observed.job.spec.nodes.count
        message = next((pod.unschedulable for pod in current if pod.unschedulable), "")
        message = message or next((group.unschedulable for group in gangs if group.unschedulable), "")
        if message:
            # A gang's words count pods and name no resource: say what each of them asks for.
            wish = f"{count} pods{' must be placed together' if gangs else ''}, each asking for "
            wish += children.resources_asked(self._observed.job.spec) or "no resources"
            if about_claims(message):
                advice = (
                    f"see: kubectl describe pvc {workspace.claim(self._observed.job)}; its storage class must exist "
                )
                advice += "and offer the access modes of spec.workspace"
                self._conditions.set(ConditionType.SCHEDULED, False, Reason.CLAIM_NOT_BOUND, f"{message}; {advice}")
                return
            advice = "free nodes or GPUs, or lower nodes.count or the trainer's resources"
            if self._observed.misses_gang:
                advice += "; the cluster serves no PodGroups, so jobs may hold nodes and wait for each other"
            self._conditions.set(ConditionType.SCHEDULED, False, Reason.UNSCHEDULABLE, f"{wish}: {message}; {advice}")
        elif len(current) >= count and all(pod.node or not pod.live for pod in current):
            self._conditions.set(ConditionType.SCHEDULED, True, Reason.PODS_SCHEDULED)


def _reason(of_scheduled: str) -> Reason:
    return Reason.CLAIM_NOT_BOUND if of_scheduled == Reason.CLAIM_NOT_BOUND else Reason.UNSCHEDULABLE


def _summed(nodes: NodeCounts) -> NodeCounts:
    return nodes.model_copy(update={"summary": f"{nodes.ready + nodes.succeeded}/{nodes.desired}"})


def all_succeeded(nodes: NodeCounts | None) -> bool:
    """Whether it is recorded that every pod of the job succeeded."""
    return nodes is not None and 0 < nodes.desired <= nodes.succeeded


def finished(job: TrainingJob, now: datetime) -> TrainingJobStatus:
    """The status of a job that has ended: how it ended stands."""
    status, conditions = job.status, ConditionSet(job.status.conditions, job.metadata.generation, now)
    ends = {ConditionType.COMPLETE: ConditionType.READY, ConditionType.FAILED: ConditionType.STALLED}
    end = next(found for found in status.conditions if found.type in ends and found.status == "True")
    conditions.by(end, ends[ConditionType(end.type)])
    found = {"observed_generation": job.metadata.generation, "reason": end.reason, "conditions": conditions.result()}
    return status.model_copy(update=found)

"""A job that names a queue of Kueue's trains only while its Workload has quota.

Kueue decides by Workloads: what pods there are to be, and whether they may be. One is made for a job once everything
else that its pods need is there, so that no quota is held while inputs are fetched. What always holds:
- No pod that trains is made without quota, and the pods get the nodes that the quota is of.
- Quota that Kueue takes back is given back when no pod holds it any more: the next job starts on free machines. The
  pods end as in a suspension, and the job goes on from its last checkpoint when it has quota again.
- The quota is of the pods that run. For those of an edited spec the job waits anew once they have gone; in another
  queue it waits the next time that it has to.
- Quota is for pods that train: those that fetch, probe and publish ask for no GPU, and are not counted.

What Kueue expects of those who make Workloads is what its own controllers of jobs do:
https://github.com/kubernetes-sigs/kueue/blob/v0.19.2/pkg/controller/jobframework/reconciler.go
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from aifactory.api import names
from aifactory.api.base import format_time
from aifactory.api.conditions import find, shorten
from aifactory.api.reasons import ConditionType, Reason
from aifactory.api.trainingjob import TrainingJob, TrainingJobStatus
from aifactory.engine.apply import content_hash
from aifactory.engine.plan import Create, Delete, PatchStatus, Write
from aifactory.engine.podspec import Json
from aifactory.training import children
from aifactory.training.state import NOWHERE, Fact, Observed, Placement, WorkloadView

POD_SET: Final = "node"
"""Name of the one set of pods: all that train are alike."""
LOOK_AGAIN_SECONDS: Final = 10.0
"""How often it is looked for what belongs to nobody (a flavor, a priority class): it wakes nobody when it comes."""
OVERLOOKED_SECONDS: Final = 60
"""Kueue says something of every Workload within a second."""
_HOPELESS: Final = frozenset({"Inadmissible", "Misconfigured", "NoMatchingFlavor", "ExceedsMaxQuota", "OnHold"})
"""Reasons of QuotaReserved=False that no other job's end changes."""
_COMES_BACK: Final = frozenset({"Preempted", "NodeFailures"})
"""After these evictions Kueue queues a Workload again at once; after others it decides when."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why no pod may be made."""

    reason: Reason
    message: str
    stalled: bool = False
    """A person is needed."""
    requeue_after: float | None = None


def queue_of(job: TrainingJob) -> str:
    """The LocalQueue that the job names; empty where no queue decides about it."""
    return job.metadata.labels.get(names.KUEUE_QUEUE, "")


def priority_class_of(job: TrainingJob) -> str:
    """The WorkloadPriorityClass that the job names; empty: priority 0."""
    return job.metadata.labels.get(names.KUEUE_PRIORITY, "")


def may_go_on(observed: Observed) -> bool:
    """Whether pods of a job that waits may stay: the quota that they were made by has not been taken back.

    Where there is no Kueue any more there is nobody who would give it to others either.
    """
    return not observed.kueue_served or any(map(_has_quota, observed.workloads))


def waited(status: TrainingJobStatus) -> bool:
    """The job is known to have waited for quota: what pods it had before have been stopped."""
    found = find(status.conditions, ConditionType.ADMITTED)
    return found is not None and found.status == "False"


def current(observed: Observed) -> WorkloadView | None:
    """The Workload of the spec as it is now: the one that has quota, else the one that waits in today's queue."""
    job = observed.job
    of_spec = [view for view in observed.workloads if children.is_of(view.template_hash, job.spec)]
    waits = (view for view in of_spec if not _is_over(view) and view.queue == queue_of(job))
    return next(filter(_has_quota, of_spec), None) or next(waits, None)


def placement(observed: Observed) -> Placement:
    """Where the pods of a job that does not wait may run, as far as its quota says."""
    view = current(observed) if queue_of(observed.job) else None
    return view.placement if view is not None and view.placement is not None else NOWHERE


def admitted_to(observed: Observed) -> str:
    """The quota that the job has, in words; empty when no queue decides about it."""
    view = next(filter(_has_quota, observed.workloads), None)
    if view is None or not queue_of(observed.job):
        return ""
    flavors = ", ".join(f"{resource} of flavor {flavor}" for resource, flavor in sorted(view.flavors.items()))
    return f"Workload {view.name} has quota in ClusterQueue {view.cluster_queue}{f': {flavors}' if flavors else ''}"


def waiting(observed: Observed, now: datetime) -> Waiting | None:
    """Why no pod may be made for the spec as it is; None when it may."""
    queue, class_, view = queue_of(observed.job), priority_class_of(observed.job), current(observed)
    if not queue:
        return None
    if not observed.kueue_served:
        message = (
            f"label {names.KUEUE_QUEUE} names LocalQueue {queue}, and the operator sees no Kueue, so nothing admits "
            "the job: install Kueue and restart the operator, which must watch all namespaces; or remove the label"
        )
        return Waiting(Reason.KUEUE_MISSING, message, stalled=True)
    if view is None and class_ and observed.priority is None:
        message = (
            f"WorkloadPriorityClass {class_} does not exist: create it, or correct label {names.KUEUE_PRIORITY}; it "
            "then goes on by itself"
        )
        return Waiting(Reason.DEPENDENCY_MISSING, message, stalled=True, requeue_after=LOOK_AGAIN_SECONDS)
    if view is None:
        return Waiting(Reason.QUEUED, f"the job is being entered into LocalQueue {queue}")
    return _evicted(view) or _unadmitted(view, now) or _unplaced(view)


def _evicted(view: WorkloadView) -> Waiting | None:
    evicted, pending = view.fact("Evicted"), view.fact("QuotaReserved")
    if not view.active:
        message = f"Workload {view.name} is not active{_said(evicted)}; to have it admitted again: kubectl patch "
        message += f'workload.kueue.x-k8s.io {view.name} --type=merge -p \'{{"spec":{{"active":true}}}}\''
        return Waiting(Reason.DEACTIVATED, message, stalled=True)
    if evicted is None or not evicted.true:
        return None
    reason = Reason.PREEMPTED if evicted.reason == "Preempted" else Reason.EVICTED
    message = f"Kueue has taken the quota of Workload {view.name} back{_said(evicted)}"
    if pending is not None and not pending.true:
        also = "" if pending.message == evicted.message else _said(pending)
        message += f"; it waits for quota in LocalQueue {view.queue}{also}"
    return Waiting(reason, message)


def _unadmitted(view: WorkloadView, now: datetime) -> Waiting | None:
    reserved, admitted = view.fact("QuotaReserved"), view.fact("Admitted")
    if admitted is not None and admitted.true:
        return None
    where = f"Workload {view.name} waits for quota in LocalQueue {view.queue}"
    if reserved is None:
        left = OVERLOOKED_SECONDS - (now - view.created).total_seconds()
        if left > 0:
            return Waiting(Reason.QUEUED, where, requeue_after=left)
        return Waiting(Reason.QUEUED, f"{where}, and Kueue has not looked at it: check that its controller runs")
    if reserved.true:
        return Waiting(Reason.QUEUED, f"Workload {view.name} has quota, and admission checks are not through yet")
    if reserved.reason in _HOPELESS:
        message = f"{where}{_said(reserved)}; correct the queue, the quota or the job, it then goes on by itself"
        return Waiting(Reason.NOT_ADMISSIBLE, message, stalled=True)
    return Waiting(Reason.QUEUED, f"{where}{_said(reserved)}")


def _unplaced(view: WorkloadView) -> Waiting | None:
    if view.by_topology:
        message = (
            f"a flavor that Workload {view.name} was admitted to places pods by topology, which the operator does not "
            "follow: take topologyName out of the ResourceFlavor, or use another queue"
        )
        return Waiting(Reason.NOT_ADMISSIBLE, message, stalled=True)
    if view.placement is None:
        missing = ", ".join(sorted(set(view.flavors.values())))
        message = f"Workload {view.name} was admitted to flavors of which one does not exist: {missing}"
        return Waiting(Reason.QUEUED, message, requeue_after=LOOK_AGAIN_SECONDS)
    return None


def _said(fact: Fact | None) -> str:
    return f": {shorten(fact.message, 500)}" if fact is not None and fact.message else ""


def _has_quota(view: WorkloadView) -> bool:
    admitted, evicted = view.fact("Admitted"), view.fact("Evicted")
    taken_back = _is_over(view) or not view.active or (evicted is not None and evicted.true)
    return admitted is not None and admitted.true and not taken_back


def _is_over(view: WorkloadView) -> bool:
    return view.terminating or _is(view, "Finished")


# --- What is written ---


def entries(observed: Observed, now: datetime, *, free: bool) -> tuple[Write, ...]:
    """Bring the queue to what the job waits for; `free` says that no pod of it lives.

    While one does, its quota is neither given back nor exchanged for another.
    """
    queue, view = queue_of(observed.job), current(observed) if queue_of(observed.job) else None
    if queue and not free:
        return removal(observed, but=view) if view is not None and _has_quota(view) else ()
    writes: list[Write] = list(removal(observed, but=view))
    known = not priority_class_of(observed.job) or observed.priority is not None
    if queue and view is None and observed.kueue_served and known:
        writes.append(Create(workload(observed)))
    if view is not None and _is(view, "QuotaReserved"):
        evicted = view.fact("Evicted")
        if evicted is not None and evicted.true:
            writes.append(_released(view, evicted, now))
    return tuple(writes)


def removal(observed: Observed, *, but: WorkloadView | None = None) -> tuple[Delete, ...]:
    """The job waits for nothing and holds nothing."""
    due = (view for view in observed.workloads if not view.terminating and view is not but)
    return tuple(Delete("Workload", view.name, view.uid) for view in due)


def finished(observed: Observed, succeeded: bool, message: str, now: datetime) -> tuple[PatchStatus, ...]:
    """The quota is not needed any more."""
    reason = "Succeeded" if succeeded else "Failed"
    due = (view for view in observed.workloads if not _is_over(view))
    return tuple(_patch(view, now, [("Finished", True, reason, shorten(message))]) for view in due)


def up(observed: Observed, ready: bool, now: datetime) -> tuple[PatchStatus, ...]:
    """Tell Kueue that all pods are up, or are no longer: it may take quota back from those that do not come up."""
    view = next(filter(_has_quota, observed.workloads), None) if queue_of(observed.job) else None
    if view is None or ready == _is(view, "PodsReady"):
        return ()
    before = view.fact("PodsReady")
    again = before is not None and before.reason == "WaitForRecovery"
    if ready:
        fact = ("PodsReady", True, "Recovered" if again else "Started", "all pods run")
    else:
        fact = ("PodsReady", False, "WaitForRecovery", "a pod has failed, and all are started again")
    return (_patch(view, now, [fact]),)


def _released(view: WorkloadView, evicted: Fact, now: datetime) -> PatchStatus:
    """No pod holds the quota any more, so others may have it."""
    facts = [
        ("Requeued", evicted.reason in _COMES_BACK, evicted.reason, evicted.message),
        ("QuotaReserved", False, "Pending", evicted.message),
        ("Admitted", False, "NoReservation", "The workload has no reservation"),
    ]
    if _is(view, "PodsReady"):
        facts.append(("PodsReady", False, "WaitForStart", "its quota was taken back"))
    return _patch(view, now, facts, admission=None)


def _is(view: WorkloadView, type_: str) -> bool:
    found = view.fact(type_)
    return found is not None and found.true


def _patch(
    view: WorkloadView, now: datetime, facts: Sequence[tuple[str, bool, str, str]], **fields: None
) -> PatchStatus:
    """Some conditions of a Workload, beside all others as they were seen: lists are written whole."""
    told = {found.type: found for found in view.facts}
    for type_, true, reason, message in facts:
        before = told.get(type_)
        since = before.since if before is not None and before.true == true else format_time(now)
        told[type_] = Fact(type_, true, reason, message, since, view.generation)
    conditions = [
        {
            "type": fact.type,
            "status": "True" if fact.true else "False",
            "reason": fact.reason,
            "message": fact.message,
            "lastTransitionTime": fact.since,
            "observedGeneration": fact.generation,
        }
        for fact in told.values()
    ]
    return PatchStatus("Workload", view.name, {"conditions": conditions, **fields}, view.resource_version)


# --- The Workload ---

_COUNTS: Final = ("nodeSelector", "affinity", "tolerations", "runtimeClassName", "overhead", "resources")
"""What decides, beside its containers, how much quota of which flavor a pod takes."""


def workload(observed: Observed) -> Json:
    """The Workload of the spec as it is: of the pods what they ask for, and nothing that they do."""
    job, queue = observed.job, queue_of(observed.job)
    template_hash = children.template_hash(job.spec)
    suffix = content_hash([job.metadata.uid, template_hash, queue])[:8]
    labels = {children.LABEL_TEMPLATE_HASH: template_hash, names.KUEUE_JOB_UID: job.metadata.uid}
    pod = children.pod(job, 0, job.status.attempt, observed.settings, gang=False)["spec"]
    template: Json = {name: pod[name] for name in _COUNTS if name in pod}
    for list_ in ("containers", "initContainers"):
        if list_ in pod:
            template[list_] = [_asks(container) for container in pod[list_]]
    spec: Json = {
        "queueName": queue,
        "podSets": [{"name": POD_SET, "count": job.spec.nodes.count, "template": {"spec": template}}],
    }
    if observed.priority is not None:
        reference = {"group": "kueue.x-k8s.io", "kind": "WorkloadPriorityClass", "name": priority_class_of(job)}
        spec |= {"priorityClassRef": reference, "priority": observed.priority}
    metadata = children.metadata_of(job, f"trainingjob-{job.metadata.name}-{suffix}", labels)
    return {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload", "metadata": metadata, "spec": spec}


def _asks(container: Mapping[str, Any]) -> Json:
    return {name: container[name] for name in ("name", "image", "resources", "restartPolicy") if name in container}


def placed(pod: Json, where: Placement) -> Json:
    """A pod that runs where its quota is."""
    spec, meta = dict(pod["spec"]), dict(pod["metadata"])
    if where.node_selector:
        spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **where.node_selector}
    theirs = spec.get("tolerations") or []
    if more := [toleration for toleration in where.tolerations if toleration not in theirs]:
        spec["tolerations"] = [*theirs, *more]
    meta["labels"] = {**where.labels, **meta["labels"]}
    meta["annotations"] = {**meta["annotations"], **where.annotations}
    return {**pod, "metadata": meta, "spec": spec}


def merged(placements: Iterable[Placement]) -> Placement:
    """All that flavors and admission checks ask for."""
    found = NOWHERE
    for each in placements:
        found = replace(
            found,
            node_selector={**found.node_selector, **each.node_selector},
            tolerations=(*found.tolerations, *(one for one in each.tolerations if one not in found.tolerations)),
            labels={**found.labels, **each.labels},
            annotations={**found.annotations, **each.annotations},
        )
    return found

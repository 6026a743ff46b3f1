"""What the kind TrainingJob is made of, and how everything around one is gathered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from aifactory.api import names, numbers
from aifactory.api.conditions import find, is_true
from aifactory.api.modelversion import ModelVersion, model_of
from aifactory.api.reasons import ConditionType
from aifactory.api.trainingjob import TrainingJob, TrainingJobStatus
from aifactory.engine.apply import applied
from aifactory.engine.cluster import Cluster
from aifactory.engine.cost import device_resource
from aifactory.engine.domain import Child, Domain, Index, Outside, Route, Sample, Watch
from aifactory.engine.plan import Create, DryRun, Plan, Write, WriteError
from aifactory.engine.pods import beside, trouble
from aifactory.engine.refusals import explain, removal
from aifactory.engine.tasks import TaskPod, task_pod
from aifactory.kube import podstate
from aifactory.kube.errors import AlreadyExists
from aifactory.kube.objects import (
    READ_WRITE_MANY,
    Claim,
    ConfigMap,
    Pod,
    PodGroup,
    ResourceFlavor,
    Service,
    Terminated,
    Workload,
    WorkloadPriorityClass,
    condition,
)
from aifactory.kube.resources import (
    CONFIGMAPS,
    PODGROUPS,
    PVCS,
    RESOURCEFLAVORS,
    SERVICES,
    WORKLOADPRIORITYCLASSES,
    WORKLOADS,
    Key,
)
from aifactory.kube.tokens import Reporter, TokenReviewer
from aifactory.training import cache, checks, children, kueue, metrics, rendezvous, workspace
from aifactory.training.fetching import FetchBook, FetchingPod, FetchProbe
from aifactory.training.nodes import FETCHING, MACHINES, TRAINING_PODS, device_memory, lost_nodes
from aifactory.training.plan import plan_training
from aifactory.training.reports import ProgressBook, ProgressEndpoint, ReportingPod
from aifactory.training.state import (
    BaseView,
    ClaimView,
    Fact,
    Fetched,
    GangView,
    Observed,
    Placement,
    PodView,
    Settings,
    VersionView,
    WorkloadView,
)
from aifactory.training.status import StatusDraft

_PODS = TRAINING_PODS
_SERVICES = Child(SERVICES, Service, verbs=("create", "patch", "delete"))
_CLAIMS = Child(PVCS, Claim, verbs=("create",))
_GANGS = Child(PODGROUPS, PodGroup, optional=True)
_WORKLOADS = Child(WORKLOADS, Workload, optional=True, writes_status=True)
_FLAVORS = Child(RESOURCEFLAVORS, ResourceFlavor, verbs=(), optional=True, selector="")
_PRIORITIES = Child(WORKLOADPRIORITYCLASSES, WorkloadPriorityClass, verbs=(), optional=True, selector="")
_COUNTERS = Child(CONFIGMAPS, ConfigMap, verbs=())
_VERSIONS = Index(ModelVersion, "model", model_of)

_MOST_IN_USE: Final = 1000
"""Digests that a fetcher is told, 20 KB; with more of them it removes nothing."""
_VIEWS: Final = 10_000
"""Views of pods that are kept, about half a KiB each."""


class Training(Domain[TrainingJob, Observed]):
    """TrainingJob."""

    settings_class = Settings
    model = TrainingJob
    children = (_PODS, _SERVICES, _CLAIMS, _GANGS, _COUNTERS, MACHINES, _WORKLOADS, _FLAVORS, _PRIORITIES)
    creates = (ModelVersion,)
    families = metrics.FAMILIES

    def __init__(self, settings: Settings | None = None, url: str = "") -> None:
        chosen = settings or Settings()
        super().__init__(dataclasses.replace(chosen, progress_url=(chosen.progress_url or url).rstrip("/")), url)
        self.book = ProgressBook()
        self.fetch_book = FetchBook()
        self._views = PodViews()

    def indexes(self) -> Sequence[Index[Any]]:
        """Versions by their model, jobs by the versions that are inputs of theirs, and those that need any."""
        return (_VERSIONS, _READERS, _NEEDING)

    def watches(self) -> Sequence[Watch[Any]]:
        """A version concerns the job that made it and those that train on it."""
        return (Watch(ModelVersion, _jobs_of_version),)

    def gather(self, model: TrainingJob, cluster: Cluster) -> Observed:
        meta = model.metadata
        namespace, uid = meta.namespace, meta.uid
        pods = []
        limited = children.limits_disk(model.spec)
        tasks: dict[str, list[TaskPod]] = {
            names.ROLE_PROBE: [],
            names.ROLE_INPUT: [],
            names.ROLE_PUBLISH: [],
            names.ROLE_CHECK: [],
        }
        for pod in cluster.owned(_PODS, namespace, uid):
            role = pod.metadata.labels.get(names.LABEL_ROLE, "")
            if role in tasks:
                tasks[role].append(task_pod(pod, role, cluster.explain(pod)))
            else:
                view = self._views.of(pod, cluster.explain(pod))
                pods.append(_if_not_evicted(view, pod, cluster) if limited and view.succeeded else view)
        service = cluster.get(_SERVICES, namespace, rendezvous.service_name(meta.name))
        claim = cluster.get(_CLAIMS, namespace, workspace.claim(model))
        return Observed(
            job=model,
            settings=self.settings,
            lost_nodes=lost_nodes(cluster, (view.node for view in pods)),
            pods=tuple(sorted(pods, key=lambda view: (view.attempt, view.index))),
            probes=tuple(tasks[names.ROLE_PROBE]),
            publishers=tuple(tasks[names.ROLE_PUBLISH]),
            fetchers=tuple(sorted(tasks[names.ROLE_INPUT], key=lambda task: task.name)),
            checkers=tuple(tasks[names.ROLE_CHECK]),
            device_memory=self._device_memory(model, cluster),
            workspace_shared=claim is not None and READ_WRITE_MANY in claim.spec.access_modes,
            fetched=self._fetched(tasks[names.ROLE_INPUT]),
            bases=_bases(model, cluster),
            input_claim=_input_claim(model, cluster),
            inputs_in_use=_inputs_in_use(model, cluster),
            gangs=tuple(map(gang_view, cluster.owned(_GANGS, namespace, uid))),
            workloads=tuple(workload_view(found, cluster) for found in cluster.owned(_WORKLOADS, namespace, uid)),
            priority=_priority(model, cluster),
            kueue_served=cluster.serves(_WORKLOADS) and cluster.serves(_FLAVORS),
            versions=_versions(model, cluster),
            highest_version=_highest_version(model, cluster),
            service=applied(service) if service is not None and _owned_by(service, uid) else None,
            gangs_served=cluster.serves(_GANGS),
            workspace_exists=_owned_by(claim, uid),
            model_claim_exists=cluster.get(_CLAIMS, namespace, names.MODEL_CLAIM) is not None,
            progress=self.book.get(uid),
        )

    def plan(self, observed: Observed, now: datetime) -> Plan[TrainingJobStatus] | None:
        return plan_training(observed, now)

    def refused(self, observed: Observed, errors: Sequence[WriteError], now: datetime) -> Plan[TrainingJobStatus]:
        attempt = observed.job.status.attempt
        current = tuple(pod for pod in observed.pods if pod.attempt == attempt)
        draft = StatusDraft(observed, current, now)
        telling = [error for error in errors if not _says_nothing(error)]
        if not telling and (plan := plan_training(observed, now)) is not None:
            return dataclasses.replace(plan, writes=())  # as it was planned
        first = telling[0]
        if isinstance(first.error, AlreadyExists):
            taken = [error for error in errors if isinstance(error.error, AlreadyExists)]
            targets = ", ".join(error.target for error in taken)
            draft.name_taken(targets, removal(taken, observed.job.metadata.namespace))
            return Plan(draft.result(), requeue_after=draft.due_after)
        refusal = explain(first)
        if current and _is_beside(first.write):
            draft.edit_refused(refusal, current)
        else:
            draft.refused(refusal)
        return Plan(draft.result(), requeue_after=refusal.retry_after or draft.due_after)

    def samples(self, body: bytes) -> Iterable[Sample]:
        return metrics.samples(body)

    def gone(self, uid: str) -> None:
        self.book.forget(uid)

    def probes(self, outside: Outside) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """How far inputs are that are being fetched."""
        probe = FetchProbe(
            book=self.fetch_book,
            pods=lambda: self.asked_pods(outside.cluster) if outside.leading() else [],
            wake=lambda job: outside.wake(job, 0.0),
            monotonic=outside.clock.monotonic,
        )
        return (probe.run,)

    def asked_pods(self, cluster: Cluster) -> list[FetchingPod]:
        """The pods that can be asked how far an input is: those that really belong to a job of ours."""
        found = []
        for pod in cluster.having(_PODS, FETCHING, True):
            owner = cluster.owner(pod.metadata)
            if owner is not None and owner[0] == self.resource and pod.metadata.deletion_timestamp is None:
                found.append(FetchingPod(pod.metadata.uid, pod.metadata.name, pod.status.pod_ip, owner[1]))
        return found

    def _device_memory(self, job: TrainingJob, cluster: Cluster) -> int | None:
        """Of the GPUs that the pods of a job ask for, while it is asked whether its model fits."""
        if not checks.is_wanted(job, self.settings) or checks.is_done(job):
            return None
        resource = device_resource(children.trainer(job.spec.template.raw_spec()))
        return device_memory(cluster, resource) if resource else None

    def _fetched(self, fetchers: Sequence[TaskPod]) -> dict[str, Fetched]:
        found = ((task.name, self.fetch_book.get(task.uid)) for task in fetchers)
        return {name: fetched for name, fetched in found if fetched is not None}

    def routes(self, outside: Outside) -> Sequence[Route]:
        """Where training programs report how far they are."""
        endpoint = ProgressEndpoint(
            book=self.book,
            review=TokenReviewer(outside.api, names.PROGRESS_AUDIENCE),
            find_pod=lambda reporter: self._reporting_pod(reporter, outside.cluster),
            wake=lambda namespace, job, after: outside.wake(Key(namespace, job), after),
            leading=outside.leading,
            leader_address=outside.leader_address,
            now=outside.clock.now,
            monotonic=outside.clock.monotonic,
        )
        return (endpoint.route(),)

    def _reporting_pod(self, reporter: Reporter, cluster: Cluster) -> ReportingPod | None:
        """The training pod behind a token, if it is one of ours and still that one."""
        pod = cluster.get(_PODS, reporter.namespace, reporter.pod)
        if pod is None or pod.metadata.uid != reporter.uid:
            return None
        labels, owner = pod.metadata.labels, pod.metadata.controller
        attempt = labels.get(names.LABEL_ATTEMPT, "")
        if owner is None or labels.get(names.LABEL_ROLE) != names.ROLE_NODE or not attempt.isdecimal():
            return None
        if owner.kind != self.resource.kind or owner.api_version != self.resource.api_version:
            return None
        return ReportingPod(job_name=owner.name, job_uid=owner.uid, attempt=int(attempt))


class PodViews:
    """The views of pods that were asked for last: one pod of a thousand changes, and all thousand are looked at."""

    def __init__(self) -> None:
        self._views: dict[str, tuple[Pod, podstate.Trouble, PodView]] = {}

    def of(self, pod: Pod, events: podstate.Trouble) -> PodView:
        """`pod_view`, made again only where one of the two is another object than before: neither changes in place."""
        uid = pod.metadata.uid
        known = self._views.get(uid)
        if known is not None and known[0] is pod and known[1] is events:
            return known[2]
        if len(self._views) >= _VIEWS:
            self._views.clear()
        view = pod_view(pod, events)
        self._views[uid] = (pod, events, view)
        return view


def pod_view(pod: Pod, events: podstate.Trouble = podstate.NO_TROUBLE) -> PodView:
    """A training pod as planning sees it; `events` is what the kubelet's Events say while it does not start."""
    meta = pod.metadata
    ending = podstate.is_ending(pod)
    container, end = ("", None) if ending else _decisive_end(pod)
    found = trouble(pod, events)
    running = podstate.is_running(pod, names.CONTAINER_TRAINER)
    trainer = podstate.container(pod, names.CONTAINER_TRAINER)
    return PodView(
        name=meta.name,
        uid=meta.uid,
        attempt=_number(meta.labels.get(names.LABEL_ATTEMPT)),
        index=_number(meta.labels.get(names.LABEL_NODE_INDEX)),
        template_hash=meta.labels.get(children.LABEL_TEMPLATE_HASH, ""),
        phase=pod.status.phase,
        node=pod.spec.node_name,
        running=running or ending,
        beside=beside(pod, names.CONTAINER_TRAINER) if running else "",
        ending=ending,
        terminating=meta.deletion_timestamp is not None,
        due_to_end=meta.deletion_timestamp,
        stopped=pod.status.reason,
        stopped_message=pod.status.message if pod.status.reason else "",
        container=container,
        exit_code=end.exit_code if end is not None else None,
        exit_reason=pod.status.reason or (end.reason if end is not None else ""),
        exit_message=(end.message if end is not None else "") or pod.status.message,
        finished_at=end.finished_at if end is not None else None,
        disruption=podstate.disruption(pod),
        waiting_reason=found.reason,
        waiting_message=found.message,
        unschedulable=podstate.unschedulable(pod),
        gated=podstate.is_gated(pod),
        unseen=podstate.is_unseen(pod),
        image=(trainer.image_id or trainer.image) if trainer is not None else "",
    )


def _if_not_evicted(view: PodView, pod: Pod, cluster: Cluster) -> PodView:
    """A pod that has succeeded, if it was not evicted for the disk that it used.

    A program that ends with 0 when it is told to end makes its pod one that Succeeded, and only an Event knows better.
    """
    eviction = cluster.eviction(pod)
    if eviction is None:
        return dataclasses.replace(view, phase="Running", running=True, ending=True, exit_code=None, finished_at=None)
    if not eviction:
        return view
    return dataclasses.replace(view, stopped=eviction.reason, stopped_message=eviction.message)


def _decisive_end(pod: Pod) -> tuple[str, Terminated | None]:
    """The end that became the pod's: its trainer's, or that of an init container after which no other is begun."""
    end = podstate.ended(pod, names.CONTAINER_TRAINER)
    if end is None and pod.status.phase == "Failed":
        for status in pod.status.init_container_statuses:
            if (early := status.state.terminated) is not None and early.exit_code:
                return status.name, early
    return names.CONTAINER_TRAINER if end is not None else "", end


def gang_view(gang: PodGroup) -> GangView:
    """A PodGroup as planning sees it."""
    scheduled = condition(gang.status.conditions, "PodGroupInitiallyScheduled")
    message = scheduled.message if scheduled is not None and scheduled.status == "False" else ""
    attempt = _number(gang.metadata.labels.get(names.LABEL_ATTEMPT))
    size = gang.spec.scheduling_policy.gang.min_count
    terminating = gang.metadata.deletion_timestamp is not None
    return GangView(gang.metadata.name, gang.metadata.uid, attempt, size, terminating, message)


def workload_view(found: Workload, cluster: Cluster) -> WorkloadView:
    """A Workload as planning sees it."""
    meta, admission = found.metadata, found.status.admission
    sets = (admission.pod_set_assignments or ()) if admission is not None else ()
    flavors = {resource: flavor for one in sets for resource, flavor in one.flavors.items()}
    kept = [cluster.get(_FLAVORS, "", name) for name in sorted(set(flavors.values()))]
    known = [Placement(one.spec.node_labels, one.spec.tolerations) for one in kept if one is not None]
    known += [
        Placement(update.node_selector, update.tolerations, update.labels, update.annotations)
        for check in found.status.admission_checks
        for update in check.pod_set_updates
        if update.name == kueue.POD_SET
    ]
    return WorkloadView(
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        created=meta.creation_timestamp,
        template_hash=meta.labels.get(children.LABEL_TEMPLATE_HASH, ""),
        queue=found.spec.queue_name,
        active=found.spec.active,
        terminating=meta.deletion_timestamp is not None,
        generation=meta.generation,
        facts=tuple(
            Fact(
                one.type,
                one.status == "True",
                one.reason,
                one.message,
                one.last_transition_time,
                one.observed_generation,
            )
            for one in found.status.conditions
        ),
        cluster_queue=admission.cluster_queue if admission is not None else "",
        flavors=flavors,
        placement=kueue.merged(known) if admission is not None and all(kept) else None,
        by_topology=any(one.topology_assignment is not None for one in sets),
    )


def _priority(job: TrainingJob, cluster: Cluster) -> int | None:
    found = cluster.get(_PRIORITIES, "", kueue.priority_class_of(job))
    return found.value if found is not None else None


def _versions(job: TrainingJob, cluster: Cluster) -> tuple[VersionView, ...]:
    if job.spec.output is None:
        return ()
    return tuple(
        VersionView(
            name=version.metadata.name,
            version=version.spec.version,
            job_uid=version.metadata.labels.get(names.LABEL_JOB_UID, ""),
            uri=version.spec.source.uri,
            digest=version.spec.digest or "",
        )
        for version in cluster.find(_VERSIONS, (job.metadata.namespace, job.spec.output.model.name))
    )


def _highest_version(job: TrainingJob, cluster: Cluster) -> int:
    if job.spec.output is None:
        return 0
    name = numbers.object_name(job.spec.output.model.name)
    counter = cluster.get(_COUNTERS, job.metadata.namespace, name)
    return numbers.highest(counter.metadata.annotations) if counter is not None else 0


def _bases(job: TrainingJob, cluster: Cluster) -> dict[str, BaseView]:
    """The ModelVersions that inputs of the job name. Its model is in a version's name, and versions are found by it."""
    found = {}
    for name in _inputs_of(job):
        model = name.rpartition("-v")[0]
        for version in cluster.find(_VERSIONS, (job.metadata.namespace, model)):
            if version.metadata.name == name:
                found[name] = base_view(version)
    return found


def base_view(version: ModelVersion) -> BaseView:
    """A version that a job trains on."""
    status, secret = version.status, version.spec.source.secret_ref
    ready, stalled = (find(status.conditions, type_) for type_ in (ConditionType.READY, ConditionType.STALLED))
    return BaseView(
        uri=version.spec.source.uri,
        digest=status.resolved_digest if is_true(status.conditions, ConditionType.READY) else "",
        secret=secret.name if secret is not None else "",
        format=version.spec.format,
        stalled=stalled is not None and stalled.status == "True",
        message=ready.message if ready is not None else "",
    )


def _input_claim(job: TrainingJob, cluster: Cluster) -> ClaimView | None:
    found = cluster.get(_CLAIMS, job.metadata.namespace, names.INPUT_CLAIM) if job.spec.inputs else None
    if found is None:
        return None
    return ClaimView(found.metadata.uid, found.metadata.deletion_timestamp is not None)


def _inputs_in_use(job: TrainingJob, cluster: Cluster) -> tuple[str, ...] | None:
    if cache.used(job) is not None:
        return None
    found = {digest for other in cluster.find(_NEEDING, job.metadata.namespace) for digest in cache.needed(other)}
    return tuple(sorted(found)) if len(found) <= _MOST_IN_USE else None


_NEEDING = Index(TrainingJob, "inputs", lambda job: [job.metadata.namespace] if cache.needed(job) else [])


def _inputs_of(job: TrainingJob) -> Iterable[str]:
    """The ModelVersions that are inputs of a job."""
    return [wish.model_version for wish in job.spec.inputs or () if wish.model_version is not None]


def _read(job: TrainingJob) -> Iterable[Hashable]:
    return [(job.metadata.namespace, name) for name in _inputs_of(job)]


_READERS = Index(TrainingJob, "base", _read)


def _jobs_of_version(version: ModelVersion, cluster: Cluster) -> Iterable[Key]:
    namespace, job = version.metadata.namespace, version.metadata.labels.get(names.LABEL_JOB)
    readers = cluster.find(_READERS, (namespace, version.metadata.name))
    return [*((Key(namespace, job),) if job else ()), *(Key(namespace, reader.metadata.name) for reader in readers)]


def _says_nothing(refused: WriteError) -> bool:
    """A quota that is full now: the pods that run are in it, which go before others are made."""
    return isinstance(refused.write, DryRun) and not explain(refused).stalled


def _is_beside(refused: Write) -> bool:
    """It is not for the pods that run, but for those of an edited spec."""
    if isinstance(refused, DryRun):
        return True
    labels = refused.body["metadata"].get("labels", {}) if isinstance(refused, Create) else {}
    return labels.get(names.LABEL_ROLE) in (names.ROLE_INPUT, names.ROLE_CHECK) or refused.name == names.INPUT_CLAIM


def _owned_by(found: Service | Claim | None, uid: str) -> bool:
    owner = found.metadata.controller if found is not None else None
    return owner is not None and owner.uid == uid


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else -1

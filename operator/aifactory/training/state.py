"""What planning looks at: frozen views, free of Kubernetes' shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from aifactory.api.inputs import InputStatus
from aifactory.api.reasons import Reason
from aifactory.api.trainingjob import TrainingJob, TrainingJobStatus
from aifactory.engine.apply import Applied
from aifactory.engine.cost import PRICE_HELP, checked_price
from aifactory.engine.domain import option
from aifactory.engine.plan import Write
from aifactory.engine.taskpods import TaskSettings
from aifactory.engine.tasks import TaskPod


@dataclass(frozen=True, slots=True)
class Settings(TaskSettings):
    """What the installation decides, not the user's object."""

    progress_url: str = option("", "address of this operator as pods reach it; left out: this process's own")
    model_claim_size: str = option("10Gi", "size of a namespace's model claim when we make it")
    model_claim_storage_class: str = option("", "storage class of that claim; left out: the cluster's default")
    input_claim_size: str = option("50Gi", "size of a namespace's claim for inputs when we make it")
    input_claim_storage_class: str = option(
        "", "storage class of the claim for inputs; left out: the cluster's default"
    )
    gpu_hour_price: str = option("", PRICE_HELP, parse=checked_price)


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of the job that trains."""

    name: str
    uid: str
    attempt: int
    index: int
    template_hash: str
    phase: str
    node: str = ""
    running: bool = False
    """The trainer container runs, or has ended and it is not told yet what became of its pod."""
    beside: str = ""
    """Words about another container that has ended badly, or ends again and again, while the trainer runs."""
    ending: bool = False
    """It is about to end by itself: nobody has to delete it, and what its containers' ends mean is told when it has."""
    terminating: bool = False
    due_to_end: datetime | None = None
    """When its grace period is over; set while it is terminating."""
    stopped: str = ""
    """Kubernetes' reason for ending or refusing the whole pod (Evicted, DeadlineExceeded, OutOfcpu ...); empty when its
    containers ended by themselves."""
    stopped_message: str = ""
    """Kubernetes' words for it."""
    container: str = ""
    """The container whose end decided: the trainer, or an init container that the pod did not get past."""
    exit_code: int | None = None
    """Its exit code, when it has ended."""
    exit_reason: str = ""
    exit_message: str = ""
    finished_at: datetime | None = None
    disruption: str = ""
    """Kubernetes' words about an eviction, preemption or drain; empty when there was none."""
    waiting_reason: str = ""
    waiting_message: str = ""
    unschedulable: str = ""
    """The scheduler's words, when it finds no node."""
    gated: bool = False
    """Somebody has yet to let the scheduler see it."""
    unseen: bool = False
    """No scheduler has looked at it yet."""
    image: str = ""
    """Image of the trainer, by digest where the runtime reports one."""

    @property
    def succeeded(self) -> bool:
        """The trainer ended well by itself; a side container may still run.

        A program that ends with 0 because it was told to end (SIGTERM, then a checkpoint) has not finished its work,
        whoever told it: somebody who deleted the pod, its node, or the pod's deadline.
        """
        told = self.terminating or self.disruption or self.stopped
        return (self.phase == "Succeeded" or self.exit_code == 0) and not told

    @property
    def failed(self) -> bool:
        """The trainer, or the pod around it, ended badly."""
        return not self.succeeded and (not self.live or self.exit_code is not None)

    @property
    def live(self) -> bool:
        """The pod may still hold a node and a GPU."""
        return self.phase not in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class GangView:
    """One PodGroup of the job."""

    name: str
    uid: str
    attempt: int
    size: int
    """Pods that it places together."""
    terminating: bool = False
    """Deleted; it stays until its pods are gone."""
    unschedulable: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """A condition of a Workload."""

    type: str
    true: bool
    reason: str = ""
    message: str = ""
    since: str = ""
    """When it flipped, as it stands there."""
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """What pods get so that they run on the machines that quota is of."""

    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


NOWHERE: Final = Placement()
"""Nowhere in particular."""


@dataclass(frozen=True, slots=True)
class WorkloadView:
    """A Workload of the job, by which Kueue decides about it."""

    name: str
    uid: str
    resource_version: str
    created: datetime
    template_hash: str
    """Of the pods that it is for, see `children.template_hash`."""
    queue: str
    active: bool = True
    """Nobody has kept it from being admitted."""
    terminating: bool = False
    generation: int = 0
    facts: tuple[Fact, ...] = ()
    cluster_queue: str = ""
    """Whose quota it has."""
    flavors: Mapping[str, str] = field(default_factory=dict)
    """Of which flavors, by resource."""
    placement: Placement | None = None
    """What they mean for the pods; None while it has no quota, or a flavor is not known."""
    by_topology: bool = False
    """Kueue has chosen a node for each pod."""

    def fact(self, type_: str) -> Fact | None:
        """The condition of that type, if it is there."""
        return next((found for found in self.facts if found.type == type_), None)


@dataclass(frozen=True, slots=True)
class VersionView:
    """One ModelVersion of the output's model."""

    name: str
    version: int
    job_uid: str
    uri: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class BaseView:
    """A ModelVersion that an input names."""

    uri: str = ""
    digest: str = ""
    """Empty until it is known to be good."""
    secret: str = ""
    format: str = ""
    stalled: bool = False
    """A person is needed."""
    message: str = ""
    """Why it is not Ready."""


@dataclass(frozen=True, slots=True)
class ClaimView:
    """The namespace's claim for inputs."""

    uid: str
    terminating: bool = False
    """Deleted; it stays until no pod uses it."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """How far a pod that fetches is."""

    size: int
    """Bytes that are there."""
    total: int = 0
    """Of all; 0 until it is known."""

    @property
    def percent(self) -> int | None:
        """The share that is there; never 100 before its end, which the pod's answer tells."""
        return min(99, 100 * self.size // self.total) if self.total else None


@dataclass(frozen=True, slots=True)
class Preparation:
    """How far what comes before the pods is, the inputs and then the check, and what to do about it."""

    inputs: tuple[InputStatus, ...] = ()
    ready: bool = True
    """Everything is there, and the status says so already: pods may be made."""
    reason: Reason = Reason.INPUTS_PREPARED
    """What is in the way; `PREPARING_INPUTS` while all goes as it should."""
    message: str = ""
    stalled: bool = False
    """A person is needed."""
    writes: tuple[Write, ...] = ()
    urgent: bool = False
    requeue_after: float | None = None
    until: str = "every input is there"
    """What is waited for, in words that follow `until`."""


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """The newest report of the training program, and the first one of the same attempt."""

    attempt: int
    time: datetime
    step: int
    total_steps: int | None = None
    tokens_per_second: float | None = None
    metrics: tuple[tuple[str, float], ...] = ()
    checkpoint_step: int | None = None
    checkpoint_path: str = ""
    checkpoint_time: datetime | None = None
    resumed_from_step: int | None = None
    first_time: datetime | None = None
    first_step: int = 0

    @property
    def finished(self) -> bool:
        """There is no step left."""
        return self.total_steps is not None and self.step >= self.total_steps


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything one decision is made from."""

    job: TrainingJob
    settings: Settings
    pods: tuple[PodView, ...] = ()
    lost_nodes: Mapping[str, str] = field(default_factory=dict)
    """Nodes of the pods that are lost, each with words that follow its name; empty too where nodes can not be read."""
    probes: tuple[TaskPod, ...] = ()
    """Pods that try out the model store."""
    publishers: tuple[TaskPod, ...] = ()
    """Pods that publish the result."""
    fetchers: tuple[TaskPod, ...] = ()
    """Pods that fetch inputs, of every input and of every try."""
    fetched: Mapping[str, Fetched] = field(default_factory=dict)
    """How far they are, by their names, as far as they have been asked."""
    bases: Mapping[str, BaseView] = field(default_factory=dict)
    """ModelVersions that inputs name, by their names; those that do not exist are not in it."""
    input_claim: ClaimView | None = None
    """The namespace's claim for inputs, as far as it is known."""
    inputs_in_use: tuple[str, ...] | None = None
    """Digests of inputs that jobs of the namespace need; None while nothing is fetched, or if they are too many."""
    checkers: tuple[TaskPod, ...] = ()
    """Pods that look at options and inputs ahead of training, of every try."""
    device_memory: int | None = None
    """Bytes of the largest GPU of the kind that the pods ask for, as far as it is known."""
    workspace_shared: bool = False
    """Several nodes may mount the job's claim at a time."""
    gangs: tuple[GangView, ...] = ()
    workloads: tuple[WorkloadView, ...] = ()
    priority: int | None = None
    """Of the WorkloadPriorityClass that the job names, if there is one."""
    versions: tuple[VersionView, ...] = ()
    highest_version: int = 0
    """The highest number that the output's model has ever had, as written down (`api.numbers`)."""
    service: Applied | None = None
    """The job's own headless Service."""
    gangs_served: bool = False
    """The API server serves PodGroup of scheduling.k8s.io/v1beta1."""
    kueue_served: bool = False
    """It serves Kueue's Workloads, and flavors can be read."""
    workspace_exists: bool = False
    model_claim_exists: bool = False
    progress: ProgressReport | None = None

    @property
    def wants_gang(self) -> bool:
        """Whether the pods are scheduled together: more than one, not opted out, and the cluster can."""
        return self._would_have_gang and self.gangs_served

    @property
    def misses_gang(self) -> bool:
        """The pods should be scheduled together, and the cluster can not."""
        return self._would_have_gang and not self.gangs_served

    @property
    def _would_have_gang(self) -> bool:
        spec = self.job.spec
        return spec.nodes.count > 1 and not (spec.scheduling is not None and spec.scheduling.gang == "none")


def created_attempt(status: TrainingJobStatus) -> int:
    """The last attempt whose pods were all created."""
    return status.resolved.created_attempt if status.resolved is not None else -1

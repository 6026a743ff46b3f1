"""TrainingJob: pods that train together, restart together and end in a ModelVersion."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from aifactory.api import leftout
from aifactory.api.base import CustomResource, Model, ModelName, ObjectName, Quantity, SecretRef, Status, Time
from aifactory.api.cost import Cost, JobUse
from aifactory.api.inputs import Inputs, InputStatus, UsedInput
from aifactory.api.jobrules import FINISHED_RULE, PUBLISHED_RULE, RESERVED_ENV_RULE, TEMPLATE_RULES
from aifactory.api.pods import PodTemplate
from aifactory.api.rules import immutable, no_parent_paths, rule

ProcPerNode = Annotated[
    int | Literal["auto"],
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "x-kubernetes-validations": [
                rule(
                    "type(self) == int ? self >= 1 && self <= 128 : self == 'auto'",
                    "procPerNode must be 'auto' or an integer from 1 to 128",
                )
            ],
        }
    ),
]


class Nodes(Model):
    """How many pods train together; each is meant to fill one node."""

    count: Annotated[
        int,
        Field(
            le=10_000,
            json_schema_extra={
                "x-kubernetes-validations": [
                    rule("self >= 1", "nodes.count must be at least 1; to stop a job and keep it set suspend: true")
                ]
            },
        ),
    ]
    """Number of pods. The scale subresource; changing it restarts the job from its last checkpoint."""


class Workspace(Model):
    """The volume that all pods of the job share, mounted at /workspace."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "!has(self.claimName) || !(has(self.size) || has(self.storageClassName) || has(self.accessModes))",
                    "workspace: write either claimName (your own claim) or size, storageClassName, accessModes "
                    "(a claim made for the job), not both",
                )
            ]
        }
    )

    claim_name: ObjectName | None = None
    """An existing PersistentVolumeClaim; never deleted by us. The job sees jobs/<its uid> of it alone."""
    size: Quantity | None = None
    """Size of the claim made for the job (default 10Gi)."""
    storage_class_name: Annotated[str, Field(max_length=253)] | None = None
    """Storage class of the claim (default: the cluster's)."""
    access_modes: (
        Annotated[
            tuple[Literal["ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"], ...], Field(min_length=1, max_length=3)
        ]
        | None
    ) = None
    """Access modes of the claim (default ReadWriteMany: pods on several nodes share checkpoints)."""


class Backoff(Model):
    """Wait before a counted restart: base, doubled each time, up to max. Disruptions restart at once."""

    base_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None
    """First wait (default 10)."""
    max_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None
    """Longest wait (default 600)."""


class FailurePolicy(Model):
    """When a failed pod restarts the whole job, and when the job fails instead."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Counted restarts within the window before the job fails (default 3). Disruptions do not count."""
    window_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """Restarts older than this no longer count (default 3600)."""
    max_total_restarts: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Restarts in the job's whole life, disruptions included, before it fails (default 100)."""
    max_restarts_without_progress: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Restarts in a row, disruptions included, with no later checkpoint reported between them (by a program that
    reports none: no later step) before the job fails (default: no limit). For programs that report progress."""
    backoff: Backoff | None = None


class Scheduling(Model):
    """How the pods are placed."""

    gang: Literal["auto", "none"] | None = None
    """auto (default): with more than one node, all pods are scheduled together through a PodGroup where the cluster
    serves scheduling.k8s.io/v1beta1; none: pods are scheduled one by one."""


class OutputModel(Model):
    """The model that the job makes."""

    name: ModelName
    """What clients call; ModelVersions are named <name>-v<version>."""
    format: Literal["huggingface", "torch-export", "triton"]
    """What the training program wrote to /workspace/output. It may be corrected until something is published."""


class Output(Model):
    """What becomes of /workspace/output when all pods have succeeded."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "!has(self.secretRef) || (has(self.store) && self.store.startsWith('s3://'))",
                    "output.secretRef is for an s3:// store: set output.store to one or drop secretRef",
                )
            ]
        }
    )

    model: OutputModel
    store: (
        Annotated[
            str,
            Field(
                max_length=1024,
                json_schema_extra={
                    "x-kubernetes-validations": [
                        rule(
                            "self.matches('^(s3://[a-z0-9][a-z0-9.-]*|pvc://[a-z0-9][a-z0-9.-]*)(/.*)?$')",
                            "output.store must be s3://bucket/prefix or pvc://claim/path",
                        ),
                        no_parent_paths("output.store"),
                    ]
                },
            ),
        ]
        | None
    ) = None
    """Where the model is published (default pvc://aifactory-models, a claim made in the namespace)."""
    secret_ref: SecretRef | None = None
    """Credentials for an s3:// store."""


class TrainingJobSpec(Model):
    """What to train."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                RESERVED_ENV_RULE,
                *TEMPLATE_RULES,
                rule(
                    "has(self.template.spec) && has(self.template.spec.containers) && "
                    "self.template.spec.containers.exists_one(c, c.name == 'trainer')",
                    "template.spec.containers must have one container named 'trainer': it is the one that trains",
                ),
                rule(
                    "has(self.managedBy) == has(oldSelf.managedBy)",
                    "managedBy is immutable: it can be set only when the object is created",
                ),
                rule(
                    "has(self.workspace) == has(oldSelf.workspace)",
                    "workspace is immutable: the checkpoints are in it; create another TrainingJob",
                ),
                rule(
                    "has(self.output) == has(oldSelf.output)",
                    "output is immutable: create another TrainingJob to publish elsewhere",
                ),
            ]
        }
    )

    suspend: bool | None = None
    """True removes the pods (they get SIGTERM and their grace period to write a checkpoint) and keeps the workspace."""
    managed_by: (
        Annotated[
            str,
            Field(
                max_length=63,
                min_length=1,
                json_schema_extra={"x-kubernetes-validations": [immutable("managedBy")]},
            ),
        ]
        | None
    ) = None
    """Controller responsible for the object (default aifactory.dev/operator). Objects of others are left alone."""
    nodes: Nodes
    proc_per_node: ProcPerNode | None = None
    """Processes that torchrun starts in each pod. auto (default): one for each accelerator (GPU, MIG slice, Gaudi,
    Neuron) in the trainer's limits, else 1."""
    launcher: Literal["torchrun", "none"] | None = None
    """torchrun (default): the PET_* environment; none: MASTER_ADDR, MASTER_PORT, WORLD_SIZE and NODE_RANK."""
    template: PodTemplate
    """The pods. Container `trainer` is the one that is wired; changing it restarts from the last checkpoint."""
    workspace: (
        Annotated[
            Workspace,
            Field(
                json_schema_extra={
                    "x-kubernetes-validations": [
                        rule(
                            "self == oldSelf",
                            "workspace is immutable: the checkpoints are in it; create another TrainingJob",
                        )
                    ]
                }
            ),
        ]
        | None
    ) = None
    """Shared volume (default: a 10Gi ReadWriteMany claim that is deleted with the job)."""
    inputs: Inputs | None = None
    """Files that are fetched before any pod of the job is made, and mounted read-only at /workspace/inputs/<name> in
    the trainer. Editing one restarts the job from its last checkpoint, when the new one is there."""
    check: Literal["auto", "always", "none"] | None = None
    """Whether the trainer's command is run once without a GPU, with AIFACTORY_CHECK set, before pods are made: it looks
    at its options, its inputs and the checkpoint, trains nothing, and ends. What it says is in the way waits for a
    person. auto (default): where the trainer asks for GPUs and runs a training program of the factory's; always: the
    program knows AIFACTORY_CHECK; none: never."""
    failure_policy: FailurePolicy | None = None
    scheduling: Scheduling | None = None
    output: (
        Annotated[
            Output,
            Field(
                json_schema_extra={
                    "x-kubernetes-validations": [
                        rule(
                            "self.model.name == oldSelf.model.name && has(self.store) == has(oldSelf.store) && "
                            "(!has(self.store) || self.store == oldSelf.store) && "
                            "has(self.secretRef) == has(oldSelf.secretRef) && "
                            "(!has(self.secretRef) || self.secretRef == oldSelf.secretRef)",
                            "output is immutable but for model.format: create another TrainingJob to publish "
                            "elsewhere; wrong credentials are mended in the Secret",
                        )
                    ]
                }
            ),
        ]
        | None
    ) = None
    """Publish the result as a ModelVersion (default: nothing is published)."""
    cost: Cost | None = None


class Restarts(Model):
    """Restarts of the whole job."""

    total: int = 0
    counted: int = 0
    """Restarts within the failure policy's window."""
    by_cause: dict[str, int] = Field(default={})
    counted_times: tuple[Time, ...] = ()
    """When the counted restarts happened; those outside the window are dropped."""
    without_progress: int = 0
    """Restarts since the last one that found a later checkpoint (or step) than the one before it."""
    furthest_step: int = 0
    """The step of the furthest checkpoint, or step where none is reported, that a restart has found."""
    lost_steps: int = 0
    """Training steps done again after restarts."""
    next_attempt_time: Time | None = None
    """The next attempt's pods are not created before this."""


class NodeCounts(Model):
    """Pods of the current attempt."""

    desired: int = 0
    active: int = 0
    ready: int = 0
    succeeded: int = 0
    failed: int = 0
    summary: str = ""
    """Ready or succeeded pods of those desired, for `kubectl get`."""


class Resolved(Model):
    """Values the operator chose or was given for the current attempt."""

    nodes: int = 0
    proc_per_node: int = 0
    gang: str = ""
    """How pods are placed. native: a PodGroup of scheduling.k8s.io/v1beta1; none: one by one; unavailable: one by one,
    though together was wanted, because the cluster does not serve PodGroups."""
    workspace_claim: str = ""
    workspace_path: str = ""
    """Directory on a claim of yours (workspace.claimName) that the job sees at /workspace; it stays when the job goes.
    """
    created_attempt: int = -1
    """The last attempt whose pods were all created: a pod of it that is missing was removed by somebody else."""
    inputs: tuple[UsedInput, ...] | None = None
    """What its pods have at /workspace/inputs."""


class LastFailure(Model):
    """The pod that decided the last restart or the end."""

    time: Time
    attempt: int
    pod: str
    node: str = ""
    index: int
    container: str = ""
    """The container whose end it was; empty when none has run."""
    exit_code: int | None = None
    reason: str = ""
    cause: str
    message: str = ""


class Metric(Model):
    """A number reported by the training program, as a string since CRDs advise against floats."""

    name: str
    """Name, as the training program calls it."""
    value: str
    """The number."""


class Progress(Model):
    """What the training program reported last; written at most every 10 seconds."""

    attempt: int = 0
    """The attempt that reported."""
    step: int
    total_steps: int | None = None
    percent: int | None = None
    summary: str = ""
    eta_seconds: int | None = None
    eta: str = ""
    """The same for people, as ages are written: 3h20m."""
    tokens_per_second: str | None = None
    loss: str | None = None
    metrics: tuple[Metric, ...] = ()
    last_heartbeat_time: Time


class Checkpoint(Model):
    """The last checkpoint the training program reported."""

    step: int
    time: Time
    path: str


class CheckStatus(Model):
    """Where the check of options and inputs stands that comes before the pods."""

    of: str
    """Stands for what is checked: what shapes the pods, and the digests of the inputs."""
    phase: str
    """Checking; Waiting: something is in the way of its pod; Failed; Passed; Skipped: it came to no answer."""
    message: str = ""
    """What it has found, or what is in the way."""
    pod: str = ""
    """The pod that checks; its number says which try it is."""
    start_time: Time | None = None
    """When the first pod of it was made."""
    seconds: int | None = None
    """How long it took, from then to its end."""
    next_time: Time | None = None
    """After a try that was interrupted: the next one does not begin before this."""
    request: str = ""
    """The generation and the annotation aifactory.dev/retry of the last try; another one has it tried again."""

    @property
    def ended(self) -> bool:
        """It holds up no pods any more."""
        return self.phase in ("Passed", "Skipped")


class OutputStatus(Model):
    """What was published."""

    probed: str = ""
    """The store that was found good before the first pod was created."""
    model_version: str = ""
    uri: str = ""
    digest: str = ""
    left_out: leftout.Paths | None = None
    """The first files beside the model that were not published (optimizer state, caches); `leftOutFiles` counts all."""
    left_out_files: int | None = None
    """Number of files beside the model that were not published."""
    publish_attempt: int = 0
    """The try that counts: of the probe until the store is found good, then of the publisher."""
    next_publish_time: Time | None = None
    """After a failed try: the next probe or publisher is not created before this."""
    request: str = ""
    """The generation and the annotation aifactory.dev/retry of the last try; another one has it tried again."""


class TrainingJobStatus(Status):
    """What is true about the job."""

    phase: str = ""
    start_time: Time | None = None
    first_running_time: Time | None = None
    completion_time: Time | None = None
    attempt: int = 0
    """Number of the current set of pods; it grows with every restart, resize and resume, and never falls."""
    restarts: Restarts | None = None
    nodes: NodeCounts | None = None
    replicas: int = 0
    selector: str = ""
    resolved: Resolved | None = None
    inputs: tuple[InputStatus, ...] | None = None
    check: CheckStatus | None = None
    last_failure: LastFailure | None = None
    progress: Progress | None = None
    checkpoint: Checkpoint | None = None
    output: OutputStatus | None = None
    cost: JobUse | None = None


class TrainingJob(CustomResource):
    """PyTorch pods that train together, restart together from a checkpoint, and publish a ModelVersion."""

    plural: ClassVar[str] = "trainingjobs"

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [PUBLISHED_RULE, FINISHED_RULE]})

    spec: TrainingJobSpec
    status: TrainingJobStatus = TrainingJobStatus()

"""Names that appear in the cluster: group, labels, annotations, ports, mount points. One place for each string."""

from __future__ import annotations

from typing import Final

from aifactory import __version__

GROUP: Final = "aifactory.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "aifactory"
FIELD_MANAGER: Final = "aifactory-operator"
MANAGED_BY: Final = f"{GROUP}/operator"
"""Value of a TrainingJob's `spec.managedBy` that means this operator."""

LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_MANAGED_BY_VALUE: Final = "aifactory"
LABEL_JOB: Final = f"{GROUP}/job-name"
LABEL_JOB_UID: Final = f"{GROUP}/job-uid"
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
LABEL_NODE_INDEX: Final = f"{GROUP}/node-index"
LABEL_ROLE: Final = f"{GROUP}/role"
LABEL_MODEL: Final = f"{GROUP}/model"
LABEL_MODEL_VERSION: Final = f"{GROUP}/model-version"
LABEL_POOL: Final = f"{GROUP}/pool-name"
LABEL_REVISION: Final = f"{GROUP}/revision"
LABEL_ASSIGNMENT: Final = f"{GROUP}/assignment"
"""On a serving pod: what it was told to serve after it was made; by that edit the kubelet brings it the wish at once.
On the ConfigMap of a set of pods, as an annotation: what they are told to serve."""
RESERVED_LABEL_PREFIX: Final = f"{GROUP}/"

KUEUE_QUEUE: Final = "kueue.x-k8s.io/queue-name"
"""Label of a TrainingJob: the LocalQueue of Kueue's in which it waits for quota."""
KUEUE_PRIORITY: Final = "kueue.x-k8s.io/priority-class"
"""Label of a TrainingJob: the WorkloadPriorityClass by which it comes before others, or takes their quota."""
KUEUE_JOB_UID: Final = "kueue.x-k8s.io/job-uid"
"""Label that Kueue's tools find the Workload of a job by."""

ROLE_NODE: Final = "node"
ROLE_INPUT: Final = "input"
ROLE_PROBE: Final = "probe"
ROLE_CHECK: Final = "check"
ROLE_PUBLISH: Final = "publish"
ROLE_VERIFY: Final = "verify"
ROLE_SERVE: Final = "serve"
ROLE_GATEWAY: Final = "gateway"
ROLE_SHADOW: Final = "shadow"
"""Pods that get copies of requests, and that no client is led to."""

ANNOTATION_APPLIED: Final = f"{GROUP}/applied"
"""On children that are kept as we want them: what we sent last, see `engine.apply`."""
ANNOTATION_RETRY: Final = f"{GROUP}/retry"
"""Any new value tries again at once: a TrainingJob publishes, a ModelVersion is checked, an InferencePool rolls out a
version that was taken back."""
ANNOTATION_PROMOTE: Final = f"{GROUP}/promote"
"""Any new value lets a Canary or Shadow go on to its next step."""
ANNOTATION_ABORT: Final = f"{GROUP}/abort"
"""Any new value takes a version back that an InferencePool is changing over to."""
ANNOTATION_PAUSE: Final = f"{GROUP}/pause"
"""Any new value keeps a Canary or Shadow at its step."""
ANNOTATION_RESUME: Final = f"{GROUP}/resume"
"""Any new value lets a Canary or Shadow that was paused go on."""

CONTAINER_TRAINER: Final = "trainer"
CONTAINER_TRITON: Final = "triton"
CONTAINER_AGENT: Final = "agent"
CONTAINER_OPENAI: Final = "openai"
CONTAINER_ENVOY: Final = "envoy"

WORKSPACE_MOUNT: Final = "/workspace"
INPUTS_MOUNT: Final = "/workspace/inputs"
CLAIMS_MOUNT: Final = "/mnt/claims"
SECRETS_MOUNT: Final = "/etc/aifactory/secrets"
PROGRESS_TOKEN_MOUNT: Final = "/var/run/secrets/aifactory.dev"
PROGRESS_AUDIENCE: Final = f"{GROUP}/progress"
"""Audience of the pod-bound token of a trainer; the API server refuses it and we refuse the API server's."""

MODEL_CLAIM: Final = "aifactory-models"
"""The namespace's model claim: where a TrainingJob publishes when `output.store` is left out."""

INPUT_CLAIM: Final = "aifactory-inputs"
"""The namespace's claim for inputs of TrainingJobs: a cache, which may be deleted as a whole."""

RENDEZVOUS_PORT: Final = 29500
TRITON_HTTP_PORT: Final = 8000
TRITON_GRPC_PORT: Final = 8001
TRITON_METRICS_PORT: Final = 8002
AGENT_PORT: Final = 8081
OPENAI_PORT: Final = 9000
GATEWAY_STATUS_PORT: Final = 8003

RUN_AS_UID: Final = 65532
"""User and group of every container we make; a template may choose another non-root one."""

RESERVED_ENV: Final = (
    "AIFACTORY_ATTEMPT",
    "AIFACTORY_CHECK",
    "AIFACTORY_CHECKPOINTS",
    "AIFACTORY_INPUTS",
    "AIFACTORY_JOB",
    "AIFACTORY_OUTPUT",
    "AIFACTORY_PROGRESS_TOKEN_FILE",
    "AIFACTORY_PROGRESS_URL",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "PET_MAX_RESTARTS",
    "PET_NNODES",
    "PET_NPROC_PER_NODE",
    "PET_RDZV_BACKEND",
    "PET_RDZV_ENDPOINT",
    "PET_RDZV_ID",
    "TORCHELASTIC_ERROR_FILE",
    "WORLD_SIZE",
)
"""Environment variables of the `trainer` container that we set; a template that sets one is rejected."""
REFUSED_ENV: Final = ("PET_STANDALONE",)
"""What nobody may set either: each pod would train for itself, and all into one workspace."""


def image(name: str) -> str:
    """One of our images as it is called where no registry is named."""
    return f"aifactory/{name}:{__version__}"


def claim_of(uri: str) -> str:
    """The claim that a URI of an artifact or a store lies in; empty where it lies elsewhere."""
    return uri.removeprefix("pvc://").partition("/")[0] if uri.startswith("pvc://") else ""


def lease(namespace: str | None) -> str:
    """Name of the Lease by which an operator leads over one namespace, or over all of them."""
    return f"{namespace}.{GROUP}" if namespace else GROUP


def led_by(lease: str) -> str:
    """What a Lease of that name stands for, in words."""
    return "all namespaces" if lease == GROUP else f"namespace {lease.removesuffix(f'.{GROUP}')}"

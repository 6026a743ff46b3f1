"""InferencePool: Triton pods that serve a model version, and follow new ones without losing a request."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from aifactory.api.base import CustomResource, Model, ModelName, Status, Time
from aifactory.api.pods import PodTemplate
from aifactory.api.rules import OWN_VOLUMES_RULE, rule

DEFAULT_REPLICAS = 1
DEFAULT_GATEWAY_REPLICAS = 2


class PoolModel(Model):
    """Which version to serve: a number, or the newest."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "has(self.version) != has(self.track)",
                    "models: write either version (a fixed number) or track: Latest (follow new versions), not both",
                )
            ]
        }
    )

    name: ModelName
    """The model's name, as in ModelVersion.spec.model."""
    version: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = None
    """Serve this version."""
    track: Literal["Latest"] | None = None
    """Latest: serve the highest version that is Ready, and roll to a higher one when it becomes Ready."""


class Drain(Model):
    """How a serving pod ends: out of the endpoints, wait, then SIGTERM, then at most the timeout. Both together are its
    grace period, unless template.spec.terminationGracePeriodSeconds names another one."""

    pre_stop_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    """Wait between leaving the endpoints and SIGTERM (default 15)."""
    timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    """Longest time for requests in flight after SIGTERM (default 60)."""


Engine = Literal["auto", "transformers", "vllm"]


class Runtime(Model):
    """What computes the model."""

    engine: Engine | None = None
    """Engine of a language model. auto (default): vllm where the image of container `triton` has Triton's vLLM back end
    and CUDA shows it a GPU, else bytes for the byte-level models of aifactory_trainer and transformers for all others.
    vllm: only that, with tensor parallelism over all GPUs of the pod. Settings of engines are environment variables of
    container `triton`."""


class Rollout(Model):
    """How the pool changes from one version to another."""

    strategy: Literal["Auto", "HotSwap", "Surge"] | None = None
    """HotSwap: the pods that run load the new version beside the old one, and go over to it when it has answered; no
    pod more is needed, and the old one stays at hand. Where pods must be made anew, because more than the version
    changes, they are all the same; a version that has no room in the pods is refused. Surge: new pods take over one by
    one. Auto (default): HotSwap where it is possible, else Surge; status.rollout says which, and why."""
    progress_deadline_seconds: Annotated[int, Field(ge=60, le=604_800)] | None = None
    """A new version that gets no further pod ready for this long is taken back (default 1800)."""


class Gateway(Model):
    """What stands between clients and serving pods."""

    mode: Literal["None", "Envoy"] | None = None
    """None (default): the pool's Service leads to the pods. Envoy: it leads to proxies of the pool's own, which try
    another pod where one can not be reached, leave out pods that do not answer, and lead a request to the pods that
    serve the version in its header or cookie x-aifactory-version."""
    replicas: Annotated[int, Field(ge=1, le=100)] | None = None
    """Number of proxies (default 2)."""
    access_log: bool | None = None
    """Each proxy writes a line of JSON for each request: when, what was asked, by whom, which pod has answered, and how
    long it took; nothing of what is in a request or an answer (default false)."""


class InferencePoolSpec(Model):
    """What to serve and with how many pods."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                OWN_VOLUMES_RULE,
                rule(
                    "!has(self.template) || !has(self.template.spec) || "
                    "!has(self.template.spec.terminationGracePeriodSeconds)",
                    "template.spec.terminationGracePeriodSeconds can not be set: it is drain.preStopSeconds and "
                    "drain.timeoutSeconds together",
                ),
                rule(
                    "!has(self.template) || !has(self.template.spec) || !has(self.template.spec.containers) || "
                    "self.template.spec.containers.all(c, c.name != 'triton' || !has(c.volumeMounts) || "
                    "c.volumeMounts.all(m, !(m.mountPath in ['/repository', '/repository/'])))",
                    "template.spec.containers: /repository of triton is mounted by the operator: choose another "
                    "mountPath",
                ),
            ]
        }
    )

    models: Annotated[
        tuple[PoolModel, ...],
        Field(
            min_length=1,
            max_length=1,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]
    """The model to serve."""
    replicas: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Number of serving pods (0 scales to zero); kubectl scale and a HorizontalPodAutoscaler set it."""
    runtime: Runtime | None = None
    """What computes the model."""
    template: PodTemplate | None = None
    """Pod settings; container `triton` is merged with ours (resources, env, image)."""
    rollout: Rollout | None = None
    """Limits of a change to another version or to other pod settings."""
    gateway: Gateway | None = None
    drain: Drain | None = None


class ResolvedModel(Model):
    """What the pool's wish means now."""

    name: str
    version: int
    model_version: str


class RevisionStatus(Model):
    """A set of identical pods."""

    revision: str = ""
    model_version: str = ""
    version: int | None = None
    image: str = ""
    """Image of Triton. When an upgrade of the installation brings another one, pools change over a few at a time."""
    deployment: str | None = None
    """Whose pods they are, where it is not named after the revision: it was made for another version."""
    replicas: int = 0
    ready_replicas: int = 0


class SwappingPod(Model):
    """How far a pod is on its way from one version to another."""

    name: str
    version: int | None = None
    """The version that answers requests without one."""
    load_seconds: str | None = None
    """What Triton took to load the new one; left out while it has not, and where it was loaded already."""
    message: str | None = None
    """What keeps it from the new one."""


class RolloutStatus(Model):
    """The change that is under way or was last."""

    phase: str
    """Progressing, Complete or Failed."""
    revision: str = ""
    failed_revision: str = ""
    """A revision that was taken back. It is tried again at `retryTime`, on request, or after another change."""
    attempts: int = 0
    """How often the revision was taken back."""
    retry_time: Time | None = None
    """When it is tried again by itself; left out where that would change nothing."""
    reason: str = ""
    message: str = ""
    most_ready: int = 0
    """Pods of the revision that were ready at the same time, at most so far."""
    progress_time: Time | None = None
    """When one more of them became ready than ever before, or the change began; the deadline counts from here."""
    strategy: str | None = None
    """HotSwap or Surge."""
    strategy_reason: str | None = None
    """Why."""
    pods: tuple[SwappingPod, ...] | None = None
    """During a HotSwap: each pod, the first 20 by name."""
    load_seconds: str | None = None
    """The longest that a pod took to load the version in a HotSwap."""


class Throughput(Model):
    """Measured by Triton over the last interval, summed over the pods."""

    requests_per_second: str = "0"
    tokens_per_second: str = "0"


class InferencePoolStatus(Status):
    """What is true about the pool."""

    phase: str = ""
    replicas: int = 0
    ready_replicas: int = 0
    summary: str = ""
    """Ready pods of those wanted, for `kubectl get`."""
    selector: str = ""
    url: str = ""
    """Address inside the cluster: base URL of OpenAI's API for a language model, else Triton's HTTP port."""
    version: str = ""
    """Version that was complete last. During a change pods of another one answer as well: see traffic."""
    traffic: str = ""
    """Which pods answer now, in words; the Service sends requests to all of them alike."""
    resolved: tuple[ResolvedModel, ...] = ()
    stable: RevisionStatus | None = None
    """Was complete last: takes all traffic between changes, and again after one that was taken back."""
    candidate: RevisionStatus | None = None
    """Comes up beside it during a change; each of its pods answers from when it is ready."""
    previous: RevisionStatus | None = None
    """Was served by the same pods before; they keep it at hand as far as their memory allows."""
    rollout: RolloutStatus | None = None
    retried: str = ""
    """Value of the annotation aifactory.dev/retry that has been honoured."""
    throughput: Throughput | None = None


class InferencePool(CustomResource):
    """Triton pods behind one Service that serve a model version and change it without losing a request."""

    plural: ClassVar[str] = "inferencepools"

    spec: InferencePoolSpec
    status: InferencePoolStatus = InferencePoolStatus()

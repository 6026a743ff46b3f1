"""InferencePool: Triton pods that serve versions of models, and follow new ones without losing a request."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from aifactory.api.base import CustomResource, Model, ModelName, ObjectName, Status, Time
from aifactory.api.cost import Cost, PoolUse
from aifactory.api.cron import Cron, TimeZone
from aifactory.api.pods import PodTemplate
from aifactory.api.rules import OWN_VOLUMES_RULE, rule

DEFAULT_REPLICAS = 1
DEFAULT_GATEWAY_REPLICAS = 2
MOST_MODELS = 16
"""In a pool."""


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


class Loading(Model):
    """When the models of a pool of several are in memory."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "(has(self.mode) && self.mode == 'OnDemand') || !(has(self.holdSeconds) || "
                    "has(self.maxHeldRequests))",
                    "loading: holdSeconds and maxHeldRequests are for models that are loaded when they are asked for: "
                    "write mode: OnDemand, or leave them out",
                )
            ]
        }
    )

    mode: Literal["Eager", "OnDemand"] | None = None
    """Eager (default): each pod has all models loaded, and what has no room beside the others is refused. OnDemand:
    each pod loads a model when it is asked for, and unloads for it the least recently used ones that have no request
    under way, as far as the memory limit of container `triton` makes that necessary. It is for language models on CPUs,
    which are then reached by OpenAI's API alone."""
    hold_seconds: Annotated[int, Field(ge=1, le=3600)] | None = None
    """With OnDemand: a request waits for its model for so long at most, and is then answered with 503 (default 120).
    After a quarter of it a model that is never without a request makes room too, when those that it has are over."""
    max_held_requests: Annotated[int, Field(ge=1, le=400)] | None = None
    """With OnDemand: so many wait at most in each pod, and more are answered with 503 at once (default 100)."""


class Pause(Model):
    """Waits for somebody."""


class RolloutStep(Model):
    """One step of a Canary or of a Shadow."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "[has(self.weight), has(self.mirror), has(self.pauseSeconds), has(self.pause), "
                    "has(self.analyzeSeconds)].filter(given, given).size() == 1",
                    "rollout.steps: write one thing in each step: weight, mirror, pauseSeconds, pause: {} or "
                    "analyzeSeconds",
                )
            ]
        }
    )

    weight: Annotated[int, Field(ge=1, le=100)] | None = None
    """The new version gets this part of the requests, of 100. Done when it has the pods for that. Without a gateway it
    is their part of all pods, at least one, and one pod more than replicas at most; status.rollout.actualWeight says
    what it comes to."""
    mirror: Annotated[int, Field(ge=1, le=100)] | None = None
    """The new version gets copies of this part of the requests, of 100, and nobody gets its answers. Done when it has
    the pods for that, which are there beside those of the pool: the same part of replicas, at least one."""
    pause_seconds: Annotated[int, Field(ge=1, le=604_800)] | None = None
    """Waits so long."""
    pause: Pause | None = None
    """Waits for the annotation aifactory.dev/promote, without end. Write `{}`."""
    analyze_seconds: Annotated[int, Field(ge=30, le=604_800)] | None = None
    """Compares the new version with the one that is served, over this long, by rollout.analysis. It goes on when every
    bound was kept; where that can not be told for want of requests it waits for more."""


Decimal = Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
"""A number as Kubernetes writes it, for floats are not the same everywhere."""


class AnalysisMetric(Model):
    """What is compared, and what is allowed."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.name == 'tokensPerSecond' ? !has(self.max) && !has(self.maxRatio) : "
                    "!has(self.min) && !has(self.minRatio)",
                    "rollout.analysis.metrics: tokensPerSecond has min and minRatio, the others max and maxRatio",
                ),
                rule(
                    "has(self.max) || has(self.maxRatio) || has(self.min) || has(self.minRatio)",
                    "rollout.analysis.metrics: give each metric a bound, for example max: '0.01' or maxRatio: '1.2'",
                ),
            ]
        }
    )

    name: Literal["errorRate", "latencyMean", "ttftMean", "tokensPerSecond"]
    """What is compared. errorRate: failed requests of all, without those that clients have cancelled. latencyMean:
    seconds from a request to its answer, as Triton measures them. ttftMean: seconds to the first token of a language
    model. tokensPerSecond: how fast the tokens after the first one of an answer come."""
    max: Decimal | None = None
    """The new version may have this much."""
    max_ratio: Decimal | None = None
    """It may have so many times what the version has that is served."""
    min: Decimal | None = None
    """It has to have this much."""
    min_ratio: Decimal | None = None
    """It has to have so many times what the version has that is served."""


class Analysis(Model):
    """How a new version is compared with the one that is served."""

    metrics: Annotated[
        tuple[AnalysisMetric, ...],
        Field(
            min_length=1,
            max_length=4,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]
    """All of them have to be kept."""
    min_samples: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """With fewer of what a metric counts (requests; tokens) nothing is decided (default 200)."""
    failure_limit: Annotated[int, Field(ge=0, le=100)] | None = None
    """So often in a step a bound may be broken, and the comparison begins again; once more, and the version is taken
    back (default 0)."""


class Rollout(Model):
    """How the pool changes from one version to another."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "!has(self.strategy) || self.strategy != 'Canary' || has(self.steps)",
                    "rollout.strategy Canary needs rollout.steps, for example "
                    "[{weight: 10}, {pauseSeconds: 600}, {weight: 100}]",
                ),
                rule(
                    "!has(self.strategy) || self.strategy != 'Shadow' || has(self.steps)",
                    "rollout.strategy Shadow needs rollout.steps, for example [{mirror: 20}, {analyzeSeconds: 600}]",
                ),
                rule(
                    "!has(self.steps) || self.steps.all(step, has(self.strategy) && self.strategy == 'Shadow' ? "
                    "!has(step.weight) : !has(step.mirror))",
                    "rollout.steps: mirror is for strategy Shadow, which has no weight: after its last step the pool "
                    "goes over to the new version",
                ),
                rule(
                    "!has(self.steps) || has(self.analysis) || !self.steps.exists(step, has(step.analyzeSeconds))",
                    "rollout.steps: analyzeSeconds needs rollout.analysis, for example "
                    "{metrics: [{name: errorRate, max: '0.01'}]}",
                ),
                rule(
                    "!has(self.steps) || !has(self.strategy) || self.strategy in ['Auto', 'Canary', 'Shadow']",
                    "rollout.steps are those of a Canary or a Shadow: write strategy: Canary, or leave the steps out",
                ),
            ]
        }
    )

    strategy: Literal["Auto", "Canary", "HotSwap", "Shadow", "Surge"] | None = None
    """HotSwap: the pods that run load the new version beside the old one, and go over to it when it has answered; no
    pod more is needed, and the old one stays at hand. Where pods must be made anew, because more than the version
    changes, they are all the same; a version that has no room in the pods is refused. Surge: new pods take over one by
    one. Canary: new pods get a part of the requests, step by step. Shadow: new pods get copies of requests, and nobody
    their answers, before the pool goes over by HotSwap or Surge; it needs gateway.mode Envoy. Auto (default): Canary
    where there are steps, else HotSwap where it is possible, else Surge; status.rollout says which, and why."""
    steps: (
        Annotated[
            tuple[RolloutStep, ...],
            Field(
                min_length=1,
                max_length=20,
                json_schema_extra={
                    "x-kubernetes-list-type": "atomic",
                    "x-kubernetes-validations": [
                        rule(
                            "has(self[0].weight) || has(self[0].mirror)",
                            "rollout.steps: begin with a weight, for example {weight: 10}, or for a Shadow with "
                            "{mirror: 20}",
                        ),
                        rule(
                            "self.filter(step, has(step.weight)).map(step, step.weight).isSorted()",
                            "rollout.steps: weights rise from step to step",
                        ),
                        rule(
                            "self.all(step, !has(step.weight) || step.weight < 100 || step == self[size(self) - 1])",
                            "rollout.steps: weight 100 ends the change, so nothing can follow it",
                        ),
                    ],
                },
            ),
        ]
        | None
    ) = None
    """What a Canary or a Shadow does, in this order; after the last one the new version gets everything. Other steps in
    the middle of a change begin it anew."""
    analysis: Analysis | None = None
    """What analyzeSeconds in the steps compares. What is changed here counts at once."""
    auto_rollback: bool | None = None
    """With false a version that does not pass its analysis is not taken back: the change stays where it is, and says so
    (default true)."""
    progress_deadline_seconds: Annotated[int, Field(ge=60, le=604_800)] | None = None
    """A new version that gets no further pod ready for this long is taken back (default 1800)."""


class ScalingMetric(Model):
    """What is measured, and how much of it a pod is to have."""

    name: Literal["inFlightRequests", "tokensPerSecond"]
    """What is measured. inFlightRequests: requests that the pods work on or keep waiting. tokensPerSecond: tokens that
    language models generate."""
    target: Annotated[str, Field(pattern=r"^([1-9][0-9]{0,8}(\.[0-9]{1,3})?|0\.[0-9]{0,2}[1-9])$")]
    """So much for each pod: there are as many pods as it takes, and up to a tenth more or less changes nothing."""


class ScalingSchedule(Model):
    """A time that comes again, in which there are more pods whatever is measured."""

    cron: Cron
    """When it begins: minute, hour, day of the month, month and day of the week."""
    time_zone: TimeZone | None = None
    """Whose time that is, as Europe/Berlin (default UTC)."""
    duration_seconds: Annotated[int, Field(ge=60, le=604_800)]
    """How long it lasts."""
    min_replicas: Annotated[int, Field(ge=1, le=10_000)]
    """Pods there are at least, in place of autoscaling.minReplicas where that is less."""


class Autoscaling(Model):
    """How many pods there are, by what is measured."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
                    "autoscaling.minReplicas must not be more than autoscaling.maxReplicas",
                ),
                rule(
                    "!has(self.schedules) || self.schedules.all(each, each.minReplicas <= self.maxReplicas)",
                    "autoscaling.schedules: minReplicas must not be more than autoscaling.maxReplicas",
                ),
                rule(
                    "(has(self.minReplicas) && self.minReplicas == 0) || "
                    "!(has(self.idleSeconds) || has(self.holdSeconds) || has(self.maxHeldRequests))",
                    "autoscaling: idleSeconds, holdSeconds and maxHeldRequests are for pools that go to zero: write "
                    "minReplicas: 0, or leave them out",
                ),
            ]
        }
    )

    min_replicas: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Pods there are at least (default 1). With 0, which needs gateway.mode Envoy, the last pod goes when nobody asks,
    and requests that come then wait in the gateway until there is a pod again."""
    max_replicas: Annotated[int, Field(ge=1, le=10_000)]
    """Pods there are at most; during a change of version one more."""
    max_gpus: Annotated[int, Field(ge=1, le=100_000)] | None = Field(default=None, alias="maxGPUs")
    """GPUs that the pods have at most, by the limits in template; during a change of version those of one pod more. One
    pod there is, whatever it has."""
    metrics: Annotated[
        tuple[ScalingMetric, ...],
        Field(
            min_length=1,
            max_length=2,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]
    """What the number goes by; of several the one that asks for most pods."""
    idle_seconds: Annotated[int, Field(ge=10, le=604_800)] | None = None
    """With minReplicas 0: the last pod goes when nothing was asked for so long (default 600)."""
    hold_seconds: Annotated[int, Field(ge=1, le=3600)] | None = None
    """With minReplicas 0: a request waits for a pod for so long at most, and is then answered with 503 (default
    300)."""
    max_held_requests: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """With minReplicas 0: so many wait at most in each proxy, and more are answered with 503 at once (default 250). Of
    each the proxy holds 1 MiB at most."""
    stabilization_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    """Pods go when fewer have been enough for so long, down to the most that were needed in that time (default 300)."""
    scale_up_stabilization_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    """Pods come when more have been needed for so long, up to the fewest that were needed in that time (default 0)."""
    schedules: (
        Annotated[
            tuple[ScalingSchedule, ...],
            Field(max_length=10, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        ]
        | None
    ) = None
    """Times with more pods; of those that overlap the one with most."""


class GatewaySecret(Model):
    """A Secret of the same namespace, which the proxies mount."""

    name: ObjectName
    """Name of the Secret."""


class ApiKeys(Model):
    """Who may ask."""

    secret_ref: GatewaySecret
    """The Secret's entry `keys` has a line for each key: the name of whoever has it, a space, and the key, of 16
    characters or more. A change of it counts when the kubelet has brought it, which takes a minute or two."""


class ClientLimit(Model):
    """How much one of those with a key may ask."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,63}$")]
    """As in the Secret with the keys."""
    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)]
    """Instead of rateLimit.requestsPerMinute."""


class RateLimit(Model):
    """How much each of those with a key may ask; more is answered with 429. Each proxy and each port counts by
    itself."""

    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)]
    """Of everybody who is not named in clients. So many may also come at once."""
    clients: (
        Annotated[
            tuple[ClientLimit, ...],
            Field(
                max_length=1000,
                json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            ),
        ]
        | None
    ) = None
    """Who may ask more or less than others."""


class Tls(Model):
    """How the proxies' ports are encrypted."""

    secret_ref: GatewaySecret
    """A Secret of the type kubernetes.io/tls. Another certificate in it counts when the kubelet has brought it."""


class Stickiness(Model):
    """Requests that begin alike go to the same pod, whose engine has their beginning in its prefix cache."""

    prompt_bytes: Annotated[int, Field(ge=16, le=65_536)]
    """So much of `messages` or `prompt` is compared, of requests of up to 512 KiB: more than what all of them begin
    with, and less than what those of one conversation or document have in common."""


class ParentRef(Model):
    """A Gateway, or a listener of it."""

    name: ObjectName
    """Name of the Gateway."""
    namespace: ObjectName | None = None
    """Its namespace (default: the pool's)."""
    section_name: ObjectName | None = None
    """Name of the listener. Left out: all that let the route in."""


ParentRefs = Annotated[
    tuple[ParentRef, ...],
    Field(min_length=1, max_length=8, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
]
Hostnames = Annotated[
    tuple[
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=253,
                pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
            ),
        ],
        ...,
    ],
    Field(min_length=1, max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
]


class GrpcRoute(Model):
    """How Triton's gRPC port is reached. A Gateway takes an HTTPRoute and a GRPCRoute for different names or listeners
    only, so one of both is of its own here."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "has(self.hostnames) || has(self.parentRefs)",
                    "gateway.grpc needs hostnames or parentRefs of its own, for example hostnames: "
                    "[grpc.chat.example.com]: on one listener a name is for HTTP or for gRPC",
                )
            ]
        }
    )

    hostnames: Hostnames | None = None
    """The names that clients ask by gRPC. Left out: those of gateway.hostnames."""
    parent_refs: ParentRefs | None = None
    """The Gateways or listeners for it. Left out: those of gateway.parentRefs."""


class Gateway(Model):
    """What stands between clients and serving pods."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "(has(self.mode) && self.mode == 'Envoy') || "
                    "!(has(self.apiKeys) || has(self.tls) || has(self.maxRequestBytes) || has(self.stickiness))",
                    "gateway: apiKeys, tls, maxRequestBytes and stickiness need proxies of the pool's own: write mode: "
                    "Envoy, or leave them out (with mode GatewayAPI it is your Gateway that can have the like)",
                ),
                rule(
                    "!has(self.timeoutSeconds) || (has(self.mode) && self.mode in ['Envoy', 'GatewayAPI'])",
                    "gateway.timeoutSeconds needs a gateway: write mode: Envoy or GatewayAPI, or leave it out",
                ),
                rule(
                    "!has(self.mode) || self.mode != 'GatewayAPI' || !(has(self.replicas) || has(self.accessLog))",
                    "gateway: replicas and accessLog are of the proxies of mode Envoy; with mode GatewayAPI they are a "
                    "matter of your Gateway: leave them out",
                ),
                rule(
                    "(has(self.mode) && self.mode == 'GatewayAPI') == has(self.parentRefs)",
                    "gateway: mode GatewayAPI and parentRefs belong together: write the Gateway's name, for example "
                    "parentRefs: [{name: public, namespace: gateways}]",
                ),
                rule(
                    "has(self.parentRefs) || !(has(self.hostnames) || has(self.grpc))",
                    "gateway: hostnames and grpc are for mode GatewayAPI: write that mode, or leave them out",
                ),
                rule(
                    "!has(self.rateLimit) || has(self.apiKeys)",
                    "gateway.rateLimit counts by key: write gateway.apiKeys too, for example {secretRef: {name: keys}}",
                ),
            ]
        }
    )

    mode: Literal["None", "Envoy", "GatewayAPI"] | None = None
    """None (default): the pool's Service leads to the pods. Envoy: it leads to proxies of the pool's own, which try
    another pod where one can not be reached, leave out pods that do not answer, and lead a request to the pods that
    serve the version in its header or cookie x-aifactory-version. GatewayAPI: a Gateway of yours leads to the pods, by
    an HTTPRoute that the operator keeps; the pool's Service does so too, as with None."""
    parent_refs: ParentRefs | None = None
    """With mode GatewayAPI: the Gateways, or listeners of one, by which the pool is reached. All of them have to take
    its route."""
    hostnames: Hostnames | None = None
    """With mode GatewayAPI: the names that clients ask. Left out: every name that the Gateway listens to."""
    grpc: GrpcRoute | None = None
    """With mode GatewayAPI: Triton's gRPC port is reached as well. Left out: not by the Gateway."""
    replicas: Annotated[int, Field(ge=1, le=100)] | None = None
    """Number of proxies (default 2)."""
    api_keys: ApiKeys | None = None
    """Only requests with a key are answered: `Authorization: Bearer <key>`."""
    rate_limit: RateLimit | None = None
    tls: Tls | None = None
    """Clients ask by https; left out: by http."""
    max_request_bytes: Annotated[int, Field(ge=1024, le=1_073_741_824)] | None = None
    """A larger request is refused (413), by HTTP and OpenAI's API; the others are passed on when all of them is there.
    Left out: no limit."""
    timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    """An answer that is not complete after so long is given up (504), and one that has begun is cut, streams too. Left
    out: no limit. With mode GatewayAPI it is not for gRPC."""
    stickiness: Stickiness | None = None
    """By OpenAI's API, requests whose prompts begin alike, or that have the same header x-aifactory-session, go to the
    same pod, unless it has a quarter more to do than the average. Left out: to the one of two with less to do."""
    access_log: bool | None = None
    """Each proxy writes a line of JSON for each request: when, what was asked, by whom, which pod has answered, and how
    long it took; nothing of what is in a request or an answer (default false)."""


class LabelRequirement(Model):
    """What a label has to be."""

    key: Annotated[str, Field(min_length=1, max_length=317)]
    """Name of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """What is asked of it."""
    values: Annotated[tuple[str, ...], Field(max_length=100)] | None = None
    """With In and NotIn."""


class LabelSelector(Model):
    """What labels have to be; with nothing said it selects everything."""

    match_labels: Annotated[dict[str, str], Field(max_length=32)] | None = None
    """Labels with their values."""
    match_expressions: (
        Annotated[
            tuple[LabelRequirement, ...],
            Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        ]
        | None
    ) = None
    """Further requirements; all have to be met."""


class IpBlock(Model):
    """Addresses, of pods or of what is outside the cluster."""

    cidr: Annotated[str, Field(min_length=3, max_length=64)]
    """For example 192.0.2.0/24."""
    except_: Annotated[tuple[str, ...] | None, Field(alias="except", max_length=100)] = None
    """Those of them that are not meant."""


class Peer(Model):
    """Pods, by their own labels and those of their namespaces, or addresses."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "has(self.ipBlock) != (has(self.podSelector) || has(self.namespaceSelector))",
                    "security.allowFrom: write podSelector, namespaceSelector or both, or ipBlock alone",
                )
            ]
        }
    )

    pod_selector: LabelSelector | None = None
    """Pods of the pool's namespace, or of those that namespaceSelector selects."""
    namespace_selector: LabelSelector | None = None
    """Namespaces; by name with the label kubernetes.io/metadata.name."""
    ip_block: IpBlock | None = None


class Security(Model):
    """Who may reach the pool's pods."""

    network_policy: bool | None = None
    """With true, NetworkPolicies let clients reach the ports that serve, or with a gateway the gateway alone; the other
    ports are for the operator and who reads metrics. Left out: what the installation says. They count where the
    cluster's network enforces them."""
    allow_from: (
        Annotated[
            tuple[Peer, ...],
            Field(min_length=1, max_length=32, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        ]
        | None
    ) = None
    """The clients, as `from` of a NetworkPolicy names them. Left out: everybody."""


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
                rule(
                    "!has(self.rollout) || !has(self.rollout.strategy) || self.rollout.strategy != 'Shadow' || "
                    "(has(self.gateway) && has(self.gateway.mode) && self.gateway.mode == 'Envoy')",
                    "rollout.strategy Shadow needs proxies, which copy the requests: write gateway: {mode: Envoy}, or "
                    "another strategy",
                ),
                rule(
                    "self.models.size() == 1 || !has(self.rollout) || (!has(self.rollout.steps) && "
                    "(!has(self.rollout.strategy) || !(self.rollout.strategy in ['Canary', 'Shadow'])))",
                    "rollout: a pool of several models changes one of them by HotSwap or Surge: leave steps out and "
                    "write one of these, or Auto; or give a model that needs a Canary or a Shadow a pool of its own",
                ),
                rule(
                    "!has(self.loading) || self.models.size() > 1",
                    "loading is for pools of several models: the model of this one is loaded all the time; leave it "
                    "out, or list the models that share the pods",
                ),
                rule(
                    "!has(self.loading) || !has(self.loading.mode) || self.loading.mode != 'OnDemand' || "
                    "!has(self.autoscaling) || !has(self.autoscaling.minReplicas) || self.autoscaling.minReplicas > 0",
                    "loading.mode OnDemand: requests that wait for their model are not seen by what takes a pool to "
                    "zero: write autoscaling.minReplicas: 1, or leave loading out",
                ),
                rule(
                    "!has(self.loading) || !has(self.loading.mode) || self.loading.mode != 'OnDemand' || "
                    "!has(self.gateway) || !has(self.gateway.grpc)",
                    "loading.mode OnDemand: models are reached by OpenAI's API alone: leave gateway.grpc out",
                ),
                rule(
                    "!has(self.autoscaling) || !has(self.autoscaling.minReplicas) || "
                    "self.autoscaling.minReplicas > 0 || "
                    "(has(self.gateway) && has(self.gateway.mode) && self.gateway.mode == 'Envoy')",
                    "autoscaling.minReplicas: 0 needs proxies, in which requests wait while there is no pod: write "
                    "gateway: {mode: Envoy}, or minReplicas: 1",
                ),
                # Left out it is 1: whoever takes it out of a manifest is not to be refused.
                rule(
                    "!has(self.autoscaling) || !has(oldSelf.autoscaling) || !has(self.replicas) || "
                    "!has(oldSelf.replicas) || self.replicas == oldSelf.replicas || self.replicas == 1",
                    "spec.autoscaling decides how many pods there are, within minReplicas and maxReplicas: to set "
                    "spec.replicas (kubectl scale, a HorizontalPodAutoscaler or KEDA do) take spec.autoscaling away",
                ),
            ]
        }
    )

    models: Annotated[
        tuple[PoolModel, ...],
        Field(
            min_length=1,
            max_length=MOST_MODELS,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]
    """The models to serve. Several share the pods: each follows its own wish, one change at a time, and one that fails,
    or has no room beside the others, leaves these as they are. What comes first in the list gets room first."""
    replicas: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Number of serving pods (0 scales to zero); kubectl scale and a HorizontalPodAutoscaler set it. With autoscaling
    it is where that begins, and means nothing from then on."""
    loading: Loading | None = None
    """When the models are in memory, where they are several."""
    runtime: Runtime | None = None
    """What computes the model."""
    template: PodTemplate | None = None
    """Pod settings; container `triton` is merged with ours (resources, env, image)."""
    rollout: Rollout | None = None
    """Limits of a change to another version or to other pod settings."""
    autoscaling: Autoscaling | None = None
    """The operator decides how many pods there are, by what they have to do."""
    gateway: Gateway | None = None
    drain: Drain | None = None
    security: Security | None = None
    cost: Cost | None = None

    @property
    def loads_on_demand(self) -> bool:
        """Whether pods load models when they are asked for."""
        return len(self.models) > 1 and self.loading is not None and self.loading.mode == "OnDemand"


class ResolvedModel(Model):
    """What the pool's wish means now."""

    name: str
    version: int
    model_version: str


class FailedVersion(Model):
    """A version that was taken back."""

    model_version: str
    revision: str
    """Stands for it in pods of this kind: another one is tried."""
    attempts: int = 1
    retry_time: Time | None = None
    """When it is tried again by itself; left out where that would change nothing."""


class ModelStatus(Model):
    """One of several models."""

    name: str
    state: str
    """Serving; Waiting (for a version, or for another model's change); Changing; Failed (a version was taken back);
    Refused (it has no room, or can not be served here). In the last two what was served before goes on."""
    version: int | None = None
    """The one that is served."""
    model_version: str | None = None
    wanted: int | None = None
    """The one that is to be served, where that is another one."""
    ready_replicas: int = 0
    """Ready pods that serve it."""
    resident_replicas: int | None = None
    """With loading.mode OnDemand: how many of these have it loaded now, as far as they have said."""
    last_load_time: Time | None = None
    """With loading.mode OnDemand: when one of the pods has loaded it last, as far as they have said."""
    memory: str | None = None
    """What the version took when it was tried on a CPU, for people."""
    memory_bytes: int | None = None
    reason: str | None = None
    message: str | None = None
    failed: FailedVersion | None = None


class RevisionStatus(Model):
    """A set of identical pods."""

    revision: str = ""
    model_version: str = ""
    """Of several models, the version of the one that leads."""
    version: int | None = None
    models: tuple[ResolvedModel, ...] | None = None
    """In a pool of several models: all that its pods serve."""
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


class Measured(Model):
    """What requests to a version came to in a window: Triton's and the engine's counters, summed over its pods."""

    requests: int = 0
    """Answered well, without the agents' own."""
    failures: int = 0
    timed: int = 0
    """Answered well, the agents' own among them: whose time is known. 0 where it is not."""
    milliseconds: int = 0
    first_tokens: int = 0
    first_token_milliseconds: int = 0
    next_tokens: int = 0
    next_token_milliseconds: int = 0


class AnalysisWindow(Model):
    """The time over which a new version is compared with the one that is served."""

    since: Time
    broken: int = 0
    """Windows of this step that broke a bound."""
    candidate: Measured = Measured()
    stable: Measured = Measured()


class Finding(Model):
    """What the comparison of a metric came to."""

    metric: str
    outcome: str
    """Passed, Failed or Inconclusive."""
    candidate: str | None = None
    stable: str | None = None
    bound: str | None = None
    """What was allowed: the narrower one of a metric's bounds."""
    samples: int = 0
    stable_samples: int = 0
    message: str = ""


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
    model: str | None = None
    """In a pool of several models: the one that changes."""
    strategy: str | None = None
    """HotSwap, Surge, Canary or Shadow. A Shadow that is over goes on as a HotSwap or a Surge."""
    strategy_reason: str | None = None
    """Why."""
    pods: tuple[SwappingPod, ...] | None = None
    """During a HotSwap: each pod, the first 20 by name."""
    load_seconds: str | None = None
    """The longest that a pod took to load the version in a HotSwap."""
    step: int | None = None
    """During a Canary or a Shadow: the place in spec.rollout.steps of the step that is under way, from 0."""
    step_time: Time | None = None
    """Since when it is."""
    steps_hash: str | None = None
    """Of the steps by which it began; others begin it anew."""
    weight: int | None = None
    """The part of the requests, of 100, that the candidate of a Canary is to have."""
    mirror: int | None = None
    """The part of the requests, of 100, of which the candidate of a Shadow gets copies."""
    actual_weight: int | None = None
    """The part that it has: without a gateway, its part of the pods that answer; else that which the gateway has."""
    summary: str | None = None
    """Version and part of a Canary's or Shadow's candidate, for `kubectl get`."""
    paused: bool | None = None
    """It stays at its step, on request (aifactory.dev/pause) or because its analysis failed without autoRollback, until
    aifactory.dev/resume or promote."""
    window: AnalysisWindow | None = None
    """Of the analysis that is under way; the sums are brought up to date every 15 seconds."""
    analysis: tuple[Finding, ...] | None = None
    """What the last one has found."""


class Request(Model):
    """What somebody has asked for by an annotation."""

    name: str
    """Of the annotation, without aifactory.dev/."""
    value: str
    time: Time
    """When it was seen, and honoured if there was something to be asked of."""


class PendingScaling(Model):
    """Another number of pods that is waited with, for it may not last."""

    since: Time
    """It was always more, or always less, than there are pods."""
    seen: Time
    """When that was so last, to a quarter of the time that it is waited."""
    replicas: int
    """Of what was needed since, that which is nearest to what there is."""


class ScalingDecision(Model):
    """Another number of pods, and why."""

    time: Time
    before: Annotated[int, Field(alias="from")]
    to: int
    metric: str
    """What it was decided by: a metric's name, or the field that leaves no other number."""
    value: str | None = None
    """What was measured, of all pods together."""


class ColdStart(Model):
    """How the first pod came after there was none, in seconds from the decision."""

    time: Time
    """Of the decision."""
    scheduled_seconds: int | None = None
    """It had a node."""
    started_seconds: int | None = None
    """Its images were there, and its containers ran."""
    ready_seconds: int | None = None
    """The model was fetched and loaded, and has answered."""


class ScalingStatus(Model):
    """What autoscaling has decided."""

    replicas: int
    """Pods that the pool is to have."""
    summary: str = ""
    """That, and what it may be, for `kubectl get`."""
    message: str | None = None
    """What keeps it from another number."""
    pending: PendingScaling | None = None
    """What it will be if it goes on like this."""
    decisions: tuple[ScalingDecision, ...] | None = None
    """The last five, the newest one first."""
    cold_start: ColdStart | None = None
    """The last one."""


class ModelThroughput(Model):
    """The figures of one of several models."""

    name: str
    requests_per_second: str = "0"
    tokens_per_second: str = "0"


class Throughput(Model):
    """Measured by Triton over the last interval, summed over the pods."""

    requests_per_second: str = "0"
    tokens_per_second: str = "0"
    tokens_per_second_per_gpu: Annotated[str | None, Field(alias="tokensPerSecondPerGPU")] = None
    """For each GPU that the pods hold; left out where there is none, or no token."""
    cost_per_million_tokens: str | None = None
    """By the price in status.cost, for all GPUs that the pods hold; left out without a price, and while none comes."""
    cost_per_million_requests: str | None = None
    """The same, of models that answer without tokens."""
    joules_per_token: str | None = None
    """Energy of the pods' GPUs for each token, as Triton reads it from them; left out where it does not."""
    models: tuple[ModelThroughput, ...] | None = None
    """In a pool of several models: each that its pods have loaded."""


class InferencePoolStatus(Status):
    """What is true about the pool."""

    phase: str = ""
    replicas: int = 0
    ready_replicas: int = 0
    summary: str = ""
    """Ready pods of those wanted, for `kubectl get`."""
    selector: str = ""
    url: str = ""
    """Where clients ask: base URL of OpenAI's API for a language model, else that of Triton's HTTP API. An address
    inside the cluster; with gateway.mode GatewayAPI that of the Gateway, once it has taken the route."""
    version: str = ""
    """Version that was complete last; of several models `name@version` of each. During a change pods of another one
    answer as well: see traffic."""
    traffic: str = ""
    """Which pods answer now, in words; the Service sends requests to all of them alike. With gateway.mode GatewayAPI
    also how the route splits them, as the Gateway has taken it, where it does."""
    resolved: tuple[ResolvedModel, ...] = ()
    models: tuple[ModelStatus, ...] | None = None
    """In a pool of several models: each of them."""
    stable: RevisionStatus | None = None
    """Was complete last: takes all traffic between changes, and again after one that was taken back."""
    candidate: RevisionStatus | None = None
    """Comes up beside it during a change; each of its pods answers from when it is ready."""
    previous: RevisionStatus | None = None
    """Was served by the same pods before; they keep it at hand as far as their memory allows."""
    rollout: RolloutStatus | None = None
    retried: str = ""
    """Value of the annotation aifactory.dev/retry that has been honoured."""
    requests: tuple[Request, ...] | None = None
    """The last of each of the annotations aifactory.dev/promote, abort, pause and resume."""
    scaling: ScalingStatus | None = None
    throughput: Throughput | None = None
    cost: PoolUse | None = None


class InferencePool(CustomResource):
    """Triton pods behind one Service that serve models and change their versions without losing a request."""

    plural: ClassVar[str] = "inferencepools"

    spec: InferencePoolSpec
    status: InferencePoolStatus = InferencePoolStatus()

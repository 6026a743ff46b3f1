"""What planning an InferencePool looks at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool, RevisionStatus, Throughput
from aifactory.engine.apply import Applied
from aifactory.engine.cost import PRICE_HELP, checked_price
from aifactory.engine.domain import option
from aifactory.engine.taskpods import AGENT_HELP, HUB_HELP, SERVER_HELP, hub_url
from aifactory.kube.podstate import Crash
from aifactory.serving.demand import Demand
from aifactory.serving.holding import Held
from aifactory.serving.measure import Measurement
from aifactory.serving.network import NETWORK_HELP, Network, read

LANGUAGE_MODEL = "huggingface"
"""The format of language models, by the interface of Triton's vLLM back end."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the installation decides."""

    server_image: str = option(names.image("server"), SERVER_HELP)
    agent_image: str = option(names.image("agent"), AGENT_HELP)
    gateway_image: str = option(names.image("gateway"), "image with Envoy")
    hub_endpoint: str = option("", HUB_HELP, parse=hub_url)
    network: Network = option(Network(), NETWORK_HELP, parse=read)
    gpu_hour_price: str = option("", PRICE_HELP, parse=checked_price)
    max_concurrent_rollouts: int = option(
        2, "pools that change their pods at the same time because the installation was upgraded"
    )


@dataclass(frozen=True, slots=True)
class VersionView:
    """One ModelVersion of a model of the pool's.

    In a pool of several models what is to be served is the version of one of them, which leads: the one that changes,
    if one does. It has the others `beside` it.
    """

    name: str
    model: str
    version: int
    uri: str
    digest: str
    format: str
    size_bytes: int | None = None
    memory_bytes: int | None = None
    """What Triton took for it on a CPU when it was tried."""
    secret: str | None = None
    ready: bool = False
    reason: str = ""
    message: str = ""
    deleting: bool = False
    beside: tuple[VersionView, ...] | None = None
    """The versions of the pool's other models that the same pods serve; None in a pool of one model."""
    coming: tuple[VersionView, ...] = ()
    """Versions of models that these pods do not serve yet, and are made to hold as well."""

    @property
    def all(self) -> tuple[VersionView, ...]:
        """Itself and those beside it, by the names of their models."""
        if self.beside is None:
            return (self,)
        alone = replace(self, beside=None, coming=())
        return tuple(sorted((alone, *self.beside), key=lambda view: view.model))

    @property
    def held(self) -> tuple[VersionView, ...]:
        """All that its pods are made for: what they serve, and what is to come."""
        return tuple(sorted((*self.all, *self.coming), key=lambda view: view.model))

    @property
    def taken_bytes(self) -> int:
        """Memory that it takes on a CPU: as measured, else its size, which is less."""
        return self.memory_bytes if self.memory_bytes is not None else self.size_bytes or 0

    @property
    def title(self) -> str:
        """What is served, in words: the names of all."""
        return title(view.name for view in self.all)

    @property
    def generates_text(self) -> bool:
        """Whether it is a language model, which is asked by OpenAI's API."""
        return self.format == LANGUAGE_MODEL

    @property
    def claim(self) -> str | None:
        """The claim that the artifact lies in, if it lies in one."""
        return names.claim_of(self.uri) or None


def title(names: Iterable[str]) -> str:
    """Several versions that the same pods serve.

    >>> title(["gpt-v2", "bert-v1"])
    'bert-v1 + gpt-v2'
    """
    return " + ".join(sorted(names))


@dataclass(frozen=True, slots=True)
class Wish:
    """What the pool is to serve, and by which pods."""

    version: VersionView
    revision: str
    """That version in pods of this kind."""
    image: str
    """Of Triton."""
    pods: str
    """The set of pods; it may have been made for another revision."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the agent of a pod says about what it was told to serve."""

    revision: str = ""
    """What it was told; a moment ago it may have been something else."""
    ready: bool = False
    """It serves that, and has had an answer from it."""
    version: int | None = None
    """The version that answers requests without one."""
    load_seconds: float | None = None
    error: str = ""
    """Why it can not serve what it was told."""
    answers: tuple[tuple[str, int], ...] = ()
    """Of several models: the version of each that answers requests without one."""
    failed: tuple[tuple[str, str], ...] = ()
    """Of several models: which can not be served, and why."""
    resident: tuple[str, ...] = ()
    """Of several models: which are loaded."""
    loaded: tuple[tuple[str, int], ...] = ()
    """Of several models: when each was loaded last, in seconds since 1970."""

    def error_of(self, model: str) -> str:
        """Why it can not serve a model as it was told."""
        return dict(self.failed).get(model, "") if self.answers or self.failed else self.error

    def version_of(self, model: str) -> int | None:
        """The version of a model that answers requests without one."""
        return dict(self.answers).get(model) if self.answers or self.failed else self.version


@dataclass(frozen=True, slots=True)
class ServingPodView:
    """One serving pod."""

    name: str
    revision: str
    ready: bool = False
    terminating: bool = False
    waiting_reason: str = ""
    waiting_message: str = ""
    unschedulable: str = ""
    """The scheduler's words when it finds no node."""
    overlooked: bool = False
    """No scheduler has said anything about it yet."""
    gated: bool = False
    """Somebody has yet to let the scheduler see it."""
    refused_by_node: str = ""
    """Reason and words of a node that has refused or ended the pod for good."""
    node: str = ""
    crash: Crash | None = None
    """A container that ends again and again."""
    load_error: str = ""
    """Triton's or the agent's words when the model cannot be loaded in this pod."""
    running: bool = False
    """Its containers have been started."""
    told: str = ""
    """The revision that it was told to serve after it was made, if it was."""
    report: Report | None = None
    """What it said last, if it was asked."""
    silent: bool = False
    """It was asked again and again and has never said anything."""
    in_flight: float | None = None
    """Requests in it, where the pool is scaled by what it has to do."""


@dataclass(frozen=True, slots=True)
class RevisionView:
    """One revision's Deployment."""

    child: Applied
    revision: str
    wanted: int
    """`spec.replicas`."""
    replicas: int = 0
    ready: int = 0
    terminating: bool = False
    refusal: str = ""
    """The API server's words when it lets no pod be made."""
    model_version: str = ""
    """Name of the ModelVersion that its pods were made for."""
    room: int = 0
    """Bytes that its pods' volume for models holds; 0 if that is not known."""


@dataclass(frozen=True, slots=True)
class ConfigView:
    """The ConfigMap of a set of pods."""

    child: Applied
    revision: str
    """The one that the set was made for."""
    assigned: str = ""
    """The one that the set is told to serve; empty in what an earlier release has written."""


@dataclass(frozen=True, slots=True)
class GatewayView:
    """What there is of a pool's gateway."""

    deployment: Applied | None = None
    first: str = ""
    """Stands for the files that its first pods were made with."""
    ready: int = 0
    refusal: str = ""
    """The API server's words when it lets no pod be made."""
    pods: tuple[ServingPodView, ...] = ()
    config: Applied | None = None
    files: str = ""
    """Stands for the files in the ConfigMap."""
    services: tuple[Applied, ...] = ()
    """Beside the pool's own: the headless ones, by which it finds serving pods, and those that routes lead to."""
    budget: Applied | None = None
    routed: bool = False
    """The pool's Service leads to it."""


class Parent(NamedTuple):
    """What a route hangs on: a Gateway, or a listener of it."""

    namespace: str
    gateway: str
    listener: str = ""
    """Empty: all listeners that let the route in."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the controller of a parent says of a route."""

    generation: int
    """Of the route, as it has looked at it last."""
    accepted: bool = False
    """It takes the route."""
    refusal: str = ""
    """Reason and words, where it does not, or can not lead it to its Services."""


@dataclass(frozen=True, slots=True)
class RouteView:
    """One route, as it stands in the API server."""

    child: Applied
    generation: int
    leads: tuple[tuple[str, int], ...] = ()
    """Services, and the part of the requests of each, those that get some."""
    said: Mapping[Parent, Said] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListenerView:
    """A listener of a Gateway."""

    name: str
    port: int = 80
    protocol: str = "HTTP"
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class ParentGateway:
    """A Gateway that the spec names."""

    namespace: str
    name: str
    found: bool = True
    known: bool = True
    """Whether it exists can be known: the operator looks at its namespace."""
    class_name: str = ""
    listeners: tuple[ListenerView, ...] = ()
    address: str = ""
    taken_on: bool = True
    """A controller says that it is its own."""
    trouble: str = ""
    """Reason and words, where its controller says that it is not as it should be."""


@dataclass(frozen=True, slots=True)
class RoutesView:
    """What there is of the way through a Gateway of the user's."""

    unserved: tuple[str, ...] = ()
    """Kinds of routes that the cluster does not serve."""
    http: RouteView | None = None
    grpc: RouteView | None = None
    gateways: tuple[ParentGateway, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything one decision is made from."""

    pool: InferencePool
    settings: Settings
    versions: tuple[VersionView, ...] = ()
    revisions: tuple[RevisionView, ...] = ()
    """Sets of pods that clients are led to, or will be."""
    shadows: tuple[RevisionView, ...] = ()
    """Sets of pods that no client is led to."""
    configs: tuple[ConfigView, ...] = ()
    pods: tuple[ServingPodView, ...] = ()
    service: Applied | None = None
    """The pool's own Service."""
    budget: Applied | None = None
    """The pool's own PodDisruptionBudget."""
    policies: tuple[Applied, ...] = ()
    """Its NetworkPolicies."""
    gateway: GatewayView = GatewayView()
    routes: RoutesView = RoutesView()
    throughput: Throughput | None = None
    demand: Demand | None = None
    """What its pods have to do, where that is asked."""
    held: Held | None = None
    """Whether requests wait in its gateway, where it has no pods and that is asked."""
    measured: Measurement | None = None
    """What was counted in the window of an analysis."""
    may_upgrade: bool = True
    """It is the pool's turn to change its pods because the installation was upgraded."""
    orphans: tuple[str, ...] = ()
    """What an earlier pool of this name has left behind (`kubectl delete --cascade=orphan`), as `kind/name`."""

    @property
    def generates_text(self) -> bool:
        """Whether a model of the pool's is a language model, as far as their versions tell."""
        return self.on_demand or any(version.generates_text for version in self.versions)

    @property
    def on_demand(self) -> bool:
        """Whether its pods load models when they are asked for."""
        return self.pool.spec.loads_on_demand

    @property
    def has_several(self) -> bool:
        """Whether the pool is of several models."""
        return len(self.pool.spec.models) > 1

    def version(self, name: str) -> VersionView | None:
        """A ModelVersion by its name, if it exists."""
        return next((view for view in self.versions if view.name == name), None)

    def served(self, revision: RevisionStatus | None) -> VersionView | None:
        """What a revision serves, as its versions are now; None if one of them is gone."""
        if revision is None or (leading := self.version(revision.model_version)) is None:
            return None
        if revision.models is None:
            return leading
        found = [self.version(each.model_version) for each in revision.models if each.name != leading.model]
        beside = tuple(view for view in found if view is not None)
        return replace(leading, beside=beside) if len(beside) == len(found) else None

    def find(self, pods: str) -> RevisionView | None:
        """A set of pods by its name, if it exists."""
        return next((view for view in (*self.revisions, *self.shadows) if view.revision == pods), None)

    def ready(self, pods: str) -> int:
        """How many pods of a set are ready."""
        view = self.find(pods)
        return view.ready if view is not None else 0

    def assigned(self, pods: str) -> str:
        """The revision that a set of pods is told to serve; empty where nothing is known of it."""
        found = next((view for view in self.configs if view.revision == pods), None)
        return (found.assigned or found.revision) if found is not None else ""

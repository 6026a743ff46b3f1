"""What a domain declares about itself: the counterpart of controller-runtime's builder.

A domain is a class with one instance in a process: which kind it reconciles, which children it owns, what else it
watches, what the installation may set, and the functions that look, decide and explain. Everything else (stores,
indexes, informers, wake-ups, command-line options, RBAC) is derived from that, so a new kind is a new folder and one
line in `app.domains`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from aiohttp import web

from aifactory.api.base import CustomResource
from aifactory.engine.custom import resource_of
from aifactory.engine.plan import Plan, WriteError
from aifactory.kube.api import Api
from aifactory.kube.clock import Clock
from aifactory.kube.objects import Metadata
from aifactory.kube.resources import Key, Resource

if TYPE_CHECKING:
    from aifactory.engine.cluster import Cluster

T = TypeVar("T")
M = TypeVar("M", bound=CustomResource)
C = TypeVar("C", bound=CustomResource)
Observed = TypeVar("Observed")

READ = ("get", "list", "watch")


@dataclass(frozen=True)
class Child(Generic[T]):
    """A kind of objects that a domain makes, and what is read of them. A change wakes the object that owns them."""

    resource: Resource
    type: type[T]
    """The window through which they are seen (`kube.objects`)."""
    verbs: tuple[str, ...] = ("create", "delete")
    """What we do with them beside reading; the operator has no other rights."""
    writes_status: bool = False
    """We write into their status too, for another controller to read."""
    optional: bool = False
    """The API server need not serve it, and what lies in no namespace is not read where one is watched. Whether it is
    there is told by `Cluster.serves`."""
    selector: str | None = None
    """Only objects with these labels; None stands for those that we make, "" for all there are."""
    indexes: Mapping[str, Callable[[T], Iterable[Hashable]]] = field(default_factory=dict)
    """Beside the one by owner: `Cluster.having(child, index, value)`."""
    concerns: Callable[[T, Cluster], Iterable[Metadata]] | None = None
    """For what belongs to nobody: the objects that a change concerns; whose they are is woken."""
    halfway: Callable[[T], bool] | None = None
    """Whether one is on its way to a state that counts. Between two such states nobody need look at once."""


@dataclass(frozen=True)
class Index(Generic[C]):
    """Custom resources found by a value: `Cluster.find(index, value)`."""

    model: type[C]
    name: str
    values: Callable[[C], Iterable[Hashable]]


@dataclass(frozen=True)
class Watch(Generic[C]):
    """Custom resources whose change wakes objects of the domain that do not own them."""

    model: type[C]
    keys: Callable[[C, Cluster], Iterable[Key]]
    """Which objects a change concerns; asked for the object as it was and as it is."""
    view: Callable[[C], Any] | None = None
    """What those who are woken see of it; a change that does not show in it wakes nobody."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What a domain's probes and routes may use to bring in facts from outside the API server."""

    api: Api
    cluster: Cluster
    wake: Callable[[Key, float], None]
    """Have an object of the domain looked at after so many seconds."""
    leading: Callable[[], bool]
    """This replica acts; facts are collected by it alone."""
    leader_address: Callable[[], str]
    """host:port of the leader, "" when there is none or it is unknown."""
    clock: Clock


@dataclass(frozen=True, slots=True)
class Route:
    """One path of the port that pods can reach."""

    method: str
    path: str
    handler: Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric about objects of a kind, by Prometheus' rules of naming."""

    name: str
    type: Literal["gauge", "counter"]
    help: str
    labels: str = "namespace name"
    """With blanks between them; `namespace` and `name` come first where it is about one object."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A figure of one object."""

    family: Family
    value: float
    labels: tuple[str, ...] = ()
    """Values of the labels after `namespace` and `name`."""
    per_second: float = 0.0
    """It has grown by so much since `since`."""
    since: datetime | None = None

    def value_at(self, now: datetime) -> float:
        """The figure now."""
        return self.value + (self.per_second * max(0.0, (now - self.since).total_seconds()) if self.since else 0.0)


@dataclass(frozen=True)
class NoSettings:
    """Of a domain about which an installation has nothing to say."""


class Domain(Generic[M, Observed]):
    """One kind: what it is and how it is reconciled. Subclasses override what they need.

    Args:
        settings: an instance of `settings_class`.
        url: base address at which pods reach this process's routes.
    """

    settings_class: ClassVar[type[Any]] = NoSettings
    """A dataclass of what the installation may set; each field is a command-line option, see `option`."""
    model: ClassVar[type[CustomResource]]
    children: ClassVar[tuple[Child[Any], ...]] = ()
    creates: ClassVar[tuple[type[CustomResource], ...]] = ()
    """Custom resources of other domains that this one creates; it does not own them."""

    families: ClassVar[tuple[Family, ...]] = ()
    """Metrics that there are of each object."""

    def __init__(self, settings: Any = None, url: str = "") -> None:
        self.settings = settings if settings is not None else self.settings_class()
        self.url = url

    @property
    def resource(self) -> Resource:
        """Where the kind is served."""
        return resource_of(self.model)

    @property
    def name(self) -> str:
        """Name of the controller in logs and metrics, for example `trainingjob`."""
        return self.resource.kind.lower()

    def indexes(self) -> Sequence[Index[Any]]:
        """Indexes of custom resources, its own or others', that `gather` and `watches` use."""
        return ()

    def watches(self) -> Sequence[Watch[Any]]:
        """Custom resources of which a change concerns objects of this domain."""
        return ()

    def gather(self, model: M, cluster: Cluster) -> Observed:
        """Everything one plan is made from, read from one moment's stores. Synchronous, without I/O."""
        raise NotImplementedError

    def plan(self, observed: Observed, now: datetime) -> Plan[Any] | None:
        """What to do now; None leaves the object alone. Pure: the same arguments give the same plan."""
        raise NotImplementedError

    def refused(self, observed: Observed, errors: Sequence[WriteError], now: datetime) -> Plan[Any]:
        """The status that tells the user why the plan's writes were refused. Pure; its `writes` are ignored."""
        raise NotImplementedError

    def samples(self, body: bytes) -> Iterable[Sample]:
        """Figures of one object, from its JSON: read with no more than they need, for there may be thousands.

        Raises:
            ValueError: it is not as it should be; it has no figures then.
        """
        return ()

    def gone(self, uid: str) -> None:
        """An object of the domain is gone for good: forget what was kept about it."""

    def probes(self, outside: Outside) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """What brings in facts from outside the API server; each runs for ever beside the controllers."""
        return ()

    def routes(self, outside: Outside) -> Sequence[Route]:
        """What pods may ask or tell over HTTP."""
        return ()


def option(default: Any, help: str, parse: Callable[[str], Any] | None = None) -> Any:
    """A field of a domain's settings, and so a command-line option.

    Args:
        default: its value when it is left out.
        help: what it does; domains that share an option say the same.
        parse: makes the value from the text; left out: the type of the default does. Raises ValueError.
    """
    return field(default=default, metadata={"help": help, "parse": parse})

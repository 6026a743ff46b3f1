"""What the process is made of, derived from what the domains declare; no life cycle here, and no kind is named.

The simulator in `tests/sim` builds its process from the same functions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from aifactory.api import names
from aifactory.app.options import Options
from aifactory.app.watching import Watched
from aifactory.engine import custom
from aifactory.engine.cluster import Cluster, declared_children
from aifactory.engine.controller import Controller
from aifactory.engine.domain import READ, Domain
from aifactory.engine.executor import Executor
from aifactory.kube.api import Api
from aifactory.kube.clock import Clock
from aifactory.kube.events import EventRecorder
from aifactory.kube.informer import Informer
from aifactory.kube.lease import LeaseConfig
from aifactory.kube.queue import WorkQueue
from aifactory.kube.resources import CORE_EVENTS, EVENTS, Key, Resource

OURS = f"{names.LABEL_MANAGED_BY}={names.LABEL_MANAGED_BY_VALUE}"


def watched(cluster: Cluster) -> tuple[Watched, ...]:
    """Our own kinds, for kopf."""
    return tuple(
        Watched(domain.resource, custom.parser(domain.model), cluster.stored(domain.resource))
        for domain in cluster.domains
    )


def make_informers(
    api: Api, cluster: Cluster, options: Options, *, clock: Clock, rng: random.Random
) -> list[Informer[Any]]:
    """Informers for everything we make; what others make is not even received, but for what a domain asks for."""
    return [
        Informer(
            api,
            child.resource,
            child.type,
            cluster.objects(child),
            namespace=options.namespace,
            label_selector=OURS if child.selector is None else child.selector,
            silence_seconds=options.silence_seconds,
            clock=clock,
            rng=rng,
        )
        for child in cluster.children.values()
    ]


def make_controllers(
    api: Api, cluster: Cluster, options: Options, recorder: EventRecorder, *, clock: Clock, rng: random.Random
) -> dict[Resource, Controller[Any, Any]]:
    """A controller for each domain, with one executor; from now on changes in the stores wake them.

    `api` sends each call once: the executor knows what to give up while it waits to send again.
    """
    executor = Executor(api, cluster.stores, clock=clock, rng=rng)
    controllers: dict[Resource, Controller[Any, Any]] = {}
    for domain in cluster.domains:
        queue: WorkQueue[Key] = WorkQueue(
            domain.name, workers=options.workers, namespace_of=attrgetter("namespace"), rng=rng
        )
        controllers[domain.resource] = Controller(
            domain, cluster, executor, recorder=recorder, queue=queue, workers=options.workers, clock=clock
        )
    cluster.connect(
        {resource: controller.queue.add for resource, controller in controllers.items()},
        {resource: controller.wake_later for resource, controller in controllers.items()},
    )
    return controllers


def lease_config(options: Options) -> LeaseConfig:
    """The lease, with the usual proportions between its times."""
    return LeaseConfig(
        namespace=options.lease_namespace,
        name=names.lease(options.namespace),
        identity=f"{options.release}/{options.identity}",
        address=options.endpoint,
        release=options.release,
        duration=options.lease_seconds,
        renew_deadline=options.lease_seconds * 2 / 3,
        retry=options.lease_seconds * 2 / 15,
    )


def rbac_rules(domains: Sequence[Domain[Any, Any] | type[Domain[Any, Any]]]) -> list[dict[str, list[str]]]:
    """The rights that the process needs in the namespaces it watches, as rules of a Role: exact verbs, no more.

    What is beside the domains: the executor reads what it could not create, the recorder sends Events, and those of the
    kubelet are read about pods that do not start.
    """
    kinds = [custom.resource_of(domain.model) for domain in domains]
    created = {custom.resource_of(model) for domain in domains for model in domain.creates}
    rules = [_rule(kind, [*READ, *(["create"] if kind in created else [])]) for kind in kinds]
    rules += [_rule(kind, ["patch"], subresource="status") for kind in kinds]
    children = declared_children(domains)
    rules += [_rule(child.resource, [*READ, *child.verbs]) for child in children]
    rules += [_rule(child.resource, ["patch"], subresource="status") for child in children if child.writes_status]
    return [*rules, _rule(EVENTS, ["create"]), _rule(CORE_EVENTS, ["list"])]


def _rule(resource: Resource, verbs: Sequence[str], subresource: str = "") -> dict[str, list[str]]:
    plural = f"{resource.plural}/{subresource}" if subresource else resource.plural
    return {"apiGroups": [resource.group], "resources": [plural], "verbs": list(verbs)}

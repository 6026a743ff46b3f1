"""What the kind InferencePool is made of, and how everything around one is gathered."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from aifactory.api import names
from aifactory.api.conditions import find
from aifactory.api.inferencepool import InferencePool, InferencePoolStatus
from aifactory.api.modelversion import ModelVersion, model_of
from aifactory.api.reasons import ConditionType, Reason
from aifactory.engine import lastwords
from aifactory.engine.apply import Applied, applied
from aifactory.engine.cluster import Cluster
from aifactory.engine.domain import Child, Domain, Index, Outside, Sample, Watch
from aifactory.engine.plan import Plan, WriteError
from aifactory.engine.refusals import removal
from aifactory.kube import podstate
from aifactory.kube.errors import AlreadyExists
from aifactory.kube.objects import (
    ConfigMap,
    Deployment,
    DisruptionBudget,
    Metadata,
    NetworkPolicy,
    Pod,
    ReplicaSet,
    Route,
    Service,
    condition,
)
from aifactory.kube.objects import Gateway as GatewayObject
from aifactory.kube.resources import (
    BUDGETS,
    CONFIGMAPS,
    DEPLOYMENTS,
    GATEWAYS,
    GRPCROUTES,
    HTTPROUTES,
    NETWORKPOLICIES,
    PODS,
    REPLICASETS,
    SERVICES,
    Key,
)
from aifactory.serving import (
    autoscale,
    disruption,
    gateway,
    metrics,
    packing,
    route,
    scaling,
    shape,
    swap,
    traffic,
)
from aifactory.serving.measure import Analysed, Measurement, PoolKey
from aifactory.serving.plan import plan_pool
from aifactory.serving.probe import ServingBook, ServingPod, ServingProbe
from aifactory.serving.state import (
    ConfigView,
    GatewayView,
    ListenerView,
    Observed,
    Parent,
    ParentGateway,
    RevisionView,
    RoutesView,
    RouteView,
    Said,
    ServingPodView,
    Settings,
    VersionView,
)
from aifactory.serving.status import StatusDraft
from aifactory.serving.wakeup import Proxy, Wakeups

_SERVICES = Child(SERVICES, Service, verbs=("create", "patch", "delete"))
_CONFIGS = Child(CONFIGMAPS, ConfigMap, verbs=("create", "patch", "delete"))
_BUDGETS = Child(BUDGETS, DisruptionBudget, verbs=("create", "patch", "delete"))
_POLICIES = Child(NETWORKPOLICIES, NetworkPolicy, verbs=("create", "patch", "delete"))
_DEPLOYMENTS = Child(DEPLOYMENTS, Deployment, verbs=("create", "patch", "delete"))
_REPLICASETS = Child(REPLICASETS, ReplicaSet, verbs=())
_PODS = Child(PODS, Pod, verbs=("patch",), halfway=podstate.starting)
_BY_GATEWAY: Final = "gateway"


def _parents_of(found: Route) -> tuple[Parent, ...]:
    namespace = found.metadata.namespace
    refs = (each for each in found.spec.parent_refs if each.kind == "Gateway")
    return tuple(Parent(each.namespace or namespace, each.name, each.section_name) for each in refs)


def _gateways_of(found: Route) -> Iterable[Hashable]:
    return {(each.namespace, each.gateway) for each in _parents_of(found)}


def _routes_of(found: GatewayObject, cluster: Cluster) -> Iterable[Metadata]:
    """Routes that name a Gateway, whether it is there or not."""
    key = (found.metadata.namespace, found.metadata.name)
    return [each.metadata for kind in (_HTTP_ROUTES, _GRPC_ROUTES) for each in cluster.having(kind, _BY_GATEWAY, key)]


_KEPT = ("create", "patch", "delete")
_HTTP_ROUTES = Child(HTTPROUTES, Route, verbs=_KEPT, optional=True, indexes={_BY_GATEWAY: _gateways_of})
_GRPC_ROUTES = Child(GRPCROUTES, Route, verbs=_KEPT, optional=True, indexes={_BY_GATEWAY: _gateways_of})
_GATEWAYS = Child(GATEWAYS, GatewayObject, verbs=(), optional=True, selector="", concerns=_routes_of)
"""Of users: which there are, and how their controllers find them."""


class Serving(Domain[InferencePool, Observed]):
    """InferencePool."""

    settings_class = Settings
    model = InferencePool
    children = (
        *(_SERVICES, _BUDGETS, _POLICIES, _CONFIGS, _DEPLOYMENTS, _REPLICASETS, _PODS),
        *(_HTTP_ROUTES, _GRPC_ROUTES, _GATEWAYS),
    )
    families = metrics.FAMILIES

    def __init__(self, settings: Settings | None = None, url: str = "") -> None:
        super().__init__(settings, url)
        self.book = ServingBook()
        self._outdated = Index(InferencePool, "outdated", self._if_outdated)
        self._swapping = Index(InferencePool, "swapping", _if_swapping)
        self._analysed = Index(InferencePool, "analysed", _if_analysed)
        self._scaled = Index(InferencePool, "scaled", _if_scaled)
        self._asleep = Index(InferencePool, "asleep", _if_asleep)
        self._several = Index(InferencePool, "several", _if_several)
        self.wakeups = Wakeups()

    def indexes(self) -> Sequence[Index[Any]]:
        """Versions and pools by their model, and the pools that an upgrade of the installation has yet to reach."""
        pools = (self._outdated, self._swapping, self._analysed, self._scaled, self._asleep, self._several)
        return (_VERSIONS, _POOLS, *pools)

    def watches(self) -> Sequence[Watch[Any]]:
        """A version concerns the pools that may want it; a pool that is up to date, those whose turn it is now.

        What uses a version is told in its status as well: if that woke the pools, each of a thousand would wake all
        others.
        """
        return (
            Watch(ModelVersion, _pools_of, view=version_view),
            Watch(InferencePool, lambda _, cluster: self._next_in_turn(cluster), view=self._is_outdated),
        )

    def gather(self, model: InferencePool, cluster: Cluster) -> Observed:
        meta = model.metadata
        service = cluster.get(_SERVICES, meta.namespace, meta.name)
        budget = cluster.get(_BUDGETS, meta.namespace, disruption.budget_name(meta.name))
        deployments = serving_deployments(model, cluster)
        configs = cluster.owned(_CONFIGS, meta.namespace, meta.uid)
        return Observed(
            pool=model,
            settings=self.settings,
            versions=tuple(
                version_view(found)
                for name in _model_names(model)
                for found in cluster.find(_VERSIONS, (meta.namespace, name))
            ),
            revisions=tuple(revision_view(each) for each in deployments if not _is_shadow(each)),
            shadows=tuple(revision_view(each) for each in deployments if _is_shadow(each)),
            configs=tuple(config_view(each) for each in configs if each.metadata.name != gateway.name(meta.name)),
            pods=tuple(self._pod_view(pod, cluster) for pod in serving_pods(deployments, cluster)),
            service=_own(service, meta.uid),
            budget=_own(budget, meta.uid),
            policies=tuple(map(applied, cluster.owned(_POLICIES, meta.namespace, meta.uid))),
            gateway=self._gateway_view(model, service, cluster),
            routes=_routes_view(model, cluster),
            throughput=self.book.throughput((meta.namespace, meta.name)),
            demand=self.book.demand((meta.namespace, meta.name)) if model.spec.autoscaling is not None else None,
            held=self.wakeups.held((meta.namespace, meta.name)) if scaling.wanted(model) == 0 else None,
            measured=self.book.measured((meta.namespace, meta.name)),
            orphans=self._left_behind(model, service, cluster),
            may_upgrade=not self._is_outdated(model) or _key(model) in self._next_in_turn(cluster),
        )

    def plan(self, observed: Observed, now: datetime) -> Plan[InferencePoolStatus] | None:
        return plan_pool(observed, now)

    def refused(self, observed: Observed, errors: Sequence[WriteError], now: datetime) -> Plan[InferencePoolStatus]:
        # How many pods there are is decided on, whatever else is refused.
        scaled = autoscale.look(observed, now)
        draft = StatusDraft(
            observed,
            scaling.wanted(observed.pool),
            now,
            observed.pool.status.scaling if scaled.first else scaled.status,
        )
        taken = [error for error in errors if isinstance(error.error, AlreadyExists)]
        if taken:
            draft.refused(Reason.NAME_CONFLICT, _name_conflict(observed, taken))
        else:
            draft.refused(Reason.POD_REJECTED, errors[0].message)
        return Plan(draft.result(), requeue_after=scaled.due)

    def samples(self, body: bytes) -> Iterable[Sample]:
        return metrics.samples(body)

    def probes(self, outside: Outside) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """What serving pods say about themselves."""
        probe = ServingProbe(
            book=self.book,
            pods=lambda: self.asked_pods(outside.cluster) if outside.leading() else [],
            swapping=lambda: self.swapping_pods(outside.cluster) if outside.leading() else [],
            analysed=lambda: self.analysed_pools(outside.cluster) if outside.leading() else [],
            scaled=lambda: self.scaled_pools(outside.cluster) if outside.leading() else set(),
            wake=lambda pool: outside.wake(Key(*pool), 0.0),
            monotonic=outside.clock.monotonic,
        )

        async def listen() -> None:
            await self.wakeups.run(
                lambda: self.proxies_of_sleepers(outside.cluster) if outside.leading() else [],
                lambda pool: outside.wake(Key(*pool), 0.0),
                outside.clock.monotonic,
            )

        return (probe.run, probe.follow, listen)

    def asked_pods(self, cluster: Cluster) -> list[ServingPod]:
        """The serving pods that can be asked: those that really belong to a pool, whatever labels others may bear."""
        found, sharing = [], cluster.find(self._several, True)
        several = {tuple(_key(pool)) for pool in sharing}
        on_demand = {tuple(_key(pool)) for pool in sharing if pool.spec.loads_on_demand}
        for pod in cluster.objects(_PODS).all():
            meta = pod.metadata
            role = meta.labels.get(names.LABEL_ROLE)
            if role not in (names.ROLE_SERVE, names.ROLE_SHADOW) or not pod.status.pod_ip:
                continue
            owner = cluster.owner(meta)
            if owner is not None and owner[0] == self.resource and meta.deletion_timestamp is None:
                pool = (owner[1].namespace, owner[1].name)
                ready, live = podstate.is_ready(pod), role == names.ROLE_SERVE
                shares = pool in several
                found.append(ServingPod(meta.uid, pod.status.pod_ip, pool, ready, live, shares, pool in on_demand))
        return found

    def swapping_pods(self, cluster: Cluster) -> list[ServingPod]:
        """Pods that change over from one version to another, or back, and have not said yet that they have.

        Where a change goes on in new pods, or waits, those of the stable set that had begun it are on their way back.
        """
        found = []
        for pool in cluster.find(self._swapping, True):
            meta, change, stable = pool.metadata, pool.status.rollout, pool.status.stable
            hot = change is not None and change.strategy == swap.HOT_SWAP
            progressing = change is not None and change.phase == "Progressing"
            goal = traffic.stable_revision(pool.status)
            if change is not None and hot and (progressing or stable is None):
                goal = change.revision
            for pod in serving_pods(serving_deployments(pool, cluster), cluster):
                labels, said = pod.metadata.labels, self.book.report(pod.metadata.uid)
                if not hot and labels.get(names.LABEL_REVISION) != traffic.stable_pods(pool):
                    continue
                if not hot and said is None and names.LABEL_ASSIGNMENT not in labels:
                    continue  # it was never told anything else than what it was made for
                there = said is not None and said.ready and said.revision == goal
                # What it has said before it was told something else may be over by now.
                there = there and labels.get(names.LABEL_ASSIGNMENT, goal) == goal
                if pod.status.pod_ip and pod.metadata.deletion_timestamp is None and not there:
                    key = (meta.namespace, meta.name)
                    found.append(ServingPod(pod.metadata.uid, pod.status.pod_ip, key, podstate.is_ready(pod)))
        return found

    def analysed_pools(self, cluster: Cluster) -> list[Analysed]:
        """Pools whose versions are compared now, and the pods of both."""
        found = []
        for pool in cluster.find(self._analysed, True):
            meta, change, candidate = pool.metadata, pool.status.rollout, pool.status.candidate
            if change is None or change.window is None or candidate is None:
                continue
            pods = serving_pods(cluster.owned(_DEPLOYMENTS, meta.namespace, meta.uid), cluster)
            sets: dict[str, set[str]] = {}
            for pod in pods:
                sets.setdefault(pod.metadata.labels.get(names.LABEL_REVISION, ""), set()).add(pod.metadata.uid)
            window = change.window
            chosen, stable = (
                sets.get(each, set()) for each in (traffic.pods_of(pool, candidate), traffic.stable_pods(pool))
            )
            counted = Measurement(change.revision, window.since, window.candidate, window.stable)
            found.append(Analysed((meta.namespace, meta.name), counted, frozenset(chosen), frozenset(stable)))
        return found

    def scaled_pools(self, cluster: Cluster) -> set[PoolKey]:
        """Pools that are scaled by what their pods have to do."""
        return {(pool.metadata.namespace, pool.metadata.name) for pool in cluster.find(self._scaled, True)}

    def proxies_of_sleepers(self, cluster: Cluster) -> list[Proxy]:
        """The proxies of pools at zero, in which requests may wait."""
        found = []
        for pool in cluster.find(self._asleep, True):
            meta, name = pool.metadata, gateway.name(pool.metadata.name)
            proxies = [
                each for each in cluster.owned(_DEPLOYMENTS, meta.namespace, meta.uid) if each.metadata.name == name
            ]
            found += [
                Proxy(pod.metadata.uid, pod.status.pod_ip, (meta.namespace, meta.name))
                for pod in serving_pods(proxies, cluster)
                if podstate.is_ready(pod) and pod.status.pod_ip
            ]
        return found

    def _left_behind(self, model: InferencePool, service: Service | None, cluster: Cluster) -> tuple[str, ...]:
        """Children that were kept when an earlier pool of this name was deleted.

        Its Service is always among them, so only then all others are looked for.
        """
        if service is None or service.metadata.controller is not None:
            return ()
        mine = (model.metadata.namespace, model.metadata.name)
        return tuple(
            f"{child.resource.kind.lower()}/{found.metadata.name}"
            for child in (_SERVICES, _BUDGETS, _POLICIES, _DEPLOYMENTS, _CONFIGS, _HTTP_ROUTES, _GRPC_ROUTES)
            if cluster.serves(child)
            for found in sorted(cluster.objects(child).all(), key=lambda found: str(found.metadata.name))
            if found.metadata.controller is None
            and (found.metadata.namespace, found.metadata.labels.get(names.LABEL_POOL)) == mine
        )

    def _gateway_view(self, model: InferencePool, service: Service | None, cluster: Cluster) -> GatewayView:
        meta, name = model.metadata, gateway.name(model.metadata.name)
        mine = (meta.namespace, meta.uid)
        proxies = [each for each in cluster.owned(_DEPLOYMENTS, *mine) if each.metadata.name == name]
        config = [each for each in cluster.owned(_CONFIGS, *mine) if each.metadata.name == name]
        role = service.metadata.labels.get(names.LABEL_ROLE) if service is not None else None
        view = GatewayView(
            services=tuple(
                applied(each) for each in cluster.owned(_SERVICES, *mine) if each.metadata.name != meta.name
            ),
            budget=_own(cluster.get(_BUDGETS, meta.namespace, name), meta.uid),
            routed=_own(service, meta.uid) is not None and role == names.ROLE_GATEWAY,
        )
        for found in config:
            files = found.metadata.annotations.get(names.LABEL_ASSIGNMENT, "")
            view = replace(view, config=applied(found), files=files)
        for each in proxies:
            view = replace(
                view,
                deployment=applied(each),
                first=each.metadata.annotations.get(names.LABEL_ASSIGNMENT, ""),
                ready=each.status.ready_replicas,
                refusal=_refusal(each),
                pods=tuple(self._pod_view(pod, cluster) for pod in serving_pods([each], cluster)),
            )
        return view

    def _pod_view(self, pod: Pod, cluster: Cluster) -> ServingPodView:
        meta = pod.metadata
        crash = podstate.crash(pod)
        trouble = podstate.NO_TROUBLE if crash is not None else podstate.waiting(pod) or cluster.explain(pod)
        refused = podstate.refused_by_node(pod)
        load_error = self.book.load_error(meta.uid)
        return ServingPodView(
            name=meta.name,
            revision=meta.labels.get(names.LABEL_REVISION, ""),
            ready=podstate.is_ready(pod),
            terminating=meta.deletion_timestamp is not None,
            waiting_reason=trouble.reason,
            waiting_message=trouble.message,
            unschedulable=podstate.unschedulable(pod),
            overlooked=podstate.is_unseen(pod),
            gated=podstate.is_gated(pod),
            refused_by_node=f"{refused.reason}: {refused.message}" if refused else "",
            node=pod.spec.node_name,
            crash=crash,
            load_error=load_error + lastwords.advice(load_error),
            running=pod.status.phase == "Running",
            told=meta.labels.get(names.LABEL_ASSIGNMENT, ""),
            report=self.book.report(meta.uid),
            silent=self.book.is_silent(meta.uid),
            in_flight=self.book.in_flight(meta.uid),
        )

    # --- Upgrades of the installation reach a few pools at a time ---

    def _is_outdated(self, pool: InferencePool) -> bool:
        """Its pods would be made in another way today. One whose new pods do not work holds up nobody else."""
        status = pool.status
        if status.stable is None or pool.metadata.deletion_timestamp is not None:
            return False
        failed = status.rollout is not None and bool(status.rollout.failed_revision)
        return not failed and shape.is_outdated(status.stable, shape.image_of(pool, self.settings))

    def _if_outdated(self, pool: InferencePool) -> Iterable[Hashable]:
        return (True,) if self._is_outdated(pool) else ()

    def _next_in_turn(self, cluster: Cluster) -> list[Key]:
        """In the order of their names, so that every look at the same pools finds the same ones."""
        outdated = map(_key, cluster.find(self._outdated, True))
        return heapq.nsmallest(self.settings.max_concurrent_rollouts, outdated)


def serving_deployments(pool: InferencePool, cluster: Cluster) -> list[Deployment]:
    """The Deployments of a pool's sets of serving pods."""
    meta = pool.metadata
    owned = cluster.owned(_DEPLOYMENTS, meta.namespace, meta.uid)
    return [each for each in owned if each.metadata.name != gateway.name(meta.name)]


def serving_pods(deployments: Iterable[Deployment], cluster: Cluster) -> Iterable[Pod]:
    """The pods of Deployments: those of their ReplicaSets, whatever labels others may bear."""
    for deployment in deployments:
        meta = deployment.metadata
        for replicas in cluster.owned(_REPLICASETS, meta.namespace, meta.uid):
            yield from cluster.owned(_PODS, meta.namespace, replicas.metadata.uid)


def version_view(version: ModelVersion) -> VersionView:
    """A ModelVersion as planning sees it."""
    ready = find(version.status.conditions, ConditionType.READY)
    secret = version.spec.source.secret_ref
    return VersionView(
        name=version.metadata.name,
        model=version.spec.model,
        version=version.spec.version,
        uri=version.spec.source.uri,
        digest=version.status.resolved_digest,
        format=version.spec.format,
        size_bytes=version.status.size_bytes,
        memory_bytes=version.status.memory_bytes,
        secret=secret.name if secret is not None else None,
        ready=ready is not None and ready.status == "True",
        reason=ready.reason if ready is not None else "",
        message=ready.message if ready is not None else "",
        deleting=version.metadata.deletion_timestamp is not None,
    )


def revision_view(deployment: Deployment) -> RevisionView:
    """A Deployment as planning sees it."""
    meta, status = deployment.metadata, deployment.status
    return RevisionView(
        child=applied(deployment),
        revision=meta.labels.get(names.LABEL_REVISION, ""),
        wanted=deployment.spec.replicas,
        replicas=status.replicas,
        ready=status.ready_replicas,
        terminating=meta.deletion_timestamp is not None,
        refusal=_refusal(deployment),
        model_version=meta.annotations.get(shape.ANNOTATION_MODEL_VERSION, ""),
        room=int(room) if (room := meta.annotations.get(shape.ANNOTATION_ROOM, "")).isdecimal() else 0,
    )


def _routes_view(pool: InferencePool, cluster: Cluster) -> RoutesView:
    """The routes of a pool and the Gateways that its spec names."""
    meta, by_kind = pool.metadata, {route.HTTP: _HTTP_ROUTES, route.GRPC: _GRPC_ROUTES}
    seen: dict[str, RouteView | None] = {}
    for kind, child in by_kind.items():
        found = cluster.get(child, meta.namespace, meta.name)
        owner = found.metadata.controller if found is not None else None
        seen[kind] = route_view(found) if found is not None and owner is not None and owner.uid == meta.uid else None
    named = {(each.namespace, each.gateway) for kind in route.kinds(pool) for each in route.parents(pool, kind)}
    return RoutesView(
        unserved=tuple(kind for kind, child in by_kind.items() if not cluster.serves(child)),
        http=seen[route.HTTP],
        grpc=seen[route.GRPC],
        gateways=tuple(_parent_gateway(namespace, name, cluster) for namespace, name in sorted(named)),
    )


def route_view(found: Route) -> RouteView:
    """A route as planning sees it. Its rules lead to the same Services, each by its port."""
    meta, rules = found.metadata, found.spec.rules
    leads = tuple((each.name, each.weight) for each in rules[0].backend_refs if each.weight) if rules else ()
    said: dict[Parent, Said] = {}
    for entry in found.status.parents:
        ref, accepted = entry.parent_ref, condition(entry.conditions, "Accepted")
        if accepted is None:
            continue
        resolved = condition(entry.conditions, "ResolvedRefs")
        bad = next((each for each in (accepted, resolved) if each is not None and each.status == "False"), None)
        said[Parent(ref.namespace or meta.namespace, ref.name, ref.section_name)] = Said(
            accepted.observed_generation,
            accepted=accepted.status == "True",
            refusal=f"{bad.reason}: {bad.message}" if bad is not None else "",
        )
    return RouteView(applied(found), meta.generation, leads, said)


def _parent_gateway(namespace: str, name: str, cluster: Cluster) -> ParentGateway:
    known, found = cluster.reads(_GATEWAYS, namespace), cluster.get(_GATEWAYS, namespace, name)
    if found is None:
        return ParentGateway(namespace, name, found=False, known=known)
    accepted, programmed = (condition(found.status.conditions, each) for each in ("Accepted", "Programmed"))
    bad = next((each for each in (accepted, programmed) if each is not None and each.status == "False"), None)
    return ParentGateway(
        namespace,
        name,
        class_name=found.spec.gateway_class_name,
        listeners=tuple(
            ListenerView(each.name, each.port, each.protocol, each.hostname) for each in found.spec.listeners
        ),
        address=next((each.value for each in found.status.addresses if each.value), ""),
        taken_on=accepted is not None and accepted.status != "Unknown",
        trouble=f"{bad.reason}: {bad.message}" if bad is not None else "",
    )


def _is_shadow(deployment: Deployment) -> bool:
    return deployment.metadata.labels.get(names.LABEL_ROLE) == names.ROLE_SHADOW


def _refusal(deployment: Deployment) -> str:
    return next((f"{found.reason}: {found.message}" for found in deployment.status.conditions), "")


def config_view(config: ConfigMap) -> ConfigView:
    """A ConfigMap as planning sees it."""
    meta = config.metadata
    assigned = meta.annotations.get(names.LABEL_ASSIGNMENT, "")
    return ConfigView(applied(config), meta.labels.get(names.LABEL_REVISION, ""), assigned)


def _own(found: Service | DisruptionBudget | None, uid: str) -> Applied | None:
    """A child that is found by its name, if it is one."""
    owner = found.metadata.controller if found is not None else None
    return applied(found) if found is not None and owner is not None and owner.uid == uid else None


def _name_conflict(observed: Observed, errors: Sequence[WriteError]) -> str:
    """Objects in the way, and the command that removes them if they are what an earlier pool has left."""
    namespace = observed.pool.metadata.namespace
    if observed.orphans:
        left = " ".join(observed.orphans)
        return f"an earlier pool of this name has left objects behind: kubectl -n {namespace} delete {left}"
    return (
        f"{errors[0].message}; it does not belong to this pool: rename one of them, or, if nobody needs it: "
        f"{removal(errors, namespace)}"
    )


def _pools_of(version: ModelVersion, cluster: Cluster) -> Iterable[Key]:
    return map(_key, cluster.find(_POOLS, (version.metadata.namespace, version.spec.model)))


def _key(pool: InferencePool) -> Key:
    return Key(pool.metadata.namespace, pool.metadata.name)


def _if_swapping(pool: InferencePool) -> Iterable[Hashable]:
    """Pods of it may be on their way. A change that waits for its version is no longer in the status."""
    change, phase = pool.status.rollout, pool.status.phase
    swaps = phase == "Waiting" if change is None else change.phase in ("Progressing", "Failed")
    return (True,) if swaps else ()


def _if_analysed(pool: InferencePool) -> Iterable[Hashable]:
    change = pool.status.rollout
    going = change is not None and change.phase == "Progressing" and change.window is not None and not change.paused
    return (True,) if going else ()


def _if_scaled(pool: InferencePool) -> Iterable[Hashable]:
    return (True,) if pool.spec.autoscaling is not None and pool.metadata.deletion_timestamp is None else ()


def _if_asleep(pool: InferencePool) -> Iterable[Hashable]:
    gone = pool.metadata.deletion_timestamp is not None
    return (True,) if scaling.sleeps(pool) and not scaling.wanted(pool) and not gone else ()


def _if_several(pool: InferencePool) -> Iterable[Hashable]:
    return (True,) if len(pool.spec.models) > 1 else ()


def _model_names(pool: InferencePool) -> Iterable[str]:
    """The models of the pool: those that it is to serve, and of several those that its pods still do."""
    wished, status = [model.name for model in pool.spec.models], pool.status
    parts = [part for part in (status.stable, status.previous) if part is not None and (part.models or len(wished) > 1)]
    return dict.fromkeys([*wished, *(name for part in parts for name in packing.named_in(part))])


def _models_of_pool(pool: InferencePool) -> Iterable[Hashable]:
    return tuple((pool.metadata.namespace, model.name) for model in pool.spec.models)


_VERSIONS = Index(ModelVersion, "model", model_of)
_POOLS = Index(InferencePool, "model", _models_of_pool)

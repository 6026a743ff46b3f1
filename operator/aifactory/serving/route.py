"""The way to a pool's pods through a Gateway of the user's (`spec.gateway.mode: GatewayAPI`).

The HTTPRoute leads to the pool's own Service, and so to all ready pods alike; where `traffic.weights` splits the
requests, it leads to a Service for each set of pods, by weights. What always holds: a route names a Service only once
that is there, and gives a part only to sets that have ready pods; a set of pods is kept until the Gateway's controller
has said that it has taken a route that leads to it no more. The standard has a Gateway answer 503 for the part of a
Service without pods, so anything else would lose requests.

Source: https://gateway-api.sigs.k8s.io/reference/spec/ (HTTPRouteRule, HTTPBackendRef, RouteParentStatus)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from aifactory.api import names
from aifactory.api.conditions import find
from aifactory.api.inferencepool import Gateway, InferencePool, ParentRef
from aifactory.api.reasons import ConditionType, Reason
from aifactory.engine import apply
from aifactory.engine.plan import Delete, Write
from aifactory.engine.podspec import Json
from aifactory.serving import traffic
from aifactory.serving.objects import metadata, selector
from aifactory.serving.state import ListenerView, Observed, Parent, ParentGateway, RouteView, Said
from aifactory.serving.trouble import Problem

API_VERSION = "gateway.networking.k8s.io/v1"
HTTP, GRPC = "HTTPRoute", "GRPCRoute"
_HASH_LENGTH = 8
_OPENAI_PATH, _TRITON_PATH = "/v1", "/v2"
_USUAL_PORTS = {"http": 80, "https": 443}
_NO_PARENT = Said(0)


def is_wanted(pool: InferencePool) -> bool:
    """Whether clients are to come through a Gateway of the user's."""
    return pool.spec.gateway is not None and pool.spec.gateway.mode == "GatewayAPI"


def kinds(pool: InferencePool) -> tuple[str, ...]:
    """Kinds of routes that the pool is to have."""
    spec = pool.spec.gateway
    return () if spec is None or not is_wanted(pool) else (HTTP, GRPC) if spec.grpc is not None else (HTTP,)


def parents(pool: InferencePool, kind: str) -> tuple[Parent, ...]:
    """What a route of that kind is to hang on."""
    spec = pool.spec.gateway or Gateway()
    own = spec.grpc.parent_refs if kind == GRPC and spec.grpc is not None else None
    namespace = pool.metadata.namespace
    return tuple(Parent(ref.namespace or namespace, ref.name, ref.section_name or "") for ref in _refs(spec, own))


def _refs(spec: Gateway, own: Sequence[ParentRef] | None) -> Sequence[ParentRef]:
    return own or spec.parent_refs or ()


# --- What is made -----------------------------------------------------------------------------------------------------


def set_host(pool: InferencePool, pods: str) -> str:
    """The Service of a set of serving pods, for routes: another one than that by which proxies find it."""
    return f"{pool.metadata.name}-{apply.content_hash(['route', pods])[:_HASH_LENGTH]}"


def services(observed: Observed) -> list[Json]:
    """A Service for each set of pods; the route leads there where it splits requests."""
    pool = observed.pool
    if not is_wanted(pool) or HTTP in observed.routes.unserved:
        return []
    live = sorted(view.revision for view in observed.revisions if not view.terminating)
    return [_service(pool, pods, openai=observed.generates_text) for pods in live]


def _service(pool: InferencePool, pods: str, *, openai: bool) -> Json:
    chosen = {names.LABEL_REVISION: pods}
    ports = traffic.ports(openai=openai, triton=not pool.spec.loads_on_demand)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(pool, set_host(pool, pods), chosen),
        "spec": {"selector": {**selector(pool), **chosen}, "ports": ports},
    }


def kept_services(observed: Observed) -> frozenset[str]:
    """Services that routes lead to, or may lead to next."""
    named = {body["metadata"]["name"] for body in services(observed)}
    views = (observed.routes.http, observed.routes.grpc)
    return frozenset(named | {host for view in views if view is not None for host, _ in view.leads})


def leads(observed: Observed) -> tuple[tuple[str, int], ...]:
    """Services that requests are to be led to, and the part of each, of 100; the pool's own one stands for all pods."""
    pool = observed.pool
    there = {service.name for service in observed.gateway.services}
    split = tuple((set_host(pool, pods), part) for pods, part in traffic.weights(pool, observed.revisions))
    whole = ((pool.metadata.name, 100),)
    return split if split and all(host in there for host, _ in split) else whole


def bodies(observed: Observed) -> dict[str, Json]:
    """The routes by their kind."""
    pool, spec, to = observed.pool, observed.pool.spec.gateway or Gateway(), leads(observed)
    made = {}
    for kind in kinds(pool):
        grpc = kind == GRPC
        hostnames = (spec.grpc.hostnames if grpc and spec.grpc is not None else None) or spec.hostnames
        rules = (
            _grpc_rules(to)
            if grpc
            else _http_rules(to, spec, openai=observed.generates_text, triton=not observed.on_demand)
        )
        made[kind] = {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": metadata(pool, pool.metadata.name, {}),
            "spec": {
                "parentRefs": [_parent_ref(pool, parent) for parent in parents(pool, kind)],
                **({"hostnames": list(hostnames)} if hostnames else {}),
                "rules": rules,
            },
        }
    return made


def _parent_ref(pool: InferencePool, parent: Parent) -> Json:
    ref = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": parent.gateway}
    ref |= {"namespace": parent.namespace} if parent.namespace != pool.metadata.namespace else {}
    return ref | ({"sectionName": parent.listener} if parent.listener else {})


def _http_rules(to: Iterable[tuple[str, int]], spec: Gateway, *, openai: bool, triton: bool) -> list[Json]:
    """By the path: what begins with /v1 is OpenAI's API, what begins with /v2 Triton's.

    Left out, a limit of time is what the implementation likes, and a stream may take long.
    """
    doors = [(_OPENAI_PATH, names.OPENAI_PORT)] if openai else []
    doors += [(_TRITON_PATH, names.TRITON_HTTP_PORT)] if triton else []
    return [
        {
            "matches": [{"path": {"type": "PathPrefix", "value": path}}],
            "backendRefs": _backends(to, port),
            "timeouts": {"request": f"{spec.timeout_seconds or 0}s"},
        }
        for path, port in doors
    ]


def _grpc_rules(to: Iterable[tuple[str, int]]) -> list[Json]:
    return [{"backendRefs": _backends(to, names.TRITON_GRPC_PORT)}]


def _backends(to: Iterable[tuple[str, int]], port: int) -> list[Json]:
    return [{"group": "", "kind": "Service", "name": host, "port": port, "weight": part} for host, part in to]


def writes(observed: Observed) -> tuple[Write, ...]:
    """What brings the routes to what they should be, with the Services of the sets, or removes them."""
    there = {service.name: service for service in observed.gateway.services}
    views = {HTTP: observed.routes.http, GRPC: observed.routes.grpc}
    found: list[Write] = []
    for made in services(observed):
        found += apply.ensure(made, there.get(made["metadata"]["name"]))
    wanted = bodies(observed)
    for kind, view in views.items():
        if kind in observed.routes.unserved:
            continue
        if (body := wanted.get(kind)) is not None:
            found += apply.ensure(body, view.child if view is not None else None)
        elif view is not None:
            found.append(Delete(kind, view.child.name, view.child.uid))
    return tuple(found)


# --- What is true -----------------------------------------------------------------------------------------------------


def _said(view: RouteView | None, parent: Parent) -> Said:
    return view.said.get(parent, _NO_PARENT) if view is not None else _NO_PARENT


def _accepted(observed: Observed, kind: str) -> list[Parent]:
    """Parents that have taken a route, as it stands or as it was."""
    view = observed.routes.grpc if kind == GRPC else observed.routes.http
    lost = {(each.namespace, each.name) for each in observed.routes.gateways if each.known and not each.found}
    return [
        parent
        for parent in parents(observed.pool, kind)
        if _said(view, parent).accepted and (parent.namespace, parent.gateway) not in lost
    ]


def _reached_by(observed: Observed) -> list[Parent]:
    return [each for each in _accepted(observed, HTTP) if not _gateway(observed, each).trouble]


def is_reached(observed: Observed) -> bool:
    """Whether a Gateway leads to the pool."""
    return bool(_reached_by(observed))


def holds(observed: Observed, pods: str) -> bool:
    """Whether a Gateway may still lead requests to a set of pods: by a route as it stands, or as it was before."""
    host = set_host(observed.pool, pods)
    views = ((HTTP, observed.routes.http), (GRPC, observed.routes.grpc))
    for kind, view in views:
        if view is None or kind not in kinds(observed.pool):
            continue
        taken = _accepted(observed, kind)
        if taken and (host in dict(view.leads) or any(not _is_current(view, parent) for parent in taken)):
            return True
    return False


def _is_current(view: RouteView, parent: Parent) -> bool:
    return _said(view, parent).generation >= view.generation


def parts(observed: Observed) -> dict[str, int]:
    """What part of the requests each set of pods gets by the route, of 100; empty where it leads to all alike."""
    view = observed.routes.http
    if not is_wanted(observed.pool) or view is None:
        return {}
    by_host = dict(view.leads)
    hosts = {each.revision: set_host(observed.pool, each.revision) for each in observed.revisions}
    return {pods: by_host[host] for pods, host in hosts.items() if host in by_host}


def words(observed: Observed) -> str:
    """How the route splits requests, where it does: to follow which pods answer."""
    found = parts(observed)
    if not found or not is_reached(observed):
        return ""
    versions = {view.revision: view.model_version or view.revision for view in observed.revisions}
    told = sorted((versions[pods], part) for pods, part in found.items())
    return "; of 100 requests " + " and ".join(f"{part} are led to {name}" for name, part in told)


def is_in_place(observed: Observed) -> bool:
    """Whether every Gateway leads to the pool as the spec asks for."""
    return problem(observed) is None


def problem(observed: Observed) -> Problem | None:
    """Why a Gateway does not lead to the pool as the spec asks for; None where all do."""
    for kind, body in bodies(observed).items():
        view = observed.routes.grpc if kind == GRPC else observed.routes.http
        if kind in observed.routes.unserved:
            return _unserved(kind)
        if view is None or apply.ensure(body, view.child):
            view = replace(view, generation=view.generation + 1) if view is not None else None  # it is being written
        for parent in parents(observed.pool, kind):
            if (found := _of_parent(observed, kind, view, parent)) is not None:
                return found
    return None


def _unserved(kind: str) -> Problem:
    message = (
        f"the cluster does not serve {kind}s of {API_VERSION}: install the Gateway API and restart the operator, or "
        "write gateway.mode Envoy or None"
    )
    return Problem(Reason.GATEWAY_API_MISSING, message)


def _of_parent(observed: Observed, kind: str, view: RouteView | None, parent: Parent) -> Problem | None:
    title, route = f"Gateway {parent.namespace}/{parent.gateway}", f"{kind} {observed.pool.metadata.name}"
    field = "spec.gateway.parentRefs"
    gateway = _gateway(observed, parent)
    if gateway.known and not gateway.found:
        return Problem(Reason.GATEWAY_NOT_FOUND, f"there is no {title}: create it, or correct {field}")
    listeners = [listener.name for listener in gateway.listeners]
    if parent.listener and gateway.found and parent.listener not in listeners:
        has = f"it has {', '.join(listeners)}" if listeners else "it has none"
        message = f"{title} has no listener named {parent.listener}, {has}: add it, or correct {field}"
        return Problem(Reason.GATEWAY_NOT_FOUND, message)
    said = _said(view, parent)
    current = view is not None and _is_current(view, parent)
    if current and said.refusal:
        return Problem(Reason.ROUTE_NOT_ACCEPTED, _refused(observed, title, route, said.refusal))
    if gateway.trouble:
        message = f"{title} is not as it should be: {gateway.trouble}; see kubectl -n {parent.namespace} describe "
        return Problem(Reason.GATEWAY_NOT_READY, f"{message}gateway {parent.gateway}", waits=True)
    if current and said.accepted:
        return None
    if not gateway.taken_on:
        message = (
            f"no controller has taken on {title} of GatewayClass {gateway.class_name}: install or start the one that "
            f"its class names, or correct {field}"
        )
        return Problem(Reason.GATEWAY_NOT_READY, message, waits=True)
    if said.accepted and _was_ready(observed):
        return None  # it splits requests in another way since, and nothing else
    looked = "has not looked at" if said.generation == 0 else "has yet to take the change of"
    return Problem(Reason.GATEWAY_NOT_READY, f"the controller of {title} {looked} {route}", waits=True)


def _was_ready(observed: Observed) -> bool:
    """It was in place for the spec as it is now: a route that changes since then changes where it leads."""
    meta, ready = observed.pool.metadata, find(observed.pool.status.conditions, ConditionType.READY)
    return ready is not None and (ready.status, ready.observed_generation) == ("True", meta.generation)


_ADVICE = (
    ("NotAllowedByListeners", "let routes of namespace {} in by allowedRoutes of a listener, or name another Gateway"),
    ("NoMatchingListenerHostname", "correct the hostnames in spec.gateway, or add a listener for them"),
    ("NoMatchingParent", "correct sectionName in spec.gateway.parentRefs"),
)


def _refused(observed: Observed, title: str, route: str, refusal: str) -> str:
    namespace = observed.pool.metadata.namespace
    way = next((advice.format(namespace) for reason, advice in _ADVICE if refusal.startswith(reason)), "")
    return f"{title} does not take {route}: {refusal}; {way or 'change spec.gateway or the Gateway as that says'}"


def _gateway(observed: Observed, parent: Parent) -> ParentGateway:
    for gateway in observed.routes.gateways:
        if (gateway.namespace, gateway.name) == (parent.namespace, parent.gateway):
            return gateway
    return ParentGateway(parent.namespace, parent.gateway, found=False, known=False)


def url(observed: Observed) -> str:
    """Where clients ask by a Gateway that has taken the HTTPRoute; empty while that is not known."""
    pool, suffix = observed.pool, _OPENAI_PATH if observed.generates_text else ""
    hostnames = (pool.spec.gateway or Gateway()).hostnames or ()
    for parent in _reached_by(observed):
        gateway = _gateway(observed, parent)
        fitting = [each for each in gateway.listeners if _fits(each, parent, hostnames)]
        for listener in sorted(fitting, key=lambda each: each.protocol != "HTTPS"):
            names_there = (each for each in (*hostnames, listener.hostname) if _leads_to(each, listener))
            host = next(names_there, gateway.address)
            if host:
                scheme = listener.protocol.lower()
                port = "" if listener.port == _USUAL_PORTS[scheme] else f":{listener.port}"
                return f"{scheme}://{f'[{host}]' if ':' in host else host}{port}{suffix}"
    return ""


def _fits(listener: ListenerView, parent: Parent, hostnames: Sequence[str]) -> bool:
    """Whether clients of the route may come by a listener, as far as names tell."""
    if parent.listener not in ("", listener.name) or listener.protocol not in ("HTTP", "HTTPS"):
        return False
    return not (listener.hostname and hostnames) or any(_overlap(listener.hostname, each) for each in hostnames)


def _leads_to(name: str, listener: ListenerView) -> bool:
    """Whether clients that ask for a name, which is a whole one, come to a listener."""
    return bool(name) and "*" not in name and (not listener.hostname or _overlap(listener.hostname, name))


def _overlap(one: str, other: str) -> bool:
    """Whether two names, with or without a wildcard in front, have a name in common.

    >>> _overlap("*.example.com", "chat.example.com"), _overlap("a.example.com", "b.example.com")
    (True, False)
    """
    return one == other or _covers(one, other) or _covers(other, one)


def _covers(wide: str, narrow: str) -> bool:
    return wide.startswith("*.") and narrow.endswith(wide[1:])

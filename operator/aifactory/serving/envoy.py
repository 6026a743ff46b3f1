"""Envoy's configuration as a pure function of what a pool's gateway leads to.

Everything is files in one directory, which Envoy watches: it takes over a changed file at once and without a restart,
and starts by them while nobody else is there. Which pods there are is no part of it: Envoy asks the cluster's DNS for
the ready ones, so pods come and go without a word from the operator.

What always holds: a request is tried on another pod while nothing of its answer has been sent; answers are passed on
piece by piece as they come, and no answer under way is cut for its length or for a pause, but where the pool sets a
limit of time.

Where proxies are to ask for keys, or to speak TLS, they mount a Secret for it and work by files of their own (`Walls`);
those that were made before, without the Secret, go on by theirs.

Sources: https://www.envoyproxy.io/docs/envoy/latest/api-v3/api
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from aifactory.api import names
from aifactory.api.inferencepool import RateLimit
from aifactory.engine.apply import content_hash
from aifactory.engine.podspec import Json
from aifactory.serving import apikeys, holding, stickiness

DIRECTORY: Final = "/etc/aifactory/gateway"
"""Where the files are."""
TLS_DIRECTORY: Final = "/etc/aifactory/tls"
"""Where the certificate and its key are."""
DRAIN: Final = "drain.sh"
ADMIN_PORT: Final = 9901
"""Of Envoy itself, inside the pod alone."""
VERSION_HEADER: Final = "x-aifactory-version"
"""A header, or a cookie, by which a client insists on a version."""
READY_PATH: Final = "/ready"
"""Whether it knows a pod that is ready, behind each port, or nobody wants one."""
FILES_PATH: Final = "/files"
"""By which files it works."""
METRICS_PATH: Final = "/metrics"

_THREADS: Final = 2
"""It would take as many as the node has CPUs."""
_RETRIED_BYTES: Final = 4 * 1024 * 1024
"""A larger request is not kept until its answer begins, and so is not sent to another pod."""
_MOST_CONNECTIONS: Final = 20_000
"""Of clients, to one Envoy."""
_MOST_REQUESTS: Final = 20_000
"""Under way at the same time, to one set of pods."""
_MOST_COPIES: Final = 64
"""Of requests, under way at the same time in one Envoy; more are not made. What takes them may answer late or never."""
_TYPE = "type.googleapis.com/envoy"


@dataclass(frozen=True, slots=True)
class Pods:
    """Serving pods that are found by one name."""

    name: str
    """In Envoy's metrics."""
    host: str
    """A headless Service, which is in the same namespace."""
    versions: tuple[int | str, ...] = ()
    """Of a set: what it answers from, of several models as `name@version`; a client that insists on one of these is led
    here."""
    weight: int | None = None
    """Of the requests of all other clients, in percent; None where these are for all ready pods alike."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """Who gets copies of requests; what is answered goes nowhere."""

    to: Pods
    percent: int


@dataclass(frozen=True, slots=True)
class Walls:
    """What stands between strangers and a gateway, by Secrets that its pods mount."""

    keys: bool = False
    """A request needs an API key."""
    tls: bool = False

    @property
    def suffix(self) -> str:
        """In the names of files that only pods with these Secrets can work by."""
        return f"{'-keys' if self.keys else ''}{'-tls' if self.tls else ''}"

    @property
    def lower(self) -> Iterator[Walls]:
        """These and every lower ones: what pods may have that were made before."""
        for keys in sorted({False, self.keys}):
            for tls in sorted({False, self.tls}):
                yield Walls(keys, tls)


NO_WALLS: Final = Walls()


@dataclass(frozen=True, slots=True)
class Routes:
    """Where a gateway leads to."""

    pool: str
    model: str
    """Each pod is asked whether it is ready; "" where none is loaded all the time: whether it lives."""
    openai: bool
    """The pods answer OpenAI's API too."""
    everybody: Pods
    """All ready pods, whatever their set; where no set has a weight they get the requests."""
    sets: tuple[Pods, ...] = ()
    """Each set of pods by itself. Weights, if there are some, sum to 100. A set has to be here for some seconds before
    it gets one, for Envoy leads nowhere by a name that it has yet to look up."""
    mirror: Mirror | None = None
    awaited: bool = True
    """There shall be pods: the gateway is not ready before it knows one that is."""
    access_log: bool = False
    """A line for each request."""
    walls: Walls = NO_WALLS
    rate_limit: RateLimit | None = None
    """Of each key."""
    max_request_bytes: int | None = None
    timeout_seconds: int | None = None
    prompt_bytes: int | None = None
    """By OpenAI's API: requests whose prompts have these first bytes in common go to the same pod."""
    hold: holding.Hold | None = None
    """While there is no pod, requests wait for one, and the gateway is ready."""

    def sticky(self, door: _Door) -> bool:
        """Whether it is the door's requests that go to the same pod."""
        return self.prompt_bytes is not None and door.name == "openai"

    @property
    def all(self) -> tuple[Pods, ...]:
        """Whatever there is a way to."""
        return (self.everybody, *self.sets)


@dataclass(frozen=True, slots=True)
class _Door:
    """A port of the gateway, which leads to the same one of the pods."""

    name: str
    port: int
    checked_port: int
    checked_path: str
    http2: bool = False


def bootstrap(walls: Walls) -> str:
    """The file that Envoy begins with."""
    return f"bootstrap{walls.suffix}.json"


def arguments(directory: str = DIRECTORY, walls: Walls = NO_WALLS) -> list[str]:
    """How Envoy is started."""
    return [
        *("--config-path", f"{directory}/{bootstrap(walls)}"),
        *("--concurrency", str(_THREADS)),
        "--disable-hot-restart",
        *("--file-flush-interval-msec", "1000"),
        *("--log-level", "warn"),
    ]


def files(routes: Routes) -> dict[str, str]:
    """The files by their names."""
    doors = _doors(routes)
    found: dict[str, str] = {
        DRAIN: _drain(doors),
        "clusters.json": _resources(_clusters(doors, routes)),
    }
    ready = _ready([routes.everybody], doors if routes.awaited and routes.hold is None else ())
    inside = [_on_port("status", names.GATEWAY_STATUS_PORT, filters=[ready])]
    if routes.hold is not None:
        inside.append(_waiting_room(doors, routes))
        found[f"routes-{holding.LISTENER}.json"] = _resources([_table(holding.LISTENER, holding.host(_names(doors)))])
    for walls in routes.walls.lower:
        listeners = [*(_listener(door, routes, walls, ready) for door in doors), *inside]
        found[bootstrap(walls)] = _text(_bootstrap(routes.pool, walls))
        found[_listeners(walls)] = _resources(listeners)
    if routes.walls.tls:
        found["tls.json"] = _resources([_certificate()])
    for door in doors:
        found[f"routes-{door.name}.json"] = _resources([_route_table(door, routes)])
    found["routes-status.json"] = _resources([_status_routes(content_hash(found), waits=routes.hold is not None)])
    return found


def _doors(routes: Routes) -> list[_Door]:
    ready = f"/v2/models/{routes.model}/ready" if routes.model else "/v2/health/live"
    http = _Door("http", names.TRITON_HTTP_PORT, names.TRITON_HTTP_PORT, ready)
    # Triton answers the same question at the port of HTTP alone.
    grpc = _Door("grpc", names.TRITON_GRPC_PORT, names.TRITON_HTTP_PORT, ready, http2=True)
    openai = _Door("openai", names.OPENAI_PORT, names.OPENAI_PORT, "/health")
    return [http, grpc, openai] if routes.openai else [http, grpc]


def _cluster_name(pods: Pods, door: _Door) -> str:
    return f"{pods.name}-{door.name}"


def _listeners(walls: Walls) -> str:
    return f"listeners{walls.suffix}.json"


def _bootstrap(pool: str, walls: Walls) -> Json:
    admin = {"socket_address": {"address": "127.0.0.1", "port_value": ADMIN_PORT}}
    connections = f"{_TYPE}.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    return {
        "node": {"id": "gateway", "cluster": pool},
        "admin": {"address": admin},
        "dynamic_resources": {"cds_config": _watched("clusters.json"), "lds_config": _watched(_listeners(walls))},
        "static_resources": {
            "clusters": [
                {
                    "name": "admin",
                    "connect_timeout": "1s",
                    "load_assignment": {"cluster_name": "admin", "endpoints": _endpoints({"address": admin})},
                }
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {"@type": connections, "max_active_downstream_connections": _MOST_CONNECTIONS},
                }
            ]
        },
    }


def _watched(file: str) -> Json:
    """A file is read again whenever something is renamed in its directory, as the kubelet does with all at once."""
    source = {"path": f"{DIRECTORY}/{file}", "watched_directory": {"path": DIRECTORY}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def _endpoints(endpoint: Json) -> list[Json]:
    return [{"lb_endpoints": [{"endpoint": endpoint}]}]


def _clusters(doors: Iterable[_Door], routes: Routes) -> list[Json]:
    """All sets of pods behind each door."""
    # Who waits for a pod is not to wait for the DNS.
    seconds, found = 2 if routes.hold is None else 1, []
    for door in doors:
        for pods in routes.all:
            cluster = _cluster(pods, door, seconds)
            found.append(stickiness.balanced(cluster) if routes.sticky(door) else cluster)
        if routes.mirror is not None:
            most = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), _MOST_COPIES)
            limits = {"thresholds": [{**most, "max_retries": 0}]}
            found.append({**_cluster(routes.mirror.to, door, seconds), "circuit_breakers": limits})
    return found if routes.hold is None else [*found, *holding.clusters(routes.hold)]


def _names(doors: Iterable[_Door]) -> list[str]:
    return [door.name for door in doors]


def _waiting_room(doors: Iterable[_Door], routes: Routes) -> Json:
    """Where requests that wait ask for a pod behind their door."""
    # A client that insists on a version is led to a set by itself; where there are several nobody waits for one.
    wanted = [routes.everybody, *(routes.sets if len(routes.sets) == 1 else ())]
    looks = [_ready(wanted, [door], holding.ready_path(door.name)) for door in doors]
    return _on_port(holding.LISTENER, holding.PORT, address="127.0.0.1", filters=looks)


def _cluster(pods: Pods, door: _Door, dns_seconds: int) -> Json:
    """A set of pods behind one door."""
    name = _cluster_name(pods, door)
    # By its short name: the first domain that the resolver tries is the pod's own namespace.
    address = {"socket_address": {"address": pods.host, "port_value": door.port}}
    endpoint = {"address": address, "health_check_config": {"port_value": door.checked_port}}
    protocol: Json = {"http_protocol_options": {}}
    if door.http2:
        keepalive = {"interval": "30s", "timeout": "10s"}
        protocol = {"http2_protocol_options": {"connection_keepalive": keepalive}}
    return {
        "@type": f"{_TYPE}.config.cluster.v3.Cluster",
        "name": name,
        "cluster_type": {
            "name": "envoy.clusters.dns",
            "typed_config": {
                "@type": f"{_TYPE}.extensions.clusters.dns.v3.DnsCluster",
                "dns_lookup_family": "V4_PREFERRED",
                "dns_refresh_rate": f"{dns_seconds}s",
                "dns_failure_refresh_rate": {"base_interval": "1s", "max_interval": f"{dns_seconds}s"},
            },
        },
        # A pod that ends is out of DNS long before it stops to answer.
        "ignore_health_on_host_removal": True,
        "load_assignment": {"cluster_name": name, "endpoints": _endpoints(endpoint)},
        "lb_policy": "LEAST_REQUEST",
        # What is found out about a pod counts at once: by default it would be told together with what comes after.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "connect_timeout": "2s",
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                # Over a connection that is open Triton says that it is ready while it ends.
                "reuse_connection": False,
                "http_health_check": {"path": door.checked_path, "codec_client_type": "HTTP1"},
            }
        ],
        # Pods that can not be reached, or end connections, are left out for a moment; whatever a pod answers, it is
        # not for its answers, which may be about the requests.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 2,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_local_origin_success_rate": 0,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_time": "10s",
            "max_ejection_percent": 50,
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": _MOST_REQUESTS,
                    "max_pending_requests": _MOST_REQUESTS,
                    "max_requests": _MOST_REQUESTS,
                    # When one of two pods is killed, half of all requests are sent again at the same moment.
                    "retry_budget": {"budget_percent": {"value": 100}, "min_retry_concurrency": 64},
                }
            ]
        },
        # A machine that is gone ends no connection.
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 10, "keepalive_interval": 5}
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                # Less than what the OpenAI port keeps one that nobody uses, so that it is not ended from there.
                "common_http_protocol_options": {"idle_timeout": "30s"},
                "explicit_http_config": protocol,
            }
        },
    }


def _listener(door: _Door, routes: Routes, walls: Walls, ready: Json) -> Json:
    more: Json = {"local_reply_config": _own_words(door, routes)}
    if routes.access_log:
        more["access_log"] = [_access_log(door, keys=walls.keys)]
    # Where there is a certificate the kubelet asks here, and so whether it is good.
    filters = [ready] if walls.tls and door.name == "http" else []
    if walls.keys:
        filters += apikeys.filters(door.name, routes.rate_limit)
    if routes.hold is not None:  # before a request is kept for its size
        filters.append(holding.request_filter(routes.pool, door.name, routes.hold))
    if not door.http2:  # else a stream of requests would wait for its end
        if routes.max_request_bytes is not None:
            filters.append(_size_limit(routes.max_request_bytes))
        if routes.timeout_seconds is not None:
            more["request_timeout"] = f"{routes.timeout_seconds}s"
    if routes.prompt_bytes is not None and routes.sticky(door):
        filters += stickiness.filters(routes.prompt_bytes)
    listener = _on_port(door.name, door.port, http2=door.http2, filters=filters, **more)
    if walls.tls:
        (chain,) = listener["filter_chains"]
        chain["transport_socket"] = _tls(door)
    return listener


def _size_limit(most: int) -> Json:
    config = {"@type": f"{_TYPE}.extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": most}
    return {"name": "envoy.filters.http.buffer", "typed_config": config}


def _tls(door: _Door) -> Json:
    context = {
        "@type": f"{_TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2"] if door.http2 else ["h2", "http/1.1"],
            "tls_certificate_sds_secret_configs": [{"name": "certificate", "sds_config": _watched("tls.json")}],
        },
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _certificate() -> Json:
    """Its files are read again whenever the kubelet brings others."""
    files = {"certificate_chain": "tls.crt", "private_key": "tls.key"}
    return {
        "@type": f"{_TYPE}.extensions.transport_sockets.tls.v3.Secret",
        "name": "certificate",
        "tls_certificate": {
            **{part: {"filename": f"{TLS_DIRECTORY}/{file}"} for part, file in files.items()},
            "watched_directory": {"path": TLS_DIRECTORY},
        },
    }


def _own_words(door: _Door, routes: Routes) -> Json:
    """What the proxy itself answers, in the way of the door: as Triton does, as gRPC does, or as OpenAI's API does."""
    most, seconds = routes.max_request_bytes, routes.timeout_seconds
    found = [_said(door, 401, code="invalid_api_key")]
    if most is not None:
        found.append(_said(door, 413, f"the request is larger than the {most} bytes of gateway.maxRequestBytes"))
    if routes.rate_limit is not None:
        found.append(
            _said(door, 429, "more requests with this key than gateway.rateLimit allows; ask again a bit later")
        )
    if seconds is not None:
        found.append(_said(door, 504, f"no complete answer within the {seconds} s of gateway.timeoutSeconds"))
    return {"mappers": [*found, _said(door, 500, how="GE"), _said(door, 400, how="GE")]}


def _said(door: _Door, status: int, words: str = "", *, how: str = "EQ", code: str | None = None) -> Json:
    """The form of the proxy's answers with a status, and their words where Envoy's own tell nothing."""
    value = {"default_value": status, "runtime_key": f"aifactory.{status}"}
    found: Json = {"filter": {"status_code_filter": {"comparison": {"op": how, "value": value}}}}
    if words:
        found["body"] = {"inline_string": words}
    error: Any = "%LOCAL_REPLY_BODY%"
    if door.name == "openai":
        kind = "server_error" if status >= 500 else "invalid_request_error"
        error = {"message": error, "type": kind, "param": None, "code": code}
    if not door.http2:
        found["body_format_override"] = {"json_format": {"error": error}}
    return found


def _access_log(door: _Door, *, keys: bool) -> Json:
    """To the container's log. Paths are without what follows a question mark, and of headers only the id is told."""
    fields = {
        "time": "%START_TIME%",
        "port": door.name,
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "requestId": "%REQ(X-REQUEST-ID)%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ)%",
        "status": "%RESPONSE_CODE%",
        "grpcStatus": "%GRPC_STATUS_NUMBER%",
        "flags": "%RESPONSE_FLAGS%",
        "pods": "%UPSTREAM_CLUSTER%",
        "pod": "%UPSTREAM_HOST%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "requestBytes": "%BYTES_RECEIVED%",
        "answerBytes": "%BYTES_SENT%",
        "firstByteMs": "%RESPONSE_DURATION%",
        "totalMs": "%DURATION%",
    }
    if keys:
        fields["caller"] = apikeys.CALLER
    stdout = f"{_TYPE}.extensions.access_loggers.stream.v3.StdoutAccessLog"
    config = {"@type": stdout, "log_format": {"json_format": fields}}
    return {"name": "envoy.access_loggers.stdout", "typed_config": config}


def _ready(sets: Iterable[Pods], doors: Iterable[_Door], path: str = READY_PATH) -> Json:
    """Whether there is a pod of each set behind each of the doors."""
    found = [_cluster_name(pods, door) for door in doors for pods in sets]
    check = {
        "@type": f"{_TYPE}.extensions.filters.http.health_check.v3.HealthCheck",
        "pass_through_mode": False,
        "headers": [{"name": ":path", "string_match": {"exact": path}}],
        "cluster_min_healthy_percentages": {name: {"value": 1} for name in found},
    }
    return {"name": "envoy.filters.http.health_check", "typed_config": check}


def _on_port(
    name: str, port: int, *, address: str = "0.0.0.0", http2: bool = False, filters: Iterable[Json] = (), **more: Any
) -> Json:
    manager = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}
    return {
        "@type": f"{_TYPE}.config.listener.v3.Listener",
        "name": name,
        "address": {"socket_address": {"address": address, "port_value": port}},
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": {
                            "@type": f"{_TYPE}.{manager}",
                            "stat_prefix": name,
                            "codec_type": "HTTP2" if http2 else "AUTO",
                            "rds": {"route_config_name": name, "config_source": _watched(f"routes-{name}.json")},
                            "http_filters": [*filters, {"name": "envoy.filters.http.router", "typed_config": router}],
                            "use_remote_address": True,
                            "server_header_transformation": "PASS_THROUGH",
                            "request_headers_timeout": "10s",
                            # A model may think for longer than any limit before its next token.
                            "stream_idle_timeout": "0s",
                            **more,
                        },
                    }
                ]
            }
        ],
    }


def _route_table(door: _Door, routes: Routes) -> Json:
    pinned = {version: pods for pods in reversed(routes.sets) for version in pods.versions}  # the first set of several
    seconds = routes.timeout_seconds or 0
    table = []
    for version in sorted(pinned):
        leads = {"cluster": _cluster_name(pinned[version], door)}
        by_header = {"name": VERSION_HEADER, "string_match": {"exact": str(version)}}
        by_cookie = {"name": "cookie", "string_match": {"safe_regex": {"regex": _cookie(version)}}}
        table += [_route(leads, seconds, by_header), _route(leads, seconds, by_cookie)]
    known = ", ".join(map(str, sorted(pinned))) or "none"
    unknown = f"no pod of pool {routes.pool} serves the version that header {VERSION_HEADER} names; served: {known}"
    table.append(
        {
            "match": {"prefix": "/", "headers": [{"name": VERSION_HEADER, "present_match": True}]},
            "direct_response": {"status": 404, "body": {"inline_string": unknown}},
        }
    )
    shares = [
        {"name": _cluster_name(pods, door), "weight": pods.weight} for pods in routes.sets if pods.weight is not None
    ]
    everybody = _cluster_name(routes.everybody, door)
    most: Json = {"weighted_clusters": {"clusters": shares}} if shares else {"cluster": everybody}
    if routes.mirror is not None:
        most["request_mirror_policies"] = [_copies(routes.mirror, door)]
    table.append(_route(most, seconds))
    if routes.sticky(door):
        for found in table:
            found.get("route", {}).update(hash_policy=stickiness.HASH_POLICY)
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": table,
        "retry_policy": _retries(),
        "request_body_buffer_limit": _RETRIED_BYTES,
    }
    return _table(door.name, host)


def _table(name: str, host: Json) -> Json:
    return {"@type": f"{_TYPE}.config.route.v3.RouteConfiguration", "name": name, "virtual_hosts": [host]}


def _cookie(version: int | str) -> str:
    return f"(.*; ?)?{VERSION_HEADER}={re.escape(str(version))}(;.*)?"


def _route(leads: Json, seconds: int, header: Json | None = None) -> Json:
    match: Json = {"prefix": "/"} if header is None else {"prefix": "/", "headers": [header]}
    return {"match": match, "route": {**leads, "timeout": f"{seconds}s", "idle_timeout": "0s"}}


def _copies(mirror: Mirror, door: _Door) -> Json:
    share = {"numerator": mirror.percent, "denominator": "HUNDRED"}
    return {
        "cluster": _cluster_name(mirror.to, door),
        "runtime_fraction": {"default_value": share},
        "disable_shadow_host_suffix_append": True,
    }


def _retries() -> Json:
    """On another pod, while nothing of the answer has been passed on.

    A pod that answers 503 has too much to do, or its model has just gone; all other answers are passed on.
    """
    previous = "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "retry_on": "connect-failure,refused-stream,reset,reset-before-request,retriable-status-codes,unavailable",
        "retriable_status_codes": [503],
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "host_selection_retry_max_attempts": 3,
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": f"{_TYPE}.{previous}"}}
        ],
    }


def _status_routes(digest: str, *, waits: bool) -> Json:
    """What is asked about the proxy itself. `digest` tells by which files it works."""
    admin = {"cluster": "admin", "prefix_rewrite": "/stats/prometheus?usedonly"}
    host = {
        "name": "status",
        "domains": ["*"],
        "routes": [
            {
                "match": {"path": FILES_PATH},
                "direct_response": {"status": 200, "body": {"inline_string": f"{digest}\n"}},
            },
            {"match": {"path": METRICS_PATH}, "route": admin},
            *([holding.page("admin")] if waits else []),
        ],
    }
    return _table("status", host)


def _drain(doors: Iterable[_Door]) -> str:
    """What ends a gateway's pod: SIGTERM alone would cut what is under way."""
    ports = "|".join(door.name for door in doors)
    return f"""\
# Runs before Envoy is told to end, when no new connection is led here any more: has clients close the ones they keep,
# and waits until nothing is under way. The pod's grace period bounds it.
ask() {{
  exec 3<>/dev/tcp/127.0.0.1/{ADMIN_PORT} || return 1
  printf '%s %s HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n' "$1" "$2" >&3
  cat <&3
  exec 3>&-
}}
ask POST /healthcheck/fail >/dev/null || exit 0
sleep "$1"
while ask GET '/stats?filter=^http\\.({ports})\\.downstream_rq_active$' | grep -q '_active: [1-9]'; do
  sleep 1
done
"""


def _resources(resources: Iterable[Json]) -> str:
    return _text({"resources": list(resources)})


def _text(value: Json) -> str:
    return json.dumps(value, sort_keys=True) + "\n"

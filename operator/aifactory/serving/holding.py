"""Requests that wait in the gateway of a pool without a pod, until there is one: what lets a pool go to zero.

All of it is done by Envoy itself. A request that comes in asks, through a port inside the proxy's pod, whether a
serving pod is ready behind the door that it wants to go through; if not it asks again and again, and goes on once there
is one. Meanwhile a connection's buffer of its body has been read at most (1 MiB), and nothing of it is kept elsewhere.

What always holds: how many wait is bounded and so is how long, and who has waited in vain is told so (503 and when to
ask again). The proxies' files are the same whether there are pods or not, so nobody has to be there to change them. How
many wait is on a page, by which the operator learns that a pod is wanted (`wakeup`).

A look costs about half a millisecond. Where requests have come without a pause for `_BUSY_MS`, a thread looks once in
`_FRESH_MS` and not for each of them: a pool that is busy for so long is not on its way to zero. Who comes within the
millisecond in which a proxy's threads learn that the last pod is gone may be told that there is none (503).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aifactory.engine.podspec import Json

PORT: Final = 9902
"""Of Envoy, inside the pod alone: where requests that wait ask."""
PAGE: Final = "/held"
"""At the status port: how many wait."""
HELD: Final = "cluster.hold.upstream_rq_active"
"""On that page."""
LISTENER: Final = "hold"
DEFAULT_SECONDS: Final = 300
DEFAULT_REQUESTS: Final = 250

_FRESH_MS: Final = 20
_BUSY_MS: Final = 30_000
_PAUSE_MS: Final = 1000
_AGAIN_SECONDS: Final = "10"
"""What those are told who have waited in vain."""
_TYPE = "type.googleapis.com/envoy"

_SCRIPT = """\
local seen, last, since = 0, 0, 0

local function ask(handle, cluster, path, ms)
  local call = {[":method"] = "GET", [":path"] = path, [":authority"] = "gateway"}
  return handle:httpCall(cluster, call, "", ms)[":status"]
end

function envoy_on_request(handle)
  local came = handle:timestamp()
  if came - last > PAUSE_MS then
    since = came
  end
  last = came
  if came - since > BUSY_MS and came - seen < FRESH_MS then
    return
  end
  local there, waited = ask(handle, "look", "/ready/DOOR", 2000) == "200", nil
  while not there do
    local left = came + SECONDS * 1000 - handle:timestamp()
    waited = left > 0 and ask(handle, "hold", "/hold/DOOR", left) or "504"
    if waited ~= "200" then
      local words = waited == "504" and "WAITED" or "FULL"
      handle:respond({[":status"] = "503", ["retry-after"] = "AGAIN"}, words)
      return
    end
    -- Another thread may have heard of the pod before this one, which has by the time of the next answer.
    there = ask(handle, "look", "/ready/DOOR", 2000) == "200"
  end
  seen = handle:timestamp()
end
"""


@dataclass(frozen=True, slots=True)
class Hold:
    """How many requests wait in each proxy, and for how long."""

    requests: int = DEFAULT_REQUESTS
    seconds: int = DEFAULT_SECONDS


@dataclass(frozen=True, slots=True)
class Held:
    """What the proxies of a pool at zero tell."""

    requests: int
    """That wait for a pod, in all proxies together."""
    silent: int = 0
    """Proxies that do not answer when they are asked."""


def request_filter(pool: str, door: str, hold: Hold) -> Json:
    """What a request meets behind a door after it was let in: `http`, `grpc` or `openai`."""
    none = f"pool {pool} has no pod that is ready"
    given = {
        "DOOR": door,
        "SECONDS": str(hold.seconds),
        "FRESH_MS": str(_FRESH_MS),
        "BUSY_MS": str(_BUSY_MS),
        "PAUSE_MS": str(_PAUSE_MS),
        "AGAIN": _AGAIN_SECONDS,
        "WAITED": f"{none}, and got none within the {hold.seconds} s of autoscaling.holdSeconds; ask again a bit later",
        "FULL": f"{none}, and as many wait for one as autoscaling.maxHeldRequests allows; ask again a bit later",
    }
    script = _SCRIPT
    for word, value in given.items():
        script = script.replace(word, value)
    lua = {"@type": f"{_TYPE}.extensions.filters.http.lua.v3.Lua", "default_source_code": {"inline_string": script}}
    return {"name": "aifactory.hold", "typed_config": lua}


def clusters(hold: Hold) -> list[Json]:
    """Ways to the port inside: `hold` for requests that wait, `look` for a look."""
    # Exactly so many: over HTTP/2 each is one of a connection's.
    bound = {"max_requests": hold.requests, "max_pending_requests": hold.requests, "max_connections": 64}
    most = 4 * hold.requests + 1024
    looks = {"max_requests": most, "max_pending_requests": most, "max_connections": most, "max_retries": most}
    return [_cluster("hold", bound), _cluster("look", looks)]


def _cluster(name: str, limits: Mapping[str, int]) -> Json:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": PORT}}
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    protocol: Json = {
        "@type": f"type.googleapis.com/{options}",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "@type": f"{_TYPE}.config.cluster.v3.Cluster",
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "circuit_breakers": {"thresholds": [dict(limits)]},
        "typed_extension_protocol_options": {options: protocol},
    }


def host(doors: Iterable[str]) -> Json:
    """What is answered at the port inside: whoever holds on is answered when a look finds a pod."""
    return {"name": LISTENER, "domains": ["*"], "routes": [_waits(door) for door in doors]}


def ready_path(door: str) -> str:
    """Where it is asked whether there is a pod behind a door."""
    return f"/ready/{door}"


def _waits(door: str) -> Json:
    leads: dict[str, Any] = {
        "cluster": "look",
        "prefix_rewrite": ready_path(door),
        # Whoever waits gives up by himself.
        "timeout": "0s",
        "idle_timeout": "0s",
        "retry_policy": {
            "retry_on": "5xx",
            "num_retries": 1_000_000,
            "retry_back_off": {"base_interval": "0.25s", "max_interval": "0.5s"},
        },
    }
    return {"match": {"path": f"/hold/{door}"}, "route": leads}


def page(admin: str) -> Json:
    """The page that tells how many wait."""
    rewrite = "/stats?filter=^" + HELD.replace(".", "\\.") + "$"
    return {"match": {"path": PAGE}, "route": {"cluster": admin, "prefix_rewrite": rewrite}}


def read(body: bytes) -> int:
    """How many requests wait, from that page. Raises ValueError: it does not tell."""
    name, _, value = body.decode(errors="replace").strip().partition(": ")
    if name != HELD or not value.isdecimal() or len(value) > 9:
        raise ValueError("the page does not tell how many requests wait")
    return int(value)

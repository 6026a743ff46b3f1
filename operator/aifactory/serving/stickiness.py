"""Requests that begin alike go to the same pod, which has the keys and values of that beginning in its prefix cache.

A proxy leads by a header, by consistent hashing with bounded loads: a pod that has a quarter more under way than the
average is passed over, and when pods come or go only the requests of these go elsewhere. Proxies need not agree on
anything: the same header and the same pods lead to the same one. A client may send the header itself, with the id of a
conversation for example. Else a few lines of Lua make it from the prompt. For this a request is read before it is
passed on, if it is small enough; answers are not looked at.

Sources: https://research.google/blog/consistent-hashing-with-bounded-loads/,
https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/lua_filter
"""

from __future__ import annotations

from typing import Final

from aifactory.engine.podspec import Json

HEADER: Final = "x-aifactory-session"
MOST_BYTES: Final = 512 * 1024
"""A larger request, or one that does not say how large it is, is passed on as it comes, to any pod."""
LOOKED_AT: Final = 64 * 1024
"""So much of a request is searched for its prompt."""
_BALANCE_PERCENT: Final = 125
"""Requests under way that a pod may have, of the average, before the next one gets some of its."""

_SCRIPT = """\
local names = {'"messages"%s*:%s*', '"prompt"%s*:%s*'}

function envoy_on_request(handle)
  local size = tonumber(handle:headers():get("content-length"))
  if handle:headers():get("HEADER") or not size or size == 0 or size > MOST_BYTES then
    return
  end
  local body = handle:body()
  if not body then
    return
  end
  local text, first = body:getBytes(0, math.min(body:length(), LOOKED_AT)), nil
  for _, name in ipairs(names) do
    local _, last = text:find(name)
    if last and (not first or last < first) then
      first = last
    end
  end
  if first then
    local hash = 0
    for at = first + 1, math.min(first + PROMPT_BYTES, #text) do
      hash = (hash * 16777 + text:byte(at)) % 2147483647
    end
    handle:headers():add("HEADER", string.format("%d", hash))
  end
end
"""

HASH_POLICY: Final[list[Json]] = [{"header": {"header_name": HEADER}}]
"""Of a route."""


def filters(prompt_bytes: int) -> list[Json]:
    """What makes the header from a prompt's first bytes."""
    given = {
        "HEADER": HEADER,
        "MOST_BYTES": str(MOST_BYTES),
        "LOOKED_AT": str(LOOKED_AT),
        "PROMPT_BYTES": str(prompt_bytes),
    }
    script = _SCRIPT
    for word, value in given.items():
        script = script.replace(word, value)
    lua = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
    config = {"@type": lua, "default_source_code": {"inline_string": script}}
    return [{"name": "aifactory.stickiness", "typed_config": config}]


def balanced(cluster: Json) -> Json:
    """The cluster, with requests led by the header; those without one go to any of its pods."""
    bound = {"consistent_hashing_lb_config": {"hash_balance_factor": _BALANCE_PERCENT}}
    common = {**cluster["common_lb_config"], **bound}
    return {**cluster, "lb_policy": "RING_HASH", "ring_hash_lb_config": {}, "common_lb_config": common}

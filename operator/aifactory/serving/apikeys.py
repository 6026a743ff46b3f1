"""API keys at a gateway: who asks is found out by a key, and how often one may ask is counted for each name.

Keys are in a Secret that the proxies mount, and nowhere else: the operator never sees them, and what it writes names
only the file. Envoy has a filter for API keys of its own, which wants them in its configuration and says of itself that
it is unfinished; so the file is read by a few lines of Lua, at most once a second, and what changes in it counts from
then on. The key of a request goes no further than the proxy.

The file is the Secret's entry `keys`, a line for each key:

    # whose it is   the key
    team-a          c2VjcmV0LWtleS1vZi10ZWFtLWE
"""

from __future__ import annotations

from typing import Final

from aifactory.api.inferencepool import RateLimit
from aifactory.engine.podspec import Json

DIRECTORY: Final = "/etc/aifactory/keys"
"""Where a proxy has the Secret."""
ENTRY: Final = "keys"
MIN_KEY_LENGTH: Final = 16
"""A shorter one can be guessed."""
MAX_NAMES: Final = 10_000
"""So many are counted at the same time; where there are more, the one that has been silent longest begins anew."""

CALLER: Final = "%DYNAMIC_METADATA(aifactory:name)%"
"""Whose key a request has, in the access log."""
_TYPE = "type.googleapis.com/envoy.extensions.filters.http"
_NO_KEY = "this address asks for an API key: send the header Authorization: Bearer <key>"
_WRONG_KEY = "the API key is not known here: send the header Authorization: Bearer <key> with one that is"

_SCRIPT = """\
local names, text, looked = {}, nil, nil

local function read(found, handle)
  local known, number = {}, 0
  for line in (found .. "\\n"):gmatch("(.-)\\r?\\n") do
    number = number + 1
    if line:match("%S") and not line:match("^%s*#") then
      local name, key = line:match("^%s*([%w._-]+)%s+(%S+)%s*$")
      if name and #name <= 63 and #key >= MIN_KEY_LENGTH then
        known[key] = name
      else
        handle:logWarn("line " .. number .. " of entry `ENTRY` of the Secret with API keys is left out: it has to be "
          .. "a name and, after a space, a key of MIN_KEY_LENGTH characters or more")
      end
    end
  end
  return known
end

local function known(handle)
  local now = os.time()
  if now ~= looked then
    looked = now
    local file = io.open("FILE", "r")
    if file then
      local found = file:read("*a")
      file:close()
      if found and found ~= text then
        names, text = read(found, handle), found
      end
    end
  end
  return names
end

function envoy_on_request(handle)
  local given = handle:headers():get("authorization")
  local key = given and given:match("^[Bb][Ee][Aa][Rr][Ee][Rr]%s+(%S+)%s*$")
  local name = key and known(handle)[key]
  if name then
    handle:headers():remove("authorization")
    handle:streamInfo():dynamicMetadata():set("aifactory", "name", name)
  else
    -- The listener gives it the form that is usual at its port.
    handle:respond({[":status"] = "401", ["www-authenticate"] = "Bearer"}, key and "WRONG_KEY" or "NO_KEY")
  end
end
"""


def filters(door: str, limit: RateLimit | None, directory: str = DIRECTORY) -> list[Json]:
    """What stands before everything else at a door: `http`, `grpc` or `openai`."""
    given = {
        "FILE": f"{directory}/{ENTRY}",
        "ENTRY": ENTRY,
        "MIN_KEY_LENGTH": str(MIN_KEY_LENGTH),
        "WRONG_KEY": _WRONG_KEY,
        "NO_KEY": _NO_KEY,
    }
    script = _SCRIPT
    for word, value in given.items():
        script = script.replace(word, value)
    lua = {"@type": f"{_TYPE}.lua.v3.Lua", "default_source_code": {"inline_string": script}}
    found = [{"name": "envoy.filters.http.lua", "typed_config": lua}]
    if limit is not None:
        found.append({"name": "envoy.filters.http.local_ratelimit", "typed_config": _limits(door, limit)})
    return found


def _limits(door: str, limit: RateLimit) -> Json:
    """Each name has a bucket of its own, as large as what it may ask in a minute, which fills up all the time."""
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    name = {"key": "aifactory", "path": [{"key": "name"}]}
    buckets = [
        *((each.name, each.requests_per_minute) for each in limit.clients or ()),
        ("", limit.requests_per_minute),
    ]
    return {
        "@type": f"{_TYPE}.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": door,
        "filter_enabled": always,
        "filter_enforced": always,
        "always_consume_default_token_bucket": False,
        "max_dynamic_descriptors": MAX_NAMES,
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "rate_limited_as_resource_exhausted": True,
        "rate_limits": [
            {"actions": [{"metadata": {"descriptor_key": "name", "source": "DYNAMIC", "metadata_key": name}}]}
        ],
        # The last one, without a value, is for everybody who has none of his own.
        "descriptors": [
            {
                "entries": [{"key": "name", **({"value": name} if name else {})}],
                "token_bucket": {"max_tokens": most, "tokens_per_fill": most, "fill_interval": "60s"},
            }
            for name, most in buckets
        ],
    }

"""What the proxies of pools are given beyond the usual: requests that wait, that stick, and that are copied.

What a real Envoy makes of it is in tests/component; here a change of a word shows.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from aifactory.serving import envoy, holding, stickiness
from tests.unit.golden import assert_golden

GOLDEN = Path(__file__).parent / "golden"
ROUTES = envoy.Routes(
    pool="chat",
    model="tiny",
    openai=True,
    everybody=envoy.Pods("pods", "chat-pods"),
    sets=(envoy.Pods("one", "chat-one", (1,)),),
    mirror=envoy.Mirror(envoy.Pods("two", "chat-two", (2,)), percent=40),
    prompt_bytes=2048,
    hold=holding.Hold(9, 7),
)


def test_the_files_are_the_golden_ones() -> None:
    found = {name: json.loads(text) for name, text in envoy.files(ROUTES).items() if name.endswith(".json")}
    shown = ("clusters", "listeners", "routes-hold", "routes-openai", "routes-status")
    assert_golden(GOLDEN / "gateway-holding-files.yaml", [{name: found[f"{name}.json"]} for name in shown])


@pytest.mark.parametrize("hold", [None, holding.Hold()])
@pytest.mark.parametrize("awaited", [False, True])
def test_a_gateway_waits_for_a_pod_that_there_shall_be(awaited: bool, hold: holding.Hold | None) -> None:
    """And is ready without one, where none shall be or requests wait for it."""
    files = envoy.files(replace(ROUTES, awaited=awaited, hold=hold, mirror=None))
    asked = [
        each["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"][0]["typed_config"]
        for each in json.loads(files["listeners.json"])["resources"]
        if each["name"] == "status"
    ]
    waits = awaited and hold is None
    pods = {"pods-http", "pods-grpc", "pods-openai"} if waits else set()
    assert [set(each["cluster_min_healthy_percentages"]) for each in asked] == [pods]
    assert ("routes-hold.json" in files) == (hold is not None)


def test_a_prompt_is_looked_at_as_far_as_is_cheap() -> None:
    (found,) = stickiness.filters(100)
    script = found["typed_config"]["default_source_code"]["inline_string"]
    assert "size > 524288" in script
    assert "body:length(), 65536)" in script
    assert "first + 100," in script
    assert script.count('"x-aifactory-session"') == 2


@pytest.mark.parametrize(
    "page", [b"cluster.hold.upstream_rq_active: 1234567890", b"cluster.look.upstream_rq_active: 1"]
)
def test_a_page_of_something_else(page: bytes) -> None:
    assert holding.read(b"cluster.hold.upstream_rq_active: 123456789\n") == 123_456_789
    with pytest.raises(ValueError, match="does not tell how many requests wait"):
        holding.read(page)
    with pytest.raises(ValueError, match="does not tell"):
        holding.read(b"cluster.hold.upstream_rq_active: \xff")

"""Events as `kubectl describe` finds them."""

from __future__ import annotations

import asyncio

import msgspec

from aifactory.kube.api import Api
from aifactory.kube.events import EventRecorder, Regarding
from aifactory.kube.objects import Pod, decoder
from aifactory.kube.resources import PODS, Resource
from tests.component.kube.test_client import pod

CORE_EVENTS = Resource("", "v1", "events", "Event")


async def test_events_arrive_once_and_are_found_by_their_object(client: Api, namespace: str) -> None:
    found = decoder(Pod)(await client.create(PODS, pod(namespace, "a"))).metadata
    recorder = EventRecorder(client, controller="aifactory.dev/operator", instance="test")
    sending = asyncio.create_task(recorder.run())
    regarding = Regarding(PODS, found.key, found.uid)
    for _ in range(5):
        recorder.record(regarding, type_="Warning", reason="Lost", message="node n1 is lost", action="Restart")
    recorder.record(regarding, type_="Normal", reason="Long", message="ü" * 2000, action="Restart")
    await asyncio.wait_for(recorder.flush(), 10)
    raw = await client.list(CORE_EVENTS, namespace=namespace, field_selector=f"involvedObject.uid={found.uid}")
    items = msgspec.json.decode(raw)["items"]
    assert sorted(item["reason"] for item in items) == ["Long", "Lost"]
    lost = next(item for item in items if item["reason"] == "Lost")
    assert (lost["message"], lost["type"], lost["involvedObject"]["name"]) == ("node n1 is lost", "Warning", "a")

    # One that the server refuses is dropped; those after it arrive.
    recorder.record(regarding, type_="Nonsense", reason="Bad", message="x", action="Restart")
    recorder.record(regarding, type_="Normal", reason="After", message="x", action="Restart")
    await asyncio.wait_for(recorder.flush(), 10)
    raw = await client.list(CORE_EVENTS, namespace=namespace)
    assert {item["reason"] for item in msgspec.json.decode(raw)["items"]} == {"Long", "Lost", "After"}
    sending.cancel()

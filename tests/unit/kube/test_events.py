"""Events are sent in the background: in order, without repeating themselves, and at nobody's cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aifactory.kube import events as events_module
from aifactory.kube.errors import Forbidden
from aifactory.kube.events import NOTE_LIMIT, QUEUE_SIZE, SAME_SECONDS, EventRecorder, Regarding
from aifactory.kube.resources import DEPLOYMENTS, EVENTS, NAMESPACES, Key
from tests.support.faketime import FakeClock, run
from tests.unit.memory_api import MemoryApi

WEB = Regarding(DEPLOYMENTS, Key("ns", "web"), "uid-web")


def recorder_for(api: MemoryApi, instance: str = "pod-1") -> EventRecorder:
    return EventRecorder(api, controller="test.dev/operator", instance=instance, clock=FakeClock())


@asynccontextmanager
async def sending(recorder: EventRecorder) -> AsyncIterator[None]:
    task = asyncio.create_task(recorder.run())
    try:
        yield
        await recorder.flush()
        assert not task.done()
    finally:
        task.cancel()


def tell(recorder: EventRecorder, message: str = "words", **other: Any) -> None:
    fields = {"type_": "Normal", "reason": "Started", "action": "Start", **other}
    recorder.record(fields.pop("regarding", WEB), message=message, **fields)


def sent(api: MemoryApi) -> list[dict[str, Any]]:
    return list(api.objects[EVENTS].values())


def notes(api: MemoryApi) -> list[str]:
    return [event["note"] for event in sent(api)]


def test_an_event_says_who_tells_what_about_whom() -> None:
    async def main() -> dict[str, Any]:
        api = MemoryApi()
        recorder = recorder_for(api, instance="x" * 200)
        async with sending(recorder):
            await asyncio.sleep(1.5)
            tell(recorder, "node n1 is lost", type_="Warning", reason="Lost", action="Restart")
        (event,) = sent(api)
        return event

    event = run(main)
    assert event["metadata"]["namespace"] == "ns"
    assert event["metadata"]["name"].startswith("web.")
    assert {key: value for key, value in event.items() if key != "metadata"} == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "eventTime": "2026-01-01T00:00:01.500000Z",
        "reportingController": "test.dev/operator",
        "reportingInstance": "x" * 128,
        "action": "Restart",
        "type": "Warning",
        "reason": "Lost",
        "regarding": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "namespace": "ns",
            "name": "web",
            "uid": "uid-web",
        },
        "note": "node n1 is lost",
    }


def test_an_event_about_an_object_without_a_namespace_stands_in_default() -> None:
    async def main() -> dict[str, Any]:
        api = MemoryApi()
        recorder = recorder_for(api)
        async with sending(recorder):
            tell(recorder, regarding=Regarding(NAMESPACES, Key("", "team"), "u"))
        return sent(api)[0]

    event = run(main)
    assert event["metadata"]["namespace"] == "default"
    assert event["regarding"]["namespace"] == ""


def test_events_of_one_moment_and_of_long_names_have_names_of_their_own() -> None:
    async def main() -> list[str]:
        api = MemoryApi()
        recorder = recorder_for(api)
        async with sending(recorder):
            for number in range(100):
                tell(recorder, f"words {number}", regarding=Regarding(DEPLOYMENTS, Key("ns", "n" * 250), "u"))
        return [event["metadata"]["name"] for event in sent(api)]

    names = run(main)
    assert len(set(names)) == 100
    assert max(map(len, names)) <= 253


def test_names_do_not_repeat_those_of_an_earlier_process() -> None:
    async def main() -> int:
        api = MemoryApi()
        for _ in range(5):
            recorder = recorder_for(api)
            async with sending(recorder):
                tell(recorder)
            await asyncio.sleep(0.001)
        return len(sent(api))

    assert run(main) == 5


def test_the_same_words_are_told_once_in_ten_minutes() -> None:
    async def main() -> tuple[int, int]:
        api = MemoryApi()
        recorder = recorder_for(api)
        async with sending(recorder):
            tell(recorder)
            await asyncio.sleep(SAME_SECONDS / 2)
            tell(recorder)
            await asyncio.sleep(SAME_SECONDS / 2 - 1.0)
            tell(recorder)
            await recorder.flush()
            before = len(sent(api))
            await asyncio.sleep(1.0)  # ten minutes after the one that was told
            tell(recorder)
        return before, len(sent(api))

    assert run(main) == (1, 2)


@pytest.mark.parametrize(
    "other",
    [
        {"regarding": Regarding(DEPLOYMENTS, Key("ns", "web"), "uid-of-another")},
        {"type_": "Warning"},
        {"reason": "Stopped"},
        {"message": "other words"},
    ],
)
def test_what_differs_is_told(other: dict[str, Any]) -> None:
    async def main() -> int:
        api = MemoryApi()
        recorder = recorder_for(api)
        async with sending(recorder):
            tell(recorder)
            tell(recorder, **other)
        return len(sent(api))

    assert run(main) == 2


def test_a_bounded_number_of_words_is_remembered_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "REMEMBERED", 2)

    async def main() -> list[str]:
        api = MemoryApi()
        recorder = recorder_for(api)
        async with sending(recorder):
            tell(recorder, "a")
            await asyncio.sleep(10)
            tell(recorder, "b")
            await asyncio.sleep(SAME_SECONDS - 10)
            tell(recorder, "a")  # told again, so "b" is the oldest now
            tell(recorder, "c")
            for message in ("a", "c", "b"):
                tell(recorder, message)
        return notes(api)

    assert run(main) == ["a", "b", "a", "c", "b"]


def test_recording_never_waits_what_is_too_much_is_dropped_and_may_be_told_again_later() -> None:
    async def main() -> list[str]:
        api = MemoryApi()
        recorder = recorder_for(api)
        for number in range(QUEUE_SIZE + 5):
            tell(recorder, str(number))
        async with sending(recorder):
            await recorder.flush()
            tell(recorder, str(QUEUE_SIZE))  # it was dropped, so it is no repetition
        return notes(api)

    assert run(main) == [str(number) for number in range(QUEUE_SIZE + 1)]


@pytest.mark.parametrize("error", [Forbidden(403, "Forbidden", "no"), RuntimeError("a mistake of ours")])
def test_one_that_can_not_be_sent_does_not_hold_up_the_next(error: Exception) -> None:
    async def main() -> list[str]:
        api = MemoryApi()
        api.failures["create"].append(error)
        recorder = recorder_for(api)
        async with sending(recorder):
            tell(recorder, "refused")
            tell(recorder, "taken")
        return notes(api)

    assert run(main) == ["taken"]


@pytest.mark.parametrize(
    ("message", "note"),
    [
        ("x" * NOTE_LIMIT, "x" * NOTE_LIMIT),
        ("x" * (NOTE_LIMIT + 1), "x" * (NOTE_LIMIT - 3) + "…"),
        ("ü" * NOTE_LIMIT, "ü" * ((NOTE_LIMIT - 3) // 2) + "…"),
    ],
)
def test_a_note_is_cut_to_what_the_api_server_takes(message: str, note: str) -> None:
    async def main() -> str:
        api = MemoryApi()
        recorder = recorder_for(api)
        async with sending(recorder):
            tell(recorder, message)
        return notes(api)[0]

    found = run(main)
    assert found == note
    assert len(found.encode()) <= NOTE_LIMIT


def test_it_needs_no_clock_of_its_own() -> None:
    async def main() -> str:
        api = MemoryApi()
        recorder = EventRecorder(api, controller="c", instance="i")
        async with sending(recorder):
            tell(recorder)
            tell(recorder)
        (event,) = sent(api)
        return str(event["eventTime"])

    assert run(main) > "2026"

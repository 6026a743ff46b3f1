"""What the kubelet's Events say about pods that do not start is asked for rarely, and told once."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from aifactory.engine import podevents
from aifactory.engine.podevents import PodEvents
from aifactory.kube.errors import Forbidden, KubeError, NotFound, Unreachable
from aifactory.kube.objects import Pod, decoder
from aifactory.kube.podstate import NO_TROUBLE, Trouble
from tests.support.faketime import FakeClock, run


def pod(name: str, **status: Any) -> Pod:
    raw = {
        "metadata": {"name": name, "namespace": "ns", "uid": f"{name}-uid"},
        "spec": {"nodeName": "n"},
        "status": {"phase": "Pending", **status},
    }
    return decoder(Pod)(msgspec.json.encode(raw))


class Events:
    """An API server that has Events only."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.said: dict[str, list[dict[str, Any]]] = {}
        self.fails = False

    async def list(self, resource: Any, *, namespace: str, field_selector: str, limit: int) -> bytes:
        assert (resource.plural, namespace) == ("events", "ns")
        uid = field_selector.removeprefix("involvedObject.uid=")
        self.asked.append(uid)
        if self.fails:
            raise Unreachable("away")
        return msgspec.json.encode({"items": self.said.get(uid)})  # servers in Go write null for an empty list


class Scene:
    def __init__(self, *pods: Pod) -> None:
        self.pods = list(pods)
        self.woken: list[str] = []
        self.api = Events()
        self.events = PodEvents(
            self.api,  # type: ignore[arg-type] # the one verb that is asked for
            pods=lambda: self.pods,
            wake=lambda pod: self.woken.append(pod.metadata.name),
            clock=FakeClock(),
        )


def mount(message: str, time: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    return {"reason": "FailedMount", "message": message, "lastTimestamp": time}


def test_a_pod_that_does_not_start_is_asked_about_after_a_while_and_its_owner_is_told_once() -> None:
    async def main() -> None:
        await asyncio.sleep(1000)
        scene = Scene(pod("a"))
        scene.api.said["a-uid"] = [mount("older"), mount('secret "s3" not found', "2026-01-01T00:01:00Z")]
        scene.api.said["a-uid"].append({"reason": "Pulled", "message": "image is there"})
        await scene.events.round()
        assert scene.api.asked == [], "it may be starting"
        assert scene.events.of(scene.pods[0]) == NO_TROUBLE
        await asyncio.sleep(podevents.PATIENCE_SECONDS)
        for _ in range(3):
            await scene.events.round()
        assert scene.api.asked == ["a-uid"]
        assert scene.woken == ["a"]
        assert scene.events.of(scene.pods[0]) == Trouble("FailedMount", 'secret "s3" not found')
        await asyncio.sleep(podevents.AGAIN_SECONDS)
        await scene.events.round()
        assert (len(scene.api.asked), scene.woken) == (2, ["a"]), "the same words are no news"
        scene.api.said.clear()
        await asyncio.sleep(podevents.AGAIN_SECONDS)
        await scene.events.round()
        assert scene.woken == ["a", "a"]
        assert scene.events.of(scene.pods[0]) == NO_TROUBLE

    run(main)


@pytest.mark.parametrize(
    "reason", ["FailedMapVolume", "FailedPrepareDynamicResources", "NetworkNotReady", "FailedPostStartHook"]
)
def test_whatever_a_kubelet_can_tell_in_events_only_is_told(reason: str) -> None:
    async def main() -> None:
        scene = Scene(pod("a"))
        scene.api.said["a-uid"] = [{"reason": reason, "message": "words"}, {"reason": "Scheduled", "message": "on n"}]
        await scene.events.round()
        await asyncio.sleep(podevents.PATIENCE_SECONDS)
        await scene.events.round()
        assert scene.events.of(scene.pods[0]) == Trouble(reason, "words")

    run(main)


@pytest.mark.parametrize("last", ["Pulling", "Pulled"])
def test_what_was_in_the_way_is_past_when_an_image_is_pulled(last: str) -> None:
    async def main() -> None:
        scene = Scene(pod("a"))
        sandbox = {"reason": "FailedCreatePodSandBox", "message": "no runtime", "lastTimestamp": "2026-01-01T00:00:10Z"}
        scene.api.said["a-uid"] = [mount("no claim"), sandbox]
        await scene.events.round()
        await asyncio.sleep(podevents.PATIENCE_SECONDS)
        await scene.events.round()
        assert scene.events.of(scene.pods[0]) == Trouble("FailedCreatePodSandBox", "no runtime")
        scene.api.said["a-uid"] += [
            {"reason": "Pulling", "lastTimestamp": "2026-01-01T00:00:05Z"},
            {"reason": "Pulled", "lastTimestamp": "2026-01-01T00:00:09Z"},
        ]
        await asyncio.sleep(podevents.AGAIN_SECONDS)
        await scene.events.round()
        assert scene.events.of(scene.pods[0]).reason == "FailedCreatePodSandBox", "it came after that"
        scene.api.said["a-uid"].append({"reason": last, "lastTimestamp": "2026-01-01T00:00:11Z"})
        await asyncio.sleep(podevents.AGAIN_SECONDS)
        await scene.events.round()
        assert scene.events.of(scene.pods[0]) == NO_TROUBLE, "a large image takes its time"

    run(main)


def test_whether_a_pod_that_has_ended_was_evicted_is_asked_once_and_its_owner_woken() -> None:
    """A program that ends with 0 when it is told to makes its pod Succeeded: only the Event knows better."""

    async def main() -> None:
        await asyncio.sleep(1000)
        full, well = (pod(name, phase="Succeeded") for name in ("full", "well"))
        scene = Scene(full, well)
        scene.api.said["full-uid"] = [{"reason": "Evicted", "message": "exceeds the limit"}]
        assert scene.events.eviction(full) is scene.events.eviction(well) is None
        await asyncio.sleep(podevents.EVICTION_SECONDS - 1)
        await scene.events.ends()
        assert scene.api.asked == [], "the Event may be on its way"
        await asyncio.sleep(1)
        await scene.events.ends()
        assert scene.woken == ["full", "well"]
        assert scene.events.eviction(full) == Trouble("Evicted", "exceeds the limit")
        assert scene.events.eviction(well) == NO_TROUBLE
        await scene.events.ends()
        assert scene.api.asked == ["full-uid", "well-uid"]
        scene.pods = [well]
        await scene.events.round()
        assert scene.events.eviction(full) is None, "it is forgotten with the pod"

    run(main)


@pytest.mark.parametrize("error", [Forbidden(403, "Forbidden", "no right to list events"), NotFound(404, "", "")])
def test_where_no_events_may_be_read_nothing_waits_for_them(error: KubeError) -> None:
    async def main() -> None:
        done = pod("a", phase="Succeeded")
        scene = Scene(done)

        async def refused(*_: Any, **__: Any) -> bytes:
            raise error

        scene.api.list = refused  # type: ignore[method-assign, assignment]
        assert scene.events.eviction(done) is None
        await asyncio.sleep(podevents.EVICTION_SECONDS)
        await scene.events.ends()
        assert (scene.events.eviction(done), scene.woken) == (NO_TROUBLE, ["a"])

    run(main)


def test_what_was_said_counts_no_more_when_the_pod_has_begun() -> None:
    async def main() -> None:
        scene = Scene(pod("a"))
        scene.api.said["a-uid"] = [mount("no claim")]
        await scene.events.round()
        await asyncio.sleep(podevents.PATIENCE_SECONDS)
        await scene.events.round()
        running = pod("a", phase="Running", containerStatuses=[{"name": "x", "state": {"running": {}}}])
        assert scene.events.of(running) == NO_TROUBLE
        scene.pods = [running]
        await scene.events.round()
        assert scene.events.of(pod("a")) == NO_TROUBLE, "it is forgotten"

    run(main)


def test_a_thousand_pods_that_pull_a_large_image_cost_a_few_reads() -> None:
    async def main() -> None:
        creating = [{"name": "x", "state": {"waiting": {"reason": "ContainerCreating"}}}]
        scene = Scene(*(pod(f"p{number}", containerStatuses=creating) for number in range(1000)))
        await scene.events.round()
        await asyncio.sleep(podevents.PATIENCE_SECONDS)
        await scene.events.round()
        first = set(scene.api.asked)
        assert len(first) == podevents.PER_ROUND
        await scene.events.round()
        assert len(set(scene.api.asked)) == 2 * podevents.PER_ROUND, "others have their turn"
        for _ in range(18):
            await asyncio.sleep(podevents.ROUND_SECONDS)
            await scene.events.round()
        assert len(set(scene.api.asked)) == 20 * podevents.PER_ROUND, "and before those who have had theirs"

    run(main)


def test_nobody_is_asked_about_who_says_why_or_has_no_node() -> None:
    async def main() -> None:
        pulling = [{"name": "x", "state": {"waiting": {"reason": "ErrImagePull"}}}]
        unplaced = decoder(Pod)(b'{"metadata": {"name": "u", "uid": "u"}}')
        scene = Scene(pod("a", containerStatuses=pulling), unplaced)
        await scene.events.round()
        await asyncio.sleep(podevents.PATIENCE_SECONDS)
        await scene.events.round()
        assert scene.api.asked == []

    run(main)


def test_the_newest_event_counts_whichever_clock_it_was_written_by() -> None:
    """Kubernetes writes `lastTimestamp` or, in Events of a newer kind, `eventTime` alone; clients may write neither."""
    said = [
        {"reason": "FailedMount", "message": "by nobody's clock"},
        {"reason": "FailedMount", "message": "first", "lastTimestamp": None, "eventTime": "2026-01-01T00:00:01.5Z"},
        {"reason": "FailedMount", "message": "second", "lastTimestamp": "2026-01-01T00:00:02Z", "eventTime": None},
        {"reason": "FailedAttachVolume", "message": "third", "eventTime": "2026-01-01T00:00:03.5Z"},
        {"reason": "FailedMount", "message": "older", "lastTimestamp": None, "eventTime": None},
    ]

    async def told(count: int) -> str:
        scene = Scene(pod("a"))
        scene.api.said["a-uid"] = said[:count]
        await scene.events.round()
        await asyncio.sleep(podevents.PATIENCE_SECONDS)
        await scene.events.round()
        return scene.events.of(scene.pods[0]).message

    async def main() -> list[str]:
        return [await told(count) for count in range(1, 6)]

    assert run(main) == ["by nobody's clock", "first", "second", "third", "third"]


def test_it_looks_for_ever_whatever_the_api_server_answers(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        scene = Scene(pod("a"))
        scene.api.said["a-uid"] = [mount("no claim")]
        scene.api.fails = True
        task = asyncio.create_task(scene.events.run())
        await asyncio.sleep(60)
        assert not task.done()
        assert 1 <= len(scene.api.asked) <= 2
        scene.api.fails = False
        await asyncio.sleep(podevents.AGAIN_SECONDS + podevents.ROUND_SECONDS)
        assert scene.woken == ["a"]
        task.cancel()

    run(main)
    assert "Events of pods could not be read: away" in caplog.text


def test_who_waits_to_know_whether_a_pod_was_evicted_knows_within_a_round() -> None:
    async def main() -> None:
        done = pod("a", phase="Succeeded")
        scene = Scene(done)
        assert scene.events.eviction(done) is None
        task = asyncio.create_task(scene.events.run())
        await asyncio.sleep(podevents.ROUND_SECONDS + 0.1)
        assert scene.woken == ["a"]
        task.cancel()

    run(main)

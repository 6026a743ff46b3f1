"""The informer against a server that loses connections, forgets history, stalls, repeats itself and talks nonsense."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory.kube.errors import Forbidden, Gone, ServerError, TooManyRequests, Unreachable
from aifactory.kube.informer import PAGE_SIZE, Informer
from aifactory.kube.objects import Pod
from aifactory.kube.resources import PODS, Key, Resource
from aifactory.kube.store import Change, Store
from tests.support.faketime import FakeClock, run, until
from tests.unit.memory_api import MemoryApi


class Watched:
    """A running informer and what its subscriber believes."""

    def __init__(self, api: MemoryApi) -> None:
        self.api = api
        self.store: Store[Pod] = Store()
        self.changes: list[Change[Pod]] = []
        self.view: dict[Key, str] = {}
        self.store.subscribe(self._hear)
        self.informer = Informer(api, PODS, Pod, self.store, rng=random.Random(0), clock=FakeClock())

    def _hear(self, change: Change[Pod]) -> None:
        self.changes.append(change)
        key = change.object.metadata.key
        if change.new is None:
            del self.view[key]
        else:
            self.view[key] = change.new.metadata.resource_version

    def truth(self) -> dict[Key, str]:
        return {key: body["metadata"]["resourceVersion"] for key, body in self.api.objects[PODS].items()}

    def known(self) -> dict[Key, str]:
        return {obj.metadata.key: obj.metadata.resource_version for obj in self.store.all()}

    async def settled(self, seconds: float = 200.0) -> None:
        await until(
            lambda: self.truth() == self.known() == self.view,
            seconds=seconds,
            saw=lambda: (self.truth(), self.known(), self.view, self.api.calls[-5:]),
        )


@asynccontextmanager
async def watched(api: MemoryApi) -> AsyncIterator[Watched]:
    found = Watched(api)
    task = asyncio.create_task(found.informer.run())
    try:
        yield found
        assert not task.done(), "the informer died"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def lists(api: MemoryApi) -> int:
    return sum(1 for call in api.calls if call[0] == "list")


def three_pods() -> MemoryApi:
    api = MemoryApi()
    for number in range(3):
        api.put(PODS, "ns", f"p{number}")
    return api


def test_lists_once_and_then_only_watches() -> None:
    async def main() -> None:
        api = three_pods()
        async with watched(api) as seen:
            await seen.informer.synced.wait()
            assert all(change.background for change in seen.changes)
            api.put(PODS, "ns", "new")
            api.put(PODS, "ns", "p1", status={"phase": "Running"})
            api.drop(PODS, "ns", "p2")
            await seen.settled()
            assert not any(change.background for change in seen.changes[3:])
            found = seen.store.get("ns", "p1")
            assert found is not None
            assert found.status.phase == "Running"
            await asyncio.sleep(3600)
            assert lists(api) == 1

    run(main)


def test_pages_of_a_long_list_are_put_together() -> None:
    async def main() -> None:
        api = MemoryApi()
        for number in range(2 * PAGE_SIZE + 1):
            api.put(PODS, "ns", f"p{number:04}")
        async with watched(api) as seen:
            await seen.informer.synced.wait()
            assert len(seen.store) == 2 * PAGE_SIZE + 1
            assert lists(api) == 3

    run(main)


def test_what_changed_between_two_pages_is_not_missed() -> None:
    async def main() -> None:
        api = MemoryApi()
        api.inconsistent_pages = True
        for number in range(PAGE_SIZE + 200):
            api.put(PODS, "ns", f"p{number:04}")

        async def change(verb: str, resource: Resource, name: str) -> None:
            if verb == "list" and lists(api) == 2:
                api.put(PODS, "ns", "p0000", status={"phase": "Running"})
                api.drop(PODS, "ns", "p0001")

        api.before = change
        async with watched(api) as seen:
            await seen.settled()
            assert lists(api) == 2

    run(main)


def test_a_repeated_event_does_not_take_the_watch_back() -> None:
    async def main() -> None:
        api = three_pods()
        async with watched(api) as seen:
            await seen.settled()
            first: list[bytes] = []

            def repeat(line: bytes) -> list[bytes]:
                first.append(line)
                return [line, first[0]]

            api.transform = repeat
            for name in ("a", "b", "c"):
                api.put(PODS, "ns", name)
            await seen.settled()
            api.cut_watches()
            await asyncio.sleep(1)
            assert api.calls[-1] == ("watch", "Pod", str(api.version))

    run(main)


def test_a_lost_connection_is_resumed_without_a_list() -> None:
    async def main() -> None:
        api = three_pods()
        async with watched(api) as seen:
            await seen.settled()
            for number in range(20):
                api.cut_watches()
                api.put(PODS, "ns", f"more{number}")
                await asyncio.sleep(random.Random(number).random())
            await seen.settled()
            assert lists(api) == 1

    run(main)


def test_410_as_an_event_tells_the_deletions_that_were_missed() -> None:
    async def main() -> None:
        api = three_pods()
        async with watched(api) as seen:
            await seen.settled()
            api.stalled = True
            api.drop(PODS, "ns", "p0")
            api.put(PODS, "ns", "p3")
            api.compact()
            api.stalled = False
            api.cut_watches()
            await seen.settled()
            assert [c.object.metadata.name for c in seen.changes if c.new is None] == ["p0"]
            assert lists(api) == 2

    run(main)


def test_410_as_a_status_lists_again_but_not_in_a_tight_loop() -> None:
    async def main() -> None:
        api = three_pods()
        api.reject_watches_with = Gone(410, "Expired", "too old")
        async with watched(api) as seen:
            await asyncio.sleep(60)
            assert 2 <= lists(api) <= 20
            api.reject_watches_with = None
            api.put(PODS, "ns", "late")
            await seen.settled()

    run(main)


def test_a_silent_watch_is_given_up() -> None:
    async def main() -> None:
        api = three_pods()
        async with watched(api) as seen:
            await seen.settled()
            api.stalled = True
            api.put(PODS, "ns", "hidden")
            await asyncio.sleep(80)
            assert seen.store.get("ns", "hidden") is None
            watches = sum(1 for call in api.calls if call[0] == "watch")
            api.stalled = False
            await seen.settled(seconds=100)
            assert sum(1 for call in api.calls if call[0] == "watch") == watches + 1
            assert lists(api) == 1
            assert seen.informer.silent_seconds() < 70

    run(main)


def test_bookmarks_keep_a_quiet_watch_alive_and_its_version_fresh() -> None:
    async def main() -> None:
        api = three_pods()
        async with watched(api) as seen:
            await seen.settled()
            for _ in range(10):
                api.version += 50  # other resources move the cluster's version on
                await asyncio.sleep(65)
            api.compacted = api.version - 60  # all that was listed is history, what bookmarks told is not
            api.cut_watches()
            api.put(PODS, "ns", "new")
            await seen.settled()
            assert lists(api) == 1

    run(main)


def test_refusals_are_tried_again_with_growing_delays() -> None:
    async def main() -> None:
        api = three_pods()
        api.failures["list"] = [
            Forbidden(403, "Forbidden", "no"),
            ServerError(500, "InternalError", "etcd"),
            Unreachable("refused"),
            TooManyRequests(429, "TooManyRequests", "slow down", retry_after=7.0),
            RuntimeError("a mistake of ours"),
        ] * 20
        async with watched(api) as seen:
            await asyncio.sleep(60)
            assert not seen.informer.synced.is_set()
            assert 5 <= lists(api) <= 15
            await seen.settled(seconds=6000)

    run(main)


def test_an_object_of_unexpected_shape_does_not_hide_the_others() -> None:
    async def main() -> None:
        api = three_pods()
        api.put(PODS, "ns", "odd", status={"phase": 7})
        async with watched(api) as seen:
            await seen.informer.synced.wait()
            assert len(seen.store) == 3
            api.put(PODS, "ns", "odd", status={"phase": 8})
            api.put(PODS, "ns", "fine")
            await until(lambda: len(seen.store) == 4, saw=seen.known)
            api.put(PODS, "ns", "odd", status={"phase": "Running"})
            await seen.settled()
            api.put(PODS, "ns", "odd", status={"phase": 9})
            api.drop(PODS, "ns", "odd")
            await seen.settled()
            assert lists(api) == 1

    run(main)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_whatever_happens_the_store_and_its_subscribers_end_in_the_truth(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        api = MemoryApi(seed)
        repeated: list[bytes] = []

        def noisy(line: bytes) -> list[bytes]:
            """Events come twice, and old ones come again."""
            if rng.random() < 0.1:
                repeated.append(line)
            extra = [rng.choice(repeated)] if repeated and rng.random() < 0.2 else []
            return [line, *extra, *([line] if rng.random() < 0.2 else [])]

        async with watched(api) as seen:
            for _ in range(rng.randrange(5, 60)):
                name = f"p{rng.randrange(6)}"
                known = Key("ns", name) in api.objects[PODS]
                match rng.randrange(9):
                    case 0 | 1 | 2:
                        api.put(PODS, "ns", name, status={"message": str(rng.random())})
                    case 3 | 4 if known:
                        api.drop(PODS, "ns", name)
                    case 5:
                        api.cut_watches()
                    case 6:
                        api.compact()
                    case 7:
                        verb = rng.choice(["list", "watch"])
                        errors = [ServerError(500, "", "x"), Unreachable("x"), Gone(410, "Expired", "x"), ValueError()]
                        api.failures[verb].append(rng.choice(errors))
                    case 8:
                        api.stalled = rng.random() < 0.5
                        api.transform = rng.choice([noisy, lambda line: [line]])
                await asyncio.sleep(rng.choice([0, 0, 0.01, 1.0, 100.0]))
            api.stalled, api.transform = False, lambda line: [line]
            api.put(PODS, "ns", "last")  # whoever knows this one knows everything before it
            await seen.settled(seconds=2000)
            before = len(seen.changes)
            await asyncio.sleep(1000)
            assert len(seen.changes) == before, "something was told though nothing happened"

    run(main)

"""The gate before the API server: how many, who first, and what it knows of the load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from aifactory.engine.gate import Gate
from tests.support.faketime import FakeClock, run


class Writes:
    """Writes through a gate, each as long as it was told."""

    def __init__(self, size: int) -> None:
        self.gate = Gate(size, FakeClock())
        self.ended: list[str] = []
        self.inside = self.most = 0

    async def write(self, name: str, patience: float = 0.0, seconds: float = 1.0, namespace: str = "") -> None:
        async with self.gate.slot(namespace, patience):
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(seconds)
            self.inside -= 1
        self.ended.append(name)


def test_no_more_than_its_size_are_inside() -> None:
    async def main() -> None:
        writes = Writes(3)
        await asyncio.gather(*(writes.write(str(number)) for number in range(10)))
        assert writes.most == 3
        assert len(writes.ended) == 10
        assert asyncio.get_running_loop().time() == 4.0

    run(main)


def test_patience_gives_way_but_not_for_ever() -> None:
    async def main() -> None:
        writes = Writes(1)
        async with asyncio.TaskGroup() as group:

            async def pods() -> None:
                for number in range(6):
                    group.create_task(writes.write(f"pod {number}"))
                    await asyncio.sleep(0.9)

            group.create_task(writes.write("first"))
            await asyncio.sleep(0)
            group.create_task(writes.write("status", patience=2.0))
            group.create_task(pods())
        assert writes.ended == ["first", "pod 0", "pod 1", "pod 2", "status", "pod 3", "pod 4", "pod 5"]

    run(main)


@pytest.mark.parametrize("after", [0.5, 1.0], ids=["while it waits", "as its turn comes"])
def test_who_is_cancelled_takes_no_place(after: float) -> None:
    async def main() -> None:
        writes = Writes(1)
        first = asyncio.create_task(writes.write("first"))
        await asyncio.sleep(0)
        second = asyncio.create_task(writes.write("second"))
        third = asyncio.create_task(writes.write("third"))
        asyncio.get_running_loop().call_at(after, second.cancel)
        await asyncio.gather(first, third)
        assert writes.ended == ["first", "third"]
        assert second.cancelled() or second.cancelling()
        await writes.write("fourth")
        assert writes.ended[-1] == "fourth", "its place was given back"

    run(main)


def test_it_knows_what_a_write_takes_and_forgets_it() -> None:
    async def load(gate: Gate, seconds: float) -> None:
        for _ in range(60):
            async with gate.slot():
                await asyncio.sleep(seconds)

    async def main() -> None:
        gate = Gate(1, FakeClock())
        assert gate.seconds == 0.0
        await load(gate, 0.2)
        slow = gate.seconds
        assert 0.1 < slow <= 0.2
        await load(gate, 0.005)
        assert 0.002 < gate.seconds < 0.01
        await load(gate, 0.2)
        await asyncio.sleep(2.0)
        assert gate.seconds == pytest.approx(slow / 2, rel=0.1)
        await asyncio.sleep(60.0)
        assert gate.seconds < 0.001

    run(main)


def test_what_is_outdated_when_its_turn_comes_is_not_wanted_and_not_measured() -> None:
    async def main() -> None:
        gate = Gate(1, FakeClock())
        async with gate.slot("", 0.0, lambda: True) as wanted:
            assert wanted, "it did not have to wait, so nothing can have happened"
        asked: list[bool] = []

        async def write(outdated: bool) -> None:
            async with gate.slot("", 0.0, lambda: outdated) as wanted:
                asked.append(wanted)
                await asyncio.sleep(0.1 if wanted else 0.0)

        before = gate.seconds
        await asyncio.gather(write(False), write(True), write(False))
        assert asked == [True, False, True]
        assert gate.seconds > before + 0.015, "two writes of 0.1 s count, the third that was none does not"

    run(main)


def test_a_write_that_fails_leaves_its_place() -> None:
    async def fails(gate: Gate) -> None:
        async with gate.slot():
            raise OSError("reset")

    async def main() -> None:
        gate = Gate(1, FakeClock())
        calls: list[Callable[[], Awaitable[None]]] = [lambda: fails(gate)] * 3
        for call in calls:
            with pytest.raises(OSError, match="reset"):
                await call()

    run(main)


def test_writes_that_hang_in_one_namespace_leave_room_for_others() -> None:
    """All 32 places were one namespace's, for as long as its webhook took to answer."""

    async def main() -> None:
        writes = Writes(32)
        hanging = [asyncio.create_task(writes.write("hangs", seconds=30.0, namespace="bad")) for _ in range(320)]
        await asyncio.sleep(1.0)
        assert writes.inside == 24
        worse = [asyncio.create_task(writes.write("hangs", seconds=30.0, namespace="worse")) for _ in range(320)]
        await asyncio.sleep(1.0)
        assert writes.inside == 30, "of what is left, each takes its share"
        before = asyncio.get_running_loop().time()
        await asyncio.gather(*(writes.write("good", seconds=0.01, namespace="good") for _ in range(4)))
        assert asyncio.get_running_loop().time() - before < 0.1
        for task in (*hanging, *worse):
            task.cancel()

    run(main)


def test_namespaces_that_wait_take_turns() -> None:
    async def main() -> None:
        writes = Writes(1)
        first = asyncio.create_task(writes.write("first"))
        await asyncio.sleep(0)
        many = [asyncio.create_task(writes.write(f"many {n}", namespace="many")) for n in range(3)]
        few = asyncio.create_task(writes.write("few", namespace="few"))
        await asyncio.sleep(0)
        many[0].cancel()
        await asyncio.gather(first, few, *many, return_exceptions=True)
        assert writes.ended == ["first", "many 1", "few", "many 2"]

    run(main)

"""The gate's order, its measure and its places, to the moment."""

from __future__ import annotations

import asyncio

import pytest

from aifactory.engine.gate import Gate
from tests.support.faketime import FakeClock, run


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_write_counts_a_tenth_and_a_mean_that_is_not_renewed_halves_in_two_seconds() -> None:
    async def main() -> None:
        gate = Gate(1, FakeClock())
        async with gate.slot():
            await asyncio.sleep(1.0)
        assert gate.seconds == pytest.approx(0.1)
        await asyncio.sleep(2.0)
        assert gate.seconds == pytest.approx(0.05)
        await asyncio.sleep(2.0)
        assert gate.seconds == pytest.approx(0.025)
        async with gate.slot():
            await asyncio.sleep(2.0)
        assert gate.seconds == pytest.approx(0.0125 + 0.1 * (2.0 - 0.0125))

    run(main)


def test_waiting_is_not_writing() -> None:
    async def main() -> None:
        gate = Gate(1, FakeClock())

        async def write() -> None:
            async with gate.slot():
                await asyncio.sleep(0.1)

        await asyncio.gather(*(write() for _ in range(50)))
        assert gate.seconds < 0.1

    run(main)


def test_those_with_the_same_patience_get_in_as_they_came() -> None:
    async def main() -> list[int]:
        gate, order = Gate(1, FakeClock()), []

        async def write(number: int) -> None:
            async with gate.slot():
                order.append(number)
                await asyncio.sleep(1)

        await asyncio.gather(*(write(number) for number in range(10)))
        return order

    assert run(main) == list(range(10))


def test_patience_is_seconds_by_which_others_may_come_later() -> None:
    async def main() -> list[str]:
        gate, order = Gate(1, FakeClock()), []

        async def write(name: str, at: float, patience: float = 0.0) -> None:
            await asyncio.sleep(at)
            async with gate.slot("", patience):
                order.append(name)
                await asyncio.sleep(10)

        writes = [
            write("first", 0.0),
            write("patient", 1.0, 2.0),
            write("earlier", 2.9),
            write("later", 3.1),
            write("more patient", 1.0, 2.2),
        ]
        await asyncio.gather(*writes)
        return order

    assert run(main) == ["first", "earlier", "patient", "later", "more patient"]


def test_who_says_nothing_of_patience_has_none() -> None:
    async def main() -> list[str]:
        gate, order = Gate(1, FakeClock()), []

        async def write(name: str, *patience: float) -> None:
            async with gate.slot("", *patience):
                order.append(name)
                await asyncio.sleep(1)

        await asyncio.gather(write("first"), write("patient", 0.5), write("plain"))
        return order

    assert run(main) == ["first", "plain", "patient"]


@pytest.mark.parametrize("outdated", [False, True])
def test_who_finds_a_place_free_is_not_asked_and_who_waited_is(outdated: bool) -> None:
    async def main() -> list[bool]:
        gate, wanted, asked = Gate(2, FakeClock()), [], []

        def ask() -> bool:
            asked.append(now())
            return outdated

        async def write() -> None:
            async with gate.slot("", 0.0, ask) as found:
                wanted.append(found)
                await asyncio.sleep(1)

        await asyncio.gather(*(write() for _ in range(3)))
        assert asked == [1.0]
        await write()
        assert asked == [1.0], "all places are free again"
        return wanted

    assert run(main) == [True, True, not outdated, True]


def test_a_place_given_to_who_was_cancelled_goes_to_the_next() -> None:
    async def main() -> float:
        gate = Gate(1, FakeClock())
        await gate._enter("", 0.0)
        waiting = [asyncio.create_task(gate._enter("", 0.0)) for _ in range(3)]
        await asyncio.sleep(1)
        gate._leave("")  # the first of them has the place now, and does not know yet
        waiting[0].cancel()
        waiting[1].cancel()
        await waiting[2]
        gate._leave("")
        async with gate.slot():
            return now()

    assert run(main) == 1.0


def test_who_is_cancelled_while_waiting_makes_no_place() -> None:
    async def main() -> float:
        gate = Gate(1, FakeClock())
        await gate._enter("", 0.0)
        waiting = asyncio.create_task(gate._enter("", 0.0))
        await asyncio.sleep(1)
        waiting.cancel()
        asyncio.get_running_loop().call_later(5, gate._leave, "")
        async with gate.slot():
            return now()

    assert run(main) == 6.0


@pytest.mark.parametrize("namespace", ["", "other"])
def test_when_all_who_waited_have_given_up_every_place_is_free_again(namespace: str) -> None:
    async def main() -> float:
        gate = Gate(1, FakeClock())
        async with gate.slot():
            waiting = [asyncio.create_task(gate._enter(namespace, 0.0)) for _ in range(3)]
            await asyncio.sleep(1)
            for task in waiting:
                task.cancel()
            await asyncio.sleep(1)
        async with gate.slot(namespace):
            return now()

    assert run(main) == 2.0


def test_who_waited_is_let_in_for_what_it_came_for_unless_it_says_otherwise() -> None:
    async def main() -> bool:
        gate = Gate(1, FakeClock())
        await gate._enter("", 0.0)
        asyncio.get_running_loop().call_later(5, gate._leave, "")
        async with gate.slot() as wanted:
            return wanted

    assert run(main) is True

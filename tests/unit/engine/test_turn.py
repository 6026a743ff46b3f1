"""Decisions that come together are spread over several turns of the event loop."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from aifactory.engine.turn import Turn


class Clock:
    """Time passes only while somebody decides."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)

    def monotonic(self) -> float:
        return self.time


async def test_a_turn_takes_no_more_decisions_than_its_budget_allows() -> None:
    clock = Clock()
    turn, decided, seen = Turn(clock, 0.02), 0, []

    async def decide() -> None:
        nonlocal decided
        async with turn:
            decided += 1
            clock.time += 0.009

    async def watch() -> None:
        while decided < 100:
            before = decided
            await asyncio.sleep(0)
            seen.append(decided - before)

    await asyncio.gather(watch(), *(decide() for _ in range(100)))
    assert decided == 100
    assert max(seen) == 3, "the third begins within the budget and ends after it"
    assert len(seen) <= 36, "no turn is wasted"


async def test_a_budget_that_is_used_up_is_used_up() -> None:
    clock, ends = Clock(), []
    turn, loop = Turn(clock, 0.5), asyncio.get_running_loop()

    async def decide(number: int) -> None:
        async with turn:
            clock.time += 0.25
            ends.append(number)

    tasks = [asyncio.create_task(decide(number)) for number in range(3)]
    told: list[list[int]] = []
    loop.call_soon(lambda: told.append(list(ends)))  # after the tasks in this turn
    await asyncio.gather(*tasks)
    assert told == [[0, 1]]
    assert ends == [0, 1, 2]


async def test_a_decision_that_fails_counts_as_well() -> None:
    clock = Clock()
    turn = Turn(clock, 0.02)
    for _ in range(3):
        try:
            async with turn:
                clock.time += 1.0
                raise ValueError
        except ValueError:
            pass
    assert clock.time == 3.0

"""The work queue at its edges: bounds, equal times, background work and workers that give up."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from aifactory.kube.queue import BACKGROUND_TURN, HEAP_SLACK, ShutDown, WorkQueue
from tests.support.faketime import FakeTimeLoop, StandsStill, run


def new_queue(**options: Any) -> WorkQueue[str]:
    return WorkQueue("test", rng=random.Random(0), **options)


async def take(queue: WorkQueue[str]) -> str:
    key = await queue.get()
    queue.done(key)
    return key


def test_a_worker_can_ask_whether_its_key_will_come_again() -> None:
    async def main() -> None:
        queue = new_queue()
        queue.add("a")
        assert not queue.added_again("a")
        await queue.get()
        assert queue.added_again("a") is False
        queue.add("a")
        assert queue.added_again("a") is True
        assert queue.added_again("b") is False
        queue.done("a")
        assert queue.added_again("a") is False

    run(main)


@pytest.mark.parametrize(
    ("added", "order"),
    [
        ([True], ["b", "a"]),
        ([True, True], ["b", "a"]),
        ([True, False], ["a", "b"]),
        ([False, True], ["a", "b"]),
        ([False], ["a", "b"]),
    ],
)
def test_what_is_added_while_worked_on_is_background_only_if_it_always_was(added: list[bool], order: list[str]) -> None:
    async def main() -> list[str]:
        queue = new_queue()
        queue.add("a")
        await queue.get()
        for background in added:
            queue.add("a", background=background)
        queue.done("a")
        queue.add("b")
        return [await take(queue), await take(queue)]

    assert run(main) == order


def test_a_background_key_added_again_is_handed_out_once() -> None:
    async def main() -> int:
        queue = new_queue()
        queue.add("a", background=True)
        queue.add("a", background=True)
        queue.add("a")
        queue.add("a", background=True)
        count = len(queue)
        await take(queue)
        assert len(queue) == 0
        return count

    assert run(main) == 1


def test_the_turn_of_the_background_comes_regularly_and_the_first_turns_are_for_fresh_keys() -> None:
    async def main() -> list[int]:
        queue = new_queue()
        turns = []
        for turn in range(1, 3 * BACKGROUND_TURN + 1):
            queue.add("old", background=True)
            queue.add("new")
            if await take(queue) == "old":
                turns.append(turn)
        return turns

    assert run(main) == [BACKGROUND_TURN, 2 * BACKGROUND_TURN, 3 * BACKGROUND_TURN]


def test_no_delay_is_now() -> None:
    async def main() -> None:
        queue = new_queue()
        queue.add_after("a", 0.0)
        queue.add_after("b", -1.0)
        assert len(queue) == 2
        assert [await take(queue), await take(queue)] == ["a", "b"]
        await asyncio.sleep(1.0)
        assert len(queue) == 0, "and not once more later"
        queue.add_after("c", 0.5)
        assert len(queue) == 0

    run(main)


def test_keys_that_are_due_at_one_moment_come_in_the_order_they_were_added() -> None:
    async def main() -> tuple[list[str], float]:
        queue = new_queue()
        mistakes: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: mistakes.append(context))
        for key in "abc":
            queue.add_after(key, 5.0)
        queue.add_after("a", 5.0)
        found = [await take(queue) for _ in "abc"]
        assert not mistakes, "in the timer, where nobody else sees it"
        return found, asyncio.get_running_loop().time()

    assert run(main) == (["a", "b", "c"], 5.0)


def test_timers_that_count_no_more_are_dropped_and_the_others_come_in_time() -> None:
    """Some are moved to an earlier time again and again: the heap is cleaned up on the way."""

    async def main() -> list[tuple[str, float]]:
        queue = new_queue()
        loop = asyncio.get_running_loop()
        for number in range(20):
            queue.add_after(f"k{number}", 10_000.0 - 100.0 * number)
        for step in range(2 * HEAP_SLACK):
            queue.add_after("often", 9_000.0 - step)
            assert len(queue._heap) <= 2 * 21 + HEAP_SLACK + 1
        found = []
        for _ in range(21):
            key = await take(queue)
            found.append((key, loop.time()))
        return found

    wanted = [(f"k{number}", 10_000.0 - 100.0 * number) for number in range(20)]
    wanted.append(("often", 9_000.0 - 2 * HEAP_SLACK + 1))
    assert run(main) == sorted(wanted, key=lambda entry: entry[1])


def test_keys_come_each_at_its_own_time_in_whatever_order_they_were_added() -> None:
    async def main() -> list[tuple[str, float]]:
        queue = new_queue()
        for key, seconds in (("late", 0.75), ("soon", 0.5), ("first", 0.25)):
            queue.add_after(key, seconds)
        return [(await take(queue), asyncio.get_running_loop().time()) for _ in range(3)]

    assert run(main) == [("first", 0.25), ("soon", 0.5), ("late", 0.75)]


def test_a_key_that_failed_comes_back_after_the_delay_that_was_told() -> None:
    async def main() -> tuple[float, float]:
        queue = new_queue()
        delay = queue.add_rate_limited("a")
        assert len(queue) == 0
        await take(queue)
        return delay, asyncio.get_running_loop().time()

    delay, came = run(main)
    assert came == pytest.approx(delay)


def test_a_timer_outlives_the_key_and_an_earlier_one_of_another_key() -> None:
    async def main() -> list[tuple[str, float]]:
        queue = new_queue()
        loop = asyncio.get_running_loop()
        queue.add_after("late", 10.0)
        queue.add_after("soon", 1.0)
        queue.add("soon")
        found = []
        for _ in range(2):
            key = await take(queue)
            found.append((key, loop.time()))
        queue.add_after("soon", 100.0)
        key = await take(queue)
        return [*found, (key, loop.time())]

    assert run(main) == [("soon", 0.0), ("late", 10.0), ("soon", 110.0)]


def test_a_retry_starts_at_no_less_than_it_is_told() -> None:
    async def main() -> list[float]:
        queue = new_queue()
        first = queue.add_rate_limited("a", at_least=8.0)
        second = queue.add_rate_limited("a", at_least=8.0)
        plain = queue.add_rate_limited("b")
        assert (queue.failures("a"), queue.failures("b"), queue.failures("c")) == (2, 1, 0)
        return [first, second, plain]

    first, second, plain = run(main)
    assert 8.0 <= first <= 8.0 * 1.2
    assert 16.0 <= second <= 16.0 * 1.2
    assert 0.005 <= plain <= 0.005 * 1.2


def test_the_same_seed_gives_the_same_delays() -> None:
    async def main() -> list[float]:
        queue: WorkQueue[str] = WorkQueue("test", rng=random.Random(7))
        return [queue.add_rate_limited("a") for _ in range(3)]

    assert run(main) == run(main)


def test_keys_that_failed_together_do_not_come_back_together() -> None:
    async def main() -> set[float]:
        queue: WorkQueue[str] = WorkQueue("test")
        return {queue.add_rate_limited(key) for key in "abcde"}

    assert len(run(main)) == 5


def test_after_the_shutdown_nothing_is_taken_or_handed_out_and_no_timer_is_left() -> None:
    loop = FakeTimeLoop()

    async def main() -> None:
        queue = new_queue()
        queue.add_after("later", 5.0)
        queue.add("now")
        queue.add("old", background=True)
        queue.shut_down()
        queue.shut_down()
        queue.add_after("later", 1.0)
        queue.add_after("at once", 0.0)
        assert len(queue) == 0
        with pytest.raises(ShutDown):
            await queue.get()
        await queue.drain()
        await asyncio.get_running_loop().create_future()  # until nothing can happen any more

    with pytest.raises(StandsStill):
        loop.run_until_complete(main())
    assert loop.now == 0.0, "it waited for a timer"
    loop.close()


def test_one_key_wakes_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred workers of which all wake for each key would be most of what the process does."""

    async def main() -> int:
        queue, waits = new_queue(), 0
        wait = queue._wait

        async def counted(waiters: Any) -> None:
            nonlocal waits
            waits += 1
            await wait(waiters)

        monkeypatch.setattr(queue, "_wait", counted)
        tasks = [asyncio.create_task(queue.get()) for _ in range(10)]
        await asyncio.sleep(0)
        for key in "abc":
            queue.add(key)
        await asyncio.sleep(1)
        assert sum(task.done() for task in tasks) == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return waits

    assert run(main) == 10


def test_waiting_workers_are_served_in_the_order_they_came() -> None:
    async def main() -> list[str]:
        queue = new_queue()
        order: list[str] = []

        async def work(name: str) -> None:
            await queue.get()
            order.append(name)

        tasks = []
        for name in ("first", "second", "third"):
            tasks.append(asyncio.create_task(work(name)))
            await asyncio.sleep(0)
        for key in "xyz":
            queue.add(key)
            await asyncio.sleep(0.1)
        await asyncio.gather(*tasks)
        return order

    assert run(main) == ["first", "second", "third"]


def test_workers_that_gave_up_are_not_waited_for() -> None:
    async def main() -> None:
        queue = new_queue()
        for _ in range(3):
            waiting = asyncio.create_task(queue.get())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert not queue._getters, "each would be kept for ever"
        last = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("a")
        assert await last == "a"

    run(main)


def test_two_who_wait_for_the_end_of_all_work_both_see_it_and_one_may_give_up() -> None:
    async def main() -> None:
        queue = new_queue()
        queue.add("a")
        queue.add("b")
        await queue.get()
        await queue.get()
        draining = [asyncio.create_task(queue.drain()) for _ in range(3)]
        await asyncio.sleep(0)
        draining[0].cancel()
        queue.done("a")
        await asyncio.sleep(1.0)
        assert not draining[1].done()
        queue.done("b")
        await asyncio.gather(*draining[1:])
        assert draining[0].cancelled()

    run(main)

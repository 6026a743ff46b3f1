"""The work queue among tasks: order, waiting, cancellation, shutdown."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory.kube.backoff import Backoff
from aifactory.kube.queue import BACKGROUND_TURN, HEAP_SLACK, ShutDown, WorkQueue
from tests.support.faketime import run, until


def new_queue(**options: Any) -> WorkQueue[str]:
    return WorkQueue("test", rng=random.Random(0), **options)


def shared_queue(workers: int) -> WorkQueue[str]:
    """The first letter of a key is its namespace."""
    return new_queue(workers=workers, namespace_of=lambda key: key[0])


async def take(queue: WorkQueue[str]) -> str:
    key = await queue.get()
    queue.done(key)
    return key


def test_fresh_keys_go_before_those_of_a_first_list() -> None:
    async def main() -> list[str]:
        queue = new_queue()
        queue.add("old", background=True)
        queue.add("promoted", background=True)
        queue.add("new")
        queue.add("promoted")
        return [await take(queue) for _ in range(3)]

    assert run(main) == ["new", "promoted", "old"]


def test_steady_fresh_work_does_not_starve_the_background() -> None:
    async def main() -> int:
        queue = new_queue()
        queue.add("old", background=True)
        for turn in range(1, 100):
            queue.add("busy")
            if await take(queue) == "old":
                return turn
        return 100

    assert run(main) <= BACKGROUND_TURN


def test_a_key_added_while_worked_on_is_handed_out_again_only_when_that_is_done() -> None:
    async def main() -> None:
        queue = new_queue()
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a", background=True)
        queue.add("a")
        assert len(queue) == 0
        queue.done("a")
        queue.add("b", background=True)
        assert [await take(queue), await take(queue)] == ["a", "b"]
        assert len(queue) == 0

    run(main)


def test_the_earliest_of_several_times_counts() -> None:
    async def main() -> list[float]:
        queue = new_queue()
        loop = asyncio.get_running_loop()
        queue.add_after("a", 10.0)
        queue.add_after("a", 2.0)
        queue.add_after("a", 5.0)
        await take(queue)
        first = loop.time()
        queue.add_after("a", 20.0)
        await take(queue)
        return [first, loop.time()]

    assert run(main) == pytest.approx([2.0, 22.0])


def test_a_key_that_is_handed_out_waits_for_no_timer_any_more() -> None:
    async def main() -> list[float]:
        queue = new_queue()
        loop = asyncio.get_running_loop()
        queue.add_after("a", 10.0)
        queue.add("a")
        await take(queue)
        first = loop.time()
        queue.add_after("a", 60.0)
        await take(queue)
        return [first, loop.time()]

    assert run(main) == pytest.approx([0.0, 60.0])


def test_timers_that_count_no_more_do_not_pile_up() -> None:
    async def main() -> int:
        queue = new_queue()
        for number in range(10 * HEAP_SLACK):
            queue.add("a")
            await take(queue)
            queue.add_after("a", 300.0 + number)
        return len(queue._heap)

    assert run(main) <= HEAP_SLACK + 3


def test_delays_double_up_to_the_limit_and_start_anew_after_forget() -> None:
    backoff = Backoff(base=1.0, limit=10.0, jitter=0.0)
    rng = random.Random(0)
    assert [backoff.delay(n, rng) for n in (1, 2, 3, 4, 5, 10_000)] == [1, 2, 4, 8, 10, 10]

    async def main() -> list[float]:
        queue: WorkQueue[str] = WorkQueue("test", backoff=backoff)
        delays = [queue.add_rate_limited("a") for _ in range(3)]
        queue.forget("a")
        return [*delays, queue.add_rate_limited("a")]

    assert run(main) == [1, 2, 4, 1]


def test_shutdown_wakes_waiting_workers_and_lets_running_ones_finish() -> None:
    async def main() -> None:
        queue = new_queue()
        queue.add("a")
        assert await queue.get() == "a"
        waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
        queue.add_after("later", 5.0)
        await asyncio.sleep(0)
        queue.add("a")
        queue.shut_down()
        draining = asyncio.create_task(queue.drain())
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [ShutDown] * 3
        assert not draining.done()
        queue.done("a")
        await draining
        queue.add("b")
        with pytest.raises(ShutDown):
            await queue.get()

    run(main)


def test_a_wakeup_given_to_a_cancelled_worker_goes_to_another() -> None:
    async def main() -> str:
        queue = new_queue()
        first = asyncio.create_task(queue.get())
        second = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("a")  # wakes the first
        first.cancel()  # before it could run
        return await asyncio.wait_for(second, 1.0)

    assert run(main) == "a"


def test_a_namespace_whose_work_hangs_leaves_workers_to_others() -> None:
    """All 128 were one namespace's, for as long as its webhook took to answer."""

    async def main() -> None:
        queue = shared_queue(128)
        for number in range(1000):
            queue.add(f"a{number}")
        workers = [asyncio.create_task(queue.get()) for _ in range(128)]
        await asyncio.sleep(1.0)
        assert sum(worker.done() for worker in workers) == 96, "alone it has three quarters"
        assert len(queue) == 1000 - 96
        queue.add("b0")
        await asyncio.sleep(0.0)
        await asyncio.sleep(0.0)
        assert sum(worker.done() for worker in workers) == 97, "the other one need not wait"
        for worker in workers:
            worker.cancel()

    run(main)


def test_what_was_held_back_comes_first_in_its_order_and_once() -> None:
    async def main() -> None:
        queue = shared_queue(4)
        for number in range(6):
            queue.add(f"a{number}")
        assert [await queue.get() for _ in range(3)] == ["a0", "a1", "a2"]
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(1.0)
        assert not waiting.done()
        queue.add("a4")
        queue.add("a4", background=True)
        queue.add("a6")
        assert len(queue) == 4
        queue.done("a1")
        assert await waiting == "a3"
        for key in ("a0", "a2", "a3"):
            queue.done(key)
        assert [await take(queue) for _ in range(3)] == ["a4", "a5", "a6"]
        assert len(queue) == 0

    run(main)


def test_namespaces_that_are_held_back_take_turns() -> None:
    async def main() -> None:
        queue = shared_queue(4)
        for key in ("a0", "a1", "a2", "a3", "a4", "b0", "b1", "c0"):
            queue.add(key)
        assert [await queue.get() for _ in range(4)] == ["a0", "a1", "a2", "b0"]
        order = []
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        for key in ("b0", "a0", "a1", "a2"):
            queue.done(key)
        order.append(await waiting)
        order += [await take(queue) for _ in range(3)]
        assert order == ["a3", "b1", "c0", "a4"]

    run(main)


def test_one_worker_less_may_let_two_in() -> None:
    async def main() -> None:
        queue = shared_queue(7)
        for key in ("a0", "a1", "a2", "b0", "b1", "b2", "a3", "b3"):
            queue.add(key)
        assert [await queue.get() for _ in range(6)] == ["a0", "a1", "a2", "b0", "b1", "b2"]
        waiting = [asyncio.create_task(queue.get()) for _ in range(2)]
        await asyncio.sleep(1.0)
        assert not any(task.done() for task in waiting)
        queue.done("b0")
        await asyncio.gather(*waiting)

    run(main)


@given(seed=st.integers(0, 2**32), workers=st.integers(1, 6), keys=st.integers(1, 8), shared=st.booleans())
@settings(max_examples=100, deadline=None)
def test_nothing_stands_still_however_workers_come_and_go(seed: int, workers: int, keys: int, shared: bool) -> None:
    """Workers are cancelled while they wait or work; each key that is added is seen in its last state by somebody."""

    async def main() -> None:
        rng = random.Random(seed)
        queue = new_queue(workers=workers, namespace_of=lambda key: str(int(key) % 3)) if shared else new_queue()
        wanted = dict.fromkeys(range(keys), 0)
        seen = dict.fromkeys(range(keys), 0)
        busy: set[str] = set()

        async def work() -> None:
            while True:
                key = await queue.get()
                try:
                    assert key not in busy
                    busy.add(key)
                    version = wanted[int(key)]
                    await asyncio.sleep(rng.choice([0, 0, 0.001, 0.1]))
                    seen[int(key)] = version
                except asyncio.CancelledError:
                    queue.add(key)  # as a controller would: what was not finished is due again
                    raise
                finally:
                    busy.discard(key)
                    queue.done(key)

        tasks = [asyncio.create_task(work()) for _ in range(workers)]
        for _ in range(60):
            number = rng.randrange(keys)
            wanted[number] += 1
            rng.choice([queue.add, lambda key: queue.add_after(key, rng.random()), queue.add_rate_limited])(str(number))
            if rng.random() < 0.3:
                victim = rng.randrange(workers)
                tasks[victim].cancel()
                tasks[victim] = asyncio.create_task(work())
            await asyncio.sleep(rng.choice([0, 0, 0.01]))
        await until(lambda: seen == wanted, seconds=600, saw=lambda: (seed, wanted, seen))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main)


def test_a_key_that_rests_is_handed_out_once_when_its_rest_is_over() -> None:
    async def main() -> None:
        queue, loop = new_queue(), asyncio.get_running_loop()
        queue.add("big")
        key = await queue.get()
        queue.add("big")  # while it is worked on
        queue.rest(key, 0.2)
        queue.done(key)
        for _ in range(3):
            queue.add("big")
        queue.add("small")
        assert await take(queue) == "small"
        assert loop.time() == 0
        assert await take(queue) == "big"
        assert loop.time() == pytest.approx(0.2)
        assert not len(queue)
        queue.add("big")
        assert await take(queue) == "big"
        assert loop.time() == pytest.approx(0.2)

    run(main)


def test_a_rest_ends_when_the_key_is_settled_anew() -> None:
    async def main() -> None:
        queue = new_queue()
        queue.add("big")
        queue.rest("big", 60)
        queue.done(await queue.get())
        queue.forget("big")
        queue.add("big")
        assert await take(queue) == "big"
        assert asyncio.get_running_loop().time() == 0

    run(main)


def test_a_timer_that_counts_no_more_brings_no_other_key_forward() -> None:
    async def main() -> float:
        queue = new_queue()
        queue.add_after("early", 1.0)  # the one timer is set to this
        queue.add("early")
        await take(queue)
        for number in range(HEAP_SLACK + 10):  # so many that the entry of "early" is cleared away
            queue.add_after("late", 1000.0 - number)
        assert await take(queue) == "late"
        return asyncio.get_running_loop().time()

    assert run(main) == pytest.approx(1000.0 - HEAP_SLACK - 9)

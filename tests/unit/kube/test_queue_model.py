"""The work queue against a model of what it owes: any sequence of calls, no key lost, none handed out twice."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aifactory.kube.backoff import Backoff
from aifactory.kube.queue import HEAP_SLACK, WorkQueue
from tests.support.faketime import FakeTimeLoop

KEYS = st.sampled_from("abcde")
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 5.0, 300.0])


class QueueMachine(RuleBasedStateMachine):
    """The model: a key is owed from the moment it is added until it is handed out after that moment.

    A timer is owed too, until it has fired or the key is handed out: whoever works on it says anew when to look again.
    What a key that rests would be owed is owed when the rest is over.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = FakeTimeLoop()
        self.queue: WorkQueue[str] = WorkQueue("model", backoff=Backoff(base=0.005, limit=60.0), rng=random.Random(1))
        self.owed: set[str] = set()
        self.working: set[str] = set()
        self.due: dict[str, float] = {}
        self.rests: dict[str, float] = {}

    def do(self, call: Any) -> Any:
        """Call something of the queue inside the loop, and let what it set off settle."""

        async def inside() -> Any:
            result = call()
            if asyncio.iscoroutine(result):
                result = await result
            return result

        return self.loop.run_until_complete(inside())

    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.settle()

    def settle(self) -> None:
        fired = [key for key, when in self.due.items() if when <= self.loop.now]
        for key in fired:
            del self.due[key]
            self.owe(key)

    def owe(self, key: str) -> None:
        rests = key not in self.working and key not in self.owed and self.rests.get(key, 0.0) > self.loop.now
        if rests:
            self.later(key, self.rests[key] - self.loop.now)
        else:
            self.owed.add(key)

    def later(self, key: str, seconds: float) -> None:
        when = self.loop.now + seconds
        self.due[key] = min(when, self.due.get(key, when))

    @rule(key=KEYS, background=st.booleans())
    def add(self, key: str, background: bool) -> None:
        self.do(lambda: self.queue.add(key, background=background))
        self.owe(key)

    @rule(key=KEYS, seconds=SECONDS)
    def add_after(self, key: str, seconds: float) -> None:
        self.do(lambda: self.queue.add_after(key, seconds))
        if seconds:
            self.later(key, seconds)
        else:
            self.owe(key)

    @rule(key=KEYS)
    def add_rate_limited(self, key: str) -> None:
        before = self.queue.failures(key)
        delay = self.do(lambda: self.queue.add_rate_limited(key))
        assert 0 < delay <= 60.0 * 1.2
        assert self.queue.failures(key) == before + 1
        self.later(key, delay)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.queue.forget(key)
        self.rests.pop(key, None)
        assert self.queue.failures(key) == 0

    @rule(seconds=SECONDS)
    def pass_time(self, seconds: float) -> None:
        self.wait(seconds)

    @precondition(lambda self: self.owed - self.working)
    @rule()
    def get(self) -> None:
        key = self.do(self.queue.get)
        assert key not in self.working, "two workers on one key"
        assert key in self.owed, "a key that nobody added"
        self.owed.discard(key)
        self.due.pop(key, None)
        self.working.add(key)

    @precondition(lambda self: self.working)
    @rule(data=st.data(), rest=st.sampled_from([None, None, 0.05, 0.7, 20.0]))
    def done(self, data: st.DataObject, rest: float | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        if rest is not None:
            self.do(lambda: self.queue.rest(key, rest))
            self.rests[key] = self.loop.now + rest
        self.do(lambda: self.queue.done(key))
        self.working.discard(key)
        if key in self.owed:
            self.owed.discard(key)
            self.owe(key)

    @invariant()
    def hands_out_exactly_what_is_owed(self) -> None:
        self.settle()
        assert len(self.queue) == len(self.owed - self.working)

    @invariant()
    def keeps_no_timers_that_count_no_more(self) -> None:
        assert len(self.queue._heap) <= 2 * len(self.due) + HEAP_SLACK + 1

    def teardown(self) -> None:
        """Everything that is owed or will be comes out, once."""
        for key in list(self.working):
            self.do(lambda key=key: self.queue.done(key))
        self.working.clear()
        self.wait(400.0)
        while self.owed:
            self.get()
        for key in list(self.working):
            self.do(lambda key=key: self.queue.done(key))
        assert len(self.queue) == 0
        with pytest.raises(TimeoutError):
            self.do(lambda: asyncio.wait_for(self.queue.get(), 1000.0))
        self.loop.close()


TestQueueModel = QueueMachine.TestCase
TestQueueModel.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)

"""Triton, its workers and the agent killed at random times under changing wishes: it always ends at the last wish."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from harness import AgentProcess, TritonProcess, http, wait_for

from aifactory_agent.serve.backoff import next_try
from aifactory_contract.errors import Reason

ROUNDS = 4


def test_ends_at_the_last_wish_whatever_is_killed(
    triton: TritonProcess, agent: AgentProcess, published: Callable[..., dict[str, Any]]
) -> None:
    seed = int(os.environ.get("AIFACTORY_TEST_SEED") or random.randrange(10**6))
    print(f"repeat with AIFACTORY_TEST_SEED={seed}")
    dice = random.Random(seed)
    good = [published(name, version, loadSeconds=dice.choice([0, 0.7])) for name in "ab" for version in (1, 2, 3)]
    bad = [published("a", 9, loadError="bad"), published("b", 9, answerError="bad")]
    triton.start()
    agent.want()
    agent.start()

    def change_wish() -> None:
        agent.want(*dice.sample(good, dice.randint(0, 4)), *dice.sample(bad, dice.randint(0, 1)))

    def kill_triton() -> None:
        triton.kill()
        triton.start()

    def kill_worker() -> None:
        # Not one that is only starting: Triton 2.51 would wait for it for ever (see the README's limits).
        if any(model["state"] == "Loading" for model in agent.status()["models"]):
            return
        for pid in triton.workers()[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_agent() -> None:
        agent.kill()
        agent.start()

    for number in range(ROUNDS):
        for trouble in dice.choices([change_wish, kill_triton, kill_worker, kill_agent], weights=[3, 1, 1, 1], k=3):
            trouble()
            time.sleep(dice.random())  # not to wait for anything: the next trouble comes at any time
        wish = dice.sample(good, dice.randint(0, 4))
        agent.want(*wish, revision=f"round {number}")
        agent.wait_ready(f"round {number}")
        wait_for(
            "exactly the wish runs", lambda wish=wish: answering(triton, good + bad) == names(wish), 40, agent.tail
        )
        wait_for("nothing else is left", lambda wish=wish: len(triton.workers()) == len(wish), 40, agent.tail)


def names(models: list[dict[str, Any]]) -> set[str]:
    return {f"{model['name']} {model['version']}" for model in models}


def answering(triton: TritonProcess, models: list[dict[str, Any]]) -> set[str]:
    """The versions that answer, by what they answer."""
    found = set()
    for model in models:
        where = f"{triton.url}/v2/models/{model['name']}/versions/{model['version']}/generate"
        code, text = http(where, {"text_input": "x"})
        if code == 200:
            found.add(text.partition('"text_output":"')[2].partition('"')[0])
    return found


@pytest.mark.parametrize(
    ("reason", "answered", "waits"),
    [
        (Reason.STORE_UNAVAILABLE, False, [1, 2, 4, 8, 16, 32, 60, 60]),
        (Reason.DIGEST_MISMATCH, False, [30, 60, 120, 240, 480, 600]),
        (Reason.LOAD_FAILED, False, [1, 60, 120]),
        (Reason.CONFIRM_FAILED, True, [1, 2, 4]),
    ],
)
def test_waits_longer_each_time(reason: Reason, answered: bool, waits: list[float]) -> None:
    assert [next_try(reason, attempt + 1, answered) for attempt in range(len(waits))] == waits

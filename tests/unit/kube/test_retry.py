"""Calls that are sent again: which, how often, after how long, and with everything they say."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Any

import pytest

from aifactory.kube.backoff import REQUEST
from aifactory.kube.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    KubeError,
    NotLeading,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unreachable,
)
from aifactory.kube.resources import PODS
from aifactory.kube.retry import MAX_ATTEMPTS, Retrying
from tests.support.faketime import run


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


class Spy:
    """An `Api` that notes each call; it fails as it is told, then answers."""

    def __init__(self, *failures: KubeError) -> None:
        self.failures = list(failures)
        self.calls: list[tuple[float, str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, verb: str) -> Any:
        def note(args: tuple[Any, ...], options: dict[str, Any]) -> str:
            self.calls.append((asyncio.get_running_loop().time(), verb, args, options))
            if self.failures:
                raise self.failures.pop(0)
            return verb

        async def call(*args: Any, **options: Any) -> str:
            return note(args, options)

        def watch(*args: Any, **options: Any) -> str:
            return note(args, options)

        return watch if verb == "watch" else call

    @property
    def times(self) -> list[float]:
        return [at for at, *_ in self.calls]


VERBS = ["get", "list", "create", "apply", "patch", "patch_status", "delete"]


def send(spy: Spy, verb: str, *args: Any, **options: Any) -> Any:
    async def main() -> Any:
        found = getattr(Retrying(spy, rng=NoJitter()), verb)(*args, **options)  # type: ignore[arg-type]
        return await found if isinstance(found, Awaitable) else found

    return run(main)


@pytest.mark.parametrize("verb", VERBS)
def test_a_call_is_sent_again_with_everything_it_says(verb: str) -> None:
    spy = Spy(TooManyRequests(429, "", "slow down"))
    assert send(spy, verb, PODS, "ns", option=1) == verb
    assert [call[1:] for call in spy.calls] == [(verb, (PODS, "ns"), {"option": 1})] * 2


def test_a_watch_is_passed_on_and_its_end_is_its_readers() -> None:
    spy = Spy()
    assert send(spy, "watch", PODS, resource_version="7", namespace="ns") == "watch"
    assert spy.calls[0][1:] == ("watch", (PODS,), {"resource_version": "7", "namespace": "ns"})
    spy = Spy(Unreachable("away"))
    with pytest.raises(Unreachable):
        send(spy, "watch", PODS, resource_version="7")
    assert len(spy.calls) == 1


@pytest.mark.parametrize(
    ("error", "any_verb", "creates"),
    [
        (TooManyRequests(429, "", "x"), True, True),
        (Unreachable("refused", sent=False), True, True),
        (Unreachable("lost"), True, False),
        (ServerError(500, "", "x"), True, False),
        (Unauthorized(401, "", "x"), True, False),
        (Conflict(409, "", "x"), False, False),
        (AlreadyExists(409, "", "x"), False, False),
        (Forbidden(403, "", "x"), False, False),
        (NotLeading("second"), False, False),
    ],
)
def test_only_what_may_help_and_does_no_harm_is_sent_again(error: KubeError, any_verb: bool, creates: bool) -> None:
    for verb in VERBS:
        spy, again = Spy(error), creates if verb == "create" else any_verb
        if again:
            assert send(spy, verb, PODS) == verb
        else:
            with pytest.raises(type(error)) as caught:
                send(spy, verb, PODS)
            assert caught.value is error
        assert len(spy.calls) == (2 if again else 1)


def test_waits_double_and_have_an_end() -> None:
    spy = Spy(*[ServerError(503, "", "busy")] * 20)
    with pytest.raises(ServerError):
        send(spy, "get", PODS)
    assert len(spy.calls) == MAX_ATTEMPTS
    assert spy.times == pytest.approx([0.0, 0.1, 0.3, 0.7])


@pytest.mark.parametrize(
    ("asked", "waited"),
    [(None, [0.1, 0.2]), (0.0, [0.1, 0.2]), (0.15, [0.15, 0.2]), (7.0, [7.0, 7.0]), (3600.0, [REQUEST.limit] * 2)],
)
def test_a_server_that_says_how_long_to_wait_is_obeyed_within_reason(asked: float | None, waited: list[float]) -> None:
    spy = Spy(*[TooManyRequests(429, "", "slow down", retry_after=asked)] * 2)
    send(spy, "create", PODS)
    first, second, third = spy.times
    assert [second - first, third - second] == pytest.approx(waited)


def test_it_needs_no_dice_of_its_own() -> None:
    spy = Spy(TooManyRequests(429, "", "slow down"))

    async def main() -> bytes:
        return await Retrying(spy).get(PODS, "ns", "a")  # type: ignore[arg-type]

    run(main)
    assert 0.1 < spy.times[1] <= 0.1 * (1 + REQUEST.jitter), "those who failed together do not come back together"

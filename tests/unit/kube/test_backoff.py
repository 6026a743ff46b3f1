"""Delays that double, up to a limit, spread by chance."""

from __future__ import annotations

import random

import pytest

from aifactory.kube.backoff import Backoff


class Dice(random.Random):
    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def random(self) -> float:
        return self._value


def test_delays_double_up_to_the_limit() -> None:
    backoff = Backoff(base=0.5, limit=10.0)
    assert [backoff.delay(n) for n in (1, 2, 3, 4, 5, 6, 10_000)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


@pytest.mark.parametrize(("value", "factor"), [(0.0, 1.0), (0.5, 1.15), (1.0, 1.3)])
def test_chance_makes_them_longer_never_shorter(value: float, factor: float) -> None:
    backoff = Backoff(base=1.0, limit=4.0, jitter=0.3)
    assert [backoff.delay(n, Dice(value)) for n in (1, 2, 9)] == pytest.approx([factor, 2 * factor, 4 * factor])


def test_they_may_start_later_than_the_base_but_not_sooner() -> None:
    backoff = Backoff(base=1.0, limit=10.0)
    assert [backoff.delay(n, at_least=3.0) for n in (1, 2, 3)] == [3.0, 6.0, 10.0]
    assert backoff.delay(1, at_least=0.1) == 1.0
    assert Backoff(base=0.001, limit=10.0).delay(1) == 0.001

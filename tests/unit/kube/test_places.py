"""Places that namespaces share: one alone has most of them, and each one more finds some left."""

from __future__ import annotations

import pytest

from aifactory.engine.executor import MAX_IN_FLIGHT
from aifactory.kube.places import Places


def entered(places: Places, namespace: str) -> int:
    """So many more places the namespace gets."""
    count = 0
    while places.enter(namespace):
        count += 1
    return count


@pytest.mark.parametrize(("size", "first", "second"), [(16, 12, 3), (3, 3, 0), (MAX_IN_FLIGHT, 32, 8)])
def test_who_has_left_finds_as_many_places_as_the_first_time(size: int, first: int, second: int) -> None:
    places = Places(size)
    for _ in range(3):
        assert (entered(places, "a"), entered(places, "b")) == (first, second)
        for namespace, held in (("a", first), ("b", second)):
            for _ in range(held):
                places.leave(namespace)
        assert places.free == size

"""The arithmetic of a surge."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifactory.serving.scaling import limits, part, share, sleeps, split
from tests.unit.serving.builders import pool


@pytest.mark.parametrize(
    ("wanted", "ready", "growing", "stable", "sizes"),
    [
        pytest.param(3, {}, "a", "", {"a": 3}, id="the first"),
        pytest.param(3, {"a": 1}, "a", "a", {"a": 3}, id="alone, not all are ready"),
        pytest.param(0, {"a": 3}, "a", "a", {"a": 0}, id="scaled to zero"),
        pytest.param(3, {"a": 3}, "b", "a", {"a": 3, "b": 1}, id="a rollout begins"),
        pytest.param(3, {"a": 3, "b": 1}, "b", "a", {"a": 2, "b": 2}, id="the first is ready"),
        pytest.param(3, {"a": 1, "b": 2}, "b", "a", {"a": 1, "b": 3}, id="the last but one is ready"),
        pytest.param(3, {"a": 1, "b": 3}, "b", "a", {"a": 0, "b": 3}, id="all are ready"),
        pytest.param(3, {"a": 0}, "b", "a", {"a": 3, "b": 1}, id="the stable one is down"),
        pytest.param(0, {"a": 3}, "b", "a", {"a": 0, "b": 0}, id="a rollout of nothing"),
        pytest.param(1, {"a": 2, "b": 2}, "b", "a", {"a": 0, "b": 1}, id="scaled down in a rollout"),
        pytest.param(4, {"a": 2, "b": 2}, "a", "a", {"a": 3, "b": 2}, id="the way back"),
        pytest.param(4, {"a": 1, "b": 3}, "c", "a", {"a": 1, "b": 3, "c": 1}, id="a third one"),
        pytest.param(4, {"a": 1, "b": 3, "c": 2}, "c", "a", {"a": 1, "b": 1, "c": 3}, id="a third one takes over"),
        pytest.param(4, {"a": 1, "b": 1}, "c", "a", {"a": 3, "b": 1, "c": 1}, id="too few are ready"),
        pytest.param(2, {"b": 1}, "c", "", {"b": 1, "c": 2}, id="none is stable yet"),
        pytest.param(2, {"a": 1, "z": 2}, "c", "z", {"a": 0, "z": 2, "c": 1}, id="the stable one serves on"),
        pytest.param(3, {"b": 1, "d": 3}, "c", "", {"b": 0, "d": 3, "c": 1}, id="the one with most pods serves on"),
    ],
)
def test_pods_are_shared(wanted: int, ready: dict[str, int], growing: str, stable: str, sizes: dict[str, int]) -> None:
    assert share(wanted, ready, growing, stable) == sizes


@given(
    st.integers(0, 8),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 8), max_size=4),
    st.sampled_from("abcd"),
    st.sampled_from(["", *"abcd"]),
)
def test_whoever_is_ready(wanted: int, ready: dict[str, int], growing: str, stable: str) -> None:
    sizes = share(wanted, ready, growing, stable)
    assert sizes.keys() == ready.keys() | {growing}
    assert all(size >= 0 for size in sizes.values())
    assert sum(sizes.values()) <= wanted + 1, "one more than wanted at most"
    kept = sum(min(size, ready.get(name, 0)) for name, size in sizes.items())
    assert kept >= min(wanted, sum(ready.values())), "no ready pod goes while it is needed"
    assert sizes[growing] >= min(wanted, ready.get(growing, 0) + 1), "it always goes on"


@pytest.mark.parametrize(
    ("wanted", "ready", "weight", "sizes"),
    [
        pytest.param(4, {"a": 4}, 25, {"a": 4, "b": 1}, id="it begins"),
        pytest.param(4, {"a": 4, "b": 1}, 25, {"a": 3, "b": 1}, id="it has its part"),
        pytest.param(4, {"a": 3, "b": 1}, 50, {"a": 3, "b": 2}, id="the next weight"),
        pytest.param(4, {"a": 3, "b": 2}, 50, {"a": 2, "b": 2}, id="the next one has its part"),
        pytest.param(4, {"a": 2, "b": 2}, 100, {"a": 2, "b": 3}, id="towards the end"),
        pytest.param(4, {"a": 1, "b": 4}, 100, {"a": 0, "b": 4}, id="the end"),
        pytest.param(4, {"a": 4, "b": 1}, 30, {"a": 3, "b": 2}, id="rounded up on both sides"),
        pytest.param(1, {"a": 1}, 99, {"a": 1, "b": 1}, id="of one pod"),
        pytest.param(4, {"a": 1, "b": 3}, 25, {"a": 2, "b": 3}, id="less than before: the stable one comes first"),
        pytest.param(4, {"a": 2, "b": 3}, 25, {"a": 2, "b": 2}, id="less than before: then the candidate goes"),
        pytest.param(4, {"a": 2, "b": 1}, 25, {"a": 3, "b": 1}, id="a stable pod is lost"),
        pytest.param(4, {"a": 3, "b": 0}, 25, {"a": 4, "b": 1}, id="a candidate pod is lost"),
        pytest.param(4, {"b": 1}, 25, {"a": 3, "b": 1}, id="all stable pods are lost"),
        pytest.param(4, {"a": 3, "b": 0, "c": 1}, 25, {"a": 4, "b": 1, "c": 1}, id="another one holds what is missing"),
        pytest.param(4, {"a": 2, "b": 1, "c": 3}, 25, {"a": 3, "b": 1, "c": 1}, id="and no more than that"),
        pytest.param(4, {"b": 1, "c": 3}, 25, {"a": 3, "b": 1, "c": 3}, id="all of it"),
        pytest.param(
            4, {"a": 1, "b": 0, "c": 1, "d": 3}, 25, {"a": 4, "b": 1, "c": 0, "d": 3}, id="the one with most pods first"
        ),
        pytest.param(0, {"a": 3, "b": 1}, 25, {"a": 0, "b": 0}, id="scaled to zero"),
    ],
)
def test_pods_are_split(wanted: int, ready: dict[str, int], weight: int, sizes: dict[str, int]) -> None:
    assert split(wanted, ready, "b", "a", weight) == sizes


@pytest.mark.parametrize(
    ("wanted", "weight", "pods"),
    [
        (4, 0, (0, 4)),
        (4, 25, (1, 3)),
        (4, 26, (2, 3)),
        (1, 1, (1, 1)),
        (3, 100, (3, 0)),
        (100, 1, (1, 99)),
        (200, 100, (200, 0)),
    ],
)
def test_a_part_is_rounded_up_on_both_sides(wanted: int, weight: int, pods: tuple[int, int]) -> None:
    assert part(wanted, weight) == pods


@given(st.integers(0, 12), st.dictionaries(st.sampled_from("abc"), st.integers(0, 12), max_size=3), st.integers(0, 100))
def test_however_they_are_split(wanted: int, ready: dict[str, int], weight: int) -> None:
    sizes = split(wanted, ready, "b", "a", weight)
    goal, kept = part(wanted, weight)
    assert wanted <= goal + kept <= wanted + 1
    assert sizes.keys() == ready.keys() | {"a", "b"}
    assert all(size >= 0 for size in sizes.values())
    assert sum(min(size, ready.get(name, 0)) for name, size in sizes.items()) >= min(wanted, sum(ready.values()))
    assert sizes["a"] <= max(kept, wanted - ready.get("b", 0))
    if sum(ready.values()) <= wanted + 1:
        assert sum(sizes.values()) <= wanted + 1 + ready.get("c", 0)


METRICS = [{"name": "inFlightRequests", "target": "4"}]
ONE_GPU = {"spec": {"containers": [{"name": "triton", "resources": {"limits": {"nvidia.com/gpu": 1}}}]}}


@pytest.mark.parametrize(
    ("gpus", "most", "bound"),
    [(40, 10, "maxReplicas"), (10, 10, "maxReplicas"), (9, 9, "maxGPUs"), (None, 10, "maxReplicas")],
)
def test_the_lower_one_of_two_bounds_counts(gpus: int | None, most: int, bound: str) -> None:
    made = pool(template=ONE_GPU, autoscaling={"maxReplicas": 10, "maxGPUs": gpus, "metrics": METRICS})
    assert made.spec.autoscaling is not None
    assert limits(made, made.spec.autoscaling) == (1, most, bound)


@pytest.mark.parametrize(
    ("least", "way", "is_so"),
    [
        (0, {"mode": "Envoy"}, True),
        (1, {"mode": "Envoy"}, False),
        (None, {"mode": "Envoy"}, False),
        (0, {"mode": "None"}, False),
        (0, None, False),
    ],
)
def test_a_pool_sleeps_that_may_have_no_pod_and_has_proxies(least: int | None, way: Any, is_so: bool) -> None:
    made = {"maxReplicas": 10, "minReplicas": least, "metrics": METRICS}
    assert sleeps(pool(autoscaling=made, gateway=way)) == is_so
    assert not sleeps(pool(gateway=way)), "without autoscaling"

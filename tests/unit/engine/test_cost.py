"""Money and GPU seconds: exact until they are written, and nothing where something is not known."""

from __future__ import annotations

from datetime import timedelta
from decimal import ROUND_UP, Context, Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifactory.api.cost import Cost
from aifactory.engine import cost
from tests.unit.serving.builders import NOW

amounts = st.decimals(min_value=0, max_value=10**9, places=9, allow_nan=False)


@given(amounts)
def test_money_is_off_by_half_a_cent_or_half_of_the_third_digit(amount: Decimal) -> None:
    written = Decimal(cost.money(amount))
    allowed = min(Fraction(1, 200), Fraction(amount) / 200 if amount else Fraction(1, 200))
    assert abs(Fraction(written) - Fraction(amount)) <= allowed
    assert "E" not in cost.money(amount)
    assert len(cost.money(amount).partition(".")[2]) >= 2


@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 10**6)), max_size=20), st.decimals("0.01", "99", places=2))
def test_sums_of_parts_are_the_sum(parts: list[tuple[int, int]], price: Decimal) -> None:
    seconds = [gpus * length for gpus, length in parts]
    exact = sum(Fraction(each) * Fraction(price) / 3600 for each in seconds)
    assert abs(Fraction(cost.cost(sum(seconds), price) or "") - exact) <= max(exact / 200, Fraction(0))


def test_a_million_tokens() -> None:
    # 4 GPUs at 2.49 an hour are 0.00276667 a second; 1,250 tokens a second take 800 s for a million.
    assert cost.cost_per_million(4, "1250", Decimal("2.49")) == "2.21"
    assert cost.cost_per_million(4, "1e-05", Decimal("2.49")) == "276666666.67"


@pytest.mark.parametrize(
    ("gpus", "rate", "price"),
    [(0, "5", Decimal(1)), (1, "0", Decimal(1)), (1, "5", None)],
    ids=["gpu", "rate", "price"],
)
def test_what_is_missing_is_not_zero(gpus: int, rate: str, price: Decimal | None) -> None:
    assert cost.cost_per_million(gpus, rate, price) is None


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        ("0", "0.00"),
        ("0.0000", "0.00"),
        ("0.0034583", "0.00346"),
        ("0.99949", "0.999"),
        ("1", "1.00"),
        ("1.0049", "1.00"),
        ("2.495", "2.50"),
        ("2.505", "2.50"),
        ("1234.5", "1234.50"),
    ],
)
def test_amounts_as_they_are_written(amount: str, written: str) -> None:
    assert cost.money(Decimal(amount)) == written


def test_halves_go_to_the_even_cent_whatever_the_context_says() -> None:
    with localcontext(Context(rounding=ROUND_UP)):
        assert cost.money(Decimal("2.505")) == "2.50"


def test_ratios_have_three_digits() -> None:
    assert (cost.ratio(2, 3), cost.ratio(4, 4), cost.ratio(0, 4), cost.ratio(0, 0)) == ("0.667", "1", "0", None)


def test_a_rate_for_each_gpu() -> None:
    assert (cost.per_gpu("1500", 4), cost.per_gpu("12345", 1), cost.per_gpu("7", 0)) == ("375", "12300", None)


def test_free_is_not_unknown() -> None:
    assert cost.cost(3600, Decimal(0)) == "0.00"
    assert cost.cost_per_million(1, "5", Decimal(0)) == "0.00"


def test_what_an_object_says_goes_before_the_installation() -> None:
    assert cost.price_of(Cost(gpu_hour_price="1.5"), "2.49") == Decimal("1.5")
    assert cost.price_of(Cost(), "2.49") == cost.price_of(None, "2.49") == Decimal("2.49")
    assert cost.price_of(None, "") is None


def test_a_price_is_taken_as_it_is() -> None:
    assert [cost.checked_price(text) for text in ("", "2.49", "0")] == ["", "2.49", "0"]


@pytest.mark.parametrize("text", ["2,49", "-1", "$2", "1e3", "2.", "nan"])
def test_a_price_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"gpuHourPrice: '.*' is no price: write a number such as 2\.49"):
        cost.checked_price(text)


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({"nvidia.com/gpu": 4}, 4),
        ({"amd.com/gpu": "2", "cpu": "8", "memory": "1Gi"}, 2),
        ({"nvidia.com/mig-1g.10gb": 3}, 3),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000, "nvidia.com/gpucores": 30}, 1),
        ({"habana.ai/gaudi": 8}, 8),
        ({"aws.amazon.com/neuroncore": 2, "memory.example.com/gpu": 1}, 3),
        ({"gpu.intel.com/i915": 1, "gpu.intel.com/millicores": 100, "gpu.intel.com/memory.max": 3}, 1),
        ({"nvidia.com/gpu": "1.5"}, 0),
        ({"cpu": "0.5"}, 0),
        (None, 0),
    ],
    ids=str,
)
def test_devices(limits: dict[str, Any] | None, count: int) -> None:
    container = {"resources": {"limits": limits}}
    assert cost.devices(container) == count
    assert cost.devices_of_pod({"containers": [container, {"name": "side"}, container]}) == 2 * count


@pytest.mark.parametrize(
    ("container", "name"),
    [
        ({"resources": {"limits": {"nvidia.com/gpu": 2, "amd.com/gpu": 1, "cpu": 8}}}, "amd.com/gpu"),
        ({"resources": {"limits": {"cpu": 8}}}, ""),
        ({"resources": {"limits": None}}, ""),
        ({"resources": None}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_the_resource_of_a_container_s_devices(container: dict[str, Any], name: str) -> None:
    assert cost.device_resource(container) == name


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    assert cost.seconds_between(NOW, NOW - timedelta(hours=1)) == 0
    assert cost.seconds_between(NOW, NOW + timedelta(seconds=1.9)) == 1

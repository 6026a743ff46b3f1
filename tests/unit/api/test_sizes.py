"""Sizes as Kubernetes writes them and as people read them."""

from __future__ import annotations

import pytest

from aifactory.api.sizes import bytes_of, human_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "0.977KiB"),
        (1023, "0.999KiB"),
        (1024, "1KiB"),
        (1_023_488, "0.976MiB"),
        (1_400_000, "1.34MiB"),
        (5 * 2**30, "5GiB"),
        (2**42, "4TiB"),
    ],
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("quantity", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        (0.5, 0),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1.5Gi", 3 * 2**29),
        (".5M", 500_000),
        ("2.G", 2 * 10**9),
        ("3Ti", 3 * 2**40),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("2e9", 2 * 10**9),
        ("2E3", 2000),
        ("5e-1", 0),
        ("128974848000m", 128_974_848),
        ("5000000u", 5),
        ("7000000000n", 7),
    ],
)
def test_quantities_are_read_as_kubernetes_reads_them(quantity: object, size: int) -> None:
    assert bytes_of(quantity) == size


@pytest.mark.parametrize("quantity", [None, "", "Gi", "much", "1 Gi", "1gi", "1K", "-1Gi", "1e999999999", "1" * 99, {}])
def test_what_is_no_size_is_left_to_the_api_server(quantity: object) -> None:
    assert bytes_of(quantity) is None

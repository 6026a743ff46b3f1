"""What has room where."""

from __future__ import annotations

import pytest
import torch

from aifactory_server.device import check_room


def test_what_fits_exactly_has_room() -> None:
    check_room(torch.device("cpu"), 3, 3)


@pytest.mark.parametrize(
    ("kind", "way_out"),
    [
        ("cpu", r"raise resources\.limits\.memory of container triton in the pool's spec\.template"),
        ("cuda", "use a GPU with more memory, or a smaller model"),
    ],
)
def test_what_has_no_room_is_told_with_both_sizes_and_the_way_out(kind: str, way_out: str) -> None:
    words = rf"^no room in memory: the model needs 15\.5 GiB for its weights alone, and 500 MiB are left; {way_out}$"
    with pytest.raises(ValueError, match=words):
        check_room(torch.device(kind), 31 * 2**29, 500 * 2**20)

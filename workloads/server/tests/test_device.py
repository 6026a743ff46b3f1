"""What has room where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aifactory_server import device
from aifactory_server.device import check_room, computed_in, multiplies_bfloat16, step_threads

CPU = torch.device("cpu")


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


@pytest.mark.parametrize(
    ("told", "can"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16 dgh\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\nbugs\t\t: bf16\n", False),
        ("", False),
    ],
)
def test_the_kernel_tells_whether_a_cpu_multiplies_bfloat16(told: str, can: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(told)
    assert multiplies_bfloat16(tmp_path / "cpuinfo") is can
    assert not multiplies_bfloat16(tmp_path / "none")


@pytest.mark.parametrize("can", [True, False])
def test_bfloat16_is_computed_where_the_cpu_can_and_the_weights_are(can: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "multiplies_bfloat16", lambda: can)
    assert computed_in(CPU, torch.bfloat16) is (torch.bfloat16 if can else torch.float32)
    for kept in (torch.float32, torch.float16, None):
        assert computed_in(CPU, kept) is torch.float32
    assert computed_in(torch.device("cuda", 0), torch.bfloat16) == "auto"


def test_a_step_is_shared_out_where_it_is_worth_it() -> None:
    tiny, small, large = 65_000, 640_000, 16_800_000  # of models of 1 M, 135 M and 1 G weights
    assert [step_threads(tiny, tokens, 2) for tokens in (1, 16, 64, 256)] == [1, 1, 2, 2]
    assert [step_threads(small, tokens, 64) for tokens in (1, 16, 64, 256)] == [2, 2, 4, 12]
    assert step_threads(large, 1, 4) == 4
    assert step_threads(large, 256, 64) == 64
    assert step_threads(large, 256, 1) == 1

"""Packed layers compute what the layers do whose place they take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aifactory_server.device import multiplies_bfloat16
from aifactory_server.engines.packing import PackedLinear, pack

PACKS = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="nothing is packed on a CPU that does not multiply bfloat16"
)


class Model(nn.Module):
    """With a head that shares its weights with the table of tokens, as small models have it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 32)
        self.layers = nn.ModuleList([nn.Linear(32, 48), nn.Linear(48, 32, bias=False)])
        self.other = nn.modules.linear.NonDynamicallyQuantizableLinear(32, 32)
        self.head = nn.Linear(32, 64, bias=False)
        self.head.weight = self.table.weight
        self.to(dtype)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.table(tokens)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(self.other(hidden))


@PACKS
@pytest.mark.parametrize("spare", [0, 2**20])
def test_a_packed_model_gives_the_same_logits(spare: int) -> None:
    torch.manual_seed(0)
    model, tokens = Model(torch.bfloat16), torch.arange(9).unsqueeze(0)
    with torch.no_grad():
        expected = model(tokens)
        pack(model, spare)
        found = model(tokens)
    assert [type(layer) for layer in model.layers] == [PackedLinear, PackedLinear]
    assert isinstance(model.head, PackedLinear) == bool(spare)
    assert not isinstance(model.other, PackedLinear)
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


def test_other_types_stay_as_they_are() -> None:
    model = Model(torch.float32)
    pack(model, 2**20)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


@PACKS
def test_packed_weights_take_the_place_of_the_others() -> None:
    model = Model(torch.bfloat16)
    before = sum(weight.numel() for weight in model.parameters())
    pack(model, 0)
    assert sum(weight.numel() for weight in model.parameters()) == before

"""Weights of a model kept in the order in which a CPU multiplies them.

For a matrix as it was saved, oneDNN brings the weights into that order in every call, and with more than one token that
takes as long as multiplying by them: eight tokens took twice as long as one, and take 1.2 times as long like this
(bfloat16, AMD EPYC; `testing/engines.py`). It is what torch's own compiler does with the weights of a frozen model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_TOKENS = 8
"""The order depends a little on how many are multiplied; of up to 256 none is slower with this one."""


class PackedLinear(nn.Module):
    """A layer `nn.Linear` of bfloat16 on a CPU."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _TOKENS)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = layer.bias

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        out = torch.ops.mkldnn._linear_pointwise.default(tokens, self.weight, self.bias, "none", [], "")
        assert isinstance(out, Tensor)
        return out


def pack(model: nn.Module, spare: int) -> None:
    """Replace the layers for which it pays, one after the other: no more memory is needed than for one of them.

    Args:
        spare: bytes that may be taken for a layer that shares its weights with the table of tokens: that one is copied.
    """
    tables = {module.weight.data_ptr() for module in model.modules() if isinstance(module, nn.Embedding)}
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            # Not a class made of it: such a one does something else.
            if type(layer) is not nn.Linear or not _pays(layer.weight):
                continue
            if layer.weight.data_ptr() not in tables or layer.weight.nbytes <= spare:
                setattr(parent, name, PackedLinear(layer))


def _pays(weight: Tensor) -> bool:
    return weight.dtype is torch.bfloat16 and weight.device.type == "cpu" and torch.backends.mkldnn.is_available()

"""How well a GPU is used."""

from __future__ import annotations

import torch

_PEAKS = {"H100 80GB HBM3": 989e12, "H200": 989e12, "A100-SXM": 312e12}
"""Dense bfloat16 operations a second, by a part of the device's name (NVIDIA's data sheets)."""


def per_token(numbers: int, layers: int, width: int, context: int) -> int:
    """Operations of a forward and a backward pass: 6 for each weight, and 12 x layers x width x context for attention
    (PaLM, arXiv 2204.02311, appendix B), which counts what causal attention leaves out as well."""
    return 6 * numbers + 12 * layers * width * context


def peak(device: torch.device) -> float | None:
    """What the device could do at most, in operations a second; None where this is not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((found for part, found in _PEAKS.items() if part in name), None)

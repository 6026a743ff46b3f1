"""Which device Triton has placed a model instance on."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def device_of(args: Mapping[str, str]) -> torch.device:
    """From the arguments of `initialize`. Raises ValueError if Triton says GPU and torch sees none."""
    if args["model_instance_kind"] != "GPU":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("Triton placed the model on a GPU that PyTorch can not use; is the driver new enough?")
    return torch.device("cuda", int(args["model_instance_device_id"]))

"""Loading a `.pt2` archive without running anything it brings, and calling the program.

The static check comes first and is the agent's too (`aifactory_contract.formats.pt2`): what it lets through holds raw
tensors and PyTorch's own operators only. The one pickle left is the sample inputs, of which torch falls back to an
unrestricted unpickler if the safe one refuses; so the safe one is asked before, and a refusal ends the load.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass

from aifactory_contract.formats.pt2 import check_pt2
from aifactory_server.device import check_room, free_memory


class Program:
    """A loaded program on one device; `run` takes and gives tensors in the order of config.json.

    Raises FactoryError (a refused archive), ValueError (too large), or whatever torch says of a damaged one.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        with path.open("rb") as stream:
            check_pt2(stream)
        check_room(device, path.stat().st_size, free_memory(device))
        _check_sample_inputs(path)
        exported = torch.export.load(path)
        if device.type != "cpu":
            exported = move_to_device_pass(exported, device)
        self.device = device
        self._module = exported.module()

    @torch.inference_mode()
    def run(self, inputs: Sequence[Tensor], outputs: int) -> list[Tensor]:
        """Call the program. Raises ValueError if it does not give this many outputs."""
        result = self._module(*(tensor.to(self.device) for tensor in inputs))
        tensors = _flatten(result)
        if len(tensors) != outputs:
            raise ValueError(f"the program gives {len(tensors)} outputs, its configuration names {outputs}")
        return [tensor.cpu().contiguous() for tensor in tensors]


def _check_sample_inputs(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith("data/sample_inputs/model.pt") and info.file_size:
                torch.load(BytesIO(archive.read(info)), weights_only=True)


def _flatten(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    values = result.values() if isinstance(result, dict) else result
    return [tensor for value in values for tensor in _flatten(value)]

"""The Triton side of `torch-export`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb  # provided by Triton's worker process
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from aifactory_contract.formats.torch_export import PROGRAM
from aifactory_contract.signature import DATA_TYPES
from aifactory_server.device import device_of
from aifactory_server.tensors import TensorModel
from aifactory_server.torch_export.program import Program

_DTYPES = {known.pbtxt: getattr(torch, known.torch) for known in DATA_TYPES.values() if known.torch}


class TritonPythonModel(TensorModel):
    """One loaded model version."""

    what = "the program"

    def load(self, folder: Path, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        """See `TensorModel.load`."""
        self._count = len(config["output"])
        self._program = Program(folder / (config["default_model_filename"] or PROGRAM), device_of(args))

    def compute(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """See `TensorModel.compute`."""
        return self._program.run(inputs, self._count)

    def join(self, arrays: Sequence[Tensor]) -> Tensor:
        """See `TensorModel.join`."""
        return torch.cat(list(arrays))

    def dtype(self, tensor: Mapping[str, Any]) -> torch.dtype:
        """See `TensorModel.dtype`."""
        found = _DTYPES.get(tensor["data_type"])
        if found is None:
            raise ValueError(f"{tensor['name']}: {tensor['data_type']} is no type of a torch program")
        return found

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """See `TensorModel.zeros`."""
        return torch.zeros(list(shape), dtype=dtype)

    def read(self, tensor: Any, dtype: torch.dtype) -> Tensor:
        """See `TensorModel.read`."""
        if dtype is torch.bool:  # Triton's DLPack knows no bool
            return torch.from_numpy(tensor.as_numpy().copy())
        # DLPack shares memory with the server, which takes it back after the call; a copy is ours.
        return from_dlpack(tensor.to_dlpack()).clone()

    def converted(self, output: Tensor, dtype: torch.dtype) -> Tensor:
        """See `TensorModel.converted`."""
        return output.to(dtype)

    def write(self, name: str, output: Tensor) -> Any:
        """See `TensorModel.write`."""
        if output.dtype is torch.bool:
            return pb.Tensor(name, output.numpy())
        return pb.Tensor.from_dlpack(name, output)


torch.set_grad_enabled(False)

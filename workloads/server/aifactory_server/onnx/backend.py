"""The Triton side of `onnxruntime`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb  # provided by Triton's worker process

from aifactory_contract.formats.tritonmodels import MODEL, THREADS
from aifactory_server.onnx.session import Session, raw, texts, threads_of
from aifactory_server.tensors import TensorModel

_STRING = np.dtype(np.object_)
_LENGTH_BYTES = 4
"""Before each string in an answer."""


class TritonPythonModel(TensorModel):
    """One loaded model version."""

    what = "the model"

    def load(self, folder: Path, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        """See `TensorModel.load`."""
        inputs, outputs = ([tensor["name"] for tensor in config[side]] for side in ("input", "output"))
        cpus = int(os.environ.get("OMP_NUM_THREADS") or 1)
        within, between = (threads_of(config, name, default) for name, default in zip(THREADS, (cpus, 1), strict=True))
        file = config["default_model_filename"] or MODEL
        self._session = Session(folder / file, inputs, outputs, within, between)

    def compute(self, inputs: Sequence[Any]) -> list[Any]:
        """See `TensorModel.compute`."""
        return self._session.run(inputs)

    def join(self, arrays: Sequence[Any]) -> Any:
        """See `TensorModel.join`."""
        return np.concatenate(arrays)

    def dtype(self, tensor: Mapping[str, Any]) -> Any:
        """See `TensorModel.dtype`."""
        return np.dtype(pb.triton_string_to_numpy(tensor["data_type"]))

    def zeros(self, shape: Sequence[int], dtype: Any) -> Any:
        """See `TensorModel.zeros`."""
        return np.full(shape, "", dtype) if dtype == _STRING else np.zeros(shape, dtype)

    def read(self, tensor: Any, dtype: Any) -> Any:
        """See `TensorModel.read`."""
        return texts(tensor.as_numpy()) if dtype == _STRING else tensor.as_numpy()

    def converted(self, output: Any, dtype: Any) -> Any:
        """See `TensorModel.converted`."""
        return raw(output) if dtype == _STRING else output.astype(dtype, copy=False)

    def write(self, name: str, output: Any) -> Any:
        """See `TensorModel.write`."""
        return pb.Tensor(name, output)

    def size(self, output: Any) -> int:
        """See `TensorModel.size`."""
        if output.dtype == _STRING:
            return sum(len(one) + _LENGTH_BYTES for one in output.flat)
        return int(output.nbytes)

"""Loading an ONNX file and calling it.

ONNX Runtime runs no code of a model's: its operators are its own, and the library of others that a session may be told
is never told here. It reads the files in which a model says that its tensors are; the agent has seen that they are
the model's own, and so it is seen here again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from aifactory_contract.cgroup import memory_left
from aifactory_contract.formats.onnx import read_onnx
from aifactory_server.room import MORE_MEMORY, check_room

onnxruntime.set_default_logger_severity(3)  # errors; what a load warns of is nothing that a pool's owner can change


class Session:
    """A loaded model; `run` takes and gives arrays in the order of the names.

    Raises FactoryError (a refused file), ValueError (too large), or what ONNX Runtime says.
    """

    def __init__(
        self, path: Path, inputs: Sequence[str], outputs: Sequence[str], threads: int, between: int = 1
    ) -> None:
        """
        Args:
            threads: for one operator.
            between: operators that are computed at the same time.
        """
        with path.open("rb") as stream:
            described = read_onnx(stream, path.stat().st_size, path.name)
        files = [path, *(path.parent / name for name in described.external)]
        for file in files:
            if file.parent != path.parent or file.is_symlink() or not file.is_file():
                raise ValueError(f"{path.name} has tensors in {file.name!r}, which is no file beside it")
        check_room(sum(file.stat().st_size for file in files), memory_left(), MORE_MEMORY)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = between
        if between > 1:
            options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        # Idle threads sleep: the CPUs are shared with other workers and with Triton itself.
        for kind in ("intra_op", "inter_op"):
            options.add_session_config_entry(f"session.{kind}.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._inputs, self._outputs = list(inputs), list(outputs)

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Compute. Raises what ONNX Runtime says, and ValueError for a value that is no tensor."""
        outputs = self._session.run(self._outputs, dict(zip(self._inputs, inputs, strict=True)))
        for name, output in zip(self._outputs, outputs, strict=True):
            if not isinstance(output, np.ndarray):
                raise ValueError(f"output {name} is no tensor")
        return [np.ascontiguousarray(output) for output in outputs]


def threads_of(config: Mapping[str, Any], name: str, default: int) -> int:
    """A number of threads among the parameters of config.pbtxt; 0 there means the default, as in Triton's back end."""
    given = config.get("parameters", {}).get(name, {}).get("string_value", "")
    return (int(given) if given.isdecimal() else 0) or default


def texts(values: Any) -> Any:
    """Strings as ONNX Runtime takes them, of bytes as Triton has them. Raises ValueError if one is not UTF-8."""
    found = [one.decode() if isinstance(one, bytes) else str(one) for one in values.flat]
    return np.array(found, dtype=np.object_).reshape(values.shape)


def raw(values: Any) -> Any:
    """And back."""
    return np.array([str(one).encode() for one in values.flat], dtype=np.object_).reshape(values.shape)

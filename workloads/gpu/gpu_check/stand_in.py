"""What Triton's worker process gives a Python back end, as far as ours use it: `triton_python_backend_utils`.

The back ends are the real ones; only what is on the other side of this module is not Triton.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class Tensor:
    """A named array on the CPU."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name, self._array = name, array

    @classmethod
    def from_dlpack(cls, name: str, tensor: torch.Tensor) -> Tensor:
        return cls(name, tensor.numpy())

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array

    def to_dlpack(self) -> Any:
        return torch.from_numpy(self._array).__dlpack__()


class TritonError(Exception):
    """An error with a code."""

    INVALID_ARG, UNAVAILABLE, INTERNAL = "INVALID_ARG", "UNAVAILABLE", "INTERNAL"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        super().__init__(f"{code}: {message}")


class InferenceResponse:
    """Tensors, or an error."""

    def __init__(self, tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self.error = error
        self.tensors = {tensor.name(): tensor.as_numpy() for tensor in tensors}


class MetricFamily:
    """A metric, found by its name in `made`; of a histogram its value is how often something was observed."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
    made: ClassVar[dict[str, MetricFamily]] = {}
    """Those of the back end that was loaded last."""

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.value = 0
        self.made[name] = self

    def Metric(self, labels: Mapping[str, str], buckets: Sequence[float] = ()) -> MetricFamily:
        return self

    def increment(self, amount: int) -> None:
        self.value += amount

    def observe(self, value: float) -> None:
        self.value += 1

    def set(self, value: int) -> None:
        self.value = value


class Request:
    """A request, and its client's end: when pieces came, what they said, how it ended."""

    def __init__(self, cancel_after: int | None = None, **inputs: Any) -> None:
        self._tensors = {name: Tensor(name, np.asarray(value)) for name, value in inputs.items()}
        self.over = threading.Event()
        self.times: list[float] = []
        self.error: str | None = None
        self.tokens = 0
        self.chosen: list[tuple[int, float]] = []
        """If it asked for log probabilities: each token of the answer, and its own."""
        self._texts: list[bytes] = []
        self._cancel_after = cancel_after

    def inputs(self) -> list[Tensor]:
        return list(self._tensors.values())

    def tensor(self, name: str) -> Tensor | None:
        return self._tensors.get(name)

    def parameters(self) -> str:
        return json.dumps({})

    def timeout(self) -> int:
        return 0

    def get_response_sender(self) -> Request:
        return self

    def is_cancelled(self) -> bool:
        return self._cancel_after is not None and len(self.times) >= self._cancel_after

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        self.times.append(time.monotonic())
        if response is not None and response.error is not None:
            self.error = str(response.error)
        elif response is not None:
            self._texts.append(response.tensors["text_output"][0])
            if "num_output_tokens" in response.tensors:
                self.tokens += int(response.tensors["num_output_tokens"][0])
            for likely in json.loads(response.tensors["logprobs"][0]) if "logprobs" in response.tensors else ():
                token, told = next(iter(likely.items()))  # its own comes first
                self.chosen.append((int(token), told["logprob"]))
        if flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL:
            self.over.set()

    @property
    def text(self) -> str:
        return b"".join(self._texts).decode()


def ask(
    prompt: bytes, max_tokens: int, *, cancel_after: int | None = None, logprobs: bool = False, **more: Any
) -> Request:
    """A request to a language model for the likeliest continuation, as a stream; `more`: sampling parameters."""
    sampling = json.dumps({"max_tokens": max_tokens, "temperature": 0.0, **more}).encode()
    flags = {"stream": [True], "exclude_input_in_output": [True], "return_num_output_tokens": [True]}
    flags |= {"return_logprobs": [True]} if logprobs else {}
    return Request(cancel_after, text_input=[prompt], sampling_parameters=[sampling], **flags)


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    return request.tensor(name)


def back_end(module: str, folder: Path, device: torch.device, config: Mapping[str, Any] | None = None) -> Any:
    """A loaded model of a back end of ours, as Triton would load it.

    Args:
        module: `causal_lm`, `embeddings`, `generate` or `torch_export`.
        folder: the artifact.
    """
    here: Any = ModuleType("triton_python_backend_utils")
    for name in ("Tensor", "TritonError", "InferenceResponse", "MetricFamily", "get_input_tensor_by_name"):
        setattr(here, name, globals()[name])
    here.TRITONSERVER_RESPONSE_COMPLETE_FINAL = TRITONSERVER_RESPONSE_COMPLETE_FINAL
    sys.modules.setdefault("triton_python_backend_utils", here)
    model = importlib.import_module(f"aifactory_server.{module}.backend").TritonPythonModel()
    repository = folder.parent / f"{folder.name}-repository" / "model"
    repository.mkdir(parents=True, exist_ok=True)
    if not (repository / "1").exists():
        (repository / "1").symlink_to(folder.absolute())
    model.initialize(
        {
            "model_repository": str(repository),
            "model_version": "1",
            "model_name": "model",
            "model_instance_kind": "GPU" if device.type == "cuda" else "CPU",
            "model_instance_device_id": str(device.index or 0),
            "model_config": json.dumps({"default_model_filename": "", **(config or {})}),  # as Triton sends it
        }
    )
    return model

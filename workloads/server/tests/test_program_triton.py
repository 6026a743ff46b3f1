"""A Triton model directory with a program of PyTorch's (format `triton`, back end `torch-export`), in a real Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpcclient
from harness import AgentProcess, TritonProcess

from aifactory_agent.artifacts.stores import Mounts
from aifactory_agent.artifacts.transfer import publish
from aifactory_contract.errors import FactoryError
from aifactory_contract.formats import check_directory
from aifactory_contract.formats.pt2 import Tensor, check_pt2, tensors_of
from aifactory_contract.signature import DATA_TYPES
from aifactory_contract.uri import ArtifactUri

PBTXT = """
name: "another's" backend: "torch-export" max_batch_size: 4 default_model_filename: "net.pt2"
input { name: "rows" data_type: TYPE_FP32 dims: [3] }
input { name: "add" data_type: TYPE_INT64 dims: [1] reshape { shape: [] } }
output { name: "sum" data_type: TYPE_FP32 dims: [3] }
output { name: "least" data_type: TYPE_FP32 dims: [1] reshape { shape: [] } }
dynamic_batching { max_queue_delay_microseconds: 1000 }
instance_group { count: 1 kind: KIND_GPU }
"""


class Net(torch.nn.Module):
    """Two inputs, two outputs, and a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, rows: Any, add: Any) -> Any:
        found = rows * self.weight + add[:, None]
        return found, found.amin(1)


def directory(folder: Path) -> Path:
    """A Triton model directory."""
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(PBTXT)
    batch = torch.export.Dim("batch", min=1, max=1024)
    arguments = (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    program = torch.export.export(Net(), arguments, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, folder / "1/net.pt2")
    return folder


def test_it_answers_as_the_program_does(tmp_path: Path) -> None:
    (tmp_path / "claims/models").mkdir(parents=True)
    triton = TritonProcess(tmp_path)
    agent = AgentProcess(triton, tmp_path / "claims")
    artifact = publish(
        directory(tmp_path / "net"), ArtifactUri.parse("pvc://models"), "net", Mounts(tmp_path / "claims")
    )
    assert artifact.format == "triton"
    try:
        triton.start()
        facts = {"uri": artifact.uri, "digest": artifact.digest, "format": artifact.format, "secret": None}
        agent.want({"name": "net", "version": 7, **facts})
        agent.start()
        agent.wait_ready(seconds=90)
        given = [np.array([[1, 1, 1], [0, -2, 1]], np.float32), np.array([[10], [20]], np.int64)]
        inputs = []
        for name, kind, values in zip(("rows", "add"), ("FP32", "INT64"), given, strict=True):
            inputs.append(grpcclient.InferInput(name, list(values.shape), kind))
            inputs[-1].set_data_from_numpy(values)
        with grpcclient.InferenceServerClient(triton.grpc) as client:
            result = client.infer("net", inputs, model_version="7")
            config = client.get_model_config("net", as_json=True)["config"]
    finally:
        agent.kill()
        triton.kill()
    np.testing.assert_array_equal(result.as_numpy("sum"), [[11, 12, 13], [20, 16, 23]])
    np.testing.assert_array_equal(result.as_numpy("least"), [[11], [16]])
    assert (config["name"], config["backend"]) == ("net", "torch-export")
    assert [group["kind"] for group in config["instance_group"]] == ["KIND_CPU"], "here is no GPU"


def test_what_the_program_takes_is_read_from_it(tmp_path: Path) -> None:
    """By torch itself: types and sizes as its exports have them."""
    kinds = {name: getattr(torch, kind.torch) for name, kind in DATA_TYPES.items() if kind.torch}

    class Same(torch.nn.Module):
        def forward(self, *given: Any) -> Any:
            return tuple(one.clone() for one in given)

    arguments = tuple(torch.zeros(2, 5, dtype=kind) for kind in kinds.values())
    free = {0: torch.export.Dim("rows", min=1, max=64)}
    torch.export.save(
        torch.export.export(Same(), arguments, dynamic_shapes=(tuple(free for _ in arguments),)), tmp_path / "p.pt2"
    )
    with (tmp_path / "p.pt2").open("rb") as stream:
        inputs, outputs = tensors_of(check_pt2(stream))
    assert inputs == outputs == [Tensor(name, (-1, 5)) for name in kinds]


def test_a_config_of_another_program_is_told(tmp_path: Path) -> None:
    folder = directory(tmp_path / "net")
    (folder / "config.pbtxt").write_text(PBTXT.replace('input { name: "add"', 'output { name: "add"'))
    with pytest.raises(FactoryError, match=r"there are 1 of input, and the program in 1/net.pt2 has 2, in this order"):
        check_directory(folder, "triton")

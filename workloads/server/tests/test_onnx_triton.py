"""Back end `onnxruntime` in a real Triton: models in ONNX out of Triton model directories, by the calls of clients."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpcclient
from harness import AgentProcess, TritonProcess, http, wait_for
from onnx import TensorProto, helper, numpy_helper
from tritonclient.utils import InferenceServerException

from aifactory_agent.artifacts.stores import Mounts
from aifactory_agent.artifacts.transfer import publish
from aifactory_contract.control import probe_sign
from aifactory_contract.names import PROBE_PARAMETER
from aifactory_contract.uri import ArtifactUri

OPSET = [helper.make_opsetid("", 21)]
TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
VALUES: dict[str, Any] = {
    "BOOL": np.array([[True, False, True]]),
    "UINT8": np.array([[0, 7, 255]], np.uint8),
    "INT64": np.array([[-(2**62), 0, 5]], np.int64),
    "FP16": np.array([[0.5, -2, 65504]], np.float16),
    "FP64": np.array([[1e-300, 0, 2]], np.float64),
    "BYTES": np.array([["ä".encode(), b"", b"long enough to be no small string" * 9]], np.object_),
}


def save(folder: Path, pbtxt: str, graph: Any, **options: Any) -> Path:
    """A Triton model directory."""
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(pbtxt)
    model = helper.make_model(graph, opset_imports=OPSET, ir_version=10)
    onnx.checker.check_model(model)
    onnx.save_model(model, str(folder / "1/model.onnx"), **options)
    return folder


def linear(folder: Path) -> Path:
    """y = x W, of rows of four, with the weights in a file of their own; W is 1, 2, 3 ..."""
    weights = numpy_helper.from_array(np.arange(1, 13, dtype=np.float32).reshape(4, 3), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "linear", [x], [y], [weights])
    pbtxt = """
      name: "somebody's" platform: "onnxruntime_onnx" max_batch_size: 8
      input { name: "x" data_type: TYPE_FP32 dims: [4] }
      output { name: "y" data_type: TYPE_FP32 dims: [3] }
      dynamic_batching { max_queue_delay_microseconds: 100000 }
      parameters { key: "intra_op_thread_count" value { string_value: "1" } }
    """
    outside = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    return save(folder, pbtxt, graph, **outside)


def lookup(folder: Path) -> Path:
    """One row of a table for each number: what is out of its range can not be computed."""
    table = numpy_helper.from_array(np.array([[0, 1], [10, 11], [20, 21]], np.float32), "table")
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["batch"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph([helper.make_node("Gather", ["table", "x"], ["y"])], "lookup", [x], [y], [table])
    pbtxt = """
      backend: "onnxruntime" max_batch_size: 8
      input { name: "x" data_type: TYPE_INT64 dims: [1] reshape { shape: [] } }
      output { name: "y" data_type: TYPE_FP32 dims: [2] }
      dynamic_batching { max_queue_delay_microseconds: 300000 preferred_batch_size: [3] }
    """
    return save(folder, pbtxt, graph)


def echo(folder: Path) -> Path:
    """Gives back what it takes, of each type, with no batch and any size."""
    inputs, outputs = (
        [helper.make_tensor_value_info(f"{side}_{name}", kind, ["rows", "size"]) for name, kind in TYPES.items()]
        for side in ("in", "out")
    )
    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in TYPES]
    pbtxt = 'backend: "onnxruntime" instance_group { count: 2 }\n'
    for side, field in (("in", "input"), ("out", "output")):
        for name in TYPES:
            kind = "STRING" if name == "BYTES" else name
            pbtxt += f'{field} {{ name: "{side}_{name}" data_type: TYPE_{kind} dims: [-1, -1] }}\n'
    return save(folder, pbtxt, helper.make_graph(nodes, "echo", inputs, outputs))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TritonProcess, AgentProcess]]:
    root = tmp_path_factory.mktemp("serving")
    (root / "claims/models").mkdir(parents=True)
    triton = TritonProcess(root)
    agent = AgentProcess(triton, root / "claims")
    try:
        triton.start()
        agent.want(*(entry(agent, make(root / make.__name__), make.__name__) for make in (linear, lookup, echo)))
        agent.start()
        agent.wait_ready(seconds=90)
        yield triton, agent
    finally:
        agent.kill()
        triton.kill()


def entry(agent: AgentProcess, folder: Path, name: str, version: int = 1) -> dict[str, Any]:
    artifact = publish(folder, ArtifactUri.parse("pvc://models"), name, Mounts(agent.claims))
    found = {"name": name, "version": version, "uri": artifact.uri, "digest": artifact.digest}
    return {**found, "format": artifact.format, "secret": None}


@pytest.fixture
def triton(serving: tuple[TritonProcess, AgentProcess]) -> TritonProcess:
    return serving[0]


def tensor(name: str, values: Any, kind: str) -> Any:
    given = grpcclient.InferInput(name, list(values.shape), kind)
    given.set_data_from_numpy(values)
    return given


def ask(triton: TritonProcess, model: str, *inputs: Any, **more: Any) -> Any:
    with grpcclient.InferenceServerClient(triton.grpc) as client:
        return client.infer(model, list(inputs), **more)


def at_once(triton: TritonProcess, model: str, inputs: list[Any]) -> list[Any]:
    """The answers, or errors, of requests that are sent without waiting for one another."""
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    with grpcclient.InferenceServerClient(triton.grpc) as client:
        for number, one in enumerate(inputs):
            client.async_infer(model, [one], lambda result, error, n=number: done.put((n, error or result)))
        return [outcome for _, outcome in sorted((done.get(timeout=30) for _ in inputs), key=lambda pair: pair[0])]


def test_a_model_with_its_weights_beside_it_answers_over_http(triton: TritonProcess) -> None:
    data = [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": [1, 0, 0, 0, 0, 0, 0, 2]}]
    code, text = http(f"{triton.url}/v2/models/linear/infer", {"inputs": data})
    assert code == 200, text
    answer = json.loads(text)
    assert answer["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [2, 3], "data": [1.0, 2.0, 3.0, 20.0, 22.0, 24.0]}
    ]
    assert (answer["model_name"], answer["model_version"]) == ("linear", "1")


def test_every_type_goes_in_and_out(triton: TritonProcess) -> None:
    result = ask(triton, "echo", *(tensor(f"in_{name}", values, name) for name, values in VALUES.items()))
    for name, values in VALUES.items():
        got = result.as_numpy(f"out_{name}")
        assert got.dtype == values.dtype
        np.testing.assert_array_equal(got, values)


def test_a_text_that_is_none_is_that_request_s_error(triton: TritonProcess) -> None:
    values = {**VALUES, "BYTES": np.array([[b"\xff", b"", b""]], np.object_)}
    with pytest.raises(InferenceServerException, match="the model failed: 'utf-8' codec can't decode"):
        ask(triton, "echo", *(tensor(f"in_{name}", value, name) for name, value in values.items()))


def test_requests_that_wait_are_computed_together(triton: TritonProcess) -> None:
    def counts() -> list[float]:
        return [triton.metric(name, model="linear") for name in ("nv_inference_count", "nv_inference_exec_count")]

    before = counts()
    rows = [np.full((1, 4), number, np.float32) for number in range(8)]
    results = at_once(triton, "linear", [tensor("x", row, "FP32") for row in rows])
    for row, result in zip(rows, results, strict=True):
        np.testing.assert_allclose(result.as_numpy("y"), row @ np.arange(1, 13, dtype=np.float32).reshape(4, 3))
    wait_for("they are counted", lambda: counts()[0] - before[0] >= 8)
    assert counts()[1] - before[1] < 8


def test_what_can_not_be_computed_fails_alone(triton: TritonProcess) -> None:
    """Three requests are one batch, and one of them is bad."""
    inputs = [tensor("x", np.array([[number]], np.int64), "INT64") for number in (1, 7, 2)]
    first, bad, last = at_once(triton, "lookup", inputs)
    np.testing.assert_array_equal(first.as_numpy("y"), [[10, 11]])
    np.testing.assert_array_equal(last.as_numpy("y"), [[20, 21]])
    assert isinstance(bad, InferenceServerException)
    assert "the model failed: " in bad.message()
    assert "idx=7 must be within the inclusive range [-3,2]" in bad.message()


def test_the_agent_s_requests_are_counted_apart(triton: TritonProcess) -> None:
    def probes() -> float:
        return triton.metric("aifactory_probe_requests_total", model="lookup", version="1")

    before = probes()
    x = tensor("x", np.array([[1]], np.int64), "INT64")
    ask(triton, "lookup", x, parameters={PROBE_PARAMETER: probe_sign(triton.repository)})
    wait_for("one more", lambda: probes() >= before + 1, 20)


def test_what_triton_is_told_is_what_was_understood(triton: TritonProcess) -> None:
    with grpcclient.InferenceServerClient(triton.grpc) as client:
        config = client.get_model_config("linear", as_json=True)["config"]
        both = client.get_model_config("echo", as_json=True)["config"]
    assert (config["name"], config["backend"], config["max_batch_size"]) == ("linear", "onnxruntime", 8)
    assert config["version_policy"] == {"specific": {"versions": ["1"]}}
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == "100000"
    assert [(group["count"], group["kind"]) for group in both["instance_group"]] == [(2, "KIND_CPU")]


def test_a_model_that_can_not_be_loaded_is_told_in_the_runtime_s_words(
    serving: tuple[TritonProcess, AgentProcess], tmp_path: Path
) -> None:
    """What only ONNX Runtime sees, an operator that it does not know; the others serve on."""
    triton, agent = serving
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    node = helper.make_node("Unheard", ["x"], ["y"], domain="com.microsoft")
    graph = helper.make_graph([node], "g", [x], [y])
    (tmp_path / "model/1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[*OPSET, helper.make_opsetid("com.microsoft", 1)], ir_version=10)
    (tmp_path / "model/1/model.onnx").write_bytes(model.SerializeToString())
    sides = (
        f'{side} {{ name: "{name}" data_type: TYPE_FP32 dims: [4] }}'
        for side, name in zip(("input", "output"), "xy", strict=True)
    )
    (tmp_path / "model/config.pbtxt").write_text(f'backend: "onnxruntime" max_batch_size: 4 {" ".join(sides)}')
    before = agent.desired.read_text()
    agent.want(*json.loads(before)["models"], entry(agent, tmp_path / "model", "broken"), revision="broken")
    try:
        failed = agent.wait_state("broken", 1, "Failed")
        assert failed["reason"] == "LoadFailed"
        assert "Unheard" in failed["message"]
    finally:
        agent.write(before)
    agent.wait_ready()
    assert ask(triton, "linear", tensor("x", np.zeros((1, 4), np.float32), "FP32")).as_numpy("y").shape == (1, 3)

"""Artifacts for tests, written without torch."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from aifactory_contract.bytelevel import CHARACTERS


def write_safetensors(path: Path, values: bytes = b"\0" * 12) -> None:
    """A whole safetensors file with one tensor, written by its specification."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + values)


def write_model(folder: Path, **config: Any) -> Path:
    """A huggingface artifact whose tokens are bytes; different configs make different digests."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["Qwen3ForCausalLM"], "vocab_size": 257, **config})
    )
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    return folder


def tokenizer() -> dict[str, Any]:
    """A tokenizer.json that makes a token of every byte."""
    vocabulary = {character: byte for byte, character in enumerate(CHARACTERS)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"pre_tokenizer": level, "decoder": level, "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}


PBTXT = """
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [4] }
output { name: "y" data_type: TYPE_FP32 dims: [4] }
dynamic_batching { }
"""
FLOAT = 1
"""As TensorProto.DataType has it."""


def proto(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A protobuf message: its fields by number, whole numbers or bytes."""
    written = b""
    for number, value in fields:
        if isinstance(value, int):
            written += _varint(number << 3) + _varint(value)
        else:
            raw = value.encode() if isinstance(value, str) else value
            written += _varint(number << 3 | 2) + _varint(len(raw)) + raw
    return written


def _varint(value: int) -> bytes:
    head = b""
    while value > 0x7F:
        head += bytes([value & 0x7F | 0x80])
        value >>= 7
    return head + bytes([value])


def onnx_value(name: str, kind: int = FLOAT, dims: tuple[int | str, ...] = ("batch", 4)) -> bytes:
    """An input or output of a graph (ValueInfoProto)."""
    shape = proto(*((1, proto((1, dim) if isinstance(dim, int) else (2, dim))) for dim in dims))
    return proto((1, name), (2, proto((1, proto((1, kind), (2, shape))))))


def onnx_node(operator: str, inputs: tuple[str, ...], output: str, *more: tuple[int, int | str | bytes]) -> bytes:
    """An operator of a graph (NodeProto)."""
    return proto(*((1, name) for name in inputs), (2, output), (4, operator), *more)


def onnx_model(*graph: tuple[int, int | str | bytes], more: bytes = b"") -> bytes:
    """An ONNX file with these fields of its graph; without any it computes y = x + x, rows of four numbers."""
    plain = ((1, onnx_node("Add", ("x", "x"), "y")), (11, onnx_value("x")), (12, onnx_value("y")))
    return proto((1, 8), (7, proto((2, "graph"), *(graph or plain))), (8, proto((1, ""), (2, 17)))) + more


def write_triton(folder: Path, pbtxt: str = PBTXT, model: bytes | None = None) -> Path:
    """A triton artifact: a Triton model directory with a model in ONNX."""
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(pbtxt)
    (folder / "1/model.onnx").write_bytes(onnx_model() if model is None else model)
    return folder


PROGRAM_PBTXT = """
backend: "torch-export"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [4] }
output { name: "y" data_type: TYPE_FP32 dims: [4] }
"""
_PT2_FLOAT = 7
"""As torch's ScalarType has it."""


def pt2_tensor(kind: int = _PT2_FLOAT, dims: tuple[int | str, ...] = ("s0", 4)) -> dict[str, Any]:
    """A tensor of a program's graph."""
    sizes = [{"as_int": dim} if isinstance(dim, int) else {"as_expr": {"expr_str": dim}} for dim in dims]
    return {"dtype": kind, "sizes": sizes}


def write_program(path: Path, inputs: list[Any] | None = None, outputs: list[Any] | None = None) -> None:
    """An archive as torch.export.save writes it, of a program that computes nothing; None: rows of four numbers."""
    sides: dict[str, list[Any]] = {"input": inputs or [pt2_tensor()], "output": outputs or [pt2_tensor()]}
    signature: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for side, tensors in sides.items():
        arguments = [{"as_tensor": {"name": f"{side}_{number}"}} for number in range(len(tensors))]
        signature[f"{side}_specs"] = [{f"user_{side}": {"arg": one}} for one in arguments]
        values |= {f"{side}_{number}": one for number, one in enumerate(tensors)}
    signature["input_specs"].insert(0, {"parameter": {"arg": {"name": "w"}, "parameter_name": "w"}})
    program = {"graph_module": {"graph": {"nodes": [], "tensor_values": values}, "signature": signature}}
    with zipfile.ZipFile(path, "w") as archive:
        for kind in ("weights", "constants"):
            archive.writestr(f"model/data/{kind}/model_{kind}_config.json", json.dumps({"config": {}}))
        archive.writestr("model/models/model.json", json.dumps(program))
        archive.writestr("model/data/sample_inputs/model.pt", b"")


def write_triton_program(folder: Path, pbtxt: str = PROGRAM_PBTXT, **tensors: list[Any]) -> Path:
    """A triton artifact: a Triton model directory with a program of PyTorch's."""
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(pbtxt)
    write_program(folder / "1/model.pt2", **tensors)
    return folder

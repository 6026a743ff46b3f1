"""Format `triton`: a Triton model directory with a model in ONNX or a program, and what config.pbtxt may ask for."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import (
    FLOAT,
    PBTXT,
    PROGRAM_PBTXT,
    onnx_model,
    onnx_node,
    onnx_value,
    proto,
    pt2_tensor,
    write_program,
    write_triton,
    write_triton_program,
)

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import TRITON, check_directory, metrics_of, pbtxt
from aifactory_contract.formats.onnx import Onnx, Tensor, read_onnx
from aifactory_contract.formats.tritonmodels import BACKENDS
from aifactory_contract.server import ANY, OURS, Server
from aifactory_contract.signature import Signature, TensorSpec

OUTSIDE = proto((8, "w"), (2, FLOAT), (13, proto((1, "location"), (2, "w.bin"))), (14, 1))
"""A tensor in another file."""


def refused(folder: Path, words: str, reason: Reason = Reason.INVALID_ARTIFACT, form: str = "triton") -> None:
    with pytest.raises(FactoryError) as caught:
        check_directory(folder, form)
    assert words in caught.value.message
    assert caught.value.reason is reason


def served(text: str) -> Any:
    return TRITON.serving(TRITON.parse(text.encode()))


def test_a_model_directory_is_served_as_its_config_says(tmp_path: Path) -> None:
    write_triton(tmp_path)
    (tmp_path / "README.md").write_text("how it was made")
    (tmp_path / ".gitattributes").write_text("hidden")
    found = check_directory(tmp_path)
    assert found.format == "triton"
    serving = TRITON.serving(found.config)
    assert serving.backend == "onnxruntime"
    row = (4,)
    assert serving.signature == Signature((TensorSpec("x", "FP32", row),), (TensorSpec("y", "FP32", row),), 8)


def test_name_version_and_place_are_the_version_s() -> None:
    text = served(f'name: "x" version_policy {{ all {{ }} }} default_model_filename: "a.onnx" {PBTXT}').pbtxt
    assert 'name: "x"\nversion' not in text
    assert "version_policy" not in text
    assert "backend" not in text
    assert 'default_model_filename: "a.onnx"' in text
    assert "dynamic_batching {\n}" in text
    assert text.count("instance_group {\n  kind: KIND_CPU\n}") == 1
    assert TRITON.place("17/model.onnx") == "model.onnx"
    assert TRITON.place("config.pbtxt") == "config.pbtxt"


def test_instances_and_threads_are_kept() -> None:
    more = """
      platform: "onnxruntime_onnx"
      instance_group [ { count: 2 }, { count: 1, kind: KIND_CPU } ];
      parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
    """
    text = served(PBTXT + more).pbtxt
    assert "instance_group {\n  count: 2\n  kind: KIND_CPU\n}\n" in text
    assert 'parameters {\n  key: "intra_op_thread_count"\n  value {\n    string_value: "2"\n  }\n}\n' in text


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("input { name", "config.pbtxt is not in protobuf's text format: line 7: it ends too soon"),
        ("max_batch_size: 4", "config.pbtxt: max_batch_size is there 2 times; write it once"),
        ("optimization { cuda { graphs: true } }", "config.pbtxt: optimization is not known here"),
        ('model_operations { op_library_filename: "x.so" }', "config.pbtxt: model_operations is not known here"),
        ('parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/x" } }', "some would run code; remove it"),
        ('parameters { key: "intra_op_thread_count" value { string_value: "$" } }', "must be a number of threads"),
        ("instance_group { kind: KIND_GPU }", "instance_group.kind is KIND_GPU, and onnxruntime computes on CPUs"),
        ("instance_group { gpus: [0] }", "instance_group.gpus is not known here (known: name, count, kind)"),
        ("model_transaction_policy { decoupled: true }", "gives one answer to a request"),
        ('default_model_filename: "../x"', "default_model_filename '../x' is no name of a file"),
        ("default_model_filename: x", "default_model_filename must be a text in quotes"),
        ('input { name: "z" dims: [1] }', "input z: data_type is missing; write one of TYPE_BOOL"),
        ('input { name: "z" data_type: TYPE_BF16 dims: [1] }', "input z: data_type TYPE_BF16; write one of"),
        ('input { name: "z" data_type: TYPE_FP32 }', "input z has no dims"),
        ('input { name: "z" data_type: TYPE_FP32 dims: [0] }', "input.dims must be a number above 0, or -1"),
        ('input { name: "z" data_type: TYPE_FP32 dims: [99999, 99999] }', "are more than 268435456 elements"),
        ('input { name: "x" data_type: TYPE_FP32 dims: [1] }', "an input has the name of another, 'x'"),
        ('input { name: "z" optional: true }', "input.optional is not known here"),
        ("input: 5", "config.pbtxt: input must be a message in braces"),
        ("dynamic_batching_: {}", "config.pbtxt: dynamic_batching_ is not known here"),
    ],
)
def test_what_is_wrong_in_config_pbtxt_is_told_by_its_field(tmp_path: Path, more: str, words: str) -> None:
    refused(write_triton(tmp_path, PBTXT + more), words)


_HAS = "The image has onnxruntime (a model in ONNX) and torch-export (a program by torch.export.save)"


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (
            "python",
            "python runs Python of the model's own, which is never run here: save the model in ONNX or",
        ),
        ("ensemble", "ensemble puts several models together, and a pool has one: make one model in ONNX of them"),
        ("pytorch_libtorch", "loads TorchScript or compiled code, which may do anything: save it by torch.export.save"),
        ("vllm", "is an engine for language models, which are not served in this format: publish the model's own"),
        ("tensorrt_plan", "tensorrt_plan is not in the image: save the model in ONNX, or choose another format"),
    ],
)
def test_another_back_end_is_unservable_whatever_else_is_there(tmp_path: Path, backend: str, words: str) -> None:
    text = f'platform: "{backend}" ensemble_scheduling {{ step [ {{ model_name: "a" }} ] }}'
    refused(write_triton(tmp_path, text), words, Reason.UNSERVABLE)
    refused(tmp_path, _HAS, Reason.UNSERVABLE)


def test_what_is_served_is_what_the_image_has() -> None:
    assert {one.name for one in BACKENDS} <= set(OURS)


def test_no_back_end(tmp_path: Path) -> None:
    refused(write_triton(tmp_path, "max_batch_size: 8"), 'names no backend; write backend: "onnxruntime"')
    two = 'backend: "torch-export" platform: "onnxruntime_onnx"'
    refused(write_triton(tmp_path, two), "backend is torch-export and platform is onnxruntime_onnx")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("1/model.py", "1/model.py is Python, and code of a model is never run here"),
        ("1/weights.pt", "may be a pickle, which runs code when loaded; save the weights as 1/model.onnx"),
        ("1/libx.so", "1/libx.so is no part of a triton artifact"),
        ("1/deep/model.onnx", "1/deep/model.onnx is no part of a triton artifact"),
        ("2/model.onnx", "there are 1/, 2/: a ModelVersion is one version; keep one"),
        ("1/left-over.bin", "1/left-over.bin is no part of the model (1/model.onnx does not name it); remove it"),
        ("1/config.pbtxt", "1/config.pbtxt has the name of a file outside"),
        ("configs/b200.pbtxt", "configs/b200.pbtxt is no part of a triton artifact"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, path: str, words: str) -> None:
    write_triton(tmp_path)
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text("x")
    refused(tmp_path, words)


def test_files_that_are_missing_are_told(tmp_path: Path) -> None:
    write_triton(tmp_path)
    (tmp_path / "1/model.onnx").rename(tmp_path / "1/other.onnx")
    refused(tmp_path, "1/model.onnx is missing (found: 1/other.onnx, config.pbtxt), the model; another name of it is")
    (tmp_path / "config.pbtxt").write_text(PBTXT + 'default_model_filename: "other.onnx"')
    assert check_directory(tmp_path).format == "triton"
    refused(tmp_path, "this is a Triton model directory, format triton", form="huggingface")
    (tmp_path / "config.pbtxt").unlink()
    refused(tmp_path, "config.pbtxt is missing")


def test_metrics_come_from_a_config_json_beside_it(tmp_path: Path) -> None:
    write_triton(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"metrics": {"accuracy": 0.9}}))
    assert metrics_of(check_directory(tmp_path).config) == {"accuracy": 0.9}


def test_where_the_pod_has_no_such_back_end_or_an_engine_is_wished() -> None:
    config = TRITON.parse(PBTXT.encode())
    for wish, server, words in (
        ("vllm", ANY, "this is of format triton: leave runtime.engine out"),
        ("auto", Server(frozenset({"vllm"})), "no back end onnxruntime (it has vllm): give container triton the image"),
    ):
        with pytest.raises(FactoryError) as caught:
            TRITON.serving(config, wish, server)
        assert words in caught.value.message
        assert caught.value.reason is Reason.UNSERVABLE


# --- the model ---


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (
            ("FP32 dims: [4] }\noutput", "FP32 dims: [5] }\noutput"),
            "input x has dims [5], but [4] without the batch in",
        ),
        (("FP32 dims: [4] }\noutput", "FP32 dims: [-1] }\noutput"), "input x has dims [-1], but [4] without the batch"),
        (("FP32 dims: [4] }\noutput", "FP32 dims: [4, 1] }\noutput"), "input x has dims [4, 1], but [4]"),
        (("FP32 dims: [4] }\noutput", "FP16 dims: [4] }\noutput"), "input x has TYPE_FP16, but it is FP32 in 1/model"),
        (('name: "x"', 'name: "z"'), "input 'z' is none of 1/model.onnx, which has x"),
        (('output { name: "y" data_type: TYPE_FP32 dims: [4] }', ""), "output y of 1/model.onnx is not in it; write"),
        (
            ('input { name: "x" data_type: TYPE_FP32 dims: [4] }', ""),
            'input x of 1/model.onnx is not in it; write input { name: "x" data_type: TYPE_FP32 dims: [4] }',
        ),
        (("max_batch_size: 8", "max_batch_size: 0"), "input x has dims [4], but [-1, 4] in 1/model.onnx"),
    ],
)
def test_a_config_that_is_not_the_model_s_is_told(tmp_path: Path, pair: tuple[str, str], words: str) -> None:
    assert pair[0] in PBTXT
    refused(write_triton(tmp_path, PBTXT.replace(*pair)), words)


def test_a_model_without_a_free_first_dimension_is_not_batched(tmp_path: Path) -> None:
    graph = ((1, onnx_node("Add", ("x", "x"), "y")), (11, onnx_value("x", dims=(1, 4))), (12, onnx_value("y")))
    write_triton(tmp_path, model=onnx_model(*graph))
    refused(tmp_path, "max_batch_size is not 0, but input x of 1/model.onnx has the shape [1, 4]: export it with")


def test_reshape_says_what_the_model_sees(tmp_path: Path) -> None:
    plain = 'backend: "onnxruntime" input { name: "x" data_type: TYPE_FP32 dims: [4] reshape { shape: [1, 4] } } '
    write_triton(tmp_path, plain + 'output { name: "y" data_type: TYPE_FP32 dims: [-1, 4] }')
    assert check_directory(tmp_path).format == "triton"
    assert "reshape {\n    shape: 1\n    shape: 4\n  }" in TRITON.serving(check_directory(tmp_path).config).pbtxt


def test_an_output_that_is_no_tensor_is_told_with_the_way_out(tmp_path: Path) -> None:
    sequence = proto((1, "y"), (2, proto((4, proto((1, proto((5, b""))))))))
    graph = ((1, onnx_node("ZipMap", ("x",), "y", (7, "ai.onnx.ml"))), (11, onnx_value("x")), (12, sequence))
    write_triton(tmp_path, model=onnx_model(*graph))
    refused(
        tmp_path, "1/model.onnx: output y is a sequence, for which Triton has no type; export it otherwise (skl2onnx"
    )


def read(raw: bytes) -> Onnx:
    return read_onnx(io.BytesIO(raw), len(raw), "model.onnx")


def test_an_onnx_file_is_read_without_its_weights() -> None:
    weights = proto((1, 4), (2, FLOAT), (8, "w"), (9, b"\0" * 16))
    graph = [
        (1, onnx_node("Add", ("x", "w"), "y")),
        (5, weights),
        (11, onnx_value("x", dims=())),
        (12, onnx_value("y")),
    ]
    found = read(onnx_model(*graph, (11, onnx_value("w", dims=(4,)))))
    assert found.inputs == {"x": Tensor("FP32", ())}, "what has a value is no input"
    assert found.outputs == {"y": Tensor("FP32", (-1, 4))}
    assert found.external == {}


@pytest.mark.parametrize("where", ["initializer", "attribute", "subgraph", "function", "sparse"])
def test_files_of_tensors_are_found_wherever_the_model_names_them(tmp_path: Path, where: str) -> None:
    inner: dict[str, tuple[tuple[int, bytes], ...]] = {
        "initializer": ((5, OUTSIDE),),
        "attribute": ((1, onnx_node("Constant", (), "c", (5, proto((1, "value"), (5, OUTSIDE))))),),
        "subgraph": ((1, onnx_node("If", ("b",), "c", (5, proto((1, "then"), (6, proto((5, OUTSIDE))))))),),
        "function": (),
        "sparse": ((15, proto((1, OUTSIDE))),),
    }
    body = onnx_node("Constant", (), "c", (5, proto((1, "value"), (5, OUTSIDE))))
    more = proto((25, proto((1, "f"), (7, body)))) if where == "function" else b""
    plain = ((1, onnx_node("Add", ("x", "x"), "y")), (11, onnx_value("x")), (12, onnx_value("y")))
    write_triton(tmp_path, model=onnx_model(*plain, *inner[where], more=more))
    refused(tmp_path, "1/model.onnx has tensors in 'w.bin', which is no file beside it in 1/; bring it along")
    (tmp_path / "1/w.bin").write_bytes(b"\0" * 16)
    assert check_directory(tmp_path).format == "triton"


@pytest.mark.parametrize("name", ["../config.pbtxt", "/etc/passwd", "w/x", "", ".", "*/_ORT_MEM_ADDR_/*"])
def test_files_of_tensors_are_beside_the_model(tmp_path: Path, name: str) -> None:
    tensor = proto((8, "w"), (13, proto((1, "location"), (2, name))))
    plain = ((1, onnx_node("Add", ("x", "x"), "y")), (11, onnx_value("x")), (12, onnx_value("y")))
    write_triton(tmp_path, model=onnx_model(*plain, (5, tensor)))
    refused(tmp_path, f"1/model.onnx has tensors in {name!r}, which is no file beside it")


def test_a_file_of_tensors_that_is_cut_short_is_told(tmp_path: Path) -> None:
    place = [(13, proto((1, key), (2, value))) for key, value in (("offset", "8"), ("length", "8"))]
    plain = ((1, onnx_node("Add", ("x", "x"), "y")), (11, onnx_value("x")), (12, onnx_value("y")))
    write_triton(tmp_path, model=onnx_model(*plain, (5, OUTSIDE + proto(*place))))
    (tmp_path / "1/w.bin").write_bytes(b"\0" * 15)
    refused(tmp_path, "1/w.bin has 15 bytes, 1/model.onnx wants 16: was the copy cut short?")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is no ONNX model that can be served: at byte 1 is no field"),
        (b"", "it has no graph with an output"),
        (onnx_model()[:-20], "model.onnx is not whole"),
        (proto((7, 5)), "it has no graph with an output"),
        (b"\xff" * 40, "is no number of a protobuf message"),
        (onnx_model((12, onnx_value("y" * 5000))), "it has a name of 5000 bytes"),
    ],
)
def test_what_is_no_model_is_told(raw: bytes, words: str) -> None:
    with pytest.raises(FactoryError) as caught:
        read(raw)
    assert words in caught.value.message


def test_operators_of_a_library_beside_onnx_runtime_are_refused() -> None:
    node = onnx_node("Mine", ("x",), "y", (7, "com.example"))
    graph = ((1, node), (11, onnx_value("x")), (12, onnx_value("y")))
    with pytest.raises(FactoryError, match=r"operators of 'com\.example', which are in a library of code"):
        read(onnx_model(*graph))
    own = proto((25, proto((1, "Mine"), (10, "com.example"), (7, onnx_node("Add", ("x", "x"), "y")))))
    assert read(onnx_model(*graph, more=own)).outputs, "the model brings them, as a function of ONNX's own operators"


@given(st.binary(max_size=200), st.integers(0, 150))
@settings(max_examples=300, deadline=None)
def test_whatever_bytes_come_they_are_read_or_refused(noise: bytes, at: int) -> None:
    whole = onnx_model()
    for raw in (noise, whole[:at] + noise + whole[at:], whole[:at] + noise):
        with suppress(FactoryError):
            assert read(raw).outputs


# --- a program of PyTorch's ---


def test_a_program_is_served_as_its_config_says(tmp_path: Path) -> None:
    found = check_directory(write_triton_program(tmp_path))
    serving = TRITON.serving(found.config)
    assert (found.format, serving.backend) == ("triton", "torch-export")
    assert serving.signature == Signature((TensorSpec("x", "FP32", (4,)),), (TensorSpec("y", "FP32", (4,)),), 8)
    assert "instance_group {\n  kind: KIND_AUTO\n}" in serving.pbtxt


@pytest.mark.parametrize(
    ("given", "told"), [("KIND_GPU", "KIND_AUTO"), ("KIND_CPU", "KIND_CPU"), ("KIND_AUTO", "KIND_AUTO")]
)
def test_a_program_is_on_gpus_where_there_are_any(given: str, told: str) -> None:
    text = served(f"{PROGRAM_PBTXT} instance_group {{ count: 2 kind: {given} }}").pbtxt
    assert f"instance_group {{\n  count: 2\n  kind: {told}\n}}" in text


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"inputs": [pt2_tensor(dims=("s0", 5))]}, "input x has dims [4], but [5] without the batch in 1/model.pt2"),
        ({"inputs": [pt2_tensor(kind=5)]}, "input x has TYPE_FP32, but it is INT64 in 1/model.pt2: write TYPE_INT64"),
        ({"outputs": [pt2_tensor(dims=(1, 4))]}, "but output y of 1/model.pt2 has the shape [1, 4]: export it with"),
        ({"outputs": [pt2_tensor(kind=10)]}, "output y is of PyTorch's type 10, for which Triton has no type"),
        (
            {"inputs": [pt2_tensor(), pt2_tensor(kind=12, dims=("s0",))]},
            'there are 1 of input, and the program in 1/model.pt2 has 2, in this order: write input { name: "x" '
            'data_type: TYPE_FP32 dims: [4] }; input { name: "input_1" data_type: TYPE_BOOL dims: [] }',
        ),
    ],
)
def test_a_config_that_is_not_the_program_s_is_told(tmp_path: Path, tensors: Any, words: str) -> None:
    refused(write_triton_program(tmp_path, **tensors), words)


def test_a_program_is_looked_into_and_alone(tmp_path: Path) -> None:
    write_triton_program(tmp_path, PROGRAM_PBTXT + 'default_model_filename: "p.pt2"')
    refused(tmp_path, "1/p.pt2 is missing (found: 1/model.pt2, config.pbtxt), the model; another name of it is")
    write_program(tmp_path / "1/p.pt2")
    refused(tmp_path, "1/model.pt2 is no part of the model (1/p.pt2 does not name it); remove it")
    (tmp_path / "1/model.pt2").unlink()
    assert check_directory(tmp_path).format == "triton"
    (tmp_path / "1/p.pt2").write_bytes(b"PK")
    refused(tmp_path, "model.pt2 is refused: it is not a whole zip archive")
    with zipfile.ZipFile(tmp_path / "1/p.pt2", "w") as archive:
        archive.writestr("model/data/aotinductor/model/x.so", b"")
    refused(tmp_path, "compiled code is not accepted")


def test_parameters_of_a_program_are_refused(tmp_path: Path) -> None:
    more = 'parameters { key: "intra_op_thread_count" value { string_value: "2" } }'
    refused(write_triton_program(tmp_path, PROGRAM_PBTXT + more), "is not known here (torch-export: none)")


# --- protobuf's text format ---


def test_the_text_format_in_its_forms() -> None:
    text = """# a comment
    a: 1, b: "x" 'y' "\\"\\\\"; c < d: [1, -2] > c { d: 3 } e: [] f { } g [ { h: TYPE }, { h: 2.5e-1 } ]"""
    found = pbtxt.parse(text)
    assert found == {
        "a": ["1"],
        "b": ['xy"\\'],
        "c": [{"d": ["1", "-2"]}, {"d": ["3"]}],
        "e": [],
        "f": [{}],
        "g": [{"h": ["TYPE"]}, {"h": ["2.5e-1"]}],
    }
    assert pbtxt.parse(pbtxt.render(found)) == {key: value for key, value in found.items() if value}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb", "line 2: it ends too soon"),
        ("a 1", "line 1: '1' is not expected"),
        ('a: "x', "line 1: '\"x' is not expected"),
        ("a { b: 1 >", "'>' is not expected"),
        ("a: [1 2]", "'2' is not expected"),
        ("a: [1", "it ends too soon"),
        ("[type.googleapis.com/x]: 1", "'[' is not expected"),
        ("a {" * 40, "it is nested too deep"),
        ('a: "\\x41"', "\\x in a text is not known here"),
    ],
)
def test_what_is_no_text_format_is_told_by_its_line(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="line") as caught:
        pbtxt.parse(text)
    assert words in str(caught.value)


def test_a_text_can_not_end_its_quotes() -> None:
    assert pbtxt.parse("a: " + pbtxt.quoted('x" y: 1')) == {"a": ['x" y: 1']}
    with pytest.raises(ValueError, match="ASCII"):
        pbtxt.quoted("a\nb")

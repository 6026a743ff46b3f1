"""How Triton is told what a model is."""

from __future__ import annotations

from google.protobuf import text_format
from samples import PBTXT
from tritonclient.grpc.model_config_pb2 import DESCRIPTOR, ModelConfig

from aifactory_agent.serve.tritonconfig import identity, render
from aifactory_contract.formats import format_of
from aifactory_contract.formats import triton as triton_format
from aifactory_contract.formats.rules import Serving
from aifactory_contract.signature import DATA_TYPES

LANGUAGE_MODEL = {"architectures": ["Qwen3ForCausalLM"], "vocab_size": 257}
TENSOR = {"name": "x", "dataType": "FP32", "dims": [64]}


def test_torch_export_is_served_as_its_config_says() -> None:
    serving = format_of("torch-export").serving(
        {"inputs": [TENSOR], "outputs": [{**TENSOR, "name": "y"}], "maxBatchSize": 8}
    )
    text = render(serving, "m", [3, 1])
    assert 'name: "x" data_type: TYPE_FP32 dims: [64]' in text
    assert "versions: [1, 3]" in text
    assert "max_batch_size: 8" in text
    assert "dynamic_batching" in text
    assert render(serving, "m", [2]) != text
    assert identity(format_of("huggingface").serving(LANGUAGE_MODEL)) != identity(serving)


def test_a_language_model_answers_in_pieces() -> None:
    text = render(format_of("huggingface").serving(LANGUAGE_MODEL), "m", [1])
    assert 'name: "text_input" data_type: TYPE_STRING dims: [1] }' in text
    assert 'name: "sampling_parameters" data_type: TYPE_STRING dims: [1] optional: true }' in text
    assert "decoupled: true" in text
    assert "dynamic_batching" not in text


EVERYTHING = """
  backend: "onnxruntime" default_model_filename: 'a.onnx', max_batch_size: 16;
  input [ { name: "a\\"b" data_type: TYPE_STRING format: FORMAT_NONE dims: [ -1, 2 ] }, { name: "c" dims: 1 dims: 1
    data_type: TYPE_FP16 reshape: { shape: [ ] } } ]
  output < name: "d" data_type: TYPE_UINT64 dims: [3] >
  instance_group [ { name: "g" count: 2 kind: KIND_CPU } ]
  dynamic_batching {
    preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 preserve_ordering: true priority_levels: 2
    default_priority_level: 1
    default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 allow_timeout_override: true }
    priority_queue_policy { key: 1 value: { max_queue_size: 7 } }
  }
  parameters { key: "inter_op_thread_count" value: { string_value: "2" } }
  model_transaction_policy { decoupled: false }
"""


def of_directory(pbtxt: str) -> Serving:
    form = format_of("triton")
    return form.serving(form.parse(pbtxt.encode()))


def test_what_triton_reads_is_what_a_triton_directory_says() -> None:
    """Protobuf's own parser is the judge of what was read and of what is written."""
    written = text_format.Parse(render(of_directory(EVERYTHING), "m", [2, 7]), ModelConfig())
    meant = text_format.Parse(EVERYTHING, ModelConfig())
    meant.name = "m"
    meant.version_policy.specific.versions.extend([2, 7])
    assert written == meant


def test_every_field_that_is_known_is_one_of_triton_s() -> None:
    def check(fields: object, message: object) -> None:
        for name, kind in fields.items():  # type: ignore[attr-defined]
            field = message.fields_by_name[name]  # type: ignore[attr-defined]
            repeated = isinstance(kind, triton_format._Each)
            inner = kind.kind if repeated else kind
            assert repeated == field.is_repeated, name
            if isinstance(inner, dict):
                check(inner, field.message_type)

    check(triton_format._FIELDS, ModelConfig.DESCRIPTOR)
    known = DESCRIPTOR.enum_types_by_name["DataType"].values_by_name
    assert {told.pbtxt for told in DATA_TYPES.values()} <= set(known)


def test_versions_of_one_config_run_side_by_side() -> None:
    assert identity(of_directory(PBTXT)) == identity(of_directory(f'name: "b" # other words\n{PBTXT}'))
    assert identity(of_directory(PBTXT)) != identity(of_directory(PBTXT.replace("batch_size: 8", "batch_size: 9")))

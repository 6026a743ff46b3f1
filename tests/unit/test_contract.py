"""What the operator says is what the programs in the pods understand (`workloads/contract`).

Reasons are held together in `api/test_reasons.py` and `serving/test_surge.py`, desired.json in
`serving/test_children.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifactory.api.base import MODEL_NAME
from aifactory.api.inferencepool import Runtime
from aifactory.api.modelversion import ModelVersionSpec
from aifactory.api.trainingjob import OutputModel
from aifactory.serving import probe as probes
from aifactory_contract.engines import AUTO, TRANSFORMERS, VLLM
from aifactory_contract.formats import FORMATS
from aifactory_contract.names import GENERATED_TOKENS, PROBE_REQUESTS, VLLM_GENERATED_TOKENS, check_model_name


@pytest.mark.parametrize("model", [ModelVersionSpec, OutputModel])
def test_every_format_can_be_asked_for(model: type[ModelVersionSpec] | type[OutputModel]) -> None:
    assert set(get_args(model.model_fields["format"].annotation)) == set(FORMATS)


@given(st.data())
def test_every_name_of_a_model_can_be_served(data: st.DataObject) -> None:
    check_model_name(data.draw(st.from_regex(MODEL_NAME.strip("^$"), fullmatch=True)))


def test_what_is_read_of_triton_is_what_back_ends_count() -> None:
    assert probes.PROBES.decode() == PROBE_REQUESTS
    assert probes.TOKENS.decode() == GENERATED_TOKENS
    assert probes.VLLM_TOKENS.decode() == VLLM_GENERATED_TOKENS


def test_every_engine_that_can_be_asked_for_is_one_of_the_pods() -> None:
    (wishes,) = (one for one in get_args(Runtime.model_fields["engine"].annotation) if one is not type(None))
    assert set(get_args(wishes)) == {AUTO, VLLM.name, TRANSFORMERS.name}


def test_the_page_lists_the_architectures_of_vllm() -> None:
    page = (Path(__file__).parents[2] / "docs/engines.md").read_text()
    listed = re.findall(r"`(\w+(?:ForCausalLM|LMHeadModel))`", page)
    assert listed == sorted(VLLM.architectures)

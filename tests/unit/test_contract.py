"""What the operator says is what the programs in the pods understand (`workloads/contract`).

Reasons are held together in `api/test_reasons.py` and `serving/test_surge.py`, desired.json in
`serving/test_children.py`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifactory.api import names
from aifactory.api.base import MODEL_NAME
from aifactory.api.inferencepool import Runtime
from aifactory.api.inputs import Input
from aifactory.api.modelversion import ModelVersionSpec
from aifactory.api.trainingjob import OutputModel
from aifactory.serving import measure
from aifactory.serving import probe as probes
from aifactory.training import fetchers
from aifactory.training.fetchers import Fetch
from aifactory_contract import fetchspec
from aifactory_contract.data import INPUT_FORMATS
from aifactory_contract.engines import AUTO, TRANSFORMERS, VLLM
from aifactory_contract.fetchspec import FetchSpec
from aifactory_contract.formats import FORMATS
from aifactory_contract.names import FAILED_REQUESTS, GENERATED_TOKENS, PROBE_REQUESTS, check_model_name
from aifactory_contract.uri import ArtifactUri
from tests.unit.training.builders import SETTINGS, job


@pytest.mark.parametrize("model", [ModelVersionSpec, OutputModel])
def test_every_format_can_be_asked_for(model: type[ModelVersionSpec] | type[OutputModel]) -> None:
    assert set(get_args(model.model_fields["format"].annotation)) == set(FORMATS)


def test_every_format_of_an_input_can_be_checked() -> None:
    (asked,) = (one for one in get_args(Input.model_fields["format"].annotation) if one is not type(None))
    assert get_args(asked) == INPUT_FORMATS


@given(st.data())
def test_every_name_of_a_model_can_be_served(data: st.DataObject) -> None:
    check_model_name(data.draw(st.from_regex(MODEL_NAME.strip("^$"), fullmatch=True)))


def test_what_is_read_of_triton_is_what_back_ends_count() -> None:
    assert probes.PROBES.decode() == PROBE_REQUESTS
    assert measure.FAILED.decode() == FAILED_REQUESTS
    assert probes.TOKENS.decode() == GENERATED_TOKENS


def test_every_engine_that_can_be_asked_for_is_one_of_the_pods() -> None:
    (wishes,) = (one for one in get_args(Runtime.model_fields["engine"].annotation) if one is not type(None))
    assert set(get_args(wishes)) == {AUTO, VLLM.name, TRANSFORMERS.name}


def test_the_page_lists_the_architectures_of_vllm() -> None:
    page = (Path(__file__).parents[2] / "docs/engines.md").read_text()
    listed = re.findall(r"`(\w+(?:ForCausalLM|LMHeadModel))`", page)
    assert listed == sorted(VLLM.architectures)


WHOLE = Fetch("base", "hf://org/tiny@main", f"sha256:{'1' * 64}", "hub", "huggingface", "claim-uid")


@pytest.mark.parametrize(
    "fetch",
    [
        WHOLE,
        Fetch("a", "pvc://own/x", format="chat"),
        *(replace(WHOLE, **{key: ""}) for key in ("digest", "secret", "format")),
    ],
)
def test_what_a_fetcher_is_told_is_what_it_understands(fetch: Fetch) -> None:
    (container,) = fetchers.fetcher(job(inputs=[{"name": "a", "uri": fetch.uri}]), fetch, 0, SETTINGS)["spec"][
        "containers"
    ]
    command, option, told = container["args"]
    assert (command, option) == ("fetch", "--spec")
    assert fetchspec.parse(told) == FetchSpec(
        ArtifactUri.parse(fetch.uri),
        ArtifactUri.parse("pvc://aifactory-inputs/inputs"),
        fetch.digest or None,
        fetch.secret or None,
        fetch.format or None,
    )
    (mount,) = [found for found in container["volumeMounts"] if not found.get("readOnly") and found["name"] == "cache"]
    assert mount["mountPath"] == "/mnt/claims/aifactory-inputs"
    secrets = [found["mountPath"] for found in container["volumeMounts"] if found["name"] == "secret"]
    assert secrets == ([f"/etc/aifactory/secrets/{fetch.secret}"] if fetch.secret else [])


def test_what_is_needed_of_the_cache_is_told_by_the_beginnings_of_digests() -> None:
    seen = fetchers.InUse(datetime(2026, 1, 1, tzinfo=UTC), (f"sha256:{'ab' * 32}", f"sha256:{'0' * 64}"))
    args = fetchers.fetcher(job(), WHOLE, 0, SETTINGS, seen)["spec"]["containers"][0]["args"]
    assert fetchspec.parse(args[2]).in_use == fetchspec.InUse(1767225600, ("ab" * 8, "0" * 16))


def test_pods_mount_claims_and_secrets_where_the_agent_looks_for_them() -> None:
    agent = Path(__file__).parents[2] / "workloads/agent/aifactory_agent/artifacts/stores.py"
    assert re.findall(r'Path\("(.*)"\)', agent.read_text()) == [names.CLAIMS_MOUNT, names.SECRETS_MOUNT]

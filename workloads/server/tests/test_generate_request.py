"""What clients write is read as Triton's vLLM back end reads it, or refused with words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifactory_server.engines.request import BadRequest
from aifactory_server.engines.sampling import Sampling
from aifactory_server.generate.request import Asked, read_request


def read(parameters: Any = None, **inputs: Any) -> Asked:
    values = {"text_input": [b"Hello"], **{name: [value] for name, value in inputs.items()}}
    if parameters is not None:
        values["sampling_parameters"] = [json.dumps(parameters).encode()]
    return read_request(values, {})


def test_nothing_but_a_text_gives_vllms_defaults() -> None:
    asked = read()
    assert asked.request.max_tokens == 16
    assert asked.request.sampling == Sampling()
    assert (asked.stream, asked.prepend, asked.finish_reason) == (False, "Hello", False)


def test_a_stream_has_the_answer_only() -> None:
    assert read(stream=True).prepend == ""
    assert read(exclude_input_in_output=True).prepend == ""
    with pytest.raises(BadRequest, match="exclude_input_in_output must be true with stream"):
        read(stream=True, exclude_input_in_output=False)


def test_numbers_may_be_written_as_strings() -> None:
    request = read({"temperature": "0.1", "top_p": "0.95", "max_tokens": "100", "ignore_eos": "true"}).request
    assert (request.sampling.temperature, request.sampling.top_p) == (0.1, 0.95)
    assert (request.max_tokens, request.ignore_eos) == (100, True)


def test_all_parameters_are_taken() -> None:
    request = read(
        {
            "n": 1,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": -1,
            "min_p": 0.1,
            "presence_penalty": 1,
            "frequency_penalty": -1,
            "repetition_penalty": 1.1,
            "logit_bias": {"7": -5},
            "seed": 2**64 - 1,
            "stop": "\n",
            "stop_token_ids": [2],
            "min_tokens": 2,
            "max_tokens": 5,
            "skip_special_tokens": False,
            "logprobs": None,
        }
    ).request
    assert request.sampling == Sampling(0.5, 0.9, 0, 0.1, 1, -1, 1.1, {7: -5})
    assert (request.seed, request.stop, request.stop_token_ids) == (2**64 - 1, ("\n",), (2,))
    assert (request.min_tokens, request.max_tokens, request.skip_special_tokens) == (2, 5, False)


def test_parameters_of_the_request_count_where_there_is_no_tensor() -> None:
    given_ = {"temperature": 0.0, "triton_enable_empty_final_response": True}
    assert read_request({"text_input": [b"a"]}, given_).request.sampling.temperature == 0.0
    values = {"text_input": [b"a"], "sampling_parameters": [b'{"temperature": 0.5}']}
    assert read_request(values, given_).request.sampling.temperature == 0.5


def test_the_agents_sign_is_known_from_the_agent_only() -> None:
    sign = {"aifactory_probe": "sign"}
    assert read_request({"text_input": [b"a"]}, sign, probe=True).request.probe
    with pytest.raises(BadRequest, match="aifactory_probe is not known"):
        read_request({"text_input": [b"a"]}, sign)


def test_whoever_wants_log_probabilities_gets_them() -> None:
    assert read(return_logprobs=True).request.sampling.logprobs == 0
    assert read(return_cumulative_logprob=True).request.sampling.logprobs == 0
    assert read({"logprobs": 5}, return_logprobs=True).request.sampling.logprobs == 5
    assert read().request.sampling.logprobs is None


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"max_tokens": 0}, "max_tokens must be a whole number from 1"),
        ({"max_tokens": 1.5}, "max_tokens must be a whole number"),
        ({"max_tokens": True}, "max_tokens must be a whole number"),
        ({"temperature": -1}, "temperature must be from 0 to 100"),
        ({"temperature": "hot"}, "temperature must be from 0 to 100, it is 'hot'"),
        ({"top_p": 0}, "top_p must be from 1e-06 to 1"),
        ({"stop": ""}, "stop must be strings of 1 to 256 characters"),
        ({"stop": ["x"] * 65}, "stop takes up to 64"),
        ({"stop_token_ids": [-1]}, "stop_token_ids must be a whole number"),
        ({"logit_bias": {"a": 1}}, "a token of logit_bias must be a whole number"),
        ({"logit_bias": [1]}, "logit_bias must be an object"),
        ({"n": 2}, "n must be 1"),
        ({"min_tokens": 20}, "min_tokens 20 is more than max_tokens 16"),
        ({"best_of": 3}, "best_of is not known; this model takes n, temperature"),
        ({"ignore_eos": 1}, "ignore_eos must be true or false"),
        ([1], "sampling_parameters must be a JSON object"),
    ],
)
def test_what_can_not_be_done_is_refused_by_name(parameters: Any, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(parameters)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "text_input is missing"),
        ({"text_input": [b"a", b"b"]}, "text_input must have one value, it has 2"),
        ({"text_input": [b"\xff"]}, "text_input must be UTF-8 text, byte 0 is not"),
        ({"text_input": [b"a"], "sampling_parameters": [b"{"]}, "sampling_parameters is not JSON"),
        ({"text_input": [b"a"], "sampling_parameters": [b"[" * 60_000]}, "sampling_parameters is not JSON"),
        ({"text_input": [b"a"], "sampling_parameters": [b" " * 70_000]}, "65536 at most are read"),
    ],
)
def test_tensors_that_make_no_request_are_refused(inputs: dict[str, list[bytes]], words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_request(inputs, {})
    assert words in str(caught.value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(["temperature", "max_tokens", "stop", "logit_bias", "seed", "ignore_eos", "n", "top_k"]), _JSON)
def test_whatever_a_parameter_is_it_is_taken_or_refused(name: str, value: Any) -> None:
    try:
        read({name: value})
    except BadRequest as refused:
        assert name in str(refused)  # noqa: PT017


@pytest.mark.parametrize(
    ("given", "schema"),
    [
        ('{"json": {"type": "integer"}}', {"type": "integer"}),
        ({"json": '{"type": "integer"}', "regex": None}, {"type": "integer"}),
        ('{"json_object": true}', {"type": "object"}),
        ({"structural_tag": '{"format": {"type": "or"}}'}, {"type": "structural_tag", "format": {"type": "or"}}),
    ],
)
def test_a_schema_comes_in_the_forms_that_vllm_has(given: Any, schema: Any) -> None:
    asked = read_request({"text_input": [b"x"], "sampling_parameters": [json.dumps({"structured_outputs": given})]}, {})
    assert json.loads(str(asked.request.structured_outputs)) == schema


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "must be like"),
        ({}, "must be like"),
        ({"json": 7}, "must be like"),
        ({"json": {}, "regex": "a"}, "has regex, which this engine does not keep to"),
        ({"json_object": False}, "must be like"),
        ({"structural_tag": "{}", "json": {}}, "has json, which this engine does not keep to"),
    ],
)
def test_other_structures_are_refused(given: Any, told: str) -> None:
    with pytest.raises(BadRequest, match=f"structured_outputs .*{told}"):
        read_request({"text_input": [b"x"], "sampling_parameters": [json.dumps({"structured_outputs": given})]}, {})

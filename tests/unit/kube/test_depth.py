"""What nests too deep to be read is cut out, and nothing else is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifactory.kube.depth import CUT, MAX_DEPTH, is_deep, shallow

texts = st.text() | st.sampled_from(['"', "\\", '\\"', "{[", "]}", "{" * 100, '\\\\"]'])
values = st.recursive(texts | st.none() | st.integers(), lambda v: st.lists(v) | st.dictionaries(texts, v))


def nested(levels: int, brackets: str = "{") -> bytes:
    """So many levels around a 1."""
    return b'{"a":' * levels + b"1" + b"}" * levels if brackets == "{" else b"[" * levels + b"1" + b"]" * levels


@given(values)
def test_what_can_be_read_is_left_as_it_is(value: Any) -> None:
    for raw in (json.dumps(value).encode(), json.dumps(value, ensure_ascii=False).encode()):
        assert shallow(raw) is raw


@pytest.mark.parametrize("brackets", ["{", "["])
def test_the_limit_is_exact(brackets: str) -> None:
    assert not is_deep(nested(MAX_DEPTH, brackets))
    assert is_deep(nested(MAX_DEPTH + 1, brackets))


@pytest.mark.parametrize("before", ["", '"', "\\", '\\"', '"\\'])
def test_brackets_in_strings_are_no_depth(before: str) -> None:
    assert not is_deep(json.dumps([before, "[" * 100, before + "{" * 100]).encode())
    assert is_deep(b"[" + json.dumps(before).encode() + b"," + nested(MAX_DEPTH) + b"]")


def test_what_stands_for_what_was_cut_out_is_what_users_are_told() -> None:
    assert shallow(nested(70, "[")) == b"[" * 64 + b'"aifactory.dev/nested-too-deep"' + b"]" * 64


@given(values, st.integers(MAX_DEPTH, 20_000))
def test_only_what_is_too_deep_is_cut_out(value: Any, levels: int) -> None:
    rest = json.dumps(value).encode()
    raw = b'{"before":%b,"deep":%b,"after":[%b,%b]}' % (rest, nested(levels), nested(levels, "["), rest)
    found = json.loads(shallow(raw))
    assert (found["before"], found["after"][1]) == (value, value)
    inner, depth = found["deep"], 1
    while isinstance(inner, dict):
        inner, depth = inner["a"], depth + 1
    assert (inner, depth) == (CUT, MAX_DEPTH)


def test_many_branches_are_not_depth() -> None:
    assert not is_deep(b"[" + b",".join([b'{"a":[]}'] * 10_000) + b"]")


def test_a_megabyte_is_looked_through_at_once() -> None:
    """Escapes and brackets inside strings, the worst that a string can hold, as often as an object can hold them."""
    raw = b'{"a":"' + b'\\"{' * 400_000 + b'","b":%b}' % nested(10_000)
    assert json.loads(shallow(raw))["a"] == '"{' * 400_000

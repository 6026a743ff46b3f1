"""A merge patch says exactly what differs, and applied to the old object it gives the new one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifactory.kube.patch import merge_difference
from tests.unit.memory_api import merge

LEAVES = st.one_of(st.integers(0, 2), st.sampled_from(["a", "b"]), st.lists(st.integers(0, 1), max_size=2))
OBJECTS = st.recursive(
    st.dictionaries(st.sampled_from("xyz"), LEAVES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("xyz"), st.one_of(LEAVES, inner), max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": None}),
        ({"a": 1, "b": 2}, {"a": 3, "b": 2}, {"a": 3}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1, "y": 3}}, {"a": {"y": 3}}),
        ({"a": {"x": 1}}, {"a": [1]}, {"a": [1]}),
        ({"a": "text"}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": [1, 2]}, {"a": [2]}, {"a": [2]}),
    ],
)
def test_only_what_differs_is_sent(old: dict[str, Any], new: dict[str, Any], patch: dict[str, Any]) -> None:
    assert merge_difference(old, new) == patch


@given(old=OBJECTS, new=OBJECTS)
def test_the_patch_turns_the_old_object_into_the_new_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    patch = merge_difference(old, new)
    assert merge(old, patch) == new
    assert (patch == {}) == (old == new)

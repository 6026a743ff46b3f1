"""What a pod tells of files that it left out, as far as a status has room for it."""

from __future__ import annotations

from typing import Any

import pytest

from aifactory.api.leftout import MAX_LENGTH, MAX_PATHS, left_out, left_out_words


@pytest.mark.parametrize(
    ("answer", "paths", "files"),
    [
        ({}, None, None),
        ({"leftOut": [], "leftOutFiles": 0}, None, None),
        ({"leftOut": ["a", "b"]}, ("a", "b"), 2),
        ({"leftOut": ["a"], "leftOutFiles": 31}, ("a",), 31),
        ({"leftOut": [], "leftOutFiles": 31}, None, 31),
        ({"leftOut": ["x" * 300], "leftOutFiles": 2**80}, ("x" * MAX_LENGTH,), 2**31 - 1),
        ({"leftOut": [str(number) for number in range(25)]}, tuple(str(number) for number in range(MAX_PATHS)), 25),
        ({"leftOut": "abc", "leftOutFiles": "3"}, None, None),
        ({"leftOut": [7, "a", None]}, ("a",), 1),
    ],
)
def test_what_is_told(answer: dict[str, Any], paths: tuple[str, ...] | None, files: int | None) -> None:
    assert left_out(answer) == {"left_out": paths, "left_out_files": files}


def test_the_words() -> None:
    assert left_out_words(None, "status.leftOut") == ""
    assert left_out_words(1, "status.leftOut") == "; 1 file beside the model left out (status.leftOut)"
    assert left_out_words(2, "x") == "; 2 files beside the model left out (x)"

"""What a termination log says, where it is written by another hand than torch's."""

from __future__ import annotations

import pytest

from aifactory.training.errorfile import RootCause, root_cause


@pytest.mark.parametrize("code", ['"7"', "true", "0", "null"])
def test_what_is_no_exit_code_is_none(code: str) -> None:
    assert root_cause(f'{{"message": {{"message": "it broke", "errorCode": {code}}}}}').exit_code is None


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("ValueError: loss: not finite", "ValueError"),
        ("no such file: x", ""),
        ("ValueError", ""),
        ("a b: ValueError", ""),
    ],
)
def test_an_exception_is_what_stands_before_the_first_colon(message: str, name: str) -> None:
    assert root_cause(f'{{"message": "{message}"}}') == RootCause(name, message)


def test_what_torchrun_says_of_itself_is_not_the_cause() -> None:
    assert root_cause("ValueError: lr\nChildFailedError: train.py FAILED\n").name == "ValueError"
    words = "exitcode : 3 (pid: 9)\nChildFailedError: train.py FAILED\n"
    assert root_cause(words).exit_code == 3

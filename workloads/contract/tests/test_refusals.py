"""Errors tell their kind to those who ask for it."""

from __future__ import annotations

import pytest

from aifactory_contract import refusals


@pytest.mark.parametrize("kind", [refusals.INVALID, refusals.UNAVAILABLE, refusals.INTERNAL])
def test_a_kind_comes_through(kind: str) -> None:
    told = refusals.tell(kind, "invalid: top_k", {refusals.PARAMETER: True})
    assert refusals.read(told) == (kind, "invalid: top_k")


@pytest.mark.parametrize("parameters", [{}, {refusals.PARAMETER: False}, {"other": True}])
def test_who_does_not_ask_reads_the_words_alone(parameters: dict[str, bool]) -> None:
    assert refusals.tell(refusals.INVALID, "too long", parameters) == "too long"


def test_an_engine_that_tells_no_kind_has_failed() -> None:
    assert refusals.read("Request for unknown model") == (refusals.INTERNAL, "Request for unknown model")

"""Which tests a mutant has to pass, and where it is kept what they do."""

from __future__ import annotations

from tests.mutation.__main__ import Accepted, Stages


def test_what_the_tests_of_a_stage_do_is_measured_for_the_tests_that_it_has() -> None:
    kube, engine = (Stages(package, Accepted(), "state", 0, 1) for package in ("kube", "engine"))
    assert kube.measured("quick") == kube.measured("tests/unit/kube"), "the same tests, some sooner"
    assert kube.measured("tests/unit") not in (kube.measured("quick"), engine.measured("tests/unit"))

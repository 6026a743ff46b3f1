"""Mutants that need no import: the functions that are there get other code."""

from __future__ import annotations

from aifactory.kube import errors
from aifactory.training import nodeloss
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.runner import PACKAGE, Nursery


def change(module: str, where: str, to: str) -> Mutant:
    found = mutants((PACKAGE / f"{module}.py").read_text())
    return next(mutant for mutant in found if mutant.where == where and mutant.change.endswith(to))


def test_a_function_gets_the_code_that_it_has_with_the_change() -> None:
    changes = Nursery([]).changes("training/nodeloss", change("training/nodeloss", "first_lost", "return None"))
    assert changes is not None
    ((function, code),) = changes
    assert function is nodeloss.first_lost
    assert code.co_name == "first_lost"
    assert code != function.__code__


def test_a_function_whose_cells_the_change_takes_away_has_to_be_imported() -> None:
    """Without `super()` there is no `__class__` in it."""
    assert "__class__" in errors.Unreachable.__init__.__code__.co_freevars
    assert Nursery([]).changes("kube/errors", change("kube/errors", "Unreachable.__init__", "pass")) is None


def test_what_runs_at_import_has_to_be_imported() -> None:
    assert Nursery([]).changes("training/causes", change("training/causes", "", "XX'})")) is None

"""The mistakes that `make mutate` makes, and those it must not make."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from tests.mutation.mutants import mutants, mutated


def changes(source: str) -> list[str]:
    return [mutant.change for mutant in mutants(textwrap.dedent(source))]


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ("return a < b", ["return None", "return a <= b"]),
        ("return a is not None and b", ["return None", "return b", "return a is not None", "return a is None and b"]),
        ("return not a", ["return None", "return a"]),
        ("return a + 1", ["return None", "return a - 1", "return a + 2"]),
        ("return min(a, b)", ["return None", "return max(a, b)"]),
        ("return f(a, b=b)", ["return None", "return f(a)"]),
        ("return {'a': True}", ["return None", "return {'aXX': True}", "return {'a': False}"]),
        ("return f'{a}/{b}'", ["return None", "return f'{a}/XX{b}'"]),
        ("f(a)", ["pass"]),
        ("a.b = b", ["pass"]),
        ("a += b", ["pass", "a -= b"]),
        ("a = b", []),
        ("if a: f()", ["if not a:", "pass"]),
        ("raise KeyError('a')", ["pass"]),
        ("logger.info('a %s', a)", []),
        ("metrics.CALLS.labels('a').inc()", []),
        ("'''Only words.'''", []),
        ("x: int = 1", ["x: int = 2"]),
    ],
)
def test_what_becomes_of_a_statement(statement: str, wanted: list[str]) -> None:
    found = changes(f"def function(a, b):\n    {statement}\n")
    assert [change.partition("  ->  ")[2] for change in found] == wanted


def test_handlers_miss_what_they_were_for() -> None:
    found = changes("""
        try:
            pass
        except (KeyError, OSError):
            pass
        """)
    assert found == [
        "except (KeyError, OSError)  ->  except (OSError,)",
        "except (KeyError, OSError)  ->  except (KeyError,)",
    ]


def test_named_numbers_are_a_choice_unless_they_are_none_or_one() -> None:
    assert changes("LIMIT = 300\nFIRST = 0\ndef function(a: int = 30, b: int = 1) -> None: ...\n") == [
        "FIRST = 0  ->  FIRST = 1",
        "def function(a: int=30, b: int=1) -> None:  ->  def function(a: int=30, b: int=2) -> None:",
    ]


def test_the_module_differs_in_one_place_and_the_next_is_made_from_the_original() -> None:
    source = "def less(a, b):\n    return a < b\n\n\ndef more(a, b):\n    return a > b\n"
    results = []
    for mutant in mutants(source):
        names: dict[str, Any] = {}
        exec(compile(mutated(source, mutant), "test", "exec"), names)
        results.append((mutant.where, names["less"](1, 1), names["more"](1, 1)))
    assert results == [("less", None, False), ("less", True, False), ("more", False, None), ("more", False, True)]


def test_the_same_change_twice_in_a_function_has_two_names() -> None:
    found = changes("def function(a):\n    a.stop()\n    a.stop()\n")
    assert found == ["a.stop()  ->  pass", "a.stop()  ->  pass  (2)"]


def test_of_a_long_statement_only_what_differs_is_told() -> None:
    (found, *_) = [change for change in changes(f"call({'x, ' * 100}key=1, {'y=2, ' * 40})") if "key=2" in change]
    assert len(found) < 200
    assert found.startswith("…")
    assert found.endswith("…")

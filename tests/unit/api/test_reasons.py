"""Reasons are a contract: all that code can say are documented, and all that are documented can be said."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from aifactory.api.reasons import ConditionType, Reason, sentence
from aifactory_contract import errors

ROOT = Path(__file__).resolve().parents[3]
OPERATOR = ROOT / "operator/aifactory"
SOURCES = [path for path in OPERATOR.rglob("*.py") if path != OPERATOR / "api/reasons.py"]


@cache
def syntax(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def attributes_of(name: str) -> set[str]:
    """Members of an enumeration that are named anywhere in the operator."""
    used = set()
    for path in SOURCES:
        for node in syntax(path):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name:
                used.add(node.attr)
    return used


def test_every_reason_is_used() -> None:
    assert {reason.name for reason in Reason} - attributes_of("Reason") == set()


def test_every_condition_type_is_used() -> None:
    assert {type_.name for type_ in ConditionType} - attributes_of("ConditionType") == set()


@pytest.mark.parametrize("reason", Reason, ids=str)
def test_a_reason_is_a_camel_case_word_with_one_sentence(reason: Reason) -> None:
    assert re.fullmatch(r"([A-Z][a-z]+)+", reason), reason
    assert reason.name == re.sub(r"(?<!^)([A-Z])", r"_\1", reason).upper()
    assert sentence(reason) == reason.sentence
    assert reason.sentence[0].isupper() or reason.sentence.startswith("spec.")
    assert reason.sentence.endswith(".")
    assert "\n" not in reason.sentence


def test_no_two_reasons_say_the_same() -> None:
    assert len({reason.sentence for reason in Reason}) == len(Reason)


def test_a_word_that_is_no_reason_has_no_sentence() -> None:
    with pytest.raises(KeyError):
        sentence("Whatever")


def test_events_speak_the_same_words_as_conditions() -> None:
    """A reason of an Event that is written as text is one of the reasons or condition types."""
    known = {str(reason) for reason in Reason} | {str(type_) for type_ in ConditionType}
    for path in SOURCES:
        for node in syntax(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Notice":
                reason = node.args[1]
                if isinstance(reason, ast.Constant):
                    assert reason.value in known, f"{path.name}:{node.lineno}: {reason.value}"


def test_what_the_agent_reports_about_artifacts_is_documented() -> None:
    """`verify` and `publish` answer with reasons of the agent; those that concern serving stay in messages."""
    values = [str(reason) for reason in errors.Reason]
    of_artifacts = values[: values.index("StoreFull") + 1]
    assert len(of_artifacts) == 8
    assert set(of_artifacts) <= {str(reason) for reason in Reason}


def test_the_page_lists_every_reason() -> None:
    page = (ROOT / "docs/reasons.md").read_text()
    for reason in Reason:
        assert f"| `{reason}` | {reason.sentence} |" in page, "run: make generate"


def phases_in(path: str) -> set[str]:
    """Every string that is given as the phase to a method of a status draft."""
    methods = ("_phase", "_not_running")
    calls = (node for node in syntax(OPERATOR / path) if isinstance(node, ast.Call))
    given = (call.args[0] for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in methods)
    found = (part.value for argument in given for part in ast.walk(argument) if isinstance(part, ast.Constant))
    return {phase for phase in found if isinstance(phase, str)}


@pytest.mark.parametrize(
    ("kind", "path"), [("TrainingJob", "training/status.py"), ("InferencePool", "serving/status.py")]
)
def test_the_page_lists_every_phase(kind: str, path: str) -> None:
    page = (ROOT / "docs/reasons.md").read_text()
    table = page.split(f"## Phases of {kind}s")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == phases_in(path)

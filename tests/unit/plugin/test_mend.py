"""What blocks is told with its reason, and with a command that mends it or shows what has to be mended."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from aifactory.api.reasons import Reason
from plugin import kubectl_aifactory as plugin
from tests.unit.plugin import factory
from tests.unit.plugin.factory import LATER, Json

GOLDEN = Path(__file__).parent / "golden" / "situations.txt"
SITUATIONS = factory.situations()


def told(obj: Json) -> str:
    state = plugin.judge(obj, LATER)
    found = f"{state.mark} {state.reason}"
    if state.mark in plugin.BLOCKS:
        found += "".join(f"\n    $ {command}" for command in plugin.commands(obj, state.reason, state.message))
    return found


def test_every_situation_is_judged_and_mended_as_the_golden_file_says() -> None:
    """To accept a change: AIFACTORY_UPDATE_GOLDENS=1, then read the difference."""
    text = "".join(f"{name}: {told(obj)}\n" for name, obj in SITUATIONS.items())
    if os.environ.get("AIFACTORY_UPDATE_GOLDENS"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_is_stalled_blocks_and_what_is_ready_does_not(name: str) -> None:
    obj = SITUATIONS[name]
    mark = plugin.judge(obj, LATER).mark
    if plugin.is_true(obj, "Stalled"):
        assert mark == "stuck"
    if plugin.is_true(obj, "Ready") and not plugin.is_true(obj, "Stalled") and not plugin.is_true(obj, "Degraded"):
        assert mark == "ok"


@pytest.mark.parametrize("reason", list(Reason), ids=str)
def test_every_reason_that_needs_somebody_has_a_command(reason: Reason) -> None:
    why, todo = plugin.meaning(reason)
    assert why
    assert todo
    assert todo.startswith("Nothing") or reason in plugin.REMEDIES


def test_reasons_are_those_of_the_operator() -> None:
    assert set(plugin.REASONS) == {str(reason) for reason in Reason}
    assert not set(plugin.OWN_REASONS) & set(plugin.REASONS)
    assert set(plugin.REMEDIES) <= set(plugin.REASONS) | set(plugin.OWN_REASONS)


@pytest.mark.parametrize("name", SITUATIONS)
def test_commands_are_whole(name: str) -> None:
    """They begin with a program, name a namespace where that matters, and no name in them is missing."""
    obj = SITUATIONS[name]
    state = plugin.judge(obj, LATER)
    for command in plugin.commands(obj, state.reason, state.message):
        assert command.startswith(("kubectl ", "helm ")), command
        assert not re.search(r"[{}]|None|\bNAME\b|\bPOD\b|<", command.partition(" -p ")[0]), command
        cluster = r"kubectl ((describe|delete|cordon) node|get (nodes|storageclass)|create priorityclass|api-resources)"
        assert re.search(r" -n | -A$", command) or re.match(cluster, command), command


def test_what_passes_mostly_blocks_after_ten_minutes() -> None:
    obj = next(found for found in SITUATIONS.values() if plugin.judge(found, LATER).reason == "WaitingForPods")
    assert plugin.judge(obj, LATER).mark == "busy"
    assert plugin.judge(obj, LATER.replace(hour=13)).mark == "wait"


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (
            "s3://b/c with Secret s3: pod p-0: secret s3 needs the keys A_B and C.D (looked in /etc/x)",
            "kubectl -n ns create secret generic s3 --from-literal=A_B=VALUE --from-literal=C.D=VALUE "
            "--dry-run=client -o yaml | kubectl -n ns apply -f -",
        ),
        ('secret "hf" not found', "kubectl -n ns create secret generic hf --from-literal=KEY=VALUE"),
        ('configmap "c" not found', "kubectl -n ns create configmap c --from-literal=KEY=VALUE"),
        (
            'error looking up service account ns/bot: serviceaccount "bot" not found',
            "kubectl -n ns create serviceaccount bot",
        ),
        ("no PriorityClass with name high was found", "kubectl create priorityclass high --value=0"),
    ],
)
def test_what_is_missing_is_made_by_name(words: str, command: str) -> None:
    reason = "DependencyMissing" if "service account" in words or "Priority" in words else "ContainerConfigError"
    reason = "AccessDenied" if "needs the keys" in words else reason
    assert plugin.commands(SITUATIONS["job: no secret"], reason, words)[0] == command


def test_an_object_that_no_operator_has_seen_says_so_after_a_minute() -> None:
    obj = {**SITUATIONS["job: no image"], "status": {}}
    assert plugin.judge(obj, factory.NOW).mark == "busy"
    state = plugin.judge(obj, LATER)
    assert (state.mark, state.reason) == ("stuck", "NoStatus")
    assert plugin.commands(obj, state.reason, state.message) == ["kubectl aifactory -n ns check"]
    obj["spec"] = {**obj["spec"], "managedBy": "kueue.x-k8s.io/multikueue"}
    assert plugin.judge(obj, LATER).reason == "ManagedBy"


def test_an_edit_that_was_not_looked_at_is_on_its_way() -> None:
    obj = SITUATIONS["pool: serves"]
    obj = {**obj, "metadata": {**obj["metadata"], "generation": 9}}
    assert plugin.judge(obj, LATER).message == "the operator has yet to look at the last edit"

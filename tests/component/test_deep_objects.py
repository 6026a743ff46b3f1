"""Objects that no parser can read, through a real API server to the real process: it tells, and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import objects
from tests.component.conftest import Operator
from tests.support.kubectl import Kubectl, condition
from tests.support.waiting import wait_for

STALLED = "jsonpath={.status.conditions[?(@.type=='Stalled')]}"


def deep_job(name: str, levels: int) -> str:
    """A TrainingJob whose pod template has a field with so many levels; Python could not write it from a dictionary."""
    body = objects.job(name, ["true"])
    body["spec"]["template"]["spec"]["deep"] = 1
    return json.dumps(body).replace('"deep": 1', '"deep": ' + '{"a":' * levels + "1" + "}" * levels)


def test_an_object_ends_stalled_however_deep_it_nests(
    ns: Kubectl, start_operator: Callable[..., Operator], tmp_path: Path
) -> None:
    """kopf ended at 990 levels, and the process, again at each start; from 350 on nothing was said."""
    before = start_operator("--no-leader-elect", f"--namespace={ns.namespace}")
    before.wait_ready()
    accepted = [name for name in ("deep350", "deep990", "deep9000") if _create(ns, name, tmp_path)]
    assert accepted, "the API server takes none of them: this test shows nothing"
    _told(ns, before, accepted)
    assert before.stop() == 0
    again = start_operator("--no-leader-elect", f"--namespace={ns.namespace}")
    again.wait_ready()
    late = f"late{accepted[-1].removeprefix('deep')}"
    assert _create(ns, late, tmp_path)
    _told(ns, again, [late])
    assert again.stop() == 0
    assert "Traceback" not in before.words() + again.words()


@pytest.mark.parametrize("text", ["\ud800", "\x00\x01\x7f", "\uffff\U0010ffff", "\u202e\u0000\\u0000"])
def test_odd_characters_are_only_text(ns: Kubectl, start_operator: Callable[..., Operator], text: str) -> None:
    operator = start_operator("--no-leader-elect", f"--namespace={ns.namespace}")
    operator.wait_ready()
    job = objects.job("odd", ["true"])
    job["spec"]["template"]["spec"]["containers"][0]["args"] = [text]
    ns.run("create", "-f", "-", stdin=json.dumps(job), check=False)
    if ns.get("tjob", "odd"):
        ns.wait("tjob", "odd", "to be observed", lambda found: found.get("status", {}).get("observedGeneration"))
    assert operator.stop() == 0, operator.words()


def _create(ns: Kubectl, name: str, directory: Path) -> bool:
    """Whether the API server takes it. Sent as it is: kubectl would read it first."""
    file = directory / name
    file.write_text(deep_job(name, int(name.lstrip("deplat"))))
    path = f"/apis/aifactory.dev/v1alpha1/namespaces/{ns.namespace}/trainingjobs"
    return ns.run("create", "--raw", path, "-f", str(file), check=False).code == 0


def _told(ns: Kubectl, operator: Operator, names: list[str]) -> None:
    for name in names:
        found = wait_for(
            f"{name} to be Stalled",
            lambda name=name: ns.run("get", "tjob", name, "-o", STALLED, check=False).out,
            bool,
            never=lambda _: operator.process.poll() is not None,
            seconds=60,
        )
        stalled = json.loads(found)
        assert (stalled["status"], stalled["reason"]) == ("True", "InvalidSpec")
        assert "nests deeper than 64 levels" in stalled["message"]
    ns.apply(objects.job("after", ["true"]))
    seen = wait_for("the next job's pod", lambda: ns.get("pod", "after-0-0"), bool, seconds=60)
    assert not condition(seen, "Stalled")

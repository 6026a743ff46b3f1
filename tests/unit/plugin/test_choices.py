"""What is asked for is found, or what is wrong with the question is said."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from plugin import kubectl_aifactory as plugin
from tests.unit.plugin import factory
from tests.unit.plugin.factory import Json

OBJECTS = [factory.running_job(), factory.version(), factory.served_pool()]


@pytest.mark.parametrize(
    "words", [["tjob/train"], ["trainingjob/train"], ["trainingjobs.aifactory.dev", "train"], ["train"]]
)
def test_an_object_is_named_as_in_kubectl(words: list[str]) -> None:
    assert plugin.find(OBJECTS, words) is OBJECTS[0]


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["nope"], "", "there is no nope in this namespace; there are: ipool/chat, mver/tiny-v1, tjob/train"),
        (["pod/x"], "", "pod is not a kind that has this: write tjob, mver, ipool"),
        (["ipool/chat"], plugin.JOB, "ipool is not a kind that has this: write tjob"),
        (["tjob/x"], "", "there is no tjob/x in this namespace; there are: tjob/train"),
    ],
)
def test_what_is_not_there_is_said(words: list[str], kind: str, said: str) -> None:
    with pytest.raises(plugin.Failed) as error:
        plugin.find(OBJECTS, words, kind)
    assert str(error.value) == said


def test_a_name_that_two_have_is_refused() -> None:
    twin = {**OBJECTS[0], "metadata": {**OBJECTS[0]["metadata"], "name": "chat"}}
    with pytest.raises(plugin.Failed, match="chat is the name of tjob/chat and of ipool/chat: write one of these"):
        plugin.find([twin, *OBJECTS], ["chat"])


def test_the_only_one_needs_no_name() -> None:
    assert plugin.only(OBJECTS, [], plugin.POOL) is OBJECTS[2]
    with pytest.raises(plugin.Failed, match="there is no InferencePool"):
        plugin.only(OBJECTS[:1], [], plugin.POOL)
    other = {**OBJECTS[2], "metadata": {**OBJECTS[2]["metadata"], "name": "other"}}
    with pytest.raises(plugin.Failed, match="name one: ipool/chat, ipool/other"):
        plugin.only([*OBJECTS, other], [], plugin.POOL)


def training_pod(index: int, attempt: int, role: str = "node") -> Json:
    labels = {"job-name": "train", "role": role, "node-index": str(index), "attempt": str(attempt)}
    meta = {"name": f"train-{index}-{attempt}", "namespace": "ns"}
    return {"metadata": {**meta, "labels": {f"aifactory.dev/{key}": value for key, value in labels.items()}}}


PODS = [training_pod(1, 0), training_pod(0, 2), training_pod(0, 10), training_pod(1, 10), training_pod(2, 10)]


def job(attempt: int, failed: str = "") -> Json:
    found = factory.running_job()
    found["status"] |= {"attempt": attempt, "lastFailure": {"pod": failed}}
    return found


def asked(**given: Any) -> argparse.Namespace:
    usual = {"rank": None, "attempt": None, "previous_attempt": False, "failed": False, "role": None}
    return argparse.Namespace(**{**usual, **given})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, ["train-0-10", "train-1-10", "train-2-10"]),
        ({"rank": 1}, ["train-1-10"]),
        ({"attempt": 2}, ["train-0-2"]),
        ({"attempt": 0, "rank": 1}, ["train-1-0"]),
        ({"previous_attempt": True}, ["train-0-2"]),
        ({"failed": True}, ["train-1-0"]),
    ],
)
def test_logs_are_of_the_pods_that_are_meant(given: dict[str, Any], wanted: list[str]) -> None:
    found = plugin.chosen(job(10, "train-1-0"), PODS, asked(**given))
    assert [plugin.name_of(pod) for pod in found] == wanted


def test_logs_before_the_next_attempt_has_pods_are_of_the_last() -> None:
    assert len(plugin.chosen(job(11), PODS, asked())) == 3
    assert len(plugin.chosen(job(11), PODS, asked(previous_attempt=True))) == 3
    with pytest.raises(plugin.Failed, match="it is at attempt 11, pods are there of attempts: 0, 2, 10"):
        plugin.chosen(job(11), PODS, asked(rank=0))


def test_pods_are_in_the_order_of_their_numbers() -> None:
    many = [training_pod(index, 0) for index in (10, 9, 1)]
    names = [plugin.name_of(pod) for pod in plugin.pods_of(job(0), many)]
    assert names == ["train-1-0", "train-9-0", "train-10-0"]


@pytest.mark.parametrize(
    "words",
    ["status -n team --context prod tjob/x", "-n team --context prod status tjob/x", "-n team status --context prod"],
)
def test_flags_of_kubectl_go_to_kubectl(words: str) -> None:
    args = plugin.parser().parse_args(words.split())
    assert plugin.bound(args).command("get", "x") == ["kubectl", "get", "x", "--context", "prod", "--namespace", "team"]


def test_commands_and_options_are_completed(capsys: pytest.CaptureFixture[str]) -> None:
    plugin.complete(["st"])
    assert capsys.readouterr().out.split() == ["status", ":4"]
    plugin.complete(["logs", "--ra"])
    assert capsys.readouterr().out.split() == ["--rank", ":4"]


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert plugin.main([]) == 0
    text = capsys.readouterr().out
    for name in (
        "status",
        "why",
        "tree",
        "top",
        "logs",
        "events",
        "retry",
        "suspend",
        "resume",
        "lineage",
        "chat",
        "check",
    ):
        assert f"    {name} " in text
        with pytest.raises(SystemExit, match="0"):
            plugin.main([name, "--help"])
        assert f"kubectl aifactory {name}" in capsys.readouterr().out


def test_events_are_those_of_the_objects_and_of_pods_that_are_gone() -> None:
    def event(kind: str, name: str, message: str, **more: Any) -> Json:
        about = {"kind": kind, "name": name}
        return {"involvedObject": about, "type": "Normal", "reason": "R", "message": message, **more}

    events = [
        event("Pod", "train-1-0", "gone", lastTimestamp="2026-01-01T12:03:00Z", count=3),
        event("Pod", "training-1-0", "another job's"),
        event("TrainingJob", "train", "ours", eventTime="2026-01-01T12:02:00.000000Z"),
        event("Secret", "train", "not ours"),
    ]
    screen = plugin.Screen(now=factory.LATER)
    text = plugin.events_of(events, {("TrainingJob", "train")}, [r"train-\d+-\d+"], screen)
    assert [line.split()[0] for line in text] == ["LAST", "3m", "2m"]
    assert text[-1].endswith("gone (x3)")
    assert plugin.events_of([], set(), [], screen) == ["No Events; Kubernetes keeps them for an hour."]

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
        "pause",
        "promote",
        "abort",
        "rollback",
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


def _pool(
    candidate: int | None = None, stable: int | None = None, phase: str = "Complete", track: bool = False
) -> Json:
    model: Json = {"name": "tiny", "track": "Latest"} if track else {"name": "tiny", "version": candidate or stable}
    parts = {"candidate": candidate, "stable": stable}
    status = {name: {"version": number} for name, number in parts.items() if number is not None}
    metadata = {"name": "chat", "namespace": "ns"}
    return {
        "kind": "InferencePool",
        "metadata": metadata,
        "spec": {"models": [model]},
        "status": {**status, "rollout": {"phase": phase}},
    }


def _version(number: int, ready: bool = True) -> Json:
    status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
    metadata = {"name": f"tiny-v{number}", "namespace": "ns"}
    return {
        "kind": "ModelVersion",
        "metadata": metadata,
        "spec": {"model": "tiny", "version": number},
        "status": status,
    }


VERSIONS = [_version(1), _version(2, ready=False), _version(3), _version(4)]


@pytest.mark.parametrize(
    ("candidate", "stable", "to", "expected"),
    [
        (None, 4, None, 3),
        (None, 3, None, 1),  # 2 is not Ready
        (4, 3, None, 3),
        (3, 4, None, 4),  # in the middle of going back: where it came from
        (None, 4, 1, 1),
    ],
)
def test_a_pool_goes_back_to_what_was_served_before(
    candidate: int | None, stable: int, to: int | None, expected: int
) -> None:
    assert plugin.rollback_to(_pool(candidate, stable), VERSIONS, to) == expected


@pytest.mark.parametrize(
    ("stable", "to", "words"),
    [
        (1, None, "no version of tiny that is older than 1 is Ready; Ready are: 4, 3, 1; name one with --to"),
        (4, 2, "version 2 of tiny is not Ready; Ready are: 4, 3, 1"),
        (None, None, "ipool/chat has served nothing yet, so there is nothing to go back from"),
    ],
)
def test_where_a_pool_can_not_go_back_to_is_told(stable: int | None, to: int | None, words: str) -> None:
    with pytest.raises(plugin.Failed, match=f"^{words}$"):
        plugin.rollback_to(_pool(None, stable), VERSIONS, to)


def _several(gpt: int, bert: int) -> Json:
    served = [{"name": "tiny", "version": gpt}, {"name": "bert", "version": bert}]
    pool: Json = _pool(None, gpt)
    pool["spec"]["models"] = [{"name": "tiny", "track": "Latest"}, {"name": "bert", "version": bert}]
    pool["status"] |= {"models": served, "stable": {"revision": "r", "version": bert, "models": served}}
    return pool


def test_of_several_models_the_one_that_is_named_goes_back() -> None:
    pool = _several(4, 9)
    assert plugin.rolled_back(pool, "tiny") == "tiny"
    assert plugin.rollback_to(pool, VERSIONS, None, "tiny") == 3, "by its own number, whatever the other's is"
    with pytest.raises(plugin.Failed, match="serves tiny, bert: say which one goes back with --model"):
        plugin.rolled_back(pool, None)
    with pytest.raises(plugin.Failed, match="does not serve t5; it serves tiny, bert"):
        plugin.rolled_back(pool, "t5")


JOB = {"kind": "TrainingJob", "metadata": {"name": "train", "namespace": "ns"}, "spec": {}}


@pytest.mark.parametrize(
    ("typed", "pool", "asked"),
    [
        ("promote ipool/chat", _pool(4, 3, "Progressing"), "annotate inferencepools.aifactory.dev/chat --overwrite"),
        ("abort", _pool(4, 3, "Progressing"), "aifactory.dev/abort="),
        ("pause chat", _pool(4, 3, "Progressing"), "aifactory.dev/pause="),
        ("resume chat", _pool(4, 3, "Progressing"), "aifactory.dev/resume="),
        (
            "resume",
            _pool(None, 3),
            'patch trainingjobs.aifactory.dev/train --type=merge -p {"spec": {"suspend": false}}',
        ),
        ("suspend", _pool(None, 3), '{"spec": {"suspend": true}}'),
        ("rollback", _pool(4, 3, track=True), '{"spec": {"models": [{"name": "tiny", "version": 3}]}}'),
        (
            "rollback --model tiny",
            _several(4, 9),
            '{"spec": {"models": [{"name": "tiny", "version": 3}, {"name": "bert", "version": 9}]}}',
        ),
    ],
)
def test_what_is_asked_of_an_object_is_one_call_of_kubectl(
    typed: str, pool: Json, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(plugin.Kubectl, "factory", lambda _, everywhere=False: [JOB, *VERSIONS, pool])
    monkeypatch.setattr(plugin.Kubectl, "show", lambda _, *args: calls.append(" ".join(args)) or 0)
    assert plugin.main(typed.split()) == 0
    assert len(calls) == 1
    assert asked in calls[0]


def test_nothing_is_asked_of_a_pool_that_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plugin.Kubectl, "factory", lambda _, everywhere=False: [*VERSIONS, _pool(None, 3)])
    assert plugin.main(["promote", "chat"]) != 0
    assert capsys.readouterr().err == "no change of ipool/chat is under way, so there is nothing to promote\n"
    assert plugin.main(["resume", "mver/tiny-v1"]) != 0
    assert "to have it checked again: retry mver/tiny-v1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gateway", "stable", "way"),
    [
        (None, {"revision": "v2-1-2"}, "service/chat"),
        ({"mode": "Envoy"}, {"revision": "v2-1-2"}, "service/chat"),
        ({"apiKeys": {}}, {"revision": "v2-1-2"}, "deployment/chat-v2-1-2"),
        ({"tls": {}}, {"revision": "v2-1-2", "deployment": "chat-v2-1-1"}, "deployment/chat-v2-1-1"),
        ({"tls": {}}, None, "service/chat"),
    ],
)
def test_who_may_forward_to_pods_needs_no_key_of_the_gateway(gateway: Any, stable: Any, way: str) -> None:
    pool = {"metadata": {"name": "chat"}, "spec": {"gateway": gateway}, "status": {"stable": stable}}
    assert plugin.way_to(pool) == way

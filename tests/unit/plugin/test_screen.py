"""What a person sees: the captures of docs/plugin.md are what these objects look like, and so are never out of date."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest

from plugin import kubectl_aifactory as plugin
from tests.unit.plugin import factory, scene
from tests.unit.plugin.factory import LATER, Json

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/plugin.md"
SCREEN = plugin.Screen(width=110, now=LATER)


def status(*objects: Json, about: Json | None = None, screen: plugin.Screen = SCREEN) -> str:
    found = plugin.lines(objects, LATER, plugin.ref(about) if about else "")
    found = plugin.chain(found, about) if about else found
    return "\n".join(plugin.screen_of(found, screen, about=about))


def items(*objects: Json) -> list[plugin.Item]:
    return [item for line in plugin.lines(objects, LATER) for item in line.items()]


def pods(*names: str) -> list[Json]:
    found = []
    for name in names:
        labels = {"aifactory.dev/role": "node", "aifactory.dev/job-name": "train"}
        labels["aifactory.dev/attempt"] = name.rpartition("-")[2]
        status = {"phase": "Failed" if name.endswith("-0") else "Running"}
        meta = {"name": name, "namespace": "ns", "labels": labels}
        found.append({"metadata": meta, "spec": {"nodeName": "node-a"}, "status": status})
    return found


def second_attempt() -> Json:
    found = factory.running_job()
    found["status"]["attempt"] = 1
    return found


CAPTURES: dict[str, Callable[[], str]] = {
    "status": lambda: status(factory.failing_job(), factory.waiting_pool()),
    "running": lambda: status(factory.running_job(), factory.version(), factory.served_pool()),
    "several": lambda: status(*shared_pool("of two models one has no room", gpt="5.4")[:3]),
    "why": lambda: "\n".join(plugin.page_of(items(factory.fetching_job())[0], SCREEN)),
    "tree": lambda: "\n".join(
        plugin.tree_of(
            plugin.lines([second_attempt(), factory.version(), factory.served_pool()], LATER),
            pods("train-1-0", "train-0-1", "train-1-1"),
            SCREEN,
        )
    ),
    "top": lambda: "\n".join(plugin.top_of([factory.running_job(), factory.served_pool()], SCREEN, False)),
    "lineage": lambda: "\n".join(plugin.lineage_of(factory.published_version(), [factory.running_job()])),
}


def captured(page: str) -> dict[str, str]:
    """The captures of the page by name."""
    return dict(re.findall(r"<!-- capture: (\w+) -->\n```console\n\$ [^\n]+\n(.*?)\n```", page, re.DOTALL))


@pytest.mark.parametrize("name", CAPTURES)
def test_the_page_shows_what_is_printed(name: str) -> None:
    """To accept a change: AIFACTORY_UPDATE_GOLDENS=1, then read the difference."""
    text, page = CAPTURES[name](), PAGE.read_text()
    if os.environ.get("AIFACTORY_UPDATE_GOLDENS"):
        pattern = rf"(<!-- capture: {name} -->\n```console\n\$ [^\n]+\n).*?(\n```)"
        page = re.sub(pattern, lambda found: found[1] + text + found[2], page, flags=re.DOTALL)
        PAGE.write_text(page)
    assert captured(page)[name] == text


def test_every_capture_of_the_page_is_made_here() -> None:
    assert captured(PAGE.read_text()).keys() == CAPTURES.keys()


@pytest.mark.parametrize("width", [40, 60, 80, 110, 200])
def test_nothing_but_commands_and_names_is_wider_than_the_terminal(width: int) -> None:
    screen = SCREEN._replace(width=width)
    for obj in factory.situations().values():
        for line in status(obj, screen=screen).splitlines():
            command = line.strip().startswith(("kubectl", "run ", "talk ", "helm"))
            assert len(line) <= width or command or len(line.split()) <= 6, line


@pytest.mark.parametrize("colour", [False, True])
def test_colours_change_no_words(colour: bool) -> None:
    plain = status(factory.failing_job(), factory.waiting_pool())
    shown = status(factory.failing_job(), factory.waiting_pool(), screen=SCREEN._replace(colour=colour))
    assert ("\x1b[" in shown) == colour
    assert re.sub(r"\x1b\[\d+m", "", shown) == plain


def test_a_message_can_not_command_the_terminal() -> None:
    obj = factory.failing_job()
    for condition in obj["status"]["conditions"]:
        condition["message"] = "\x1b]0;owned\x07 \x1b[2J gone"
    assert "\x1b" not in status(obj)
    assert "\x07" not in status(obj)


def test_all_of_a_full_factory_is_on_one_screen() -> None:
    """The line with its blocker fits into 24 rows of 80 columns."""
    text = status(factory.failing_job(), factory.waiting_pool(), screen=SCREEN._replace(width=80))
    assert len(text.splitlines()) <= 24


def test_the_first_thing_that_blocks_is_the_one_nearest_to_the_data() -> None:
    shown = json.loads(json.dumps(plugin.as_json(plugin.lines([factory.waiting_pool(), factory.failing_job()], LATER))))
    assert [found["name"] for found in shown["blocked"]] == ["train"], "the pool waits for what is on its way"
    assert shown["blocked"][0]["reason"] == "ImagePullFailed"
    assert shown["blocked"][0]["commands"][0].startswith("kubectl -n ns patch tjob/train --type=json")
    assert [found["state"] for found in shown["lines"][0]["objects"]] == ["stuck", "busy"]


def test_an_old_failure_that_serves_nobody_hides_nothing() -> None:
    alone = deepcopy(factory.situations()["job: no restart is left"])
    alone["metadata"]["name"] = "alone"
    blocked = plugin.blockers(plugin.lines([alone, factory.failing_job(), factory.waiting_pool()], LATER))
    assert [plugin.ref(item.obj) for item in blocked] == ["tjob/train", "tjob/alone"]


def test_a_pool_for_whose_model_nothing_is_on_its_way_blocks() -> None:
    (found,) = plugin.blockers(plugin.lines([factory.waiting_pool()], LATER))
    assert found.state.reason == "WaitingForModel"
    assert found.state.message.endswith("nothing in this namespace is about to make one")


def test_a_failed_job_that_was_followed_by_another_blocks_nothing() -> None:
    ended = deepcopy(factory.situations()["job: no restart is left"])
    ended["spec"]["output"] = factory.OUTPUT
    (found,) = plugin.blockers(plugin.lines([ended], LATER))
    assert found.state.reason == "MaxRestartsExceeded"
    later = factory.running_job()
    later["metadata"] = {**later["metadata"], "name": "again", "creationTimestamp": "2026-01-01T12:01:00Z"}
    (line,) = plugin.lines([later, ended], LATER)
    assert not plugin.blockers([line])
    assert line.left_out == 1
    (shown,) = plugin.lines([later, ended], LATER, "tjob/train")
    assert [plugin.name_of(item.obj) for item in shown.jobs] == ["train", "again"], "who asks for it sees it"


def test_a_job_that_reads_a_version_comes_after_what_makes_that() -> None:
    base, tuned = factory.failing_job(), factory.failing_job()
    tuned["metadata"] = {**tuned["metadata"], "name": "atune", "uid": "x"}
    tuned["spec"]["output"] = {"model": {"name": "a-tuned", "format": "huggingface"}}
    tuned["spec"]["inputs"] = [{"name": "base", "modelVersion": "tiny-v1"}]
    other = factory.failing_job()
    other["metadata"] = {**other["metadata"], "name": "other", "uid": "y"}
    other["spec"].pop("output")
    found = plugin.lines([tuned, base, other], LATER)
    assert [line.title for line in found] == ["other", "tiny", "a-tuned"]
    assert [line.title for line in plugin.chain(found, tuned)] == ["tiny", "a-tuned"]
    assert [line.title for line in plugin.chain(found, base)] == ["tiny"]


def test_what_lies_behind_an_object_does_not_block_it() -> None:
    broken = factory.situations()["pool: starts, and the version does not load"]
    good = factory.version()
    assert "Nothing blocks." in status(good, broken, about=good)
    assert "ModelLoadFailed" in status(good, broken, about=broken)


def shared_pool(name: str = "serves two models", **answers: str) -> list[Json]:
    """A pool of gpt and bert, a version of each, and the job that made the second; `answers` are requests a second."""
    pool = deepcopy(factory.situations()[f"pool: {name}"])
    if answers:
        each = [{"name": model, "requestsPerSecond": text, "tokensPerSecond": "0"} for model, text in answers.items()]
        pool["status"]["throughput"] = {"requestsPerSecond": "5.4", "tokensPerSecond": "0", "models": each}
    job = deepcopy(factory.situations()["job: its version is there"])
    job["spec"]["output"] = {"model": {"name": "bert", "format": "torch-export"}}
    versions = [json.loads(json.dumps(factory.version()).replace("tiny", model)) for model in ("gpt", "bert")]
    for version, model in zip(versions, pool["status"]["models"], strict=True):
        version["status"] |= (
            {"inUse": 1, "usedBy": [{"kind": "InferencePool", "name": "chat"}]} if model.get("version") else {}
        )
    return [pool, *versions, job]


def test_models_that_share_a_pool_are_one_line() -> None:
    own, shared = factory.version(), shared_pool()
    lone = deepcopy(factory.waiting_pool())
    lone["metadata"] |= {"name": "lone", "uid": "lone"}
    lone["spec"]["models"] = [{"name": "bert", "track": "Latest"}]
    line, other = plugin.lines([own, *shared, lone], LATER)
    assert (line.title, line.models, other.title) == ("bert, gpt", ("bert", "gpt"), "tiny")
    found = [plugin.ref(item.obj) for item in line.items()]
    assert found == ["tjob/train", "mver/bert-v1", "mver/gpt-v1", "ipool/chat", "ipool/lone"]
    assert line.left_out == 0, "the newest of each model is shown"
    assert plugin.chain([line, other], shared[2]) == [line]
    assert plugin.as_json([line])["lines"][0]["models"] == ["bert", "gpt"]
    apart = [{**obj, "metadata": {**obj["metadata"], "namespace": "else"}} for obj in shared[1:3]]
    assert [each.title for each in plugin.lines([shared[0], *apart], LATER)] == ["bert", "gpt", "bert, gpt"]


def test_a_job_that_reads_one_of_them_comes_after_their_line() -> None:
    tuned = deepcopy(factory.failing_job())
    tuned["metadata"] |= {"name": "tune", "uid": "tune"}
    tuned["spec"]["output"] = {"model": {"name": "a-tuned", "format": "huggingface"}}
    tuned["spec"]["inputs"] = [{"name": "base", "modelVersion": "gpt-v1"}]
    found = plugin.lines([tuned, *shared_pool()], LATER)
    assert [line.title for line in found] == ["bert, gpt", "a-tuned"]
    assert plugin.chain(found, tuned) == found


def test_each_model_of_a_pool_has_a_row() -> None:
    text = status(*shared_pool(gpt="1.2", bert="4.2"))
    pool, *models = text[text.index("serve") :].splitlines()[:3]
    assert "version" not in pool
    assert [" ".join(row.split()) for row in models] == [
        "gpt Serving version 2 2 pods memory 0.977KiB 1.2 requests/s",
        "bert Serving version 1 2 pods memory 0.977KiB 4.2 requests/s",
    ]
    top = plugin.top_of(shared_pool(gpt="1.2", bert="4.2"), SCREEN, False)
    assert [row.split()[:6] for row in top[1:]] == [
        ["chat", "Serving", "2/2", "-", "5.4", "0"],
        ["chat:", "gpt", "Serving", "2", "2", "1.2"],
        ["chat:", "bert", "Serving", "2", "1", "4.2"],
    ]
    refused = status(*shared_pool("of two models one has no room"))
    assert re.search(r"^ +bert +Refused +version 1 wanted", refused, re.MULTILINE)
    assert "! ipool/chat is stuck: ModelTooLarge" in refused


def test_a_pool_waits_in_vain_for_the_one_model_that_nobody_makes() -> None:
    """The other one is served."""
    pool, good, _, job = shared_pool("of two models one has no version")
    (found,) = plugin.blockers(plugin.lines([pool, good], LATER))
    assert found.state.message.endswith("nothing in this namespace is about to make one")
    running = deepcopy(factory.running_job())
    running["spec"]["output"] = job["spec"]["output"]
    assert not plugin.blockers(plugin.lines([pool, good, running], LATER))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("its check comes to no answer", "check +Skipped: pod train-check-.* says nothing of the inputs:"),
        ("waits in a queue", "queue +Queued: Workload train-w waits for quota in LocalQueue team-a"),
        ("was preempted", "queue +Preempted: Kueue has taken the quota"),
    ],
)
def test_what_was_before_its_pods_is_told_of_a_job(name: str, words: str) -> None:
    obj = factory.situations()[f"job: {name}"]
    assert re.search(rf"^  {words}", status(obj, about=obj, screen=SCREEN._replace(width=200)), re.MULTILINE)


@pytest.mark.parametrize("name", ["all run", "no image"])
def test_a_job_without_a_check_and_a_queue_tells_neither(name: str) -> None:
    obj = factory.situations()[f"job: {name}"]
    assert not re.search(r"^  (check|queue) ", status(obj, about=obj), re.MULTILINE)


def test_top_tells_what_gpus_do_and_cost() -> None:
    """Of a job the part of their seconds that was not lost, of a pool the part in which somebody was answered."""
    job, _, pool = scene.at_work()
    _, of_job, _, _, of_pool = plugin.top_of([job, pool], SCREEN._replace(width=200), False)
    assert of_job.split()[-3:] == ["16", "92%", "59.76"]
    assert of_pool.split()[-3:] == ["4", "82%", "1.50"]
    assert plugin.top_of([job, pool], SCREEN, False)[0].split()[-3:] == ["GPUS", "GOODPUT", "COST"]

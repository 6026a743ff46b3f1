"""What a job reads is there before a pod asks for a GPU, and stays the same for all of its attempts."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from aifactory.api.inputs import InputStatus
from aifactory.api.reasons import ConditionType
from aifactory.training import cache, children, fetchers, inputs
from aifactory.training.fetchers import Fetch
from aifactory.training.state import BaseView, ClaimView, Fetched
from tests.unit.plans import bodies, created, removed
from tests.unit.training.builders import NOW, OUTPUT, SETTINGS, World, conditions, decide, job, message, pod

URI = "s3://bucket/corpus"
CORPUS = {"name": "corpus", "uri": URI, "secretRef": {"name": "s3"}}
BASE = {"name": "base", "modelVersion": "llama-v1"}
ONE, TWO, THREE = (f"sha256:{digit * 64}" for digit in "123")
GOOD = BaseView("pvc://models/llama/1", TWO, "keys", "huggingface")
DENIED = {"reason": "AccessDenied", "message": "access denied (403)"}


def answer(digest: str = ONE, size: int = 1000) -> dict[str, Any]:
    """What a pod says that has fetched an input."""
    return {"uri": URI, "digest": digest, "files": 2, "sizeBytes": size, "path": "inputs/x", "cached": False}


def waiting(*inputs: dict[str, Any], **spec: Any) -> World:
    """A job whose inputs are being fetched."""
    world = World(job(nodes=2, inputs=list(inputs) or [CORPUS], **spec), gangs_served=True)
    world.settle()
    assert not {**world.pods, **world.gangs}
    return world


def running(*inputs: dict[str, Any], **spec: Any) -> World:
    """A job that has all of its inputs, the first of them `ONE`, and trains."""
    world = waiting(*inputs, **spec)
    for name in list(world.fetchers):
        world.fetchers[name] = replace(world.fetchers[name], ended=True, exit_code=0, message=json.dumps(answer()))
    world.settle()
    world.run_pods()
    world.settle()
    assert world.status.phase == "Running"
    return world


def entry(world: World, name: str = "corpus") -> InputStatus:
    (found,) = (found for found in world.status.inputs or () if found.name == name)
    return found


def ready(world: World) -> tuple[str, str]:
    return conditions(world.status)["InputsReady"]


def claim_is_lost(world: World) -> None:
    """Somebody has deleted it."""
    world.input_claim = None


# --- Before the first pod ---


def test_no_pod_is_made_before_every_input_is_there() -> None:
    world = waiting(CORPUS, {"name": "more", "uri": "https://host/file"})
    assert [name.rpartition("-")[0][: len("train-input-more")] for name in sorted(world.fetchers)] == [
        "train-input-corp",
        "train-input-more",
    ]
    assert (world.status.phase, world.status.reason) == ("Pending", "PreparingInputs")
    assert ready(world) == ("False", "PreparingInputs")
    words = message(world.status, ConditionType.INPUTS_READY)
    assert words.startswith("0 of 2 inputs are there; input corpus: pod train-input-corpus-")
    assert words.endswith(f" fetches {URI}")
    assert (entry(world).phase, entry(world).pod in world.fetchers) == ("Fetching", True)

    world.end_fetcher(answer(), of="corpus")
    world.settle()
    assert message(world.status, ConditionType.INPUTS_READY).startswith("1 of 2 inputs are there; input more: ")
    assert entry(world) == InputStatus(
        name="corpus",
        uri=URI,
        phase="Ready",
        bytes=1000,
        total_bytes=1000,
        percent=100,
        digest=ONE,
        claim=entry(world).claim,
    )
    assert not {**world.pods, **world.gangs}, "one is not there"
    assert [name for name in world.fetchers if "corpus" in name] == [], "its answer is written down"

    world.end_fetcher(answer(TWO), of="more")
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}
    assert ready(world) == ("True", "InputsPrepared")
    assert not world.fetchers
    assert world.input_claim is not None
    assert entry(world).claim == world.input_claim.uid


def test_what_was_found_is_written_before_its_pod_goes() -> None:
    world = waiting()
    world.end_fetcher(answer())
    plan = world.step()
    assert (plan.urgent, plan.requeue_after, removed(plan), created(plan)) == (True, 0, [], [])
    assert entry(world).phase == "Ready"
    assert len(world.fetchers) == 1
    plan = world.step()
    assert len(removed(plan)) == 1
    assert "Pod train-0-0" not in removed(plan)


def test_of_an_earlier_attempt_one_pod_stays_while_inputs_are_awaited() -> None:
    world = waiting()
    world.job = job(nodes=2, inputs=[CORPUS], status={**world.job.status.dump(), "attempt": 1})
    world.pods = {found.name: found for found in (pod(0, 0, exit_code=1), pod(1, 0, exit_code=1))}
    assert removed(world.step()) == ["Pod train-1-0"]


def test_the_claim_is_made_once_and_belongs_to_nobody() -> None:
    world = World(job(inputs=[CORPUS]))
    first = world.step()
    assert entry(world) == InputStatus(name="corpus", uri=URI, phase="Pending")
    (claim,) = (write for write in first.writes)
    assert created(first) == ["PersistentVolumeClaim aifactory-inputs"]
    assert first.requeue_after == 0
    assert getattr(claim, "shared", False)
    assert "ownerReferences" not in claim.body["metadata"]  # type: ignore[union-attr]
    assert claim.body["spec"] == {  # type: ignore[union-attr]
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "50Gi"}},
    }
    world.settle()
    assert len(world.fetchers) == 1


def test_a_store_is_tried_out_before_anything_is_fetched() -> None:
    world = World(job(inputs=[CORPUS], output={**OUTPUT, "store": "s3://team/models"}))
    world.settle()
    assert not world.fetchers
    assert "InputsReady" not in conditions(world.status)
    world.end_probe({"uri": "s3://team/models/tiny"})
    world.settle()
    assert len(world.fetchers) == 1
    assert not {**world.probes, **world.pods}


def test_a_fetcher_is_told_what_others_need() -> None:
    observed = replace(waiting().observed(), inputs_in_use=(TWO,), fetchers=())
    (body,) = [body for body in bodies(decide(observed)) if body["kind"] == "Pod"]
    told = json.loads(body["spec"]["containers"][0]["args"][2])
    assert told["inUse"] == {"time": int(NOW.timestamp()), "digests": ["2" * 16]}


@pytest.mark.parametrize(
    ("status", "needed"),
    [
        ({}, set()),
        ({"inputs": [{"name": "a", "phase": "Ready", "digest": ONE}]}, {ONE}),
        ({"resolved": {"nodes": 1, "inputs": [{"name": "a", "uri": URI, "digest": TWO}]}}, {TWO}),
        ({"resolved": {"nodes": 1}}, set()),
    ],
)
def test_what_a_job_needs_until_it_has_ended(status: dict[str, Any], needed: set[str]) -> None:
    assert cache.needed(job()) == set()
    assert cache.needed(job(inputs=[CORPUS], status=status)) == needed
    assert cache.needed(job(inputs=[{**CORPUS, "digest": THREE}], suspend=True, status=status)) == {*needed, THREE}
    for end in ("Complete", "Failed"):
        ended = {"type": end, "status": "True", "reason": "x", "lastTransitionTime": NOW, "observedGeneration": 1}
        assert cache.needed(job(inputs=[CORPUS], status={**status, "conditions": [ended]})) == set()


def test_a_job_without_inputs_says_nothing_of_them() -> None:
    world = World(job())
    world.settle()
    assert "InputsReady" not in conditions(world.status)
    assert world.input_claim is None
    assert set(world.pods) == {"train-0-0"}


def test_nothing_is_used_before_all_of_it_is_there() -> None:
    there = {"name": "corpus", "uri": URI, "phase": "Ready", "digest": ONE}
    for found in ([], [{**there, "phase": "Fetching"}], [{**there, "uri": "s3://bucket/earlier"}]):
        assert cache.used(job(inputs=[CORPUS], status={"inputs": found})) is None
    (used,) = cache.used(job(inputs=[CORPUS], status={"inputs": [there]})) or ()
    assert (used.name, used.uri, used.digest, used.model_version) == ("corpus", URI, ONE, None)


def test_an_empty_input_is_one_too() -> None:
    world = waiting()
    world.end_fetcher(answer(size=0))
    world.settle()
    assert (entry(world).phase, entry(world).bytes) == ("Ready", 0)


def test_inputs_that_are_dropped_while_they_are_fetched_are_fetched_no_more() -> None:
    world = waiting()
    world.edit(inputs=[])
    world.settle()
    assert not world.fetchers
    assert set(world.pods) == {"train-0-0", "train-1-0"}


# --- What is in the way ---


@pytest.mark.parametrize("reason", ["AccessDenied", "StoreUnavailable", "StoreFull", "SourceNotFound"])
def test_what_passes_or_can_be_mended_is_told_by_name_and_tried_again(reason: str) -> None:
    world = waiting()
    for number in range(6):
        (name,) = world.fetchers
        assert name.endswith(f"-{number}")
        world.end_fetcher({"reason": reason, "message": "no"}, 1)
        world.settle()
        assert conditions(world.status)["Stalled"] == ("True", reason)
        assert ready(world) == ("False", reason)
        assert message(world.status).startswith(f"0 of 1 inputs are there; input corpus: {URI} with Secret s3: pod ")
        assert (entry(world).phase, entry(world).reason) == ("Waiting", reason)
        assert message(world.status) == f"0 of 1 inputs are there; input corpus: {entry(world).message}"
        assert not {**world.pods, **world.gangs}
        left = world.log[-1].requeue_after or 0
        assert 0 < left <= 45
        assert entry(world).next_time == world.now + timedelta(seconds=left)
        world.wait(left)
        world.settle()
        assert (entry(world).phase, entry(world).reason, entry(world).message) == ("Fetching", "", "")
    world.end_fetcher(answer())
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}
    assert conditions(world.status)["Stalled"][0] == "False"
    assert (entry(world).reason, entry(world).message, entry(world).next_time) == ("", "", None)


def test_the_next_try_comes_also_where_nobody_knows_when_the_last_one_ended() -> None:
    world = waiting()
    world.end_fetcher(DENIED, 1, finished_at=None)
    world.settle()
    for _ in range(3):
        world.wait(15)
        world.settle()
    assert [name.rpartition("-")[2] for name in world.fetchers] == ["1"]


def test_of_several_tries_the_first_that_is_due_is_waited_for() -> None:
    assert inputs.soonest((None, 30.0, 10.0, None)) == 10
    assert inputs.soonest((None,)) is None


@pytest.mark.parametrize("reason", ["DigestMismatch", "InvalidArtifact"])
def test_what_no_other_try_changes_waits_for_a_person(reason: str) -> None:
    world = waiting({**CORPUS, "digest": TWO})
    before = set(world.fetchers)
    world.end_fetcher({"reason": reason, "message": "it is another one"}, 1)
    world.settle()
    world.wait(100_000)
    world.settle()
    assert set(world.fetchers) == before
    assert conditions(world.status)["Stalled"] == ("True", reason)
    way_out = "correct the input in spec.inputs, or put the files right, then kubectl annotate trainingjob train"
    assert way_out in message(world.status)
    assert "fetched first" not in message(world.status), "the digest is the spec's"
    world.annotate("aifactory.dev/retry", "the files are right now")
    world.settle()
    assert [name.rpartition("-")[2] for name in world.fetchers] == ["1"]


BAD_LINE = {"reason": "InvalidArtifact", "message": "chat.jsonl:3: messages[1] has the role 'bot'"}
CHAT = {**CORPUS, "format": "chat"}


def test_a_bad_line_is_told_with_the_way_out_and_no_pod_is_made_for_it() -> None:
    world = waiting(CHAT)
    (before,) = world.fetchers
    assert message(world.status).endswith(f"{before} fetches {URI} and checks that it is chat")
    world.end_fetcher(BAD_LINE, 1)
    world.settle()
    assert ready(world) == ("False", "InvalidArtifact")
    assert message(world.status, ConditionType.INPUTS_READY) == (
        f"0 of 1 inputs are there; input corpus: {URI}: pod {before}: chat.jsonl:3: messages[1] has the role 'bot'; "
        "correct the input in spec.inputs, or put the files right, then kubectl annotate trainingjob train --overwrite "
        "aifactory.dev/retry=<anything new>"
    )
    assert not {**world.pods, **world.gangs}
    world.annotate("aifactory.dev/retry", "the line is right now")
    world.settle()
    world.end_fetcher(answer(TWO))
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}, "of the files as they are now"
    assert (entry(world).format, entry(world).digest) == ("chat", TWO)


def test_what_is_there_is_checked_before_an_edit_that_says_its_format_counts() -> None:
    """The pods run on meanwhile; and of another format it is another input, whatever was found of it first."""
    world = running()
    world.edit(inputs=[CHAT])
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}
    assert (entry(world).phase, entry(world).format, entry(world).digest) == ("Fetching", "chat", "")
    world.end_fetcher(BAD_LINE, 1)
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}
    assert ready(world) == ("False", "InvalidArtifact")
    world.edit(inputs=[{**CORPUS, "format": "text"}])
    world.settle()
    world.end_fetcher(answer(TWO))
    world.settle()
    world.bury()
    world.settle()
    assert set(world.pods) == {"train-0-1", "train-1-1"}


@pytest.mark.parametrize(
    "edit",
    [{"digest": ONE}, {"uri": "s3://bucket/other"}, {"secretRef": {"name": "other"}}, {"format": "text"}],
    ids=str,
)
def test_another_uri_digest_secret_or_format_is_tried_at_once(edit: dict[str, Any]) -> None:
    world = waiting({**CORPUS, "digest": TWO})
    (before,) = world.fetchers
    world.end_fetcher({"reason": "DigestMismatch", "message": "no"}, 1)
    world.settle()
    world.edit(inputs=[{**CORPUS, "digest": TWO, **edit}])
    world.settle()
    (after,) = world.fetchers
    assert after.rpartition("-")[0] != before.rpartition("-")[0]
    assert after.endswith("-0")
    assert (world.status.phase, entry(world).phase, entry(world).reason) == ("Pending", "Fetching", "")


def test_an_answer_to_an_earlier_question_is_none() -> None:
    """The pod of the input as it was has ended well at the moment of the edit."""
    world = waiting()
    world.edit(inputs=[{**CORPUS, "uri": "s3://bucket/other"}])
    world.end_fetcher(answer())
    world.settle()
    assert len(world.fetchers) == 1
    assert entry(world).phase == "Fetching"
    assert entry(world).digest == ""
    assert not world.pods


def test_what_is_known_of_the_question_as_it_is_now_counts_though_its_pod_was_not_written_down() -> None:
    """The status could not be written after the pod was made."""
    world = waiting()
    before = world.status
    world.edit(inputs=[{**CORPUS, "secretRef": {"name": "other"}}])
    world.settle()
    world.end_fetcher({"reason": "InvalidArtifact", "message": "no"}, 1)
    world.job = world.job.model_copy(update={"status": before})
    world.settle()
    assert [name.rpartition("-")[2] for name in world.fetchers] == ["0"]
    assert ready(world) == ("False", "InvalidArtifact")


@pytest.mark.parametrize(
    "said",
    [{}, {"digest": "sha256:../../x", "sizeBytes": 1}, {"digest": ONE}, {"digest": ONE, "sizeBytes": -1}],
    ids=str,
)
def test_an_answer_that_names_no_digest_is_not_believed(said: dict[str, Any]) -> None:
    world = waiting()
    world.end_fetcher(said)
    world.settle()
    assert ready(world) == ("False", "InputFailed")
    assert not world.pods


def test_a_person_is_asked_for_before_others_are_waited_for() -> None:
    world = waiting(CORPUS, {"name": "more", "uri": "https://host/file"}, {"name": "rest", "uri": "https://host/rest"})
    world.end_fetcher(DENIED, 1, of="more")
    world.settle()
    assert message(world.status).startswith("0 of 3 inputs are there; input more: https://host/file: pod ")
    assert len(world.fetchers) == 3, "the others are fetched meanwhile"


def test_what_is_waited_for_is_told_before_what_is_under_way() -> None:
    world = waiting(CORPUS, BASE)
    assert message(world.status).startswith("0 of 2 inputs are there; input base: waiting for ModelVersion llama-v1")


def test_what_was_in_the_way_is_forgotten_when_it_is_there() -> None:
    world = waiting()
    (name,) = world.fetchers
    world.fetchers[name] = replace(world.fetchers[name], unschedulable="no node is free")
    world.settle()
    assert (entry(world).phase, entry(world).reason) == ("Waiting", "Unschedulable")
    world.end_fetcher(answer(), unschedulable="")
    world.settle()
    assert (entry(world).phase, entry(world).reason, entry(world).message) == ("Ready", "", "")


def test_how_far_it_is_is_told_and_not_forgotten() -> None:
    world = waiting()
    (name,) = world.fetchers
    world.fetched = {name: Fetched(300, 1000)}
    world.settle()
    assert (entry(world).bytes, entry(world).total_bytes, entry(world).percent) == (300, 1000, 30)
    world.fetched = {}
    world.settle()
    assert entry(world).percent == 30, "an operator that has just started has not asked yet"
    world.end_fetcher(DENIED, 1)
    world.settle()
    world.wait(60)
    world.settle()
    assert (entry(world).bytes, entry(world).total_bytes, entry(world).percent) == (None, None, None), (
        "it has yet to say"
    )
    (name,) = world.fetchers
    world.fetched = {name: Fetched(300)}
    world.settle()
    assert (entry(world).bytes, entry(world).total_bytes, entry(world).percent) == (300, None, None)


def test_a_pod_that_is_drained_is_followed_by_another_one() -> None:
    world = waiting()
    (name,) = world.fetchers
    world.fetchers[name] = replace(world.fetchers[name], terminating=True)
    world.settle()
    assert {found.rpartition("-")[2] for found in world.fetchers} == {"0", "1"}


# --- ModelVersions ---


def test_a_model_version_is_waited_for_and_needs_no_pod_meanwhile() -> None:
    world = waiting(BASE)
    assert not world.fetchers
    assert (world.status.reason, ready(world)) == ("WaitingForModel", ("False", "WaitingForModel"))
    words = "waiting for ModelVersion llama-v1, which does not exist"
    assert f"input base: {words}" in message(world.status)
    assert entry(world, "base") == InputStatus(
        name="base", model_version="llama-v1", phase="Waiting", reason="WaitingForModel", message=words
    )
    assert not world.log[-1].urgent, "nobody builds on it"
    world.bases["llama-v1"] = BaseView("pvc://models/llama/1", message="pod llama-v1-verify-0 reads the artifact")
    world.settle()
    assert "ModelVersion llama-v1 is not Ready: pod llama-v1-verify-0 reads the artifact" in message(world.status)
    assert conditions(world.status)["Reconciling"] == ("True", "WaitingForModel")
    world.bases["llama-v1"] = BaseView("pvc://models/llama/1", stalled=True, message="pickles")
    world.settle()
    assert conditions(world.status)["Stalled"] == ("True", "ModelNotReady")
    world.bases["llama-v1"] = GOOD
    world.settle()
    assert world.input_claim is not None
    fetch = Fetch("base", GOOD.uri, TWO, "keys", "huggingface", world.input_claim.uid)
    assert set(world.fetchers) == {f"{fetchers.pods_name(world.job, fetch)}-0"}
    world.end_fetcher(answer(TWO))
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}
    assert (entry(world, "base").model_version, entry(world, "base").uri) == ("llama-v1", "pvc://models/llama/1")


def test_a_version_that_is_not_good_any_more_is_not_fetched_any_more() -> None:
    world = World(job(inputs=[BASE]), bases={"llama-v1": GOOD})
    world.settle()
    world.end_fetcher(DENIED, 1)
    world.settle()
    assert entry(world, "base").next_time is not None
    world.bases["llama-v1"] = replace(GOOD, digest="", message="it is read again")
    world.settle()
    assert not world.fetchers
    found = entry(world, "base")
    assert (found.phase, found.pod, found.next_time) == ("Waiting", "", None)
    assert found.message == "ModelVersion llama-v1 is not Ready: it is read again"


def test_a_version_with_other_files_than_it_promises_is_not_what_the_job_has_fetched_first() -> None:
    world = World(job(inputs=[BASE]), bases={"llama-v1": GOOD})
    world.settle()
    world.end_fetcher({"reason": "DigestMismatch", "message": f"found {ONE}"}, 1)
    world.settle()
    assert "fetched first" not in message(world.status)


def test_the_files_of_a_version_are_not_all_that_lies_there() -> None:
    """A version's digest is that of the files of its format: by its URI it is another input."""
    world = World(job(inputs=[BASE]), bases={"llama-v1": GOOD})
    world.settle()
    world.end_fetcher(answer(TWO))
    world.settle()
    world.edit(inputs=[{"name": "base", "uri": GOOD.uri}])
    world.settle()
    assert world.input_claim is not None
    fetch = Fetch("base", GOOD.uri, claim=world.input_claim.uid)
    assert set(world.fetchers) == {f"{fetchers.pods_name(world.job, fetch)}-0"}


def test_a_version_that_is_there_already_may_go() -> None:
    world = World(job(inputs=[BASE]), bases={"llama-v1": GOOD})
    world.settle()
    world.end_fetcher(answer(TWO))
    world.settle()
    world.run_pods()
    world.bases.clear()
    world.settle()
    assert (world.status.phase, ready(world)[0]) == ("Running", "True")


# --- While it runs ---


def test_a_restart_fetches_nothing() -> None:
    world = running(failurePolicy={"backoff": {"baseSeconds": 0}})
    world.end("train-0-0", 1)
    world.settle()
    world.bury()
    world.settle()
    assert {"train-0-1", "train-1-1"} <= set(world.pods)
    assert not world.fetchers


def test_pods_run_on_until_the_inputs_of_an_edit_are_there() -> None:
    world = running()
    world.edit(inputs=[{**CORPUS, "uri": "s3://bucket/other"}])
    world.settle()
    assert len(world.fetchers) == 1
    assert not any(view.terminating for view in world.pods.values())
    assert conditions(world.status)["Running"] == ("True", "AllNodesReady")
    assert conditions(world.status)["Reconciling"] == ("True", "PreparingInputs")
    there = message(world.status, ConditionType.INPUTS_READY)
    words = f"the spec was edited: {there}; pods of attempt 0 run on as they are until every input is there"
    assert (message(world.status), world.status.reason) == (words, "PreparingInputs")
    world.end_fetcher(DENIED, 1)
    world.settle()
    assert conditions(world.status)["Stalled"] == ("True", "AccessDenied")
    assert conditions(world.status)["Running"] == ("True", "AllNodesReady")
    assert 0 < (world.log[-1].requeue_after or 0) <= 45, "nothing else wakes it for the next try"
    world.wait(60)
    world.settle()
    world.end_fetcher(answer(TWO))
    world.settle()
    assert world.status.attempt == 1
    world.bury()
    world.settle()
    assert set(world.pods) == {"train-0-1", "train-1-1"}
    assert ready(world)[0] == "True"


def test_of_an_earlier_attempt_one_pod_stays_while_an_edit_waits_for_its_inputs() -> None:
    """Also where one is seen late: somebody had taken its label when the attempt ended."""
    world = running()
    world.end("train-0-0", 1)
    world.settle()
    world.bury()
    world.settle()
    world.wait(60)
    world.settle()
    world.run_pods()
    world.settle()
    assert {"train-0-0", "train-0-1", "train-1-1"} == set(world.pods)
    world.edit(inputs=[{**CORPUS, "uri": "s3://bucket/other"}])
    world.settle()
    late = pod(1, 0, exit_code=0)
    world.pods[late.name] = late
    assert removed(world.step()) == ["Pod train-1-0"]


def test_while_an_edit_waits_for_its_inputs_it_is_told_how_the_pods_are() -> None:
    other = {**CORPUS, "uri": "s3://bucket/other"}
    world = running()
    world.edit(inputs=[other])
    world.end("train-0-0", 0)
    world.settle()
    assert world.status.nodes is not None
    assert world.status.nodes.succeeded == 1

    world = waiting()
    world.end_fetcher(answer())
    world.settle()
    world.edit(inputs=[other])
    world.settle()
    assert world.status.phase == "Starting"
    world.run_pods()
    world.settle()
    assert world.status.phase == "Running"

    world = running()
    world.edit(inputs=[other], nodes={"count": 3})
    world.settle()
    assert world.status.phase == "Running", "how many there are to be is for the next pods"
    world.lose_status()
    world.settle()
    assert world.status.phase == "Pending", "something has to be told"


def test_pods_that_go_in_a_moment_are_not_told_to_run() -> None:
    world = waiting()
    world.end_fetcher(answer())
    world.settle()
    world.edit(inputs=[{**CORPUS, "uri": "s3://bucket/other"}])
    world.settle()
    world.run_pods()
    world.end_fetcher(answer(TWO))
    world.step()
    assert (entry(world).phase, world.status.phase) == ("Ready", "Starting")
    world.settle()
    assert (world.status.phase, world.status.attempt) == ("Restarting", 1)


def test_an_edit_that_is_taken_back_changes_nothing() -> None:
    world = running()
    world.edit(inputs=[{**CORPUS, "uri": "s3://bucket/other"}])
    world.settle()
    world.edit(inputs=[CORPUS])
    world.settle()
    assert (world.status.attempt, world.status.phase) == (0, "Running")
    (name,) = world.fetchers
    world.end_fetcher(answer())
    world.settle()
    assert (world.status.attempt, world.status.phase, ready(world)[0]) == (0, "Running", "True")
    assert not world.fetchers, name


def test_a_job_that_fails_meanwhile_waits_for_the_inputs_before_it_goes_on() -> None:
    world = running(failurePolicy={"backoff": {"baseSeconds": 0}})
    world.edit(inputs=[{**CORPUS, "uri": "s3://bucket/other"}])
    world.settle()
    world.end("train-0-0", 1)
    world.settle()
    world.bury()
    world.settle()
    assert not any(view.live for view in world.pods.values())
    assert world.status.attempt == 1
    world.end_fetcher(answer(TWO))
    world.settle()
    assert {name for name, view in world.pods.items() if view.live} == {"train-0-1", "train-1-1"}


def test_a_digest_that_the_job_does_not_have_is_fetched() -> None:
    world = running()
    world.edit(inputs=[{**CORPUS, "digest": TWO}])
    world.settle()
    assert world.input_claim is not None
    fetch = Fetch("corpus", URI, TWO, "s3", claim=world.input_claim.uid)
    assert set(world.fetchers) == {f"{fetchers.pods_name(world.job, fetch)}-0"}
    assert ready(world) == ("False", "PreparingInputs")


def test_another_secret_restarts_nothing_and_fetches_nothing() -> None:
    world = running()
    world.edit(inputs=[{**CORPUS, "secretRef": {"name": "rotated"}}])
    world.settle()
    assert (world.status.attempt, world.status.phase) == (0, "Running")
    assert not world.fetchers


def test_inputs_that_are_dropped_leave_nothing_behind() -> None:
    world = running()
    world.edit(inputs=[])
    world.settle()
    world.bury()
    world.settle()
    assert set(world.pods) == {"train-0-1", "train-1-1"}
    assert "InputsReady" not in conditions(world.status)
    assert world.status.inputs is None
    assert world.status.resolved is not None
    assert world.status.resolved.inputs is None


def test_a_status_that_is_lost_is_found_again_beside_the_pods_that_run() -> None:
    world = running()
    world.lose_status()
    world.settle()
    assert world.status.phase == "Running"
    assert ready(world) == ("False", "PreparingInputs")
    world.end_fetcher(answer())
    world.settle()
    assert (world.status.attempt, world.status.phase, ready(world)[0]) == (0, "Running", "True")
    assert set(world.pods) == {"train-0-0", "train-1-0"}
    assert not world.fetchers
    assert world.status.resolved is not None
    assert [found.digest for found in world.status.resolved.inputs or ()] == [ONE]


# --- The claim ---


def test_what_was_on_a_claim_that_is_gone_is_fetched_again_and_must_be_the_same() -> None:
    world = running(failurePolicy={"backoff": {"baseSeconds": 0}})
    world.end("train-0-0", 1)
    world.settle()
    claim_is_lost(world)
    world.bury()
    world.settle()
    assert world.input_claim is not None
    (name,) = world.fetchers
    assert not any(view.live for view in world.pods.values())
    digest = Fetch("corpus", URI, ONE, "s3", claim=world.input_claim.uid)
    assert name == f"{fetchers.pods_name(world.job, digest)}-0"
    world.end_fetcher(answer(TWO))
    world.settle()
    assert not any(view.live for view in world.pods.values()), "another digest is no answer"
    world.wait(300)
    world.settle()
    world.end_fetcher({"reason": "DigestMismatch", "message": f"found {TWO}"}, 1)
    world.settle()
    assert f"{URI}: the files are others than those that this job has fetched first: pod " in message(world.status)
    assert f"found {TWO}; correct the input in spec.inputs" in message(world.status)
    world.annotate("aifactory.dev/retry", "they are as they were")
    world.settle()
    world.end_fetcher({"reason": "InvalidArtifact", "message": "a list of digests that is none"}, 1)
    world.settle()
    assert "fetched first" not in message(world.status), "that is not what is wrong"
    world.annotate("aifactory.dev/retry", "once more")
    world.settle()
    world.end_fetcher(answer(ONE))
    world.settle()
    assert {name for name, view in world.pods.items() if view.live} == {"train-0-1", "train-1-1"}


def test_a_claim_that_is_lost_before_the_pods_have_started_is_filled_again() -> None:
    world = waiting()
    world.end_fetcher(answer())
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}
    claim_is_lost(world)
    world.settle()
    assert len(world.fetchers) == 1
    world.end_fetcher(answer())
    world.settle()
    assert not world.fetchers
    assert (world.status.attempt, ready(world)[0]) == (0, "True")


def test_while_no_pod_holds_the_claim_it_is_looked_whether_it_is_still_there() -> None:
    """Its end wakes nobody."""
    world = waiting()
    world.settle()
    assert world.log[-1].requeue_after == 30
    world.end_fetcher(answer())
    world.settle()
    assert world.log[-1].requeue_after == 30
    world.change("train-0-0", phase="Running", running=True, node="node-0")
    world.settle()
    assert world.log[-1].requeue_after == 30, "the other one has yet to start"
    world.run_pods()
    world.settle()
    assert world.log[-1].requeue_after is None
    assert not world.log[-1].urgent


def test_pods_that_are_up_need_nothing_of_a_claim_that_another_job_has_made_since() -> None:
    world = running(CORPUS)
    before = world.status
    for claim in (None, ClaimView("another"), ClaimView("another", terminating=True)):
        world.input_claim = claim
        world.settle()
        assert (world.status, world.input_claim) == (before, claim)
        assert not world.fetchers
    world.end("train-0-0", 0)
    claim_is_lost(world)
    world.settle()
    assert world.input_claim is None, "a pod that is done needs nothing either"
    assert world.status.phase == "Running"


def test_what_an_edit_asks_for_is_fetched_to_a_claim_that_is_made_for_it() -> None:
    world = running()
    claim_is_lost(world)
    world.edit(inputs=[{**CORPUS, "uri": "s3://bucket/other"}])
    world.settle()
    assert world.input_claim is not None
    assert len(world.fetchers) == 1
    assert not any(view.terminating for view in world.pods.values())


def test_the_pods_of_an_edit_need_all_of_their_inputs_on_the_claim_that_there_is() -> None:
    more = {"name": "more", "uri": "https://host/file"}
    world = running(CORPUS, more)
    world.input_claim = ClaimView("another")
    world.edit(inputs=[CORPUS, {**more, "uri": "https://host/other"}])
    world.settle()
    assert {name.split("-")[2] for name in world.fetchers} == {"corpus", "more"}


def test_nothing_is_fetched_to_a_claim_that_is_being_deleted() -> None:
    world = running()
    world.input_claim = ClaimView("another", terminating=True)
    world.edit(inputs=[{**CORPUS, "uri": "s3://bucket/other"}])
    world.settle()
    assert not world.fetchers
    assert "the claim aifactory-inputs is being deleted" in message(world.status)

    world = waiting()
    world.end_fetcher(answer())
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}, "made, and not yet started"
    world.input_claim = ClaimView("another", terminating=True)
    world.settle()
    assert not world.fetchers
    assert entry(world).phase == "Ready", "nothing else is asked for before pods are to be made"


def test_a_claim_that_is_being_deleted_is_waited_for_by_new_pods_only() -> None:
    world = running(failurePolicy={"backoff": {"baseSeconds": 0}})
    assert world.input_claim is not None
    world.input_claim = replace(world.input_claim, terminating=True)
    world.settle()
    assert (world.status.phase, ready(world)[0]) == ("Running", "True")
    world.end("train-0-0", 1)
    world.settle()
    world.bury()
    world.settle()
    assert not any(view.live for view in world.pods.values())
    assert "the claim aifactory-inputs is being deleted" in message(world.status)
    assert world.log[-1].requeue_after == 10
    world.input_claim = ClaimView("another")
    world.settle()
    assert len(world.fetchers) == 1
    world.input_claim = ClaimView("another", terminating=True)
    world.settle()
    assert not world.fetchers, "they would hold the claim too"
    assert entry(world).digest == ONE


# --- The end ---


def succeed(world: World) -> None:
    for name in list(world.pods):
        world.end(name, 0)
    world.settle()
    world.end_publisher({"uri": "pvc://aifactory-models/tiny/0", "digest": THREE, "files": 2})


def test_digests_go_into_the_lineage_and_the_first_version_is_the_parent() -> None:
    world = World(job(inputs=[CORPUS, BASE], output=OUTPUT), bases={"llama-v1": GOOD})
    world.settle()
    world.end_fetcher(answer(), of="corpus")
    world.end_fetcher(answer(TWO), of="base")
    world.settle()
    world.run_pods()
    world.settle()
    succeed(world)
    (body,) = (write.body for write in world.step().writes if getattr(write, "kind", "") == "ModelVersion")  # type: ignore[union-attr]
    assert body["spec"]["lineage"]["inputs"] == [
        {"name": "corpus", "uri": URI, "digest": ONE},
        {"name": "base", "uri": "pvc://models/llama/1", "digest": TWO, "modelVersion": "llama-v1"},
    ]
    assert body["spec"]["lineage"]["parent"] == "llama-v1"


def test_the_lineage_tells_what_the_pods_had_and_not_what_an_edit_was_to_bring() -> None:
    world = running(output=OUTPUT)
    world.edit(inputs=[{**CORPUS, "uri": "s3://bucket/other"}])
    world.settle()
    assert len(world.fetchers) == 1
    succeed(world)
    (body,) = (write.body for write in world.step().writes if getattr(write, "kind", "") == "ModelVersion")  # type: ignore[union-attr]
    assert body["spec"]["lineage"]["inputs"] == [{"name": "corpus", "uri": URI, "digest": ONE}]
    assert "parent" not in body["spec"]["lineage"]
    assert not world.fetchers
    assert entry(world).phase == "Pending"


def test_a_suspended_job_fetches_nothing_and_keeps_what_it_has() -> None:
    more = {"name": "more", "uri": "https://host/file"}
    world = waiting(CORPUS, more)
    world.end_fetcher(answer(), of="corpus")
    world.settle()
    world.edit(suspend=True)
    world.settle()
    assert not world.fetchers
    assert world.status.phase == "Suspended"
    assert ready(world) == ("False", "Suspended")
    assert conditions(world.status)["Suspended"][0] == "True"
    assert [found.phase for found in world.status.inputs or ()] == ["Ready", "Pending"]
    world.edit(suspend=False)
    world.settle()
    assert conditions(world.status)["Suspended"][0] == "False"
    (name,) = world.fetchers
    assert name.startswith("train-input-more-")
    world.end_fetcher(answer(TWO))
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}


def test_what_a_suspended_job_has_is_there_and_what_it_has_not_is_not() -> None:
    world = running()
    world.edit(suspend=True)
    world.settle()
    assert ready(world) == ("True", "InputsPrepared")
    world = running()
    world.edit(inputs=[{**CORPUS, "uri": "s3://bucket/other"}])
    world.settle()
    world.edit(suspend=True)
    world.settle()
    assert world.status.phase == "Suspending"
    assert (ready(world), entry(world).phase) == (("False", "StoppingPods"), "Pending")


def test_of_what_is_put_aside_nothing_stays_but_what_it_is() -> None:
    found = InputStatus(
        name="corpus",
        uri=URI,
        phase="Waiting",
        reason="AccessDenied",
        message="no",
        bytes=1,
        total_bytes=3,
        percent=33,
        digest=ONE,
        pod="train-input-corpus-01234567-3",
        next_time=NOW,
    )
    assert cache.put_aside(found) == InputStatus(name="corpus", uri=URI, phase="Pending", digest=ONE)


def test_a_job_that_is_deleted_or_has_failed_fetches_nothing() -> None:
    world = waiting()
    meta = world.job.metadata.model_copy(update={"deletion_timestamp": world.now, "finalizers": ("team/hold",)})
    world.job = world.job.model_copy(update={"metadata": meta})
    world.settle()
    assert not world.fetchers
    assert entry(world).phase == "Pending"

    world = running(failurePolicy={"maxRestarts": 0})
    world.edit(inputs=[{**CORPUS, "uri": "s3://bucket/other"}])
    world.settle()
    world.edit(inputs=[CORPUS])
    world.end("train-0-0", 1)
    world.settle()
    assert world.status.phase == "Failed"
    assert not world.fetchers
    assert (ready(world), entry(world).phase) == (("False", world.status.reason), "Pending")


# --- What the pods look like ---


def test_the_trainer_finds_its_inputs_read_only_and_others_do_not() -> None:
    side = {"name": "side", "image": "side:1"}
    trainer = {"name": "trainer", "image": "trainer:1"}
    world = running(CORPUS, template={"spec": {"containers": [side, trainer]}})
    spec = children.pod(world.job, 0, 0, SETTINGS, gang=False)["spec"]
    found = {container["name"]: container for container in spec["containers"]}
    (mount,) = (mount for mount in found["trainer"]["volumeMounts"] if mount["name"] == "aifactory-inputs")
    assert mount == {
        "name": "aifactory-inputs",
        "mountPath": "/workspace/inputs/corpus",
        "subPath": f"inputs/sha256-{'1' * 64}",
        "readOnly": True,
    }
    assert {"name": "AIFACTORY_INPUTS", "value": "/workspace/inputs"} in found["trainer"]["env"]
    assert "volumeMounts" not in found["side"]
    claim = {"claimName": "aifactory-inputs", "readOnly": True}
    assert {"name": "aifactory-inputs", "persistentVolumeClaim": claim} in spec["volumes"]


def test_on_a_claim_of_the_users_the_trainer_makes_the_directories() -> None:
    """Left to the container runtime they would be root's, which some file servers refuse."""
    world = running(CORPUS, workspace={"claimName": "mine"})
    (first,) = children.pod(world.job, 0, 0, SETTINGS, gang=False)["spec"]["initContainers"]
    own = f"/claim/jobs/{world.job.metadata.uid}"
    assert first["command"][3:] == [own, f"{own}/inputs/corpus"]


def test_only_which_files_they_are_shapes_the_pods() -> None:
    def hash_of(*inputs: dict[str, Any]) -> str:
        return children.template_hash(job(inputs=list(inputs)).spec)

    assert hash_of() == children.template_hash(job().spec), "a job without inputs keeps the hash that it had"
    assert hash_of(CORPUS, BASE) == hash_of(BASE, {**CORPUS, "secretRef": {"name": "rotated"}})
    others = [{**CORPUS, "name": "x"}, {**CORPUS, "uri": "s3://b/x"}, {**CORPUS, "digest": ONE}, BASE]
    assert len({hash_of(), hash_of(CORPUS), *map(hash_of, others)}) == 6


def test_a_fetcher_is_told_what_where_and_with_which_secret() -> None:
    pod = fetchers.fetcher(job(), Fetch("corpus", URI, ONE, "s3", "huggingface", "claim-1"), 3, SETTINGS)
    assert (
        pod["metadata"]["name"]
        == f"{fetchers.pods_name(job(), Fetch('corpus', URI, ONE, 's3', 'huggingface', 'claim-1'))}-3"
    )
    assert pod["metadata"]["labels"]["aifactory.dev/role"] == "input"
    (container,) = pod["spec"]["containers"]
    assert container["name"] == "input"
    assert container["args"][:2] == ["fetch", "--spec"]
    assert json.loads(container["args"][2]) == {
        "uri": URI,
        "destination": "pvc://aifactory-inputs/inputs",
        "digest": ONE,
        "format": "huggingface",
        "secret": "s3",
    }
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts == {"/mnt/claims/aifactory-inputs": False, "/etc/aifactory/secrets/s3": True, "/tmp": False}
    assert "nvidia.com/gpu" not in json.dumps(pod)


def test_a_fetcher_reads_another_claim_and_never_mounts_one_twice() -> None:
    pod = fetchers.fetcher(job(), Fetch("corpus", "pvc://data/corpus/today"), 0, SETTINGS)
    (container,) = pod["spec"]["containers"]
    assert json.loads(container["args"][2]) == {
        "uri": "pvc://data/corpus/today",
        "destination": "pvc://aifactory-inputs/inputs",
    }
    assert {"name": "source", "mountPath": "/mnt/claims/data", "readOnly": True} in container["volumeMounts"]
    claim = {"claimName": "data", "readOnly": True}
    assert {"name": "source", "persistentVolumeClaim": claim} in pod["spec"]["volumes"]
    same = fetchers.fetcher(job(), Fetch("corpus", "pvc://aifactory-inputs/own"), 0, SETTINGS)
    assert {volume["name"] for volume in same["spec"]["volumes"]} == {"cache", "tmp"}

"""A version from its first look to Ready, and every way on which it does not get there."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from aifactory.api.conditions import ConditionSet
from aifactory.api.modelversion import MAX_USERS, ModelVersion, Use
from aifactory.api.reasons import ConditionType, Reason
from aifactory.engine.plan import Create
from aifactory.engine.refusals import Refusal
from aifactory.engine.taskpods import TaskPods
from aifactory.models import children
from aifactory.models.plan import MAX_REQUESTS_BYTES, plan_model_version, plan_refused
from aifactory.models.state import Counter, Observed
from tests.unit.models.builders import (
    DIGEST,
    GOOD,
    NOW,
    SETTINGS,
    TRIED,
    WRONG,
    World,
    conditions,
    message,
    version,
)
from tests.unit.plans import created, removed


def test_a_good_artifact_becomes_ready_and_leaves_no_pod() -> None:
    world = World(version())
    world.settle()
    assert set(world.verifiers) == {"tiny-v1-verify-0"}
    assert conditions(world.status) == {
        "InUse": ("False", "NotUsed"),
        "Ready": ("False", "Verifying"),
        "Reconciling": ("True", "Verifying"),
        "Stalled": ("False", "Verifying"),
        "Verified": ("Unknown", "Verifying"),
    }
    world.settle()
    assert message(world.status) == "pod tiny-v1-verify-0 reads the artifact and tries it"
    assert (world.status.observed_generation, world.status.request, world.status.reason) == (1, "", "Verifying")

    world.answer(GOOD)
    decision = world.step()
    assert decision.urgent, "the pod is removed only after its answer is in status"
    assert decision.requeue_after == 0
    assert not removed(decision)
    assert conditions(world.status)["Ready"] == ("True", "Verified"), "at once: pools wait for it"
    world.settle()
    assert not world.verifiers
    assert conditions(world.status)["Ready"] == ("True", "Verified")
    assert conditions(world.status)["Verified"] == ("True", "Verified")
    assert conditions(world.status)["Reconciling"][0] == "False"
    status = world.status
    assert (status.resolved_digest, status.size_bytes, status.size, status.files) == (DIGEST, 1_400_000, "1.34MiB", 2)
    assert (message(status), status.reason) == ("2 files, 1.34MiB", "Verified")
    world.wait(1e6)
    assert not created(world.settle()), "it is never read again"


def test_what_a_version_took_when_it_was_tried_is_told() -> None:
    world = World(version())
    world.settle()
    world.answer({**GOOD, "validation": TRIED})
    world.settle()
    assert conditions(world.status)["Validated"] == ("True", "Validated")
    assert message(world.status, ConditionType.VALIDATED) == (
        "loaded in 1.23 s with 300MiB of memory, first answer after 0.0123 s; it has answered 2 request(s) as it must"
    )
    status = world.status
    assert (status.load_seconds, status.memory_bytes, status.first_token_seconds) == ("1.23", 300 * 2**20, "0.0123")
    assert conditions(status)["Ready"] == ("True", "Verified")


def test_a_model_of_tensors_has_no_first_token_and_memory_may_be_unknown() -> None:
    world = World(version())
    world.settle()
    world.answer({**GOOD, "validation": {"loadSeconds": 2, "requests": 1}})
    world.settle()
    assert message(world.status, ConditionType.VALIDATED) == "loaded in 2 s; it has answered 1 request(s) as it must"
    assert (world.status.memory_bytes, world.status.first_token_seconds) == (None, None)


def test_a_version_that_answers_wrongly_is_never_ready_and_its_pod_is_kept() -> None:
    world = World(version())
    world.settle()
    world.answer(WRONG, 1)
    decision = world.step()
    (event,) = decision.events
    words = f"pod tiny-v1-verify-0: {WRONG['message']}"
    assert (event.type, event.reason, event.message) == ("Warning", "ValidationFailed", words)
    for _ in range(2):
        assert conditions(world.status)["Ready"] == ("False", "ValidationFailed")
        assert conditions(world.status)["Stalled"] == ("True", "ValidationFailed")
        assert conditions(world.status)["Validated"] == ("False", "ValidationFailed")
        assert conditions(world.status)["Verified"] == ("True", "Verified"), "the files are as they should be"
        assert message(world.status).startswith(words)
        assert (world.status.resolved_digest, world.status.size_bytes) == (DIGEST, 1_400_000)
        world.wait(1e6)
        assert world.settle().requeue_after is None
    assert set(world.verifiers) == {"tiny-v1-verify-0"}, "it is kept for its log"
    world.version = world.version.model_copy(
        update={"metadata": world.version.metadata.model_copy(update={"deletion_timestamp": NOW, "finalizers": ("x",)})}
    )
    world.settle()
    assert conditions(world.status)["Stalled"] == ("True", "ValidationFailed"), "also while it is being deleted"


def test_a_version_is_tried_again_when_asked() -> None:
    world = World(version())
    world.settle()
    world.answer(WRONG, 1)
    world.settle()
    meta = world.version.metadata.model_copy(update={"annotations": {"aifactory.dev/retry": "1"}})
    world.version = world.version.model_copy(update={"metadata": meta})
    world.settle()
    assert set(world.verifiers) == {"tiny-v1-verify-1"}
    assert "Validated" not in conditions(world.status), "it is not known any more"
    assert conditions(world.status)["Stalled"][0] == "False"
    world.answer({**GOOD, "validation": TRIED})
    world.settle()
    assert conditions(world.status)["Ready"][0] == conditions(world.status)["Validated"][0] == "True"


def test_a_version_that_can_not_be_tried_is_ready_and_says_so() -> None:
    world = World(version())
    world.settle()
    world.answer({**GOOD, "validation": {"skipped": "engine vllm computes on GPUs"}})
    world.settle()
    assert conditions(world.status)["Validated"] == ("Unknown", "ValidationSkipped")
    assert message(world.status, ConditionType.VALIDATED) == "engine vllm computes on GPUs"
    assert conditions(world.status)["Ready"] == ("True", "Verified")


@pytest.mark.parametrize("where", ["version", "chart"])
def test_trying_can_be_switched_off(where: str) -> None:
    world = World(version(**({"validation": {"enabled": False}} if where == "version" else {})))
    if where == "chart":
        pods = TaskPods.model_validate({"namespaces": {"ns": {"validation": {"enabled": False}}}})
        world.settings = replace(SETTINGS, task_pods=pods)
    world.settle()
    assert message(world.status) == "pod tiny-v1-verify-0 reads the artifact"
    world.answer(GOOD)
    world.settle()
    assert conditions(world.status)["Validated"] == ("Unknown", "ValidationSkipped")
    assert "spec.validation.enabled" in message(world.status, ConditionType.VALIDATED)
    assert conditions(world.status)["Ready"] == ("True", "Verified")


def test_an_agent_that_knows_nothing_of_trying_says_nothing_of_it() -> None:
    world = World(version())
    world.settle()
    world.answer(GOOD)
    world.settle()
    assert "Validated" not in conditions(world.status)


def test_more_requests_than_a_command_line_holds_are_refused() -> None:
    def asks(text: int) -> ModelVersion:
        requests = [{"inputs": {"x": ["0" * 10_000]}} for _ in range(6)]
        return version(validation={"requests": [*requests, {"inputs": {"x": ["0" * text]}}]})

    most = MAX_REQUESTS_BYTES - len(children.requests_json(asks(0)))
    world = World(asks(most + 1))
    world.settle()
    assert not world.made
    assert conditions(world.status)["Stalled"] == ("True", "InvalidSpec")
    words = "spec.validation.requests have 65537 bytes as JSON, 65536 are the most: ask for less"
    assert message(world.status) == words
    assert "Verified" not in {type_ for type_, found in conditions(world.status).items() if found[0] == "False"}
    world.version = world.version.model_copy(update={"spec": asks(most).spec})
    world.settle()
    assert set(world.verifiers) == {"tiny-v1-verify-0"}, "less is asked for, and that is all it takes"


@pytest.mark.parametrize(
    ("answer", "reason", "validated"),
    [
        (WRONG, "ValidationFailed", True),
        ({"reason": "ValidationFailed", "message": "and no digest"}, "ValidationFailed", False),
        ({**WRONG, "reason": "DigestMismatch"}, "DigestMismatch", False),
    ],
)
def test_only_who_has_read_the_artifact_and_tried_it_says_that_it_answers_wrongly(
    answer: dict[str, Any], reason: str, validated: bool
) -> None:
    world = World(version())
    world.settle()
    world.answer(answer, 1)
    world.settle()
    assert conditions(world.status)["Stalled"] == ("True", reason)
    assert ("Validated" in conditions(world.status)) == validated
    assert conditions(world.status)["Verified"][0] == ("True" if validated else "False")


@pytest.mark.parametrize("reason", ["DigestMismatch", "InvalidArtifact", "Unservable"])
def test_a_bad_artifact_is_the_end(reason: str) -> None:
    world = World(version())
    world.settle()
    world.answer({"reason": reason, "message": "config.json is not there"}, 1)
    decision = world.step()
    assert decision.urgent
    (event,) = decision.events
    words = "pod tiny-v1-verify-0: config.json is not there"
    assert (event.type, event.reason, event.message) == ("Warning", reason, words)
    assert conditions(world.status)["Stalled"] == ("True", reason)
    assert conditions(world.status)["Verified"] == ("False", reason)
    assert world.status.reason == reason
    assert message(world.status) == (
        "pod tiny-v1-verify-0: config.json is not there; put the artifact right, then kubectl annotate modelversion "
        "tiny-v1 --overwrite aifactory.dev/retry=<anything new>; or publish the next version"
    )
    world.wait(1e6)
    assert world.settle().requeue_after is None
    assert world.made == ["tiny-v1-verify-0"]
    assert set(world.verifiers) == {"tiny-v1-verify-0"}, "it is kept for its log"
    world.verifiers.clear()
    world.settle()
    assert world.made == ["tiny-v1-verify-0"], "a spec that can not change is not asked twice"


def test_what_is_deleted_before_anybody_has_looked_at_it_is_not_read() -> None:
    world = World(version(deleting=True))
    world.settle()
    assert not world.made
    assert message(world.status) == "it is being deleted and not read any more"


@pytest.mark.parametrize("cleaned_up", [False, True])
def test_a_bad_artifact_that_was_put_right_is_read_again_when_asked(cleaned_up: bool) -> None:
    world = World(version())
    world.settle()
    world.answer({"reason": "InvalidArtifact", "message": "config.json is not there"}, 1)
    world.settle()
    if cleaned_up:
        world.verifiers.clear()
        world.made.clear()
    meta = world.version.metadata.model_copy(update={"annotations": {"aifactory.dev/retry": "1"}})
    world.version = world.version.model_copy(update={"metadata": meta})
    world.step()
    assert message(world.status, ConditionType.VERIFIED) == "it is asked for again"
    world.settle()
    assert world.status.request == "1"
    assert conditions(world.status)["Verified"] == ("Unknown", "Verifying")
    assert conditions(world.status)["Reconciling"][0] == "True"
    assert set(world.verifiers) == {"tiny-v1-verify-0" if cleaned_up else "tiny-v1-verify-1"}
    world.answer(GOOD)
    world.settle()
    assert conditions(world.status)["Ready"] == ("True", "Verified")


@pytest.mark.parametrize("known", [None, Counter("aifactory-tiny-versions", "7", 0)])
def test_a_number_is_written_down_before_its_version_is_ready(known: Counter | None) -> None:
    """Else the next job could give it again after a deletion, and a pool that pins it would serve another artifact."""
    world = World(version())
    world.settle()
    world.answer(GOOD)
    world.counter = known
    first = world.step()
    assert conditions(first.status)["Ready"][0] == "False"
    assert (first.requeue_after, world.counter.highest if world.counter else 0) == (0, 1)
    world.settle()
    assert conditions(world.status)["Ready"][0] == "True"


def test_a_number_is_written_down_while_the_artifact_is_read() -> None:
    world = World(version(), counter=None)
    decision = world.step()
    assert (world.counter, len(world.made)) == (Counter("aifactory-tiny-versions", "1", 1), 1)
    assert conditions(world.status)["Reconciling"] == ("True", "Verifying")
    shared = {write.kind: write.shared for write in decision.writes if isinstance(write, Create)}
    assert shared == {"Pod": False, "ConfigMap": True}, "another version of the model may be the first to make it"


def test_a_version_that_was_ready_before_there_were_counters_is_written_down() -> None:
    world = World(version())
    world.settle()
    world.answer(GOOD)
    world.settle()
    world.counter = None
    world.settle()
    assert world.counter == Counter("aifactory-tiny-versions", "1", 1)


def test_a_higher_number_stays() -> None:
    world = World(version(), counter=Counter("aifactory-tiny-versions", "1", 9))
    world.settle()
    assert world.counter == Counter("aifactory-tiny-versions", "1", 9)


PASSING = ["SourceNotFound", "AccessDenied", "StoreUnavailable", "StoreFull"]
WAITS = [30, 45, 45, 45]


@pytest.mark.parametrize("reason", PASSING)
def test_what_may_pass_is_tried_again_within_a_minute_and_at_no_fast_pace(reason: str) -> None:
    world = World(version())
    world.settle()
    waits = []
    for number in range(len(WAITS)):
        assert set(world.verifiers) == {f"tiny-v1-verify-{number}"}, "the pod before is gone"
        world.answer({"reason": reason, "message": "no answer"}, 1)
        again = world.settle().requeue_after
        assert again is not None
        waits.append(again)
        assert conditions(world.status)["Stalled"] == ("True", reason)
        assert "no answer; it is tried again at 2026-01-01T1" in message(world.status)
        world.wait(again - 1)
        assert world.settle().requeue_after == 1
        world.wait(1)
        world.settle()
        assert conditions(world.status)["Stalled"] == ("True", reason), "it stands until the next answer"
    assert waits == WAITS
    world.answer(GOOD)
    world.settle()
    assert conditions(world.status)["Ready"] == ("True", "Verified")
    assert conditions(world.status)["Stalled"][0] == "False"
    assert not world.verifiers


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ("", 1, "see: kubectl logs tiny-v1-verify-0"),
        ("", 0, "see: kubectl logs tiny-v1-verify-0"),
        ("Killed", 1, "Killed"),
        ("{not json", 0, "{not json"),
        ("[1]", 0, "[1]"),
        ({"digest": 7}, 0, '{"digest": 7}'),
        ({"reason": "Serving", "message": "odd"}, 1, "odd"),
    ],
)
def test_a_verifier_without_a_proper_answer_is_tried_again(answer: Any, code: int, words: str) -> None:
    world = World(version())
    world.settle()
    world.answer(answer, code)
    assert world.settle().requeue_after == 10
    assert conditions(world.status)["Stalled"] == ("True", "VerifierFailed")
    assert message(world.status).startswith(f"pod tiny-v1-verify-0: {words}")
    world.wait(10)
    world.settle()
    assert world.made == ["tiny-v1-verify-0", "tiny-v1-verify-1"]


def test_a_verifier_that_never_ran_is_tried_again() -> None:
    """Evicted before its container started: there is no time at which it ended."""
    world = World(version())
    world.settle()
    world.answer("The node had condition: [DiskPressure].", None, finished_at=None)
    for _ in range(5):
        world.settle()
        world.wait(2)
    world.settle()
    assert world.made == ["tiny-v1-verify-0", "tiny-v1-verify-1"]


def test_the_wait_begins_when_the_verifier_ended() -> None:
    world = World(version())
    world.settle()
    world.answer("", None, finished_at=NOW - timedelta(seconds=60))
    world.settle()
    assert world.made == ["tiny-v1-verify-0", "tiny-v1-verify-1"], "the operator was away for a minute"


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        (
            {"waiting_reason": "ImagePullBackOff", "waiting_message": "no such image"},
            "ImagePullFailed",
            "pod tiny-v1-verify-0: no such image",
        ),
        ({"waiting_reason": "InvalidImageName"}, "ImagePullFailed", "pod tiny-v1-verify-0: InvalidImageName"),
        (
            {"waiting_reason": "CreateContainerConfigError", "waiting_message": "no secret"},
            "ContainerConfigError",
            "pod tiny-v1-verify-0: no secret",
        ),
        ({"unschedulable": "no node"}, "Unschedulable", "pod tiny-v1-verify-0 has no node: no node"),
    ],
)
def test_a_pod_that_waits_for_a_person_says_so_and_recovers(changes: dict[str, str], reason: str, words: str) -> None:
    world = World(version())
    world.settle()
    world.verifier(**changes)
    world.settle()
    kind = "Reconciling" if reason == "Unschedulable" else "Stalled"  # nodes come and go by themselves
    assert conditions(world.status)[kind] == ("True", reason)
    assert conditions(world.status)["Verified"] == ("Unknown", reason), "nothing is known about the artifact"
    assert message(world.status).startswith(words)
    world.verifier(waiting_reason="", waiting_message="", unschedulable="")
    world.settle()
    assert conditions(world.status)["Stalled"][0] == "False"
    assert conditions(world.status)["Reconciling"] == ("True", "Verifying")
    world.answer(GOOD)
    world.settle()
    assert conditions(world.status)["Ready"][0] == "True"


def test_a_verifier_that_was_deleted_is_made_again() -> None:
    world = World(version())
    world.settle()
    world.verifiers.clear()
    world.settle()
    assert world.made == ["tiny-v1-verify-0", "tiny-v1-verify-0"]


def test_a_verifier_that_is_going_is_not_removed_twice() -> None:
    world = World(version())
    world.settle()
    world.answer(GOOD)
    world.step()
    world.verifier(terminating=True)
    assert not removed(world.step())


def test_a_refused_verifier_is_told_in_the_api_servers_words_and_forgotten_when_it_is_accepted() -> None:
    world = World(version())
    status = plan_refused(world.observed(), Refusal(Reason.POD_REJECTED, "Pod tiny-v1-verify-0: no"), NOW).status
    assert conditions(status)["Stalled"] == ("True", "PodRejected")
    assert conditions(status)["Verified"][0] == "Unknown"
    assert message(status) == "Pod tiny-v1-verify-0: no"
    world.version = world.version.model_copy(update={"status": status})
    world.settle()
    assert conditions(world.status)["Stalled"] == ("False", "Verifying")


def test_a_refusal_has_its_time_in_whole_seconds_and_its_next_look() -> None:
    refusal = Refusal(Reason.QUOTA_EXCEEDED, "no room", stalled=False, retry_after=30.0)
    plan = plan_refused(World(version()).observed(), refusal, NOW + timedelta(microseconds=7))
    assert plan.requeue_after == 30.0
    assert conditions(plan.status)["Reconciling"] == ("True", "QuotaExceeded")
    assert {found.last_transition_time for found in plan.status.conditions} == {NOW}


def test_a_version_that_is_being_deleted_is_not_read_any_more() -> None:
    """Whoever holds it with a finalizer held its verifier too."""
    world = World(version())
    world.settle()
    world.version = version(deleting=True, status=world.status.dump())
    made = list(world.made)
    assert removed(world.step()) == [f"Pod {made[0]}"]
    assert (world.verifiers, world.made) == ({}, made)
    assert message(world.status, ConditionType.RECONCILING) == "it is being deleted and not read any more"
    assert not world.settle().writes


def test_what_is_known_of_a_version_stands_while_it_is_being_deleted() -> None:
    world = World(version())
    world.settle()
    world.verifier(ended=True, exit_code=0, message=json.dumps(GOOD))
    world.settle()
    before = world.status
    world.version = version(deleting=True, status=before.dump() | {"reason": "FailureLasts"})
    assert not world.settle().writes
    assert world.status == before, "also when a failure was told in between"


def test_a_version_whose_verifier_is_to_live_on_is_left_alone() -> None:
    assert plan_model_version(Observed(version(deleting=True, finalizers=("orphan",)), SETTINGS), NOW) is None


def test_users_are_listed_counted_and_forgotten() -> None:
    world = World(version())
    world.users = (Use(kind="InferencePool", name="chat"), Use(kind="InferencePool", name="search"))
    world.settle()
    assert conditions(world.status)["InUse"] == ("True", "UsedByPools")
    assert message(world.status, ConditionType.IN_USE) == "InferencePool/chat, InferencePool/search"
    assert (world.status.in_use, world.status.used_by) == (2, world.users)
    world.users = ()
    world.settle()
    assert conditions(world.status)["InUse"] == ("False", "NotUsed")
    assert (world.status.in_use, world.status.used_by) == (0, ())


def test_users_of_a_ready_version_are_kept_up_to_date() -> None:
    world = World(version())
    world.settle()
    world.answer(GOOD)
    world.settle()
    world.users = (Use(kind="InferencePool", name="chat"),)
    assert world.step().urgent, "the guard against deletion reads the list"
    assert not world.step().urgent
    assert world.status.in_use == 1
    assert conditions(world.status)["Ready"][0] == "True"


def test_more_users_than_the_list_may_hold_are_counted() -> None:
    world = World(version())
    world.users = tuple(Use(kind="InferencePool", name=f"pool-{n:04}") for n in range(MAX_USERS + 50))
    world.settle()
    assert world.status.in_use == MAX_USERS + 50
    assert len(world.status.used_by) == MAX_USERS


def test_odd_numbers_of_a_trial_are_not_told() -> None:
    world = World(version())
    world.settle()
    world.answer({**GOOD, "validation": {**TRIED, "loadSeconds": True, "firstTokenSeconds": "soon"}})
    world.settle()
    assert (world.status.load_seconds, world.status.first_token_seconds) == (None, None)


def test_odd_numbers_in_an_answer_do_not_stop_us() -> None:
    world = World(version())
    world.settle()
    world.answer({"digest": DIGEST, "files": "two", "sizeBytes": None})
    world.settle()
    assert (world.status.files, world.status.size) == (0, "0B")


def test_a_verifier_that_goes_is_replaced_at_once() -> None:
    world = World(version())
    assert "the verifier is being created" in message(world.step().status)
    world.verifier(terminating=True)
    decision = world.step()
    assert (decision.urgent, decision.requeue_after) == (True, 0), "its number first"
    world.settle()
    assert world.made == ["tiny-v1-verify-0", "tiny-v1-verify-1"]


def test_what_is_in_the_way_of_the_next_try_is_told_in_place_of_what_the_last_one_said() -> None:
    world = World(version())
    world.settle()
    world.answer({"reason": "StoreUnavailable", "message": "no answer"}, 1)
    world.wait(world.settle().requeue_after or 0)
    world.settle()
    world.verifier(unschedulable="no node")
    world.settle()
    assert conditions(world.status)["Reconciling"] == ("True", "Unschedulable")
    assert conditions(world.status)["Verified"] == ("Unknown", "Unschedulable")


@pytest.mark.parametrize(
    ("answer", "ready", "stalled"),
    [
        (GOOD, ("True", "Verified"), ("False", "Verified")),
        (
            {"reason": "DigestMismatch", "message": "a is not b"},
            ("False", "DigestMismatch"),
            ("True", "DigestMismatch"),
        ),
        ({"reason": "StoreUnavailable", "message": "x"}, ("False", "StoreUnavailable"), ("True", "StoreUnavailable")),
    ],
)
def test_what_was_found_is_told_again_after_something_else_was(answer: Any, ready: Any, stalled: Any) -> None:
    world = World(version())
    world.settle()
    world.answer(answer, 0 if answer is GOOD else 1)
    world.wait(world.settle().requeue_after or 0)
    world.settle()
    told, reason = message(world.status), world.status.reason
    between = ConditionSet(world.status.conditions, 1, world.now)
    between.kstatus(ConditionType.RECONCILING, Reason.POD_REJECTED, "it can not be read")
    status = world.status.model_copy(update={"conditions": between.result(), "reason": "PodRejected"})
    world.version = world.version.model_copy(update={"status": status})
    world.settle()
    assert (conditions(world.status)["Ready"], conditions(world.status)["Stalled"]) == (ready, stalled)
    assert conditions(world.status)["Reconciling"][0] == "False"
    assert (message(world.status), world.status.reason) == (told, reason)


def test_times_have_whole_seconds() -> None:
    world = World(version(), now=NOW + timedelta(microseconds=123456))
    world.settle()
    world.answer("", None, finished_at=None)
    world.settle()
    assert replace(world.observed()).version.status.next_verify_time == NOW + timedelta(seconds=10)


def test_what_lies_beside_a_version_is_told_and_forgotten_when_it_is_gone() -> None:
    world = World(version())
    world.settle()
    world.answer({**GOOD, "leftOut": ["README.md", "pytorch_model.bin"], "leftOutFiles": 2})
    world.settle()
    assert (world.status.left_out, world.status.left_out_files) == (("README.md", "pytorch_model.bin"), 2)
    assert message(world.status).endswith("MiB; 2 files beside the model left out (status.leftOut)")
    other = World(world.version.model_copy(update={"status": world.status.model_copy(update={"conditions": ()})}))
    other.settle()
    other.answer(GOOD)
    other.settle()
    assert (other.status.left_out, other.status.left_out_files) == (None, None)

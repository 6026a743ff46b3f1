"""What a user reads in each situation: `golden/words.yaml` shows a reviewer every word that changes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from aifactory.api.trainingjob import TrainingJobStatus
from aifactory.engine.plan import Plan
from aifactory.engine.tasks import TaskPod
from aifactory.training import fetchers
from aifactory.training.fetchers import Fetch
from aifactory.training.state import BaseView, ClaimView, GangView, Observed, PodView, VersionView
from tests.unit.golden import assert_golden
from tests.unit.training.builders import GANGS, NOW, OUTPUT, PUBLISHED, UID, decide, job, observe, pod, publisher
from tests.unit.training.test_plan import CASES, NO_NODE, SEEN, TWO, condition


def told(plan: Plan[TrainingJobStatus]) -> dict[str, Any]:
    """Phase, conditions and Event as `kubectl describe` shows them; `...` stands for the words of Ready."""
    found = {"phase": f"{plan.status.phase} ({plan.status.reason})"}
    ready = ""
    for entry in plan.status.conditions:
        words = "..." if ready and entry.message == ready else entry.message
        found[entry.type] = f"{entry.status} {entry.reason}: {words}".removesuffix(": ")
        ready = entry.message if entry.type == "Ready" else ready
    for event in plan.events:
        found["event"] = f"{event.type} {event.reason}: {event.message}"
    return found


def ending(index: int) -> PodView:
    due = NOW - timedelta(minutes=2)
    return pod(index, of=TWO, running=True, terminating=True, due_to_end=due)


def published(*publishers: Any, **changes: Any) -> Observed:
    owner = job(output=OUTPUT, status={"resolved": {"nodes": 1, "createdAttempt": 0}})
    return observe(owner, pod(exit_code=0), publishers=publishers, **changes)


SCHEDULER = job(template={"spec": {"schedulerName": "volcano", "containers": [{"name": "trainer", "image": "t"}]}})
ASKS = job(container={"resources": {"limits": {"nvidia.com/gpu": 8}, "requests": {"cpu": 4}}})
SUSPENDED = {**SEEN, "conditions": [condition("Suspended", "True", "Suspended")]}
NO_COMMAND = {"exit_reason": "StartError", "container": "trainer", "exit_message": 'exec: "x": no such file'}
BUCKET = {**OUTPUT, "store": "s3://team/models"}


def probed(*answers: Any, **changes: Any) -> Observed:
    """A job whose bucket is tried out; with an answer that has ended."""
    name = "train-probe-0"
    ended = {"ended": True, "exit_code": 0 if "uri" in answers[0] else 1} if answers else {}
    probe = TaskPod(name, f"{name}-uid", 0, **ended, message=json.dumps(answers[0]) if answers else "")
    return observe(job(output=BUCKET), probes=(probe,), **changes)


CORPUS: dict[str, Any] = {"name": "corpus", "uri": "s3://team/corpus", "secretRef": {"name": "s3"}}
BASE = {"name": "base", "modelVersion": "llama-v1"}
FETCH = Fetch("corpus", CORPUS["uri"], secret="s3", claim="c")
CLAIM: dict[str, Any] = {"input_claim": ClaimView("c")}
STALE: dict[str, Any] = {"template_hash": "v1-0", "running": True}
"""A pod that was made before the edit."""


def fetched(answer: dict[str, Any] | None = None, of: str = "", **changes: Any) -> dict[str, Any]:
    """The pod that fetches the corpus, of a format; with an answer it has ended."""
    name = f"{fetchers.pods_name(job(), replace(FETCH, format=of))}-0"
    ended = {"ended": True, "exit_code": 0 if "digest" in answer else 1} if answer else {}
    fetcher = TaskPod(name, f"{name}-uid", 0, message=json.dumps(answer) if answer else "", **{**ended, **changes})
    return {**CLAIM, "fetchers": (fetcher,)}


READS, READS_BASE = job(inputs=[CORPUS]), job(inputs=[BASE])
GONE = ClaimView("c", terminating=True)
MORE = {
    "the claim for its inputs is made": observe(READS),
    "the claim for its inputs is being deleted": observe(READS, input_claim=GONE),
    "its input is about to be fetched": observe(READS, **CLAIM),
    "its input is fetched": observe(READS, **fetched()),
    "its input has no node": observe(READS, **fetched(unschedulable="no node is free")),
    "its input is refused": observe(READS, **fetched({"reason": "AccessDenied", "message": "403"})),
    "its input is another one": observe(READS, **fetched({"reason": "DigestMismatch", "message": "found sha256:1"})),
    "its input has a line that is no conversation": observe(
        job(inputs=[{**CORPUS, "format": "chat"}]),
        **fetched({"reason": "InvalidArtifact", "message": "chat.jsonl:3: it is no JSON: Expecting value"}, of="chat"),
    ),
    "its input is there": observe(READS, **fetched({"digest": f"sha256:{'1' * 64}", "sizeBytes": 5})),
    "its base model does not exist": observe(READS_BASE, **CLAIM),
    "its base model is checked": observe(READS_BASE, **CLAIM, bases={"llama-v1": BaseView("pvc://m/1")}),
    "its base model is bad": observe(
        READS_BASE, **CLAIM, bases={"llama-v1": BaseView("pvc://m/1", stalled=True, message="it holds pickles")}
    ),
    "runs, and its input was edited": observe(READS, pod(of=READS, **STALE), **fetched()),
    "runs, and its edited input is refused": observe(
        READS, pod(of=READS, **STALE), **fetched({"reason": "AccessDenied", "message": "403"})
    ),
    "suspended while its input is fetched": observe(
        job(inputs=[CORPUS], suspend=True, status={"inputs": [{**CORPUS, "phase": "Fetching"}]}), **fetched()
    ),
    "suspended, pods do not end": observe(job(nodes=2, suspend=True, status=SEEN), ending(0), ending(1)),
    "restarted, pods do not end": observe(job(nodes=2, status={"attempt": 1}), ending(0), ending(1)),
    "suspended after it ran": observe(job(nodes=2, suspend=True, status={**SEEN, "startTime": NOW})),
    "born suspended, now wanted": observe(job(nodes=2, status={"conditions": SUSPENDED["conditions"]})),
    "its scheduler does not look": observe(SCHEDULER, pod(0, of=SCHEDULER, unseen=True)),
    "waits for a claim": observe(job(), pod(0, unschedulable="0/3 nodes: unbound PersistentVolumeClaims")),
    "no node for what it asks": observe(ASKS, pod(0, of=ASKS, **NO_NODE)),
    "no node, no gangs served": observe(TWO, pod(0, of=TWO, **NO_NODE), pod(1, of=TWO)),
    "no node for a gang of its pods": observe(
        TWO, pod(0, of=TWO, **NO_NODE), pod(1, of=TWO), **GANGS, gangs=(GangView("train-0", "g", 0, 2),)
    ),
    "a volume that is not mounted": observe(
        job(), pod(0, waiting_reason="FailedMount", waiting_message='secret "hf" not found')
    ),
    "a command that is not in the image": observe(job(), pod(exit_code=128, **NO_COMMAND)),
    "its publisher is tried out": observe(job(output=OUTPUT)),
    "its store is about to be tried out": observe(job(output=BUCKET)),
    "its store is tried out": probed(),
    "its store refuses": probed({"reason": "AccessDenied", "message": "403"}),
    "its store can not be one": probed({"reason": "InvalidArtifact", "message": "no such scheme"}),
    "its store is good": probed({"uri": "s3://team/models/tiny"}),
    "its publisher is made": published(),
    "its publisher copies": published(publisher()),
    "its publisher has no node": published(publisher(unschedulable="no node is free")),
    "its publisher failed": published(publisher(0, 1, {"reason": "StoreFull", "message": "bucket: full"})),
    "its output is not sound": published(publisher(0, 1, {"reason": "InvalidArtifact", "message": "no config.json"})),
    "its output is of another format": published(publisher(0, 0, {**PUBLISHED, "format": "torch-export"})),
    "its version is registered": published(publisher(0, 0, PUBLISHED)),
    "its version is there": published(versions=(VersionView("tiny-v1", 1, UID),)),
}


def test_the_words_are_the_golden_ones() -> None:
    situations = {name: case.observed for name, case in CASES.items()} | MORE
    words = {name: told(decide(observed)) for name, observed in situations.items()}
    assert_golden(Path(__file__).parent / "golden/words.yaml", [words])

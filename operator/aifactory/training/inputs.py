"""What a job reads, fetched before a pod that asks for GPUs is made.

Each input is a task of its own (`engine.tasks`), tried until it is there; the namespace's claim is the cache
(`cache`). What always holds:
- No pod that trains is made before every input is there, on the claim that there is now.
- Where pods run that an edit is to replace, they run on until what the edit asks for is there.
- The digest that was found first holds for every attempt of the job: a source that has changed since is told, and
  nobody trains on other files after a restart without knowing.
- An input that is said to be of a format is there when its files have been found to be of it.
- Nothing is final: what passes is tried again, and what a person has to put right is waited for. A Secret that is
  corrected is noticed within a minute; for another URI, digest or Secret another task begins at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from aifactory.api import names
from aifactory.api.inputs import Input, InputStatus
from aifactory.api.reasons import Reason
from aifactory.api.trainingjob import TrainingJobStatus
from aifactory.engine.plan import Create, Plan, Write
from aifactory.engine.tasks import Json, Step, Task, deletions, plan_task, retry_command
from aifactory.training import cache, fetchers
from aifactory.training.fetchers import Fetch, InUse
from aifactory.training.state import Observed, PodView, Preparation
from aifactory.training.status import StatusDraft
from aifactory.training.store import request_of

CLAIM_RETRY_SECONDS = 10.0
"""How often it is looked whether a claim that is being deleted is gone: its end wakes nobody."""
CLAIM_LOOK_SECONDS = 30.0
"""How often it is looked whether the claim is still there while no pod that has started holds it."""
PERMANENT = frozenset({Reason.DIGEST_MISMATCH, Reason.INVALID_ARTIFACT})
"""These stay true until somebody edits the input or puts its source right."""
MENDABLE = frozenset({Reason.SOURCE_NOT_FOUND, Reason.ACCESS_DENIED, Reason.STORE_UNAVAILABLE, Reason.STORE_FULL})
"""These pass, or a person removes them: it is fetched again."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _One:
    """One input."""

    entry: InputStatus
    reason: Reason | None = None
    """What is in the way; None while all goes as it should."""
    message: str = ""
    stalled: bool = False
    writes: tuple[Write, ...] = ()
    pods: str = ""
    """What its pods are called, while it is being fetched."""
    urgent: bool = False
    requeue_after: float | None = None


def prepare(observed: Observed, current: tuple[PodView, ...], now: datetime) -> Preparation:
    """What comes before the next pods.

    Args:
        observed: the job and everything that belongs to it.
        current: pods of the current attempt.
        now: the time, in UTC.
    """
    job, claim = observed.job, observed.input_claim
    wishes = job.spec.inputs
    if not wishes:
        return Preparation(writes=deletions(observed.fetchers))
    known = cache.entries(job)
    begun = [(wish, _begun(wish, known.get(wish.name))) for wish in wishes]
    entries = tuple(entry for _, entry in begun)
    wanted = not all_up(observed, current)
    missing = not all(cache.is_there(entry, wish) for wish, entry in begun)
    if claim is None and (wanted or missing):
        create = Create(cache.claim(job, observed.settings), shared=True)
        message = f"the claim {names.INPUT_CLAIM} is being created"
        return _held_up(entries, message, writes=(create,), requeue_after=0)
    if claim is not None and claim.terminating and (missing or len(current) < job.spec.nodes.count):
        message = (
            f"the claim {names.INPUT_CLAIM} is being deleted and goes when no pod uses it; another one is made then"
        )
        writes = deletions(observed.fetchers)  # they hold it too
        return _held_up(entries, message, writes=writes, requeue_after=CLAIM_RETRY_SECONDS)
    on = claim.uid if claim is not None and not claim.terminating else ""
    # Pods that are up hold the claim that they have, whichever there is by now; only the next ones need today's.
    good = "" if not missing and not wanted else on
    parts = [_one(observed, wish, entry, on, good, now) for wish, entry in begun]
    found = _together(observed, parts)
    return replace(found, requeue_after=CLAIM_LOOK_SECONDS) if wanted and found.requeue_after is None else found


def all_up(observed: Observed, current: tuple[PodView, ...]) -> bool:
    """No pod is still to be made or started: those hold the claim, and need nothing more."""
    up = sum(1 for pod in current if pod.running or pod.succeeded)
    return up >= observed.job.spec.nodes.count


def plan_waiting(observed: Observed, prepared: Preparation, draft: StatusDraft) -> Plan[TrainingJobStatus]:
    """No pod is made before every input is there."""
    draft.preparing(prepared)
    writes = (*prepared.writes, *deletions(observed.probes))
    due = soonest((prepared.requeue_after, draft.due_after))
    return Plan(draft.result(), writes, urgent=prepared.urgent, requeue_after=due)


def plan_beside(prepared: Preparation, current: tuple[PodView, ...], draft: StatusDraft) -> Plan[TrainingJobStatus]:
    """The spec was edited: pods that run well run on until its inputs are there."""
    draft.edit_waits(prepared, current)
    due = soonest((prepared.requeue_after, draft.due_after))
    return Plan(draft.result(), prepared.writes, urgent=prepared.urgent, requeue_after=due)


def _held_up(
    entries: tuple[InputStatus, ...], message: str, *, writes: tuple[Write, ...], requeue_after: float
) -> Preparation:
    """Before anything is fetched."""
    return Preparation(entries, False, Reason.PREPARING_INPUTS, message, writes=writes, requeue_after=requeue_after)


def _begun(wish: Input, known: InputStatus | None) -> InputStatus:
    """What stays true of an input, whatever becomes of it."""
    if known is not None and cache.same_origin(known, wish):
        return known
    return InputStatus(
        name=wish.name,
        uri=wish.uri or "",
        model_version=wish.model_version or "",
        format=wish.format or "",
        phase=cache.PENDING,
    )


def _together(observed: Observed, parts: list[_One]) -> Preparation:
    """All inputs, told by the one that needs a person, else the first that is not there."""
    names_ = {part.pods for part in parts if part.pods}
    left = [pod for pod in observed.fetchers if pod.name.rpartition("-")[0] not in names_]
    writes = (*(write for part in parts for write in part.writes), *deletions(left))
    entries = tuple(part.entry for part in parts)
    behind = [part for part in parts if part.entry.phase != cache.READY]
    message = f"{len(parts) - len(behind)} of {len(parts)} inputs are there"
    reason, stalled = Reason.INPUTS_PREPARED, False
    if behind:
        first = min(behind, key=lambda part: (not part.stalled, part.reason is None))
        message += f"; input {first.entry.name}: {first.message}"
        reason, stalled = first.reason or Reason.PREPARING_INPUTS, first.stalled
    return Preparation(
        inputs=entries,
        ready=not (behind or names_),
        reason=reason,
        message=message,
        stalled=stalled,
        writes=writes,
        urgent=any(part.urgent for part in parts),
        requeue_after=soonest(part.requeue_after for part in parts),
    )


def soonest(times: Iterable[float | None]) -> float | None:
    """The first of several times to look again, if there is one."""
    return min((time for time in times if time is not None), default=None)


def _one(observed: Observed, wish: Input, entry: InputStatus, claim: str, good: str, now: datetime) -> _One:
    """One input. `claim` is the UID of the one that it is fetched to, `good` of the one on which it is good enough;
    empty: whichever it is on.
    """
    if cache.is_there(entry, wish) and good in ("", entry.claim):
        return _One(entry)
    fetch = _fetch(observed, wish, entry, claim)
    if isinstance(fetch, _One):
        return fetch
    entry = entry.model_copy(update={"uri": fetch.uri})
    base = fetchers.pods_name(observed.job, fetch)
    pods = [pod for pod in observed.fetchers if pod.name.rpartition("-")[0] == base]
    before, _, number = entry.pod.rpartition("-")
    begun = before == base
    request = request_of(observed)
    step = plan_task(
        _task(observed, fetch, now),
        pods,
        int(number) if begun else 0,
        entry.next_time if begun else None,
        now,
        renewed=begun and entry.request not in ("", request),
    )
    pod = f"{base}-{step.number}"
    changes: Json = {"pod": pod, "next_time": step.next_time, "request": request}
    if (fetched := observed.fetched.get(pod)) is not None:
        changes |= {"bytes": fetched.size, "total_bytes": fetched.total or None, "percent": fetched.percent}
    elif pod != entry.pod:
        changes |= {"bytes": None, "total_bytes": None, "percent": None}
    entry = entry.model_copy(update=changes)
    if step.answer is not None:
        return _answered(entry, step.answer, fetch)
    return _underway(observed, entry, step, fetch, base)


def _answered(entry: InputStatus, answer: Json, fetch: Fetch) -> _One:
    """It is there. Its pods stay until that is written down."""
    size = answer["sizeBytes"]
    found = {"phase": cache.READY, "digest": answer["digest"], "claim": fetch.claim}
    found |= {"bytes": size, "total_bytes": size, "percent": 100}
    nothing = {"pod": "", "request": "", "reason": "", "message": ""}
    done = entry.model_copy(update={**found, **nothing})
    base = entry.pod.rpartition("-")[0]
    return _One(done, pods=base, urgent=True, requeue_after=0)


def _underway(observed: Observed, entry: InputStatus, step: Step, fetch: Fetch, base: str) -> _One:
    """It is being fetched, or something is in the way."""
    message = step.message
    if step.reason in MENDABLE:
        message = f"{fetch.uri}{f' with Secret {fetch.secret}' if fetch.secret else ''}: {message}"
    if step.failed:
        again = retry_command("TrainingJob", observed.job.metadata.name)
        if step.reason is Reason.DIGEST_MISMATCH and fetch.first:
            message = f"the files are others than those that this job has fetched first: {message}"
        message = f"{fetch.uri}: {message}; correct the input in spec.inputs, or put the files right, then {again}"
    waits = step.reason is not None
    changes = {
        "phase": cache.WAITING if waits else cache.FETCHING,
        "reason": str(step.reason or ""),
        "message": message if waits else "",
    }
    return _One(
        entry.model_copy(update=changes),
        step.reason,
        message,
        step.stalled,
        step.writes,
        base,
        step.urgent,
        step.requeue_after,
    )


def _fetch(observed: Observed, wish: Input, entry: InputStatus, claim: str) -> Fetch | _One:
    """What is to be fetched, or why that is not known."""
    if wish.model_version is None:
        secret = wish.secret_ref.name if wish.secret_ref is not None else ""
        digest = wish.digest or entry.digest
        first = wish.digest is None and digest != ""
        return Fetch(wish.name, entry.uri, digest, secret, wish.format or "", claim, first)
    version = observed.bases.get(wish.model_version)
    if version is not None and version.digest:
        return Fetch(wish.name, version.uri, version.digest, version.secret, version.format, claim)
    reason = Reason.WAITING_FOR_MODEL
    message = f"waiting for ModelVersion {wish.model_version}, which does not exist"
    if version is not None:
        reason = Reason.MODEL_NOT_READY if version.stalled else Reason.WAITING_FOR_MODEL
        message = f"ModelVersion {wish.model_version} is not Ready: {version.message or 'it has yet to be checked'}"
    stalled = reason is Reason.MODEL_NOT_READY
    waiting = {"phase": cache.WAITING, "reason": str(reason), "message": message, "pod": "", "next_time": None}
    return _One(entry.model_copy(update=waiting), reason, message, stalled)


def _task(observed: Observed, fetch: Fetch, now: datetime) -> Task:
    in_use = InUse(now, observed.inputs_in_use) if observed.inputs_in_use is not None else None

    def wanted(answer: Json) -> bool:
        """A digest becomes a path, so it is looked at closely."""
        digest, size = answer.get("digest"), answer.get("sizeBytes")
        whole = isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None and type(size) is int and size >= 0
        return whole and fetch.digest in ("", digest)

    return Task(
        name="its pod",
        what=f"fetches {fetch.uri}" + (f" and checks that it is {fetch.format}" if fetch.format else ""),
        body=lambda number: fetchers.fetcher(observed.job, fetch, number, observed.settings, in_use),
        wanted=wanted,
        permanent=PERMANENT,
        mendable=MENDABLE,
        unexplained=Reason.INPUT_FAILED,
    )

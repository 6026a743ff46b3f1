"""What a program says is in the way, before a pod that asks for GPUs is made.

What depends on a program's own options (a hold-out that is empty, a base too large for the memory, a checkpoint that
can not be taken up) nobody knows but the program. So its own command is run once where there is no GPU, with a variable
that has it look and not train (`checkers`). It comes after the inputs, which it needs, and is a task (`engine.tasks`).

What always holds:
- Where a check is to come, no pod that trains is made before it has ended. Where pods run that an edit is to replace,
  they run on until what the edit asks for has passed.
- What has passed is written down, with what it was of: the same spec with the same inputs is not checked again, in no
  attempt, after no suspension.
- Only a program that says so holds its job up. One that crashes where it has no GPU, or takes too long, is let train:
  what it then says is told as ever.
- Nothing is final: an edit, or another value of the annotation aifactory.dev/retry, has it checked again.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from aifactory.api.reasons import Reason
from aifactory.api.trainingjob import CheckStatus, TrainingJob
from aifactory.engine.apply import content_hash
from aifactory.engine.lastwords import root_cause
from aifactory.engine.taskpods import CheckDefaults
from aifactory.engine.tasks import Step, Task, TaskPod, deletions, plan_task, retry_command
from aifactory.kube import podstate
from aifactory.training import cache, checkers, children
from aifactory.training.inputs import soonest
from aifactory.training.state import Observed, Preparation, Settings
from aifactory.training.status import StatusDraft
from aifactory.training.store import request_of

PROGRAMS: Final = frozenset(f"aifactory_trainer.{name}" for name in ("pretrain", "sft", "dpo", "evaluate"))
"""Modules that know the variable."""
REFUSALS: Final = frozenset({2, 93})
"""Exit codes of a program that says that it would end the same again: a wrong option, and NoRestart."""
CHECKING, WAITING, FAILED, PASSED, SKIPPED = "Checking", "Waiting", "Failed", "Passed", "Skipped"
"""Phases."""
_HASH_LENGTH: Final = 8


def is_wanted(job: TrainingJob, settings: Settings) -> bool:
    """Whether the job's program is to be asked before it trains.

    By itself only where GPUs would be held meanwhile: elsewhere it says the same in its own first seconds, and nobody
    has to wait for another pod. And not where init containers of the template have to make something ready first.
    """
    if job.spec.check in ("none", "always"):
        return job.spec.check == "always"
    pod = job.spec.template.raw_spec()
    trainer = children.trainer(pod)
    known = PROGRAMS.intersection([*trainer.get("command", ()), *trainer.get("args", ())])
    enabled = settings.task_pods.of(job.metadata.namespace).check.enabled
    return bool(enabled and known and checkers.asks_for_devices(job) and not pod.get("initContainers"))


def question(job: TrainingJob) -> str:
    """Stands for what is checked."""
    digests = sorted((used.name, used.digest) for used in cache.used(job) or ())
    return content_hash([children.template_hash(job.spec), digests])[:_HASH_LENGTH]


def is_done(job: TrainingJob) -> bool:
    """Whether the check has ended so that pods may be made, and the status says so."""
    known = job.status.check
    return known is not None and known.ended and known.of == question(job)


def prepare(observed: Observed, prepared: Preparation, draft: StatusDraft, now: datetime, *, due: bool) -> Preparation:
    """What comes between the inputs and the next pods.

    Args:
        observed: the job and everything that belongs to it.
        prepared: how far its inputs are.
        draft: the status under construction.
        now: the time, in UTC.
        due: pods are to be made that are of another spec than any that there are.
    """
    job, known = observed.job, observed.job.status.check
    through = replace(prepared, writes=(*prepared.writes, *deletions(observed.checkers)))
    if not is_wanted(job, observed.settings):
        draft.not_checked()
        return through
    if not prepared.ready or is_done(job):
        return through
    of = question(job)
    if known is None or known.of != of:
        draft.not_checked()
        known = CheckStatus(of=of, phase=CHECKING, start_time=now)
    if not due:
        return through
    found = _look(observed, known, draft, now)
    return replace(found, requeue_after=soonest((found.requeue_after, prepared.requeue_after)))


def _look(observed: Observed, known: CheckStatus, draft: StatusDraft, now: datetime) -> Preparation:
    """One step of the check."""
    base = checkers.pods_name(observed.job, known.of)
    pods = [pod for pod in observed.checkers if pod.name.rpartition("-")[0] == base]
    others = [pod for pod in observed.checkers if pod not in pods]
    before, _, number = known.pod.rpartition("-")
    begun, request = before == base, request_of(observed)
    step = plan_task(
        _task(observed, known.of),
        pods,
        int(number) if begun else 0,
        known.next_time if begun else None,
        now,
        renewed=known.request not in ("", request),
    )
    phase, reason, message = _answer(observed.job, step)
    ended = phase in (PASSED, SKIPPED)
    entry = known.model_copy(
        update={
            "phase": phase,
            "message": "" if phase == CHECKING else message,
            "pod": f"{base}-{step.number}",
            "seconds": _seconds(known, pods, step.number) if ended or phase == FAILED else None,
            "next_time": step.next_time,
            "request": request,
        }
    )
    draft.checked(entry, reason, message, passed={PASSED: True, SKIPPED: None}.get(phase, False))
    return Preparation(
        ready=False,  # before the status says so
        reason=reason,
        message=message,
        stalled=step.stalled and not ended,
        writes=() if ended else (*step.writes, *deletions(others)),  # its pod stays until its answer is written
        urgent=step.urgent or ended,
        requeue_after=0 if ended else step.requeue_after,
        until="the check has passed",
    )


def _answer(job: TrainingJob, step: Step) -> tuple[str, Reason, str]:
    """Phase, reason and words."""
    if step.answer is not None:
        return PASSED, Reason.CHECK_PASSED, "the program has found nothing in the way of training"
    if step.reason is Reason.CHECK_SKIPPED:
        return SKIPPED, step.reason, f"{step.message}; the pods that train are made without its answer"
    if step.reason is Reason.CHECK_FAILED:
        again = retry_command("TrainingJob", job.metadata.name)
        words = f"{step.message}; correct the spec, which is checked again at once, or what is named, then {again}"
        return FAILED, step.reason, words
    if step.reason is not None:
        return WAITING, step.reason, f"{step.message}; spec.check: none leaves out the check that this pod is for"
    return CHECKING, Reason.CHECKING, step.message


def _seconds(known: CheckStatus, pods: list[TaskPod], number: int) -> int | None:
    """From the first pod that was made to the end of the last."""
    end = next((pod.finished_at for pod in pods if pod.number == number), None)
    if end is None or known.start_time is None:
        return None
    return max(0, int((end - known.start_time).total_seconds()))


def _task(observed: Observed, of: str) -> Task:
    limits = observed.settings.task_pods.of(observed.job.metadata.namespace).check
    return Task(
        name="the pod that checks options and inputs",
        what="checks options and inputs, without a GPU",
        body=lambda number: checkers.checker(observed, of, number),
        wanted=lambda _answer: True,
        permanent=frozenset({Reason.CHECK_FAILED, Reason.CHECK_SKIPPED}),
        mendable=frozenset(),
        unexplained=Reason.CHECK_SKIPPED,
        judge=lambda pod: _judge(pod, limits),
    )


def _judge(pod: TaskPod, limits: CheckDefaults) -> tuple[Reason, str] | None:
    """What it means that a check has not ended well; None where its program had no part in it."""
    if pod.end_reason == "DeadlineExceeded":
        seconds = limits.active_deadline_seconds
        return (
            Reason.CHECK_SKIPPED,
            f"the check took longer than {seconds} s (taskPods.defaults.check.activeDeadlineSeconds of the chart)",
        )
    if pod.exit_code is None or pod.disruption or pod.end_reason in podstate.DISRUPTIONS:
        return None
    if pod.end_reason == "OOMKilled":
        words = "the check used more memory than its limit (taskPods.defaults.check.resources of the chart)"
        return Reason.CHECK_SKIPPED, words
    cause = root_cause(pod.message)
    code = pod.exit_code if cause.exit_code is None else cause.exit_code
    words = cause.message.removeprefix("NoRestart: ") or f"see: kubectl logs {pod.name}"
    if code in REFUSALS:
        return Reason.CHECK_FAILED, words
    return Reason.CHECK_SKIPPED, f"the check ended with exit code {code}, which says nothing of the inputs: {words}"

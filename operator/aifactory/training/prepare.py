"""The first stage: what has to be there before and beside the pods of an attempt. Of the store, see `store`."""

from __future__ import annotations

from aifactory.engine import apply
from aifactory.engine.plan import Create, Delete, DryRun, Write
from aifactory.engine.tasks import deletions
from aifactory.training import children, workspace
from aifactory.training.state import Observed


def workspace_is_ready(observed: Observed) -> bool:
    """The claim that the pods mount is there, if it is ours to make.

    Pods come after it: the claim of that name may still be that of a deleted job, and a pod that mounted it would train
    on that job's checkpoints and keep the claim from ever going.
    """
    return observed.workspace_exists or not workspace.is_owned(observed.job)


def is_ready(observed: Observed) -> bool:
    """What pods need before they are made: the claim, and the Service, without which their names mean nothing.

    A resolver remembers for a while that a name is not known, so pods that look for each other before it lose time.
    """
    return workspace_is_ready(observed) and (observed.service is not None or observed.job.spec.nodes.count == 1)


def surroundings(observed: Observed) -> tuple[Write, ...]:
    """Bring Service, PodGroup and claim to what the current attempt needs; what tried out the store goes."""
    job, attempt = observed.job, observed.job.status.attempt
    writes: list[Write] = []
    if job.spec.nodes.count > 1:
        writes += apply.ensure(children.service(job), observed.service)
    elif observed.service is not None:
        writes.append(Delete("Service", observed.service.name, observed.service.uid))
    if observed.wants_gang and not any(group.attempt == attempt for group in observed.gangs):
        writes.append(Create(children.gang(job, attempt)))
    if not workspace_is_ready(observed):
        writes.append(Create(children.claim(job)))
    return (*writes, *remove_gangs(observed, upto=attempt - 1), *deletions(observed.probes))


def next_pods(observed: Observed) -> tuple[DryRun, ...]:
    """Ask for one of each kind of pods that the next attempt makes: the others differ in their number alone."""
    job, settings = observed.job, observed.settings
    pods = [children.pod(job, 0, job.status.attempt + 1, settings, gang=observed.wants_gang)]
    if job.spec.output is not None:
        number = job.status.output.publish_attempt if job.status.output is not None else 0
        pods.append(children.publisher(job, number, settings))
    return tuple(DryRun(pod) for pod in pods)


def remove_gangs(observed: Observed, upto: int) -> tuple[Delete, ...]:
    """PodGroups of attempts up to this one go."""
    due = (group for group in observed.gangs if group.attempt <= upto and not group.terminating)
    return tuple(Delete("PodGroup", group.name, group.uid) for group in due)

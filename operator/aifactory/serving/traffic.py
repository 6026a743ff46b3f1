"""Who gets the requests: the Service, weights, and what becomes of a revision that is wanted and not yet served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool, InferencePoolStatus, RevisionStatus
from aifactory.engine.podspec import Json
from aifactory.serving import scaling, steps
from aifactory.serving.objects import child_name, metadata, selector
from aifactory.serving.state import RevisionView

_MAX_REQUEST = 64
"""Characters of a request that are remembered."""


class Course(Enum):
    """What is to be done about the wanted revision."""

    STEADY = "it takes the traffic, or is the first one"
    HELD_BACK = "it was taken back, and nothing has changed since"
    RETRY = "it was taken back, and gets another chance now"
    ROLL_OUT = "it comes up beside the one that takes the traffic"


def course(pool: InferencePool, revision: str, *, remains: bool, now: datetime) -> Course:
    """What is to be done about the wanted revision.

    Args:
        pool: as it stands.
        revision: the wanted one.
        remains: something is left of an earlier try of it, which has to go first.
        now: the time, in UTC.
    """
    rollout = pool.status.rollout
    if stable_revision(pool.status) in ("", revision):
        return Course.STEADY
    if rollout is None or rollout.phase != "Failed" or rollout.failed_revision != revision:
        return Course.ROLL_OUT
    asked = retry_request(pool) not in ("", pool.status.retried)
    due = rollout.retry_time is not None and now >= rollout.retry_time
    return Course.RETRY if (asked or due) and not remains else Course.HELD_BACK


def is_under_way(status: InferencePoolStatus, strategy: str, revision: str) -> bool:
    """Whether the status says that the pool changes over to a revision, in that way."""
    change, wanted = status.rollout, ("Progressing", strategy, revision)
    return change is not None and (change.phase, change.strategy, change.revision) == wanted


def retry_request(pool: InferencePool) -> str:
    """What somebody has written to have a version tried again; each new value counts once."""
    return pool.metadata.annotations.get(names.ANNOTATION_RETRY, "")[:_MAX_REQUEST]


def stable_revision(status: InferencePoolStatus) -> str:
    """The revision that takes the traffic; empty when there is none yet."""
    return status.stable.revision if status.stable is not None else ""


def stable_pods(pool: InferencePool) -> str:
    """The set of pods that takes the traffic; empty when there is none yet."""
    stable = pool.status.stable
    return pods_of(pool, stable) if stable is not None else ""


def pods_of(pool: InferencePool, revision: RevisionStatus) -> str:
    """The set of pods that serves or served a revision: by its Deployment's name where that is another one."""
    if revision.deployment is None:
        return revision.revision
    return revision.deployment.removeprefix(child_name(pool.metadata.name, ""))


def new_pods(pool: InferencePool, revision: str) -> str:
    """Name of a set of pods of its own for a revision: its own, unless what takes the traffic was made for it once."""
    return f"{revision}-b" if stable_pods(pool) == revision else revision


def shadow_pods(revision: str) -> str:
    """Name of the set of pods that gets copies of requests for a revision."""
    return f"{revision}-shadow"


def summary(revisions: Iterable[RevisionView]) -> str:
    """Which pods answer: the ready ones of every revision, for the Service knows no revisions.

    >>> summary([])
    'no pod answers'
    """
    serving = sorted((view for view in revisions if view.ready), key=lambda view: (view.model_version, view.revision))
    if not serving:
        return "no pod answers"
    versions = [view.model_version for view in serving]
    parts: list[str] = []
    for view in serving:
        alone = view.model_version and versions.count(view.model_version) == 1
        name = view.model_version if alone else f"{view.model_version} in revision {view.revision}".strip()
        unit = "" if parts else " pod" if view.ready == 1 else " pods"
        parts.append(f"{view.ready}{unit} of {name}")
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{listed} {'answers' if len(serving) == serving[0].ready == 1 else 'answer'}"


def weights(pool: InferencePool, revisions: Iterable[RevisionView]) -> tuple[tuple[str, int], ...]:
    """What part of the requests a gateway is to lead to each set of pods, of 100 together.

    Empty where all ready pods are to get alike, whatever their set: in everything but a Canary, and where its stable
    set has no ready pod. The candidate gets its weight, and less while it has not the pods for it; what was taken back
    or is no longer wanted gets nothing. Only sets with ready pods get any.
    """
    ready = {view.revision: view.ready for view in revisions if view.ready and not view.terminating}
    change, candidate, stable = pool.status.rollout, pool.status.candidate, stable_pods(pool)
    if change is None or change.strategy != steps.CANARY or stable not in ready:
        return ()
    if change.phase == "Complete" and len(ready) == 1:
        return ()
    chosen = pods_of(pool, candidate) if candidate is not None else ""
    if change.phase != "Progressing" or chosen not in ready:
        return ((stable, 100),)
    weight = change.weight or 0
    goal, _ = scaling.part(scaling.wanted(pool), weight)
    if ready[chosen] < goal:
        weight = min(weight, dict(shares({stable: ready[stable], chosen: ready[chosen]}))[chosen])
    return tuple((name, part) for name, part in ((stable, 100 - weight), (chosen, weight)) if part)


def shares(ready: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """What part of all ready pods each set has, of 100 together.

    >>> shares({"a": 2, "b": 1}), shares({"a": 0})
    ((('a', 67), ('b', 33)), ())
    """
    total = sum(ready.values())
    if not total:
        return ()
    found = {name: 100 * count // total for name, count in ready.items()}
    by_rest = sorted(found, key=lambda name: (-(100 * ready[name] % total), name))
    for name in by_rest[: 100 - sum(found.values())]:
        found[name] += 1
    return tuple(sorted((name, part) for name, part in found.items() if part))


def url(pool: InferencePool, *, openai: bool) -> str:
    """Where clients in the cluster ask: the base URL of OpenAI's API, or Triton's HTTP port."""
    scheme = "https" if _is_encrypted(pool) else "http"
    host = f"{scheme}://{pool.metadata.name}.{pool.metadata.namespace}.svc"
    return f"{host}:{names.OPENAI_PORT}/v1" if openai else f"{host}:{names.TRITON_HTTP_PORT}"


def _is_encrypted(pool: InferencePool) -> bool:
    return pool.spec.gateway is not None and pool.spec.gateway.tls is not None


def service(pool: InferencePool, *, openai: bool, gateway: bool = False) -> Json:
    """The address of the pool: every ready pod, whatever its revision, or the gateway's.

    Args:
        pool: whose it is.
        openai: its pods answer OpenAI's API too.
        gateway: it leads to the gateway. Its label tells so, for what it selects is not read.
    """
    role = names.ROLE_GATEWAY if gateway else names.ROLE_SERVE
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(pool, pool.metadata.name, {names.LABEL_ROLE: role}),
        "spec": {
            "selector": selector(pool, role),
            "ports": ports(
                openai=openai, triton=not pool.spec.loads_on_demand, encrypted=gateway and _is_encrypted(pool)
            ),
        },
    }


def ports(*, openai: bool, triton: bool = True, encrypted: bool = False) -> list[Json]:
    """The ports of a Service that leads to what answers: Triton's own, and that of OpenAI's API."""
    plain, h2c = ("https", "https") if encrypted else ("http", "kubernetes.io/h2c")
    doors = [("http", names.TRITON_HTTP_PORT, plain), ("grpc", names.TRITON_GRPC_PORT, h2c)] if triton else []
    doors += [("openai", names.OPENAI_PORT, plain)] if openai else []
    return [{"name": door, "port": port, "targetPort": door, "appProtocol": how} for door, port, how in doors]

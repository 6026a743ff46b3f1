"""Which versions the pods of a pool with several models are to serve now.

One change at a time: what is served, with one model that leads, which is the one that comes, or goes from one version
to another. So each change is a revision beside the one before it, as in a pool of one model, and whatever becomes of it
is known to be the leading model's doing: the others stay as they are, and are next.

What is served is never stopped for a doubt about memory, and never for a model that comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from aifactory.api.inferencepool import FailedVersion, ModelStatus, PoolModel, RevisionStatus
from aifactory.api.reasons import Reason, reason_called
from aifactory.api.sizes import human_size
from aifactory.serving import assignment, engines, gateway, loading, room, shape, swap, traffic
from aifactory.serving.assignment import Waiting
from aifactory.serving.state import Observed, VersionView

SERVING = "Serving"
WAITING = "Waiting"
CHANGING = "Changing"
FAILED = "Failed"
REFUSED = "Refused"


@dataclass(frozen=True, slots=True)
class Packed:
    """What to serve, and what is to be told of each model."""

    target: VersionView | Waiting
    models: tuple[ModelStatus, ...] = ()
    leader: str | None = None
    """The model that changes."""


@dataclass(frozen=True, slots=True)
class _Model:
    """One model: what is served of it, and what is wished for."""

    wish: PoolModel
    served: VersionView | None
    wanted: VersionView | Waiting
    failed: FailedVersion | None = None
    refusal: Waiting | None = None
    """Why what is wanted is not served, though it is there."""
    state: str = SERVING
    fits: bool = True
    """The pods are made for what is wanted."""

    @property
    def changes(self) -> bool:
        """There is another version to be served than the one that is."""
        return isinstance(self.wanted, VersionView) and (self.served is None or self.wanted.name != self.served.name)


def pack(observed: Observed, now: datetime) -> Packed:
    """What the pool is to serve now.

    Args:
        observed: a pool of several models.
        now: the time, in UTC.
    """
    pool = observed.pool
    named = named_in(pool.status.stable)
    served = {view.model: view for view in map(observed.version, named.values()) if view is not None}
    known = {each.name: each for each in pool.status.models or ()}
    models = [
        _judge(observed, wish, served, known.get(wish.name), assignment.resolve(wish, observed.versions), now)
        for wish in pool.spec.models
    ]
    wanted = {each.wish.name: each.wanted for each in models if isinstance(each.wanted, VersionView) and each.fits}
    kept = {each.wish.name: each.served for each in models if each.served is not None}
    if not gateway.is_told(observed):  # proxies ask pods for a model whether they are ready: it may be one that goes
        kept = {**served, **kept}
    leader = _leader(observed, models)
    if leader is not None:
        kept[leader] = wanted[leader]
    told = tuple(_told(observed, each, leader, known.get(each.wish.name)) for each in models)
    lost = (each for each in models if each.served is None and isinstance(each.wanted, Waiting))
    if gone := [named[each.wish.name] for each in lost if each.wish.name in named]:
        said = f"ModelVersion {', '.join(gone)} is served and gone: make it again, or take its model out of the pool"
        return Packed(Waiting(Reason.WAITING_FOR_MODEL, said), told)
    if not kept:
        worst = min(models, key=lambda each: each.state == WAITING)
        found = worst.refusal or worst.wanted
        assert isinstance(found, Waiting)
        return Packed(found, told)
    return Packed(bundle(kept, wanted, leader), told, leader)


def named_in(stable: RevisionStatus | None) -> dict[str, str]:
    """The ModelVersions that a revision serves, by their models; they are called `<model>-v<version>`."""
    if stable is None:
        return {}
    if stable.models is None:
        return {stable.model_version.rpartition("-v")[0]: stable.model_version}
    return {each.name: each.model_version for each in stable.models}


def bundle(
    kept: Mapping[str, VersionView], wanted: Mapping[str, VersionView], leader: str | None = None
) -> VersionView:
    """Versions of several models as one thing to be served, with what else their pods are to hold."""
    first = leader if leader is not None else min(kept)
    beside = tuple(view for model, view in sorted(kept.items()) if model != first)
    coming = tuple(view for model, view in sorted(wanted.items()) if model not in kept)
    return replace(kept[first], beside=beside, coming=coming)


def as_made(observed: Observed, found: VersionView) -> VersionView:
    """What is served, with what else its pods are to hold today."""
    if found.beside is None or not observed.has_several:
        return found
    kept = {each.model: each for each in found.all}
    resolved = (assignment.resolve(wish, observed.versions) for wish in observed.pool.spec.models)
    views = [each for each in resolved if isinstance(each, VersionView) and each.model not in kept]
    fitting = [each for each in views if _misfit(observed, each, kept) is None]
    return replace(found, coming=tuple(sorted(fitting, key=lambda view: view.model)))


def _judge(
    observed: Observed,
    wish: PoolModel,
    served: Mapping[str, VersionView],
    known: ModelStatus | None,
    wanted: VersionView | Waiting,
    now: datetime,
) -> _Model:
    """One model: whether it is as it shall be, waits, changes, or can not."""
    model = _Model(wish, served.get(wish.name), wanted)
    if isinstance(wanted, Waiting):
        return replace(model, state=WAITING)
    if not model.changes:
        return model
    record = known.failed if known is not None else None
    asked = traffic.retry_request(observed.pool) not in ("", observed.pool.status.retried)
    if record is not None and (asked or record.revision != trial(observed, wanted)):
        record = None
    model = replace(model, failed=record)
    if (waiting := _misfit(observed, wanted, served)) is not None:
        return replace(model, refusal=waiting, state=REFUSED, fits=False)
    if record is not None and known is not None and not _may_try(observed, wish.name, record, now):
        reason = reason_called(known.reason) if known.reason else Reason.MODEL_LOAD_FAILED
        return replace(model, refusal=Waiting(reason, known.message or ""), state=FAILED)
    wished = {other.name for other in observed.pool.spec.models}
    kept = {name: view for name, view in served.items() if name in wished}
    if served and (words := _no_swap(observed, bundle({**kept, wish.name: wanted}, {}, wish.name))):
        return replace(model, refusal=Waiting(Reason.HOT_SWAP_IMPOSSIBLE, words), state=REFUSED)
    return replace(model, state=CHANGING)


def _misfit(observed: Observed, wanted: VersionView, served: Mapping[str, VersionView]) -> Waiting | None:
    """Why a version can not be in these pods beside what is served, if it can not."""
    pool = observed.pool
    if (waiting := engines.unfit(pool, wanted) or loading.unfit(pool, wanted)) is not None:
        return waiting
    wished = {wish.name for wish in pool.spec.models}
    beside = [each for each in served.values() if each.model != wanted.model and each.model in wished]
    beside = [] if observed.on_demand else beside  # they make room
    words = room.too_many(pool, wanted, beside)
    return Waiting(Reason.MODEL_TOO_LARGE, words) if words else None


def _no_swap(observed: Observed, target: VersionView) -> str:
    """Why pods can not take up a version as the user insists, if they can not."""
    pool = observed.pool
    revision = shape.revision_of(pool, as_made(observed, target), shape.image_of(pool, observed.settings))
    choice = swap.choose(observed, target, revision)
    return swap.refusal(choice) if choice.refused else ""


def _may_try(observed: Observed, model: str, record: FailedVersion, now: datetime) -> bool:
    """Whether one that was taken back is on its way again, or may be: it is due, and nothing is left of it."""
    pool, change = observed.pool, observed.pool.status.rollout
    if change is not None and change.phase == "Progressing" and change.model == model:
        return True
    stable = traffic.stable_pods(pool)
    told = observed.assigned(stable) in ("", traffic.stable_revision(pool.status))
    quiet = told and all(view.revision == stable for view in observed.revisions)
    return quiet and record.retry_time is not None and now >= record.retry_time


def trial(observed: Observed, version: VersionView) -> str:
    """Stands for a version, its files and the pods that it is tried in."""
    pool = observed.pool
    alone = replace(version, beside=(), coming=())  # whatever is served with it
    return shape.revision_of(pool, alone, shape.image_of(pool, observed.settings))


def _leader(observed: Observed, models: Iterable[_Model]) -> str | None:
    """The model that changes: the one that does already, else the first in the list."""
    change = observed.pool.status.rollout
    under_way = change.model if change is not None and change.phase == "Progressing" else None
    ready = [each.wish.name for each in models if each.state == CHANGING]
    return under_way if under_way in ready else next(iter(ready), None)


def _told(observed: Observed, model: _Model, leader: str | None, before: ModelStatus | None) -> ModelStatus:
    """What the status says of it, before anything is done about it."""
    served, wanted = model.served, model.wanted
    state, refusal = model.state, model.refusal or (wanted if isinstance(wanted, Waiting) else None)
    reason, message = (str(refusal.reason), refusal.message) if refusal is not None else (None, None)
    if state == CHANGING and model.wish.name != leader and isinstance(wanted, VersionView):
        state, reason = WAITING, str(Reason.ROLLING_OUT)
        message = f"version {wanted.version} is next: one model changes at a time"
    memory = served.memory_bytes if served is not None else None
    resident, loaded = _residency(observed, served, before)
    return ModelStatus(
        name=model.wish.name,
        state=state,
        version=served.version if served is not None else None,
        model_version=served.name if served is not None else None,
        wanted=wanted.version if isinstance(wanted, VersionView) and model.changes else None,
        ready_replicas=_answering(observed, served) if served is not None else 0,
        resident_replicas=resident,
        last_load_time=loaded,
        memory=human_size(memory) if memory is not None else None,
        memory_bytes=memory,
        reason=reason,
        message=message,
        failed=model.failed,
    )


def _residency(
    observed: Observed, served: VersionView | None, before: ModelStatus | None
) -> tuple[int | None, datetime | None]:
    """On demand: how many ready pods have a version loaded now, and when one has done that last.

    While one of them has not said it yet, as to an operator that has just begun, it is what was told before.
    """
    if served is None or not observed.on_demand:
        return None, None
    pods = [pod for pod in observed.pods if pod.ready and not pod.terminating]
    reports = [pod.report for pod in pods if pod.report is not None]
    if len(reports) < len(pods):
        known = before is not None and before.version == served.version
        return (before.resident_replicas, before.last_load_time) if before is not None and known else (None, None)
    answering = [each for each in reports if each.version_of(served.model) == served.version]
    times = [at for each in answering for name, at in each.loaded if name == served.model]
    last = datetime.fromtimestamp(max(times), UTC) if times else None
    return sum(served.model in each.resident for each in answering), last


def _answering(observed: Observed, served: VersionView) -> int:
    """Ready pods that answer from a version, as far as they have said anything else than what is served."""
    count, pods = 0, traffic.stable_pods(observed.pool)
    for pod in observed.pods:
        if not pod.ready or pod.terminating:
            continue
        if observed.on_demand and pod.report is not None and pod.report.error_of(served.model):
            continue  # it stood by, and does not load any more
        said = pod.report.version_of(served.model) if pod.report is not None else None
        count += said == served.version if said is not None else pod.revision == pods
    return count

"""What a pod serves: which ModelVersion a wish of the pool's means now, and how the pod is told.

What a set of pods serves is one ConfigMap, mounted into them, so that a pod that restarts while operator and API server
are away still comes up with the right model. It may change while they run: the agents follow the file.

The kubelet brings a changed ConfigMap into a pod when it next looks at the pod, a minute later or more; it looks at
once when the pod is edited. So pods are labelled with what they are told to serve (`nudge`), after the ConfigMap is
written.
A watch by the agents would need a token in each pod, which has none else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool, PoolModel
from aifactory.api.reasons import Reason
from aifactory.engine.plan import Patch
from aifactory.engine.podspec import Json
from aifactory.serving.objects import child_name, metadata
from aifactory.serving.state import VersionView


@dataclass(frozen=True, slots=True)
class Waiting:
    """No version can be served yet, and why."""

    reason: Reason
    message: str


def resolve(wish: PoolModel, versions: Iterable[VersionView]) -> VersionView | Waiting:
    """The version to serve: the pinned one if it is Ready, or the highest that is."""
    known = sorted((view for view in versions if view.model == wish.name), key=lambda view: view.version)
    if wish.version is not None:
        return _pinned(wish.name, wish.version, known)
    ready = [view for view in known if view.ready and not view.deleting]
    if ready:
        return ready[-1]
    if known:
        newest = known[-1]
        return Waiting(
            Reason.WAITING_FOR_MODEL,
            f"no ModelVersion of {wish.name} is Ready; the newest, {newest.name}, is not: {_why(newest)}",
        )
    return Waiting(
        Reason.WAITING_FOR_MODEL,
        f"waiting for a ModelVersion of {wish.name}: none exists; a TrainingJob with output.model.name {wish.name} "
        "makes one",
    )


def _pinned(name: str, version: int, known: list[VersionView]) -> VersionView | Waiting:
    found = next((view for view in known if view.version == version), None)
    if found is None:
        have = ", ".join(str(view.version) for view in known) or "none"
        return Waiting(
            Reason.WAITING_FOR_MODEL, f"waiting for version {version} of model {name}; existing versions: {have}"
        )
    if not found.ready:
        # While it is being checked nobody has to do anything.
        checking = found.reason in ("", Reason.VERIFYING)
        reason = Reason.WAITING_FOR_MODEL if checking else Reason.MODEL_NOT_READY
        return Waiting(reason, f"ModelVersion {found.name} is not Ready: {_why(found)}")
    return found


def _why(view: VersionView) -> str:
    return f"{view.reason}: {view.message}" if view.message else view.reason or "it has not been checked yet"


def engine_wish(pool: InferencePool) -> str:
    """The engine that the pool insists on; "" where it takes the best one."""
    engine = pool.spec.runtime.engine if pool.spec.runtime is not None else None
    return engine if engine is not None and engine != "auto" else ""


def identity(engine: str, version: VersionView) -> Json:
    """By what the things that are to be served, all of them, are told from others."""
    if version.beside is None:
        return parts(engine, version)
    return {"models": [parts(engine, each) for each in version.all]}


def parts(engine: str, version: VersionView) -> Json:
    """What of a version, and of the engine that is insisted on, makes a difference to a pod that serves it."""
    return {
        **({"engine": engine} if engine else {}),
        "name": version.model,
        "version": version.version,
        "uri": version.uri,
        "digest": version.digest,
        "format": version.format,
        "secret": version.secret,
    }


def config(
    pool: InferencePool,
    version: VersionView,
    revision: str,
    pods: str = "",
    warm: VersionView | None = None,
    engine: str | None = None,
    on_demand: Json | None = None,
) -> Json:
    """What the agents of a set of pods bring up.

    Args:
        pool: whose they are.
        version: takes the traffic, with those beside it.
        revision: that version in these pods.
        pods: the set's name; left out where it was made for this revision.
        warm: is kept at hand.
        engine: the one that the revision insists on, if that is not what the pool does now.
        on_demand: room and limits, where models are loaded when they are asked for (`loading`).
    """
    engine = engine_wish(pool) if engine is None else engine
    models = [parts(engine, each) for each in version.all]
    models += [{**parts(engine, warm), "traffic": "warm"}] if warm is not None else []
    desired: Json = {"pool": pool.metadata.name, "revision": revision, "models": models}
    if on_demand is not None:
        views = [*version.all, *([warm] if warm is not None else [])]
        measured = [{**model, "memoryBytes": view.taken_bytes} for model, view in zip(models, views, strict=True)]
        desired |= {"models": measured, "onDemand": on_demand}
    set_ = pods or revision
    meta = metadata(pool, child_name(pool.metadata.name, set_), {names.LABEL_REVISION: set_})
    meta["annotations"] = {names.LABEL_ASSIGNMENT: revision}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta,
        "data": {"desired.json": json.dumps(desired, indent=1, sort_keys=True)},
    }


def nudge(pod: str, revision: str) -> Patch:
    """Have the kubelet of a pod bring it what it is told to serve now."""
    return Patch("Pod", pod, {"metadata": {"labels": {names.LABEL_ASSIGNMENT: revision}}})

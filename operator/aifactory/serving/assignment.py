"""What a pod serves: which ModelVersion the pool's wish means now, and how the pod is told.

The assignment of a revision is its ConfigMap, mounted into its pods, so that a pod that restarts while operator and API
server are away still comes up with the right model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool, PoolModel
from aifactory.api.reasons import Reason
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
    known = sorted(versions, key=lambda view: view.version)
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


def parts(pool: InferencePool, version: VersionView) -> Json:
    """What of a version, and of the pool's wish for it, makes a difference to a pod that serves it."""
    wish = engine_wish(pool)
    return {
        **({"engine": wish} if wish else {}),
        "name": version.model,
        "version": version.version,
        "uri": version.uri,
        "digest": version.digest,
        "format": version.format,
        "secret": version.secret,
    }


def config(pool: InferencePool, version: VersionView, revision: str) -> Json:
    """What the agents of a revision's pods bring up."""
    desired = {"pool": pool.metadata.name, "revision": revision, "models": [parts(pool, version)]}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(pool, child_name(pool.metadata.name, revision), {names.LABEL_REVISION: revision}),
        "data": {"desired.json": json.dumps(desired, indent=1, sort_keys=True)},
    }

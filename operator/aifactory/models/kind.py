"""ModelVersion as the engine sees it: gather from the stores, plan, translate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from aifactory.api.inferencepool import InferencePool
from aifactory.api.modelversion import ModelVersion, Use
from aifactory.engine.custom import Stored, invalid_plan
from aifactory.engine.decision import to_plan
from aifactory.engine.kinds import MODELVERSIONS
from aifactory.engine.plan import Plan, Subject, WriteError
from aifactory.engine.pods import task_pod
from aifactory.kube.objects import Pod
from aifactory.kube.resources import PODS, Key, Resource
from aifactory.kube.store import Store
from aifactory.models.plan import plan_model_version, plan_rejected
from aifactory.models.state import Observed, Settings

RESOURCES: Mapping[str, Resource] = {PODS.kind: PODS}


@dataclass(frozen=True, slots=True)
class ModelStores:
    """Where a ModelVersion's surroundings are read from.

    Pods are indexed by `controller` (the owner's UID), pools by `version` (namespace and name of a version they use).
    """

    versions: Store[Stored[ModelVersion]]
    pods: Store[Pod]
    pools: Store[Stored[InferencePool]]


@dataclass(frozen=True, slots=True)
class View:
    """A stored version and, if it can be read, everything around it."""

    stored: Stored[ModelVersion]
    observed: Observed | None


class ModelKind:
    """The engine's `Kind` for ModelVersion."""

    name = "modelversion"
    resource = MODELVERSIONS

    def __init__(self, stores: ModelStores, settings: Settings) -> None:
        self._stores = stores
        self._settings = settings

    def observe(self, key: Key) -> View | None:
        """The version, its verifiers and its users."""
        stored = self._stores.versions.get(key.namespace, key.name)
        if stored is None:
            return None
        if stored.model is None:
            return View(stored, None)
        version = stored.model
        return View(
            stored,
            Observed(
                version=version,
                settings=self._settings,
                verifiers=tuple(
                    task_pod(pod, "verify") for pod in self._stores.pods.by("controller", version.metadata.uid)
                ),
                users=self._users(version),
            ),
        )

    def subject(self, view: View) -> Subject:
        """The version as it was observed."""
        return view.stored.subject

    def plan(self, view: View, now: datetime) -> Plan:
        """What to do now."""
        if view.observed is None:
            return invalid_plan(view.stored, now)
        decision = plan_model_version(view.observed, now)
        if decision is None:
            return Plan()
        return to_plan(decision, namespace=view.stored.metadata.namespace, resources=RESOURCES)

    def on_error(self, view: View, errors: Sequence[WriteError], now: datetime) -> Plan:
        """The API server refused the verifier for good: its words go into the status."""
        if view.observed is None:
            return invalid_plan(view.stored, now)
        return Plan(status=plan_rejected(view.observed, errors[0].message, now).dump())

    def _users(self, version: ModelVersion) -> tuple[Use, ...]:
        meta = version.metadata
        using = self._stores.pools.by("version", (meta.namespace, meta.name))
        return tuple(Use(kind="InferencePool", name=name) for name in sorted(pool.metadata.name for pool in using))


def versions_of(pool: InferencePool) -> set[str]:
    """Names of the ModelVersions a pool serves, rolls to, or has resolved its wish to."""
    status = pool.status
    found = {resolved.model_version for resolved in status.resolved}
    found |= {part.model_version for part in (status.stable, status.candidate) if part is not None}
    return found - {""}

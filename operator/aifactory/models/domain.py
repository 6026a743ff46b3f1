"""What the kind ModelVersion is made of, and how everything around one is gathered."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from aifactory.api import numbers
from aifactory.api.inferencepool import InferencePool
from aifactory.api.modelversion import ModelVersion, ModelVersionStatus, Use
from aifactory.engine.cluster import Cluster
from aifactory.engine.domain import Child, Domain, Index, Watch
from aifactory.engine.plan import Delete, Plan, WriteError
from aifactory.engine.refusals import explain
from aifactory.engine.tasks import task_pod
from aifactory.kube.objects import ConfigMap, Pod
from aifactory.kube.podstate import starting
from aifactory.kube.resources import CONFIGMAPS, PODS, Key
from aifactory.models.plan import plan_model_version, plan_refused
from aifactory.models.state import Counter, Observed, Settings

_PODS = Child(PODS, Pod, halfway=starting)
_COUNTERS = Child(CONFIGMAPS, ConfigMap, verbs=("create", "patch"))


class Models(Domain[ModelVersion, Observed]):
    """ModelVersion."""

    settings_class = Settings
    model = ModelVersion
    children = (_PODS, _COUNTERS)

    def indexes(self) -> Sequence[Index[InferencePool]]:
        """Pools by the versions that they use."""
        return (_USERS,)

    def watches(self) -> Sequence[Watch[InferencePool]]:
        """A pool concerns the versions it uses, and those it has just stopped using."""
        return (Watch(InferencePool, _keys_of_versions, view=versions_of),)

    def gather(self, model: ModelVersion, cluster: Cluster) -> Observed:
        meta = model.metadata
        counter = cluster.get(_COUNTERS, meta.namespace, numbers.object_name(model.spec.model))
        using = cluster.find(_USERS, (meta.namespace, meta.name))
        return Observed(
            version=model,
            settings=self.settings,
            verifiers=tuple(
                task_pod(pod, "verify", cluster.explain(pod)) for pod in cluster.owned(_PODS, meta.namespace, meta.uid)
            ),
            counter=_counter(counter) if counter is not None else None,
            users=tuple(Use(kind="InferencePool", name=name) for name in sorted(pool.metadata.name for pool in using)),
        )

    def plan(self, observed: Observed, now: datetime) -> Plan[ModelVersionStatus] | None:
        return plan_model_version(observed, now)

    def refused(self, observed: Observed, errors: Sequence[WriteError], now: datetime) -> Plan[ModelVersionStatus]:
        telling = [error for error in errors if not isinstance(error.write, Delete)]
        if not telling and (plan := plan_model_version(observed, now)) is not None:
            # Verifiers that have ended and may not be deleted are in nobody's way: what they found stands.
            return replace(plan, writes=(), requeue_after=None)
        return plan_refused(observed, explain(telling[0]), now)


def _counter(found: ConfigMap) -> Counter:
    meta = found.metadata
    return Counter(meta.name, meta.resource_version, numbers.highest(meta.annotations))


def versions_of(pool: InferencePool) -> set[str]:
    """Names of the ModelVersions a pool serves, rolls to, or has resolved its wish to, whatever its spec says now."""
    status = pool.status
    found = {resolved.model_version for resolved in status.resolved}
    for part in (status.stable, status.candidate):
        if part is not None:
            found |= {part.model_version, *(each.model_version for each in part.models or ())}
    return found - {""}


def _keys_of_versions(pool: InferencePool, _: Cluster | None = None) -> Iterable[Key]:
    return (Key(pool.metadata.namespace, name) for name in sorted(versions_of(pool)))


def _users(pool: InferencePool) -> Iterable[Hashable]:
    return _keys_of_versions(pool)


_USERS = Index(InferencePool, "version", _users)

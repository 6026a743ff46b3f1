"""A fourth kind that exists only in tests: a Herd wants `spec.size` pods and says how many there are.

All that there is to it is in this file, as all that there is to a kind of ours is in its folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from aifactory.api import names
from aifactory.api.base import CustomResource, Model, Status
from aifactory.engine.cluster import Cluster
from aifactory.engine.custom import resource_of
from aifactory.engine.domain import Child, Domain, option
from aifactory.engine.plan import Create, Delete, Event, Plan, WriteError
from aifactory.engine.podspec import owner_reference
from aifactory.kube.objects import Pod
from aifactory.kube.resources import PODS, Key

_PODS = Child(PODS, Pod)


class HerdSpec(Model):
    """How many."""

    size: int = 0


class HerdStatus(Status):
    """How many there are."""

    pods: int = 0
    full: bool = False
    error: str | None = None


class Herd(CustomResource):
    """Pods that do nothing."""

    plural: ClassVar[str] = "herds"

    spec: HerdSpec
    status: HerdStatus = HerdStatus()


HERDS = resource_of(Herd)


@dataclass(frozen=True)
class HerdSettings:
    """What an installation may set."""

    herd_image: str = option("pause", "image of the pods of a Herd")


@dataclass(frozen=True)
class Seen:
    """What one plan is made from."""

    herd: Herd
    pods: tuple[Pod, ...]
    image: str


class Herds(Domain[Herd, Seen]):
    """Plans are made from names only, so a stale view makes redundant calls at worst."""

    settings_class = HerdSettings
    model = Herd
    children = (_PODS,)

    def gather(self, model: Herd, cluster: Cluster) -> Seen:
        meta = model.metadata
        return Seen(model, tuple(cluster.owned(_PODS, meta.namespace, meta.uid)), self.settings.herd_image)

    def plan(self, observed: Seen, now: datetime) -> Plan[HerdStatus] | None:
        meta, size = observed.herd.metadata, observed.herd.spec.size
        wanted = {f"{meta.name}-{number}" for number in range(size)}
        found = {pod.metadata.name: pod for pod in observed.pods}
        creates = (Create(pod_of(observed, name)) for name in sorted(wanted - found.keys()))
        deletes = (
            Delete("Pod", name, found[name].metadata.uid)
            for name in sorted(found.keys() - wanted)
            if found[name].metadata.deletion_timestamp is None
        )
        full = found.keys() == wanted
        status = HerdStatus(observed_generation=meta.generation, pods=len(found), full=full)
        return Plan(status, (*creates, *deletes))

    def refused(self, observed: Seen, errors: Sequence[WriteError], now: datetime) -> Plan[HerdStatus]:
        return Plan(
            HerdStatus(observed_generation=observed.herd.metadata.generation, error=errors[0].message), urgent=True
        )


class RestlessHerds(Herds):
    """Herds that do what a test asks for."""

    def __init__(self, settings: HerdSettings | None = None, url: str = "") -> None:
        super().__init__(settings, url)
        self.urgent = False
        self.tells = False
        """Whether a full herd is worth an Event."""
        self.requeue_after: float | None = None
        self.poisoned: set[str] = set()
        self.plans: list[Key] = []

    def plan(self, observed: Seen, now: datetime) -> Plan[HerdStatus] | None:
        meta = observed.herd.metadata
        self.plans.append(Key(meta.namespace, meta.name))
        if meta.name in self.poisoned:
            raise RuntimeError(f"{meta.name} is poisoned")
        plan = super().plan(observed, now)
        assert plan is not None
        told = plan.status.full and self.tells
        events = (Event("Normal", "Full", f"all {plan.status.pods} pods are there"),) if told else ()
        return Plan(plan.status, plan.writes, self.urgent, self.requeue_after, events)


def pod_of(observed: Seen, name: str) -> dict[str, Any]:
    """One pod of a herd."""
    meta = observed.herd.metadata
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": meta.namespace,
            "labels": {names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE},
            "ownerReferences": [owner_reference(names.API_VERSION, "Herd", meta.name, meta.uid)],
        },
        "spec": {"containers": [{"name": "idle", "image": observed.image}], "terminationGracePeriodSeconds": 0},
    }

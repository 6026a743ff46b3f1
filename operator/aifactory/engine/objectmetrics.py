"""Prometheus metrics about the objects: how many are in which state, and figures of each that a domain declares.

Only the leader tells them: a sum over the replicas counts nothing twice. What an object says is read again only when it
has changed, and at most `MOST` of a kind have figures of their own, so that neither a scrape nor a Prometheus grows
with a crowd of objects; how many are left out is told. Metrics of objects have the labels `namespace` and `name`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from aifactory.api import names
from aifactory.engine.cluster import Cluster
from aifactory.engine.custom import Stored
from aifactory.engine.domain import Domain, Family, Sample
from aifactory.kube.clock import Clock
from aifactory.kube.resources import Key
from aifactory.kube.store import Change

MOST: Final = 1000
"""Objects of a kind with figures of their own."""
_LONGEST: Final = 128
"""Characters of a label's value: what stands in a status may be longer."""

OBJECTS: Final = Family(
    "aifactory_objects", "gauge", "Objects by kind and phase; a ModelVersion's is its true condition.", "kind phase"
)
STALLED: Final = Family(
    "aifactory_object_stalled", "gauge", "1 for an object that waits for a person.", "kind namespace name reason"
)
BEHIND: Final = Family(
    "aifactory_objects_behind", "gauge", "Objects whose status does not speak of their newest generation.", "kind"
)
LEFT_OUT: Final = Family(
    "aifactory_objects_without_metrics", "gauge", f"Objects beyond the {MOST} of a kind that have figures.", "kind"
)
GENERAL: Final = (OBJECTS, STALLED, BEHIND, LEFT_OUT)


class _Condition(msgspec.Struct, frozen=True, gc=False):
    type: str
    status: str
    reason: str = ""


class _Spec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    managed_by: str = names.MANAGED_BY


class _Status(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    observed_generation: int = 0
    phase: str = ""
    conditions: tuple[_Condition, ...] = ()


class _Object(msgspec.Struct, frozen=True, gc=False):
    spec: _Spec = _Spec()
    status: _Status = _Status()


_decode: Final = msgspec.json.Decoder(_Object).decode


@dataclass(frozen=True, slots=True)
class _Facts:
    """What one object comes to."""

    phase: str
    stalled: str
    """The reason; empty if it is not."""
    behind: bool
    samples: tuple[Sample, ...]


class ObjectMetrics:
    """A collector of prometheus_client over the stores of our own kinds.

    Args:
        cluster: the stores.
        leading: whether this replica acts.
        clock: the time, for what grows by itself.
    """

    def __init__(self, cluster: Cluster, leading: Callable[[], bool], clock: Clock) -> None:
        self._cluster = cluster
        self._leading = leading
        self._clock = clock
        self._facts: dict[Domain[Any, Any], dict[Key, _Facts]] = {}
        self._changed: dict[Domain[Any, Any], set[Key]] = {}
        for domain in cluster.domains:
            self._facts[domain] = {}
            self._changed[domain] = set(cluster.stored(domain.resource).keys())
            cluster.stored(domain.resource).subscribe(self._note(domain))

    def collect(self) -> Iterator[Metric]:
        """Every family, with samples where this replica leads."""
        found = {family: _metric(family) for family in families(self._cluster.domains)}
        if self._leading():
            for domain in self._cluster.domains:
                self._read_changed(domain)
                self._tell(domain, found, self._clock.now())
        yield from found.values()

    def _note(self, domain: Domain[Any, Any]) -> Callable[[Change[Stored[Any]]], None]:
        def listener(change: Change[Stored[Any]]) -> None:
            meta = change.object.metadata
            key = Key(meta.namespace, meta.name)
            if change.new is not None:
                self._changed[domain].add(key)
            else:  # at once, so that nothing piles up where nobody asks
                self._changed[domain].discard(key)
                self._facts[domain].pop(key, None)

        return listener

    def _read_changed(self, domain: Domain[Any, Any]) -> None:
        facts, changed = self._facts[domain], self._changed[domain]
        for key in changed:
            stored = self._cluster.stored(domain.resource).get(key.namespace, key.name)
            if stored is not None:
                facts[key] = _facts(domain, stored)
        changed.clear()

    def _tell(self, domain: Domain[Any, Any], found: dict[Family, Metric], now: datetime) -> None:
        kind, facts = domain.resource.kind, self._facts[domain]
        for phase, count in Counter(each.phase for each in facts.values()).items():
            found[OBJECTS].add_metric([kind, phase], count)  # type: ignore[attr-defined]
        found[BEHIND].add_metric([kind], sum(each.behind for each in facts.values()))  # type: ignore[attr-defined]
        told = left_out = 0
        for key, each in facts.items():
            if not (each.stalled or each.samples):
                continue
            if told >= MOST:
                left_out += 1
                continue
            told += 1
            if each.stalled:
                found[STALLED].add_metric([kind, *key, each.stalled], 1)  # type: ignore[attr-defined]
            for sample in each.samples:
                labels = [*key, *(value[:_LONGEST] for value in sample.labels)]
                found[sample.family].add_metric(labels, sample.value_at(now))  # type: ignore[attr-defined]
        found[LEFT_OUT].add_metric([kind], left_out)  # type: ignore[attr-defined]


def families(domains: Iterable[Domain[Any, Any] | type[Domain[Any, Any]]]) -> tuple[Family, ...]:
    """Everything that is told about objects."""
    return (*GENERAL, *(family for domain in domains for family in domain.families))


def _metric(family: Family) -> Metric:
    labels = family.labels.split()
    if family.type == "counter":
        return CounterMetricFamily(family.name, family.help, labels=labels)
    return GaugeMetricFamily(family.name, family.help, labels=labels)


def _facts(domain: Domain[Any, Any], stored: Stored[Any]) -> _Facts:
    try:
        found = _decode(stored.json)
    except msgspec.MsgspecError:
        return _Facts("", "", behind=False, samples=())
    status, meta = found.status, stored.metadata
    true = {condition.type: condition.reason for condition in status.conditions if condition.status == "True"}
    kstatus = next((type_ for type_ in ("Stalled", "Ready", "Reconciling") if type_ in true), "")
    ours = found.spec.managed_by == names.MANAGED_BY and meta.deletion_timestamp is None
    try:
        samples = tuple(domain.samples(stored.json))
    except ValueError:  # as msgspec.MsgspecError is
        samples = ()
    return _Facts(
        phase=(status.phase or kstatus)[:_LONGEST],
        stalled=(true["Stalled"] or "Stalled")[:_LONGEST] if "Stalled" in true else "",
        behind=ours and status.observed_generation < meta.generation,
        samples=samples,
    )

"""What the engine asks of a kind. Everything here is synchronous and free of I/O; the engine does the waiting."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from aifactory.engine.plan import Plan, Subject, WriteError
from aifactory.kube.resources import Key, Resource

Observed = TypeVar("Observed")


class Kind(Protocol[Observed]):
    """How objects of one kind are looked at and planned for."""

    @property
    def name(self) -> str:
        """Name of the controller in logs and metrics, for example `trainingjob`."""

    @property
    def resource(self) -> Resource:
        """The resource whose status is written."""

    def observe(self, key: Key) -> Observed | None:
        """Everything one plan is made from, read from stores; None when there is no such object (any more)."""

    def subject(self, observed: Observed) -> Subject:
        """The object within `observed`, exactly as it was observed."""

    def plan(self, observed: Observed, now: datetime) -> Plan:
        """What to do now. Pure: the same arguments give the same plan."""

    def on_error(self, observed: Observed, errors: Sequence[WriteError], now: datetime) -> Plan:
        """The status that tells the user why `plan`'s writes were refused. Pure; its `writes` are ignored."""

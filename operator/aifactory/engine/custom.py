"""A custom resource in a store: parsed once when it arrives, with its status kept as it stood in JSON.

Parsing never fails: an object that does not fit the model (an older or newer CRD let it through) is kept with the
reason, so that its status can tell, instead of ending a watch or a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec
from pydantic import BaseModel, ValidationError

from aifactory.api.base import Condition, ObjectMeta, format_time
from aifactory.api.reasons import ConditionType, Reason
from aifactory.engine.plan import Plan, Subject
from aifactory.kube.resources import Key

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Stored(Generic[M]):
    """One custom resource."""

    metadata: ObjectMeta
    model: M | None
    """The object, or None when it does not fit the model."""
    packed: bytes
    """`status` in JSON: as a dictionary it would take six times the memory, and it is read once in a reconcile."""
    error: str = ""
    """Why it does not fit: field and words."""

    @property
    def status(self) -> dict[str, Any]:
        """The status as it stands, with whatever the model does not know."""
        return _unpack(self.packed)

    @property
    def subject(self) -> Subject:
        """The object as the engine needs to know it."""
        meta = self.metadata
        return Subject(Key(meta.namespace, meta.name), meta.uid, meta.resource_version, self.status)


_unpack = msgspec.json.Decoder(dict[str, Any]).decode


class _Head(Protocol):
    metadata: ObjectMeta


def parser(model: type[M]) -> Callable[[Mapping[str, Any]], Stored[M]]:
    """A function that turns the JSON of one object into what is stored."""

    def parse(body: Mapping[str, Any]) -> Stored[M]:
        packed = msgspec.json.encode(body.get("status") or {})
        try:
            parsed = model.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            metadata = ObjectMeta.model_validate(body["metadata"])
            return Stored(metadata, None, packed, f"{where}: {first['msg']}")
        return Stored(cast("_Head", parsed).metadata, parsed, packed)

    return parse


def decoder(model: type[M]) -> Callable[[bytes], Stored[M]]:
    """As `parser`, for bytes."""
    parse = parser(model)
    return lambda raw: parse(_unpack(raw))


def invalid_plan(stored: Stored[Any], now: datetime) -> Plan:
    """Tell the user that the object can not be read, and leave everything else as it is."""
    message = f"the object does not fit this operator's API: {stored.error}; correct the field or update the CRDs"
    status = stored.status
    conditions = status.get("conditions", ())
    others = [entry for entry in conditions if entry.get("type") != ConditionType.STALLED]
    old: Mapping[str, Any] = next((e for e in conditions if e.get("type") == ConditionType.STALLED), {})
    since = old.get("lastTransitionTime") if old.get("status") == "True" else format_time(now)
    stalled = Condition(
        type=str(ConditionType.STALLED),
        status="True",
        reason=str(Reason.INVALID_SPEC),
        message=message,
        last_transition_time=now,
        observed_generation=stored.metadata.generation,
    )
    status |= {
        "observedGeneration": stored.metadata.generation,
        "conditions": [*others, {**stalled.dump(), "lastTransitionTime": since}],
    }
    return Plan(status=status)

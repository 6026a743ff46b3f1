"""A custom resource in a store: parsed once when it arrives, with its status kept as it stands in JSON.

Parsing never fails: an object that does not fit the model (an older or newer CRD let it through) is kept with the
reason, so that its status can tell, instead of ending a watch or a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

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
    status: Mapping[str, Any]
    """The status as it stands in JSON."""
    error: str = ""
    """Why it does not fit: field and words."""

    @property
    def subject(self) -> Subject:
        """The object as the engine needs to know it."""
        meta = self.metadata
        return Subject(Key(meta.namespace, meta.name), meta.uid, meta.resource_version, self.status)


def parser(model: type[M]) -> Callable[[Mapping[str, Any]], Stored[M]]:
    """A function that turns the JSON of one object into what is stored."""

    def parse(body: Mapping[str, Any]) -> Stored[M]:
        metadata = ObjectMeta.model_validate(body["metadata"])
        status = body.get("status") or {}
        try:
            parsed = model.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            return Stored(metadata, None, status, f"{where}: {first['msg']}")
        return Stored(metadata, parsed, status)

    return parse


def decoder(model: type[M]) -> Callable[[bytes], Stored[M]]:
    """As `parser`, for bytes."""
    parse = parser(model)
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    return lambda raw: parse(decode(raw))


def invalid_plan(stored: Stored[Any], now: datetime) -> Plan:
    """Tell the user that the object can not be read, and leave everything else as it is."""
    message = f"the object does not fit this operator's API: {stored.error}; correct the field or update the CRDs"
    others = [entry for entry in stored.status.get("conditions", ()) if entry.get("type") != ConditionType.STALLED]
    old: Mapping[str, Any] = next(
        (e for e in stored.status.get("conditions", ()) if e.get("type") == ConditionType.STALLED), {}
    )
    since = old.get("lastTransitionTime") if old.get("status") == "True" else format_time(now)
    stalled = Condition(
        type=str(ConditionType.STALLED),
        status="True",
        reason=str(Reason.INVALID_SPEC),
        message=message,
        last_transition_time=now,
        observed_generation=stored.metadata.generation,
    )
    status = {
        **stored.status,
        "observedGeneration": stored.metadata.generation,
        "conditions": [*others, {**stalled.dump(), "lastTransitionTime": since}],
    }
    return Plan(status=status)

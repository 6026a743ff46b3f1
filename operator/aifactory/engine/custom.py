"""A custom resource in a store: kept as it stood in JSON, and read when it is planned.

As pydantic objects a thousand jobs take ten megabytes, as JSON three; reading one takes less than a tenth of planning
it. Those that were read last are remembered, so that what happens often to a few is not read again each time.

Reading never fails: an object that does not fit the model (an older or newer CRD let it through) is kept with the
reason, so that its status can tell, instead of ending a watch or a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, Final, Generic, TypeVar

import msgspec
from pydantic import ValidationError

from aifactory.api import names
from aifactory.api.base import Condition, CustomResource, format_time
from aifactory.api.reasons import ConditionType, Reason
from aifactory.engine.plan import Subject
from aifactory.kube.objects import Metadata
from aifactory.kube.resources import Key, Resource

M = TypeVar("M", bound=CustomResource)

REMEMBERED: Final = 512
"""Objects that stay read, of all kinds together: about five megabytes."""
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
"""The object once more, for `kubectl apply` alone."""


def resource_of(model: type[CustomResource]) -> Resource:
    """Where a kind of ours is served."""
    return _resource(model.plural, model.__name__)


@cache
def _resource(plural: str, kind: str) -> Resource:
    return Resource(names.GROUP, names.VERSION, plural, kind)


@dataclass(frozen=True, slots=True, eq=False)
class Stored(Generic[M]):
    """One custom resource. Equal only to itself: what is remembered about one must not be another's."""

    metadata: Metadata
    type: type[M]
    """What it is read as."""
    body: bytes
    """`metadata` and `spec` in JSON, without the braces around them."""
    packed: bytes
    """`status` in JSON: as a dictionary it would take six times the memory, and it is read once in a reconcile."""

    @property
    def model(self) -> M | None:
        """The object, or None when it does not fit the model."""
        model: M | None = _read(self)[0]
        return model

    @property
    def error(self) -> str:
        """Why it does not fit: field and words; empty when it does."""
        return _read(self)[1]

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
_pack = msgspec.json.Encoder().encode


@lru_cache(maxsize=REMEMBERED)
def _read(stored: Stored[Any]) -> tuple[Any, str]:
    """The model, or None and why there is none."""
    try:
        return stored.type.model_validate_json(b'{%b,"status":%b}' % (stored.body, stored.packed)), ""
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return None, f"{where}: {first['msg']}"


def parser(model: type[M]) -> Callable[[Mapping[str, Any]], Stored[M]]:
    """A function that turns the JSON of one object into what is stored."""

    def parse(body: Mapping[str, Any]) -> Stored[M]:
        metadata = _worth_keeping(body["metadata"])
        kept = {"metadata": metadata} | ({"spec": body["spec"]} if "spec" in body else {})
        return Stored(msgspec.convert(metadata, Metadata), model, _pack(kept)[1:-1], _pack(body.get("status") or {}))

    return parse


def _worth_keeping(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata without what no model looks at: half of an object."""
    kept = {name: value for name, value in metadata.items() if name != "managedFields"}
    if annotations := kept.get("annotations"):
        kept["annotations"] = {name: value for name, value in annotations.items() if name != LAST_APPLIED}
    return kept


def decoder(model: type[M]) -> Callable[[bytes], Stored[M]]:
    """As `parser`, for bytes."""
    parse = parser(model)
    return lambda raw: parse(_unpack(raw))


def invalid_status(stored: Stored[Any], now: datetime) -> dict[str, Any]:
    """The status that tells the user that the object can not be read; everything else stays as it is."""
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
    return status | {
        "observedGeneration": stored.metadata.generation,
        "conditions": [*others, {**stalled.dump(), "lastTransitionTime": since}],
    }

"""A custom resource in a store: kept as it stood in JSON, and read when it is planned.

As pydantic objects a thousand jobs take ten megabytes, as JSON three; reading one takes less than a tenth of planning
it. Those that were read last are remembered, so that what happens often to a few is not read again each time.

Reading never fails: an object that does not fit the model (an older or newer CRD let it through), or that nests too
deep to be worked with, is kept with the reason, so that its status can tell, instead of ending a watch or a worker.
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
from aifactory.api.conditions import shorten
from aifactory.api.reasons import ConditionType, Reason
from aifactory.engine.plan import Subject
from aifactory.kube.depth import CUT, MAX_DEPTH, shallow
from aifactory.kube.objects import Metadata
from aifactory.kube.resources import Key, Resource

M = TypeVar("M", bound=CustomResource)

REMEMBERED: Final = 512
"""Objects that stay read, of all kinds together: about five megabytes."""
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
"""The object once more, for `kubectl apply` alone."""
MAX_MESSAGE: Final = 1024
"""Longest message about an object: a field's name can be as long as the object."""
_CUT: Final = CUT.encode()


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
    def json(self) -> bytes:
        """The whole of it: `metadata`, `spec` and `status`."""
        return b'{%b,"status":%b}' % (self.body, self.packed)

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
    if _CUT in stored.body:
        return None, f"spec: it nests deeper than {MAX_DEPTH} levels"
    try:
        return stored.type.model_validate_json(stored.json), ""
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
    return lambda raw: parse(_unpack(shallow(raw)))


def invalid_status(stored: Stored[Any], now: datetime) -> dict[str, Any]:
    """The status that tells the user that the object can not be read.

    It is not Ready: what is asked for now can not be there. What it has made goes on, and what is said about that
    (phase, Available, Running) is how it was when the object could be read last. What has ended asks for nothing any
    more: how it ended stands.
    """
    if (end := _end(stored.status)) is not None:
        true = _ENDS[end["type"]]
        return _telling(stored, true, end["reason"], end.get("message", ""), now, unready=true is ConditionType.STALLED)
    error = shorten(stored.error, MAX_MESSAGE // 2)
    message = f"the object does not fit this operator's API: {error}; correct the field or update the CRDs"
    return _telling(stored, ConditionType.STALLED, Reason.INVALID_SPEC, message, now, unready=True)


def failing_status(stored: Stored[Any], failure: str, now: datetime) -> dict[str, Any]:
    """The status that tells the user that what the object needs has failed for a while; all else stays as it was.

    It may be Ready all the same, and its users need not suffer. Every plan says anew which of Ready, Reconciling and
    Stalled is true, so the next success takes this back.
    """
    message = f"it is tried again every minute: {failure}"
    return _telling(stored, ConditionType.RECONCILING, Reason.FAILURE_LASTS, message, now)


_ENDS: Final = {ConditionType.COMPLETE: ConditionType.READY, ConditionType.FAILED: ConditionType.STALLED}
"""How an object may have ended, and what is True of it then."""


def _end(status: Mapping[str, Any]) -> dict[str, Any] | None:
    """The condition that says that the object has ended; None while it has not."""
    for entry in status.get("conditions", ()):
        if entry.get("type") in _ENDS and entry.get("status") == "True":
            return dict(entry)
    return None


_EXCLUSIVE: Final = (ConditionType.RECONCILING, ConditionType.STALLED)


def _telling(
    stored: Stored[Any], true: ConditionType, reason: str, message: str, now: datetime, *, unready: bool = False
) -> dict[str, Any]:
    """The status as it stands, with one condition that is True. Of Reconciling and Stalled one is true at most."""
    status = stored.status
    conditions = {entry["type"]: entry for entry in status.get("conditions", ())}
    for other in _EXCLUSIVE:
        if other != true and conditions.get(other, {}).get("status") == "True":
            conditions[other] |= {"status": "False", "message": "", "lastTransitionTime": format_time(now)}
    values = {true: "True"} | ({ConditionType.READY: "False"} if unready and ConditionType.READY in conditions else {})
    for type_, value in values.items():
        old = conditions.get(type_, {})
        condition = Condition(
            type=str(type_),
            status="True" if value == "True" else "False",
            reason=str(reason),
            message=shorten(message, MAX_MESSAGE),
            last_transition_time=now,
            observed_generation=stored.metadata.generation,
        )
        since = old["lastTransitionTime"] if old.get("status") == value else format_time(now)
        conditions[str(type_)] = {**condition.dump(), "lastTransitionTime": since}
    told = {"observedGeneration": stored.metadata.generation, "reason": str(reason)}
    return status | told | {"conditions": list(conditions.values())}

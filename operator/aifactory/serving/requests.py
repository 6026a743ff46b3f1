"""What people ask of a change that is under way, by annotations: promote, abort, pause and resume.

Each new value counts once, for what is under way when it is seen, and is written down in the status in the same moment
as what it leads to. So a value that stands in a manifest from the beginning asks for nothing later, and an operator
that is killed in between does nothing twice. Whoever may edit the pool may ask.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool, Request

PROMOTE: Final = "promote"
ABORT: Final = "abort"
PAUSE: Final = "pause"
RESUME: Final = "resume"
_ANNOTATIONS: Final = {
    ABORT: names.ANNOTATION_ABORT,
    PAUSE: names.ANNOTATION_PAUSE,
    PROMOTE: names.ANNOTATION_PROMOTE,
    RESUME: names.ANNOTATION_RESUME,
}
MAX_VALUE: Final = 64
"""Characters of a value that are looked at."""


def new(pool: InferencePool) -> frozenset[str]:
    """What is asked for and was not seen before."""
    seen = {request.name: request.value for request in pool.status.requests or ()}
    asked = {name: _value(pool, name) for name in _ANNOTATIONS}
    return frozenset(name for name, value in asked.items() if value and value != seen.get(name))


def seen(pool: InferencePool, now: datetime) -> tuple[Request, ...] | None:
    """The last request of each kind, with those that are new now; for the status."""
    kept = {request.name: request for request in pool.status.requests or ()}
    for name in new(pool):
        kept[name] = Request(name=name, value=_value(pool, name), time=now.replace(microsecond=0))
    return tuple(kept[name] for name in sorted(kept)) or None


def command(pool: InferencePool, name: str) -> str:
    """What to type to ask for it."""
    meta = pool.metadata
    return f'kubectl -n {meta.namespace} annotate --overwrite ipool {meta.name} {names.GROUP}/{name}="$(date)"'


def _value(pool: InferencePool, name: str) -> str:
    return pool.metadata.annotations.get(_ANNOTATIONS[name], "")[:MAX_VALUE]

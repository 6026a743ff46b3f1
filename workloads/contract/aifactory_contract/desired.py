"""What this pod shall serve: desired.json, written by the operator into a ConfigMap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aifactory_contract.engines import AUTO, ENGINES
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import format_of
from aifactory_contract.manifest import check_digest
from aifactory_contract.names import check_model_name
from aifactory_contract.uri import ArtifactUri
from aifactory_contract.userjson import parse_json

_MAX_VERSION = 2**31 - 1
_LIVE, _WARM = "live", "warm"


@dataclass(frozen=True, order=True)
class ModelKey:
    """One version of one model: the identity Triton knows it by."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class ModelSpec:
    """A model version that shall be served."""

    key: ModelKey
    uri: ArtifactUri
    digest: str
    format: str
    secret: str | None = None
    engine: str = AUTO
    """The one that is wished for."""
    warm: bool = False
    """It takes no traffic; it is kept at hand, so that going back to it is quick. Else it is live."""


@dataclass(frozen=True)
class OnDemand:
    """Models are loaded when they are asked for: not all of them have room at the same time."""

    memory_bytes: int
    """For all that are loaded together."""
    taken: Mapping[ModelKey, int]
    """What each version takes of it, as measured."""
    hold_seconds: float
    """For which a request waits for its model at most."""
    max_held_requests: int
    """That wait at the same time."""


@dataclass(frozen=True)
class Desired:
    """A parsed desired.json."""

    revision: str
    models: tuple[ModelSpec, ...]
    on_demand: OnDemand | None = None
    """None: every version that takes traffic is loaded all the time."""

    @property
    def live(self) -> tuple[ModelSpec, ...]:
        """Those that take traffic."""
        return tuple(spec for spec in self.models if not spec.warm)

    def named(self, name: str, *, warm: bool = False) -> tuple[ModelSpec, ...]:
        """The versions of a model that take traffic, or those that are kept warm."""
        return tuple(spec for spec in self.models if spec.key.name == name and spec.warm is warm)


def parse(text: str | bytes) -> Desired:
    """Raises FactoryError (InvalidDesired) with the place of the mistake."""
    try:
        document = parse_json(text)
        models = tuple(_spec(item) for item in document["models"])
        revision = str(document.get("revision", ""))
        on_demand = _on_demand(document)
    except FactoryError as error:
        raise FactoryError(Reason.INVALID_DESIRED, f"desired.json: {error.message}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FactoryError(Reason.INVALID_DESIRED, f"desired.json: {type(error).__name__}: {error}") from error
    keys = [spec.key for spec in models]
    if len(set(keys)) != len(keys):
        raise FactoryError(Reason.INVALID_DESIRED, "desired.json: a model version is there twice")
    return Desired(revision, models, on_demand)


def _on_demand(document: dict[str, Any]) -> OnDemand | None:
    given = document.get("onDemand")
    if given is None:
        return None
    taken = {ModelKey(str(item["name"]), item["version"]): int(item["memoryBytes"]) for item in document["models"]}
    most = OnDemand(int(given["memoryBytes"]), taken, float(given["holdSeconds"]), int(given["maxHeldRequests"]))
    if min(most.memory_bytes, most.hold_seconds, most.max_held_requests, *taken.values()) < 0:
        raise ValueError("onDemand: a number is below 0")
    return most


def _spec(item: dict[str, Any]) -> ModelSpec:
    name, version = check_model_name(str(item["name"])), item["version"]
    if not isinstance(version, int) or isinstance(version, bool) or not 0 < version <= _MAX_VERSION:
        raise FactoryError(Reason.INVALID_DESIRED, f"model {name}: version {version!r} is not a positive integer")
    engine, known = str(item.get("engine") or AUTO), (AUTO, *(engine.name for engine in ENGINES))
    if engine not in known:
        raise FactoryError(Reason.INVALID_DESIRED, f"model {name}: engine {engine!r} is none of {', '.join(known)}")
    traffic = item.get("traffic", _LIVE)
    if traffic not in (_LIVE, _WARM):
        raise FactoryError(Reason.INVALID_DESIRED, f"model {name}: traffic {traffic!r} is neither {_LIVE} nor {_WARM}")
    return ModelSpec(
        key=ModelKey(name, version),
        uri=ArtifactUri.parse(str(item["uri"])),
        digest=check_digest(str(item["digest"])),
        format=format_of(str(item["format"])).name,
        secret=item.get("secret"),
        engine=engine,
        warm=traffic == _WARM,
    )

"""Decides what to do next: a pure function from what is desired and what is there to a list of actions.

Rules
- Only files whose digest was checked are there at all (`Actual.present`), so every load is of checked bytes.
- Triton has one configuration and one version policy a model. A load therefore names all versions that shall run
  afterwards; Triton leaves the unchanged ones alone and swaps atomically.
- One new version a load: if it fails, Triton takes back everything new of that load, and a good version must not
  suffer with a bad one.
- A version that is no longer desired stays until every desired version of its model is loaded and has answered a
  request. Where the new version needs another configuration the two can not run side by side: then it is one atomic
  swap, and Triton itself keeps the old version if the new one does not load.
- A desired version that is there with other bytes than the desired ones, or for another engine, goes at once: it must
  not answer.
- A failed version waits until `retry_at`; while it waits it is as if it were not there, so the others go on.
- Where taking something out has failed, a model is `held` for a while: nothing is taken out of it, all else goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aifactory_contract.desired import Desired, ModelKey, ModelSpec
from aifactory_contract.engines import AUTO
from aifactory_contract.errors import Reason


@dataclass(frozen=True)
class Present:
    """A complete, checked version on the shared volume."""

    digest: str
    config: str
    """Identity of its Triton configuration without the version policy."""
    engine: str = AUTO
    """The wish that it was fetched with."""


@dataclass(frozen=True)
class Failure:
    """The last thing that went wrong with a version."""

    spec: ModelSpec
    reason: Reason
    message: str
    attempts: int
    retry_at: float
    """Monotonic seconds."""
    fetched: int = 0
    """Bytes that the fetch which failed had got."""


@dataclass(frozen=True)
class Actual:
    """What is there now."""

    triton_up: bool = False
    serving: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Versions READY by Triton's index."""
    present: Mapping[ModelKey, Present] = field(default_factory=dict)
    confirmed: frozenset[ModelKey] = frozenset()
    """Versions that have answered a request since they were loaded."""
    due: frozenset[ModelKey] = frozenset()
    """Versions to be asked (again)."""
    failures: Mapping[ModelKey, Failure] = field(default_factory=dict)
    fetching: Mapping[ModelKey, int] = field(default_factory=dict)
    """Versions that are being fetched, and how many bytes of them are there."""
    loading: frozenset[str] = frozenset()
    """Models with a load, unload, confirmation or removal under way."""
    held: frozenset[str] = frozenset()
    """Models of which dropping, unloading or removing something failed a moment ago."""


@dataclass(frozen=True)
class Fetch:
    """Get the files of a version."""

    spec: ModelSpec


@dataclass(frozen=True)
class Load:
    """Have exactly these versions of a model run in Triton, configured for `leader`."""

    name: str
    versions: tuple[int, ...]
    leader: ModelSpec | None
    """The spec whose configuration the model gets; None: the configuration stays as it is."""
    adding: ModelSpec | None
    """The one version that is new in this load; None if the load only drops versions."""


@dataclass(frozen=True)
class Confirm:
    """Ask a loaded version for one real answer."""

    spec: ModelSpec


@dataclass(frozen=True)
class Unload:
    """Have no version of a model run in Triton."""

    name: str


@dataclass(frozen=True)
class Remove:
    """Delete the files of a version that neither runs nor is desired."""

    key: ModelKey


Action = Fetch | Load | Confirm | Unload | Remove


def plan(desired: Desired, actual: Actual, now: float) -> list[Action]:
    """The actions that can start now. Deterministic; empty when all is as desired or is being worked on."""
    actions: list[Action] = [Fetch(spec) for spec in desired.models if _needs_fetch(spec, actual, now)]
    if not actual.triton_up:
        return actions
    names = {spec.key.name for spec in desired.models}
    names |= set(actual.serving) | {key.name for key in actual.present}
    for name in sorted(names - actual.loading):
        actions.extend(_plan_model(name, desired, actual, now))
    return actions


def is_ready(spec: ModelSpec, actual: Actual) -> bool:
    """Whether a desired version runs, from the right bytes, and has answered."""
    running = spec.key.version in actual.serving.get(spec.key.name, frozenset())
    return actual.triton_up and running and spec.key in actual.confirmed and _is_right(spec, actual)


def answers_by_name(name: str, actual: Actual) -> ModelKey | None:
    """The version that answers requests without a version: the newest that runs, wanted or not."""
    running = actual.serving.get(name)
    return ModelKey(name, max(running)) if running else None


def carries(desired: Desired, actual: Actual, bearing: frozenset[ModelKey]) -> bool:
    """Whether clients are served as well as when the pod last had everything that was wished then.

    Args:
        bearing: the versions that were wished and ready then. A version that has been replaced in the wish may be
            answered for by another one of its model; a model that is new in the wish bears no traffic yet.
    """
    wanted = {spec.key: spec for spec in desired.models}
    kept = [key for key in bearing if desired.named(key.name)]
    if not actual.triton_up or not kept:
        return False

    def answers(key: ModelKey) -> bool:
        if key in wanted:
            return is_ready(wanted[key], actual)
        return key.version in actual.serving.get(key.name, frozenset()) and key in actual.confirmed

    candidates = {*kept, *wanted}
    return all(
        answers(key) if key in wanted else any(answers(other) for other in candidates if other.name == key.name)
        for key in kept
    )


def conflict_with(spec: ModelSpec, desired: Desired, actual: Actual, now: float) -> ModelSpec | None:
    """The desired version of the same model whose configuration keeps this one from being loaded, if there is one."""
    leader = _leader(_usable(spec.key.name, desired, actual, now))
    if leader is None or not _is_right(spec, actual):
        return None
    return None if _config(leader.key, actual) == _config(spec.key, actual) else leader


def _needs_fetch(spec: ModelSpec, actual: Actual, now: float) -> bool:
    return spec.key not in actual.present and spec.key not in actual.fetching and not _waits(spec, actual, now)


def _plan_model(name: str, desired: Desired, actual: Actual, now: float) -> list[Action]:
    serving = actual.serving.get(name, frozenset())
    specs = desired.named(name)
    usable = _usable(name, desired, actual, now)
    leader = _leader(usable)
    targets = _target(specs, usable, leader, serving, actual)
    new = sorted(targets - serving)
    held = name in actual.held
    if not targets and serving and not held:
        return [Unload(name)]
    if new or (serving - targets and not held):
        # Keep what runs and stays; add at most one.
        versions = tuple(sorted((serving & targets) | set(new[:1])))
        adding = next((spec for spec in specs if new and spec.key.version == new[0]), None)
        return [Load(name, versions, leader, adding)]
    ask = [spec for spec in usable if spec.key.version in serving and _to_ask(spec, actual)]
    if ask:
        return [Confirm(ask[0])]
    right = {spec.key for spec in specs if _is_right(spec, actual) or spec.key not in actual.present}
    leftovers = sorted(key for key in actual.present if key.name == name and key not in right)
    return [Remove(key) for key in leftovers if key.version not in serving and not held]


def _usable(name: str, desired: Desired, actual: Actual, now: float) -> list[ModelSpec]:
    """Desired versions that are on the volume and are not waiting after a failure."""
    return [spec for spec in desired.named(name) if _is_right(spec, actual) and not _waits(spec, actual, now)]


def _leader(usable: list[ModelSpec]) -> ModelSpec | None:
    """The version whose configuration the model gets: the newest."""
    return max(usable, key=lambda spec: spec.key.version, default=None)


def _target(
    specs: tuple[ModelSpec, ...],
    usable: list[ModelSpec],
    leader: ModelSpec | None,
    serving: frozenset[int],
    actual: Actual,
) -> frozenset[int]:
    """The versions of a model that shall run after the next load."""
    leaving = serving - {spec.key.version for spec in specs}
    if leader is None:
        # Nothing to replace the old ones with (yet). Failed desired versions are taken out; nothing desired: all go.
        return leaving if specs else frozenset()
    name, config = leader.key.name, _config(leader.key, actual)
    running = {spec.key.version for spec in usable if _config(spec.key, actual) == config}
    if all(is_ready(spec, actual) for spec in specs):
        return frozenset(running)
    beside = {version for version in leaving if _config(ModelKey(name, version), actual) == config}
    return frozenset(running | (beside - running))


def _is_right(spec: ModelSpec, actual: Actual) -> bool:
    present = actual.present.get(spec.key)
    return present is not None and (present.digest, present.engine) == (spec.digest, spec.engine)


def _config(key: ModelKey, actual: Actual) -> str | None:
    present = actual.present.get(key)
    return present.config if present else None


def _to_ask(spec: ModelSpec, actual: Actual) -> bool:
    return spec.key not in actual.confirmed or spec.key in actual.due


def _waits(spec: ModelSpec, actual: Actual, now: float) -> bool:
    failure = actual.failures.get(spec.key)
    return failure is not None and failure.spec == spec and failure.retry_at > now

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
- Requests without a version are answered by the highest version that runs. So a version that is kept warm runs beside a
  live one that is higher, and of one that is higher only the files are kept: going back to a lower version is a matter
  of milliseconds, going forward again one of a load. Warm ones come last, and nothing waits for them.
- A Triton that was restarted before the new version could take over loads the one that bears the traffic, which is warm
  by then, if the new one is not there yet or waits: the pod answers as before.
- What is neither desired nor needed to answer goes before anything new is fetched or loaded, of whichever model: there
  is room for what is desired, and for one version more.
- A failed version waits until `retry_at`; while it waits it is as if it were not there, so the others go on.
- Where taking something out has failed, a model is `held` for a while: nothing is taken out of it, all else goes on.
- Where models are loaded on demand, nothing of those at rest (`residency`) runs, but until their last request is over,
  and of warm versions only the files are kept. A version that has answered in this pod counts as served while it rests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aifactory_agent.serve.backoff import may_be_an_accident
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
    bearing: frozenset[ModelKey] = frozenset()
    """The versions that were live when the pod last had everything that was wished then: clients are served by them."""
    answered: frozenset[ModelKey] = frozenset()
    """Versions that have answered at all since the agent was started."""
    resting: frozenset[str] = frozenset()
    """Models, on demand, of which nothing is to run now."""
    crowded: frozenset[str] = frozenset()
    """Models, on demand, for whose missing versions there is no room."""
    in_use: frozenset[str] = frozenset()
    """Models, on demand, that have requests under way."""
    unloading: frozenset[str] = frozenset()
    """Models, on demand, that go: their memory is not free yet."""


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
    actions: list[Action] = [Fetch(spec) for spec in desired.models if _needs_fetch(spec, desired, actual, now)]
    if not actual.triton_up:
        return actions
    names = {spec.key.name for spec in desired.models}
    names |= set(actual.serving) | {key.name for key in actual.present}
    going = {name for name in names if _is_going(name, desired, actual)} | actual.unloading
    for name in sorted(names - actual.loading):
        full = going - {name} or name in actual.crowded
        actions += [each for each in _plan_model(name, desired, actual, now) if not (_adds(each) and full)]
    return actions


def _is_going(name: str, desired: Desired, actual: Actual) -> bool:
    """Whether something of a model is to be taken out of Triton now, and may be."""
    serving = actual.serving.get(name, frozenset())
    if name in actual.held or not serving:
        return False
    if name in actual.resting:
        return True
    return not desired.named(name) or bool(serving & _surplus(name, desired, actual))


def _adds(action: Action) -> bool:
    return isinstance(action, Load) and action.adding is not None


def is_ready(spec: ModelSpec, actual: Actual) -> bool:
    """Whether a desired version runs, from the right bytes, and has answered."""
    running = spec.key.version in actual.serving.get(spec.key.name, frozenset())
    return actual.triton_up and running and spec.key in actual.confirmed and is_right(spec, actual)


def stands_by(spec: ModelSpec, desired: Desired, actual: Actual) -> bool:
    """Whether a version is loaded on demand and will answer then: it is there, and has answered in this pod before."""
    known = (spec.key in actual.answered or spec.key in actual.bearing) and spec.key not in actual.failures
    return desired.on_demand is not None and actual.triton_up and known and is_right(spec, actual)


def is_served(spec: ModelSpec, desired: Desired, actual: Actual) -> bool:
    """Whether a desired version answers requests, if need be after a load."""
    return is_ready(spec, actual) or stands_by(spec, desired, actual)


def answers_by_name(name: str, actual: Actual, desired: Desired | None = None) -> ModelKey | None:
    """The version that answers requests without a version: the newest that runs, wanted or not.

    Where `desired` is given and none runs: the one that will.
    """
    running = actual.serving.get(name)
    if not running and desired is not None:
        running = frozenset(spec.key.version for spec in desired.named(name) if stands_by(spec, desired, actual))
    return ModelKey(name, max(running)) if running else None


def carries(desired: Desired, actual: Actual) -> bool:
    """Whether clients are served as well as when the pod last had everything that was wished then.

    A version that has been replaced in the wish may be answered for by another one of its model; a model that is new in
    the wish bears no traffic yet.
    """
    wanted = {spec.key: spec for spec in desired.live}
    kept = [key for key in actual.bearing if desired.named(key.name)]
    if not actual.triton_up or not kept:
        return False
    if desired.on_demand is not None:  # requests wait for what is not there yet
        failures = (actual.failures[key] for key in kept if key in wanted and key in actual.failures)
        return all(may_be_an_accident(failure.reason, failure.attempts) for failure in failures)

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
    leader = _leader(_usable(desired.named(spec.key.name), actual, now))
    if leader is None or not is_right(spec, actual):
        return None
    return None if _config(leader.key, actual) == _config(spec.key, actual) else leader


def _needs_fetch(spec: ModelSpec, desired: Desired, actual: Actual, now: float) -> bool:
    if spec.key in actual.present or spec.key in actual.fetching or waits(spec, actual, now):
        return False
    name = spec.key.name
    if spec.warm and not all(is_served(live, desired, actual) for live in desired.named(name)):
        return False
    return name in actual.held or not _surplus(name, desired, actual)


def _surplus(name: str, desired: Desired, actual: Actual) -> frozenset[int]:
    """Versions that nobody wishes, and that do not answer requests without a version because a higher one does."""
    specs = (*desired.named(name), *desired.named(name, warm=True))
    answering = max((spec.key.version for spec in specs if is_served(spec, desired, actual)), default=0)
    there = {key.version for key in actual.present if key.name == name} | actual.serving.get(name, frozenset())
    return frozenset(version for version in there - {spec.key.version for spec in specs} if version < answering)


def _plan_model(name: str, desired: Desired, actual: Actual, now: float) -> list[Action]:
    serving = actual.serving.get(name, frozenset())
    specs = desired.named(name)
    warm = desired.named(name, warm=True)
    right = {spec.key for spec in (*specs, *warm) if is_right(spec, actual) or spec.key not in actual.present}
    warm = () if desired.on_demand is not None else warm
    usable = _usable(specs, actual, now)
    leader = _leader(usable)
    held = name in actual.held
    if name in actual.resting and serving:
        return [] if held or name in actual.in_use else [Unload(name)]
    if name in actual.resting:
        return _leftovers(name, right, actual)
    if (surplus := serving & _surplus(name, desired, actual)) and not held:
        kept = serving - surplus
        return [Load(name, tuple(sorted(kept)), leader if leader and leader.key.version in kept else None, None)]
    targets = _target(specs, warm, usable, leader, serving, actual, now)
    new = sorted(targets - serving, key=lambda version: (version in {spec.key.version for spec in warm}, version))
    if not targets and serving and not held:
        return [Unload(name)]
    if new or (serving - targets and not held):
        # Keep what runs and stays; add at most one.
        versions = tuple(sorted((serving & targets) | set(new[:1])))
        adding = next((spec for spec in (*specs, *warm) if new and spec.key.version == new[0]), None)
        return [Load(name, versions, leader, adding)]
    ready = (*usable, *_usable(warm, actual, now))
    ask = [spec for spec in ready if spec.key.version in serving and _to_ask(spec, actual)]
    if ask:
        return [Confirm(ask[0])]
    return _leftovers(name, right, actual)


def _leftovers(name: str, right: set[ModelKey], actual: Actual) -> list[Action]:
    """Removes the files of versions that neither run nor are wished for."""
    if name in actual.held:
        return []
    serving = actual.serving.get(name, frozenset())
    gone = sorted(key for key in actual.present if key.name == name and key not in right)
    return [Remove(key) for key in gone if key.version not in serving]


def _usable(specs: tuple[ModelSpec, ...], actual: Actual, now: float) -> list[ModelSpec]:
    """Desired versions that are on the volume and are not waiting after a failure."""
    return [spec for spec in specs if is_right(spec, actual) and not waits(spec, actual, now)]


def _leader(usable: list[ModelSpec]) -> ModelSpec | None:
    """The version whose configuration the model gets: the newest."""
    return max(usable, key=lambda spec: spec.key.version, default=None)


def _target(
    specs: tuple[ModelSpec, ...],
    warm: tuple[ModelSpec, ...],
    usable: list[ModelSpec],
    leader: ModelSpec | None,
    serving: frozenset[int],
    actual: Actual,
    now: float,
) -> frozenset[int]:
    """The versions of a model that shall run after the next load."""
    leaving = serving - {spec.key.version for spec in specs}
    if leader is None:
        # Nothing to replace the old ones with (yet). Failed desired versions are taken out; nothing desired: all go.
        if not specs or leaving or any(spec.key in actual.bearing for spec in specs):
            return leaving if specs else frozenset()
        bore = (spec.key.version for spec in _usable(warm, actual, now) if spec.key in actual.bearing)
        return frozenset(sorted(bore)[-1:])
    name, config = leader.key.name, _config(leader.key, actual)
    running = {spec.key.version for spec in usable if _config(spec.key, actual) == config}
    if all(is_ready(spec, actual) for spec in specs):
        below = max(spec.key.version for spec in specs)
        at_hand = {spec.key.version for spec in _usable(warm, actual, now) if _config(spec.key, actual) == config}
        return frozenset(running | {version for version in at_hand if version < below})
    beside = {version for version in leaving if _config(ModelKey(name, version), actual) == config}
    return frozenset(running | (beside - running))


def is_right(spec: ModelSpec, actual: Actual) -> bool:
    """Whether the files of a desired version are there, with the right bytes and for the right engine."""
    present = actual.present.get(spec.key)
    return present is not None and (present.digest, present.engine) == (spec.digest, spec.engine)


def _config(key: ModelKey, actual: Actual) -> str | None:
    present = actual.present.get(key)
    return present.config if present else None


def _to_ask(spec: ModelSpec, actual: Actual) -> bool:
    return spec.key not in actual.confirmed or spec.key in actual.due


def waits(spec: ModelSpec, actual: Actual, now: float) -> bool:
    """Whether a version has failed and it is not time for another try."""
    failure = actual.failures.get(spec.key)
    return failure is not None and failure.spec == spec and failure.retry_at > now

"""Which models are loaded now, where they are loaded on demand: decided anew in each round, from nothing but what is
asked for and what is there.

- A model is loaded when a request for it waits, and once before it counts as served: what has never answered in this
  pod may not answer at all. Those come first that have waited longest.
- Room for it is made by those that nobody has asked for longest and that have no request under way. The others are left
  alone, and so is everything where even all of these would not make room.
- One that is never without a request would keep others out for ever. When these have waited for `PATIENCE` of the time
  that a request may wait, it takes no new requests, which wait in their turn, and goes when the last one is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aifactory_agent.serve.planner import Actual, is_ready, is_right, stands_by, waits
from aifactory_contract.desired import Desired, ModelKey

PATIENCE = 0.25


@dataclass(frozen=True)
class Use:
    """What is asked of the pod now. Times are monotonic seconds."""

    waiting: frozenset[str] = frozenset()
    """Models for which requests wait."""
    in_use: frozenset[str] = frozenset()
    """Models with requests under way."""
    used: Mapping[str, float] = field(default_factory=dict)
    """When each was last asked, or answered the agent's first question."""
    since: Mapping[str, float] = field(default_factory=dict)
    """Since when each is to be loaded that is not."""


@dataclass(frozen=True)
class Residency:
    """What follows for the models."""

    resting: frozenset[str] = frozenset()
    """Nothing of them is to run."""
    crowded: frozenset[str] = frozenset()
    """There is no room for what is missing of them."""


def asked(desired: Desired, actual: Actual, use: Use, now: float) -> list[str]:
    """Models that are to be loaded, or a version of them, and can be: those first that have waited longest."""
    found = []
    for name in {spec.key.name for spec in desired.live}:
        specs = desired.named(name)
        able = all(is_right(spec, actual) and not waits(spec, actual, now) for spec in specs)
        stand_by = all(stands_by(spec, desired, actual) for spec in specs) and not _running(name, desired, actual)
        if able and not all(is_ready(spec, actual) for spec in specs) and (name in use.waiting or not stand_by):
            found.append(name)
    return sorted(found, key=lambda name: (use.since.get(name, now), name))


def decide(desired: Desired, actual: Actual, use: Use, now: float) -> Residency:
    """Which models may run now."""
    given = desired.on_demand
    if given is None:
        return Residency()
    names = {spec.key.name for spec in desired.live}
    held = {name: _running(name, desired, actual) for name in names}
    resident = {name for name in names if held[name]}
    free = given.memory_bytes - sum(_bytes(keys, given.taken) for keys in held.values())
    leaving: set[str] = set()
    wanting = asked(desired, actual, use, now)
    coming = set(wanting)
    while wanting:
        name = wanting[0]
        missing = _bytes({spec.key for spec in desired.named(name)} - held[name], given.taken) - free
        others = resident - leaving - coming
        idle = {each for each in others if each not in use.in_use and each not in use.waiting}
        going = _victims(missing, idle, held, given.taken, use)
        if going is None and now - use.since.get(name, now) >= PATIENCE * given.hold_seconds:
            # One that has just come lets those in first that have waited for it.
            going = _victims(missing, others - (use.waiting - actual.resting), held, given.taken, use)
        if going is None:
            break  # who has waited longest is next
        free = sum(_bytes(held[each], given.taken) for each in going) - missing
        leaving |= going
        resident.add(name)
        wanting = wanting[1:]
    return Residency(frozenset((names - resident) | leaving), frozenset(wanting))


def _running(name: str, desired: Desired, actual: Actual) -> frozenset[ModelKey]:
    """What of a model takes memory, or may do so at any moment, and does not go already."""
    if name in actual.unloading:
        return frozenset()
    running = frozenset(ModelKey(name, version) for version in actual.serving.get(name, frozenset()))
    loads = name in actual.loading and name not in actual.resting
    return running | {spec.key for spec in desired.named(name)} if loads else running


def _victims(
    missing: int,
    among: Iterable[str],
    held: Mapping[str, frozenset[ModelKey]],
    taken: Mapping[ModelKey, int],
    use: Use,
) -> set[str] | None:
    """The least recently used models that have to go for so many bytes; None where all of them would not do."""
    going: set[str] = set()
    for name in sorted(among, key=lambda each: (use.used.get(each, 0.0), each)):
        if missing <= 0:
            break
        going.add(name)
        missing -= _bytes(held[name], taken)
    return going if missing <= 0 else None


def _bytes(keys: Iterable[ModelKey], taken: Mapping[ModelKey, int]) -> int:
    return sum(taken.get(key, 0) for key in keys)

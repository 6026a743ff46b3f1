"""How many pods each revision gets: surge, one pod at a time, as a pure function.

The candidate gets one pod more than it has ready, the stable revision gives up one for each that is ready. So there is
at most one pod more than wanted, never a moment with fewer ready pods than wanted, and a candidate that never becomes
ready costs one pod and no request.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """Pods for the two revisions of a rollout."""

    stable: int
    candidate: int
    done: bool
    """The candidate carries everything: it becomes the stable revision."""


def surge_step(wanted: int, candidate_ready: int) -> Step:
    """The next step of a rollout to `wanted` pods of which the candidate has `candidate_ready` ready ones."""
    if candidate_ready >= wanted:
        return Step(stable=0, candidate=wanted, done=True)
    return Step(stable=wanted - candidate_ready, candidate=candidate_ready + 1, done=False)

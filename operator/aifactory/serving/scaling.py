"""How many pods: those the pool wants, and those each revision gets (surge, one pod at a time).

One revision grows: the wanted one, or the stable one where the wanted one was given up. The others hold the traffic
until it does and give up one pod for each of its ready ones. So a change, also one in the middle of another or back,
never takes the pool below the number of ready pods it wants, asks for one pod more than that at most (GPUs are scarce),
and a revision that never becomes ready costs one pod and no request.
"""

from __future__ import annotations

from collections.abc import Mapping

from aifactory.api.inferencepool import DEFAULT_REPLICAS, InferencePoolSpec


def wanted(spec: InferencePoolSpec) -> int:
    """Ready pods the pool shall have."""
    return DEFAULT_REPLICAS if spec.replicas is None else spec.replicas


def share(wanted: int, ready: Mapping[str, int], growing: str, stable: str) -> dict[str, int]:
    """Pods for every revision.

    Args:
        wanted: ready pods the pool shall have.
        ready: ready pods of each revision that exists.
        growing: the revision that is to have all of them, whether it exists yet or not.
        stable: the revision that takes the traffic; empty when there is none yet.

    Returns:
        The number for each revision in `ready`, for `growing`, and for `stable` if it exists.
    """
    sizes: dict[str, int] = {}
    left = max(0, wanted - ready.get(growing, 0))
    others = sorted(ready.keys() - {growing}, key=lambda name: (name != stable, -ready[name], name))
    for name in others:
        sizes[name] = min(ready[name], left)
        left -= sizes[name]
    if stable in sizes:
        # Pods of the stable revision that are not ready come back: the growing one may turn out not to work.
        sizes[stable] += left
    sizes[growing] = min(wanted, wanted + 1 - sum(sizes.values()))
    return sizes

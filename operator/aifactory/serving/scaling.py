"""How many pods: those the pool wants, and those each revision gets (surge, one pod at a time).

One revision grows: the wanted one, or the stable one where the wanted one was given up. The others hold the traffic
until it does and give up one pod for each of its ready ones. So a change, also one in the middle of another or back,
never takes the pool below the number of ready pods it wants, asks for one pod more than that at most (GPUs are scarce),
and a revision that never becomes ready costs one pod and no request.

A Canary stops in between (`split`), under the same promises. The stable revision keeps the pods for its part, rounded
up, so that as long as the part of the candidate is less than a pod it is complete, and to take the candidate back is to
let it go. Otherwise the stable one gets its pods back first, one by one.
"""

from __future__ import annotations

from collections.abc import Mapping

from aifactory.api.inferencepool import DEFAULT_REPLICAS, Autoscaling, InferencePool
from aifactory.engine.cost import devices_of_pod

DEFAULT_MIN_REPLICAS = 1


def wanted(pool: InferencePool) -> int:
    """Ready pods the pool shall have: by its spec, or as autoscaling has decided, within its limits as they are now."""
    asked = DEFAULT_REPLICAS if pool.spec.replicas is None else pool.spec.replicas
    if pool.spec.autoscaling is None:
        return asked
    decided = pool.status.scaling.replicas if pool.status.scaling is not None else asked
    least, most, _ = limits(pool, pool.spec.autoscaling)
    return min(max(decided, least), most)


def limits(pool: InferencePool, spec: Autoscaling) -> tuple[int, int, str]:
    """The fewest and the most pods that autoscaling may choose, and the field that allows no more of them."""
    most, bound = spec.max_replicas, "maxReplicas"
    each = gpus(pool) if spec.max_gpus is not None else 0
    if spec.max_gpus is not None and each and spec.max_gpus // each < most:
        most, bound = max(1, spec.max_gpus // each), "maxGPUs"
    least = DEFAULT_MIN_REPLICAS if spec.min_replicas is None else spec.min_replicas
    return min(least or (0 if sleeps(pool) else 1), most), most, bound


def sleeps(pool: InferencePool) -> bool:
    """Whether the pool has no pod while nobody asks: its gateway holds what is asked then."""
    spec, way = pool.spec.autoscaling, pool.spec.gateway
    return spec is not None and spec.min_replicas == 0 and way is not None and way.mode == "Envoy"


def gpus(pool: InferencePool) -> int:
    """GPUs that a pod of the pool asks for."""
    return devices_of_pod(pool.spec.template.raw_spec()) if pool.spec.template is not None else 0


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


def part(wanted: int, weight: int) -> tuple[int, int]:
    """Pods of a candidate and of the stable revision by which the candidate has its weight, of 100, both rounded up.

    >>> part(4, 25), part(4, 30), part(1, 5), part(3, 100)
    ((1, 3), (2, 3), (1, 1), (3, 0))
    """
    return -(-wanted * weight // 100), wanted - wanted * weight // 100


def split(wanted: int, ready: Mapping[str, int], growing: str, stable: str, weight: int) -> dict[str, int]:
    """Pods for every revision in a Canary.

    Args:
        wanted: ready pods the pool shall have.
        ready: ready pods of each revision that exists.
        growing: the candidate, whether it exists yet or not.
        stable: the revision that has the rest.
        weight: the candidate's part, of 100.

    Returns:
        The number for each revision in `ready`, for `growing` and for `stable`.
    """
    goal, kept = part(wanted, weight)
    up, held = ready.get(growing, 0), ready.get(stable, 0)
    sizes = dict.fromkeys(ready, 0)
    sizes[stable] = min(max(kept, wanted - up), max(wanted + 1 - up, min(held, kept)))
    sizes[growing] = max(min(goal, wanted + 1 - sizes[stable]), min(up, wanted - held))
    left = wanted - min(up, sizes[growing]) - min(held, sizes[stable])
    for name in sorted(ready.keys() - {growing, stable}, key=lambda name: (-ready[name], name)):
        sizes[name] = max(0, min(ready[name], left))
        left -= sizes[name]
    return sizes

"""Whether a model has room in memory: else the kernel would end the container."""

from __future__ import annotations

from aifactory_contract.refusals import NO_ROOM

MORE_MEMORY = "raise resources.limits.memory of container triton in the pool's spec.template"
"""How a person gives a model more of the pod's memory."""
_MIB, _GIB = 2**20, 2**30


def check_room(needed: int, free: int, more: str) -> None:
    """Raises ValueError with the way out, `more`, if a model's weights do not fit."""
    if needed > free:
        raise ValueError(
            f"{NO_ROOM}: the model needs {_size(needed)} for its weights alone, and {_size(free)} are left; {more}"
        )


def _size(size: int) -> str:
    return f"{size / _MIB:.0f} MiB" if size < 10 * _GIB else f"{size / _GIB:.1f} GiB"

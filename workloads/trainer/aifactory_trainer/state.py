"""What goes into a checkpoint, and how it gets back.

Role: between live objects (model, optimizer, random generators) and plain values that can be stored safely.

What always holds: a stored state is made of tensors, numbers, strings, lists and dicts. An object whose state holds
anything else (a function, a class of your own) is refused when the run starts, not when it is needed back.
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from aifactory_trainer.checkpoint import CheckpointError


@runtime_checkable
class Stateful(Protocol):
    """Anything that can be stored: modules, optimizers, schedulers, data loaders that know their position."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on from here."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Go on from there."""


def unwrap(thing: Stateful) -> Stateful:
    """The model inside DistributedDataParallel or torch.compile, so that a checkpoint fits with and without them."""
    if isinstance(thing, (DistributedDataParallel, nn.DataParallel)):
        return unwrap(thing.module)
    # What torch.compile returns; its class lives in torch._dynamo, which is slow to import.
    compiled = getattr(thing, "_orig_mod", None) if isinstance(thing, nn.Module) else None
    return unwrap(compiled) if isinstance(compiled, nn.Module) else thing


def collect(objects: Mapping[str, Stateful]) -> dict[str, Any]:
    """State of each object."""
    return {name: unwrap(thing).state_dict() for name, thing in objects.items()}


def restore(objects: Mapping[str, Stateful], states: Mapping[str, Any], where: str) -> None:
    """Give each object its state back.

    Raises:
        CheckpointError: an object has no state there, or it does not fit.
    """
    for name, thing in objects.items():
        if name not in states:
            raise CheckpointError(f"{where} has no state of {name!r}, only of {', '.join(sorted(states)) or 'nothing'}")
        try:
            unwrap(thing).load_state_dict(states[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{where} does not fit {name!r}: was it written with other settings? Use those, or remove the "
                f"directory to start anew. {' '.join(str(error).split())}"
            ) from error


def check_storable(objects: Mapping[str, Stateful]) -> None:
    """Refuse objects whose state could not be read back without running code.

    Raises:
        TypeError: names the object.
    """
    for name, thing in objects.items():
        if not isinstance(thing, Stateful):
            raise TypeError(f"{name!r} ({type(thing).__name__}) has no state_dict and load_state_dict")
        if isinstance(unwrap(thing), nn.Module):  # large, and plain by its nature
            continue
        try:
            decode(encode(thing.state_dict()))
        except Exception as error:
            raise TypeError(
                f"the state of {name!r} ({type(thing).__name__}) holds more than tensors, numbers, strings, lists and "
                f"dicts, so it can not be stored safely: {str(error).splitlines()[0]}"
            ) from error


def encode(value: object) -> bytes:
    """A plain value as bytes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def decode(data: bytes) -> Any:
    """The value in bytes that another rank made; code in them is never run."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def collect_random() -> dict[str, Any]:
    """State of this process's random generators: Python's, torch's, NumPy's if used, and this GPU's."""
    version, numbers, gauss = random.getstate()
    state: dict[str, Any] = {
        "python": [version, list(numbers), gauss],
        "torch": torch.get_rng_state(),
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        algorithm, keys, position, has_gauss, cached = numpy.random.get_state()
        state["numpy"] = [algorithm, keys.tolist(), int(position), int(has_gauss), float(cached)]
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random(state: Mapping[str, Any]) -> None:
    """Set the random generators as they were."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        import numpy

        algorithm, keys, position, has_gauss, cached = state["numpy"]
        numpy.random.set_state((algorithm, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])

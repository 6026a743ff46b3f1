"""What goes into a checkpoint, and how it gets back.

Role: between live objects (model, optimizer, random generators) and plain values that can be stored safely.

What always holds:
- A stored state is made of tensors, numbers, strings, lists and dicts. An object whose state holds anything else (a
  function, a class of your own) is refused when the run starts, not when it is needed back.
- A tensor is stored whole or not at all: one of which each rank holds a part (DTensor) is for `sharded`, and where that
  does not know it (FSDP of old) it is refused in words.
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aifactory_trainer.checkpoint import CheckpointError


@runtime_checkable
class Redistributable(Protocol):
    """What differs between ranks and can be divided among another number of them."""

    def redistribute(self, states: list[dict[str, Any]], rank: int, size: int) -> object:
        """Go on from the `state_dict` of each former rank, in order, as rank `rank` of `size`."""


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
    """State of each object.

    Raises:
        TypeError: a tensor in it is sharded: what this rank holds is not all of it.
    """
    states = {name: unwrap(thing).state_dict() for name, thing in objects.items()}
    for name, state in states.items():
        _refuse_shards(name, state)
    return states


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


def is_divided(thing: Stateful) -> bool:
    """Whether it is a model or an optimizer with parameters of which each rank holds a part."""
    inner = unwrap(thing)
    weights: Iterable[Any] = ()
    if isinstance(inner, nn.Module):
        weights = inner.parameters()
    elif isinstance(inner, torch.optim.Optimizer):
        weights = (weight for group in inner.param_groups for weight in group["params"])
    return any(_is_one_of(weight, _DIVIDED) for weight in weights)


def redistribute(
    objects: Mapping[str, Stateful], ranks: list[dict[str, Any]], rank: int, size: int, where: str
) -> list[str]:
    """Divide what differs between ranks among another number of them; returns the names that were left as they are.

    Args:
        ranks: for each former rank, the state of each object.

    Raises:
        CheckpointError: a former rank has no state of an object, or it does not fit.
    """
    left = []
    for name, thing in objects.items():
        inner = unwrap(thing)
        if not isinstance(inner, Redistributable):
            left.append(name)
            continue
        try:
            inner.redistribute([own[name] for own in ranks], rank, size)
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{where} can not be divided among {size} ranks: {name!r}: {error}") from error
    return left


def check_storable(objects: Mapping[str, Stateful]) -> None:
    """Refuse objects whose state could not be read back without running code, or is not all on this rank.

    Raises:
        TypeError: names the object.
    """
    for name, thing in objects.items():
        if not isinstance(thing, Stateful):
            raise TypeError(f"{name!r} ({type(thing).__name__}) has no state_dict and load_state_dict")
        inner = unwrap(thing)
        if isinstance(inner, nn.Module):
            for part in inner.modules():
                if _is_one_of(part, _SHARDING_MODULES):  # to ask it for its state would wait for the other ranks
                    raise TypeError(_sharded(name, type(part).__name__))
        state = inner.state_dict()
        _refuse_shards(name, state)
        try:
            decode(encode(_without_numbers(state)))
        except Exception as error:
            raise TypeError(
                f"the state of {name!r} ({type(thing).__name__}) holds more than tensors, numbers, strings, lists and "
                f"dicts, so it can not be stored safely: {str(error).splitlines()[0]}"
            ) from error


_DIVIDED = (("torch.distributed.tensor", "DTensor"),)
_SHARDED_TENSORS = (
    *_DIVIDED,
    ("torch.distributed._shard.sharded_tensor", "ShardedTensor"),
)
_SHARDING_MODULES = (("torch.distributed.fsdp", "FullyShardedDataParallel"),)


def _is_one_of(thing: object, classes: tuple[tuple[str, str], ...]) -> bool:
    """Whether it is of a class that may never have been imported: to import torch's takes a second."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in classes)
    return any(isinstance(thing, known) for known in found if known is not None)


def _sharded(name: str, kind: str) -> str:
    return (
        f"the state of {name!r} is sharded ({kind}): rank 0 holds a part of it, and a checkpoint of that part could "
        "not be resumed from. Use fully_shard (FSDP2) or DistributedDataParallel, or keep it out of Run and save it "
        "with torch.distributed.checkpoint"
    )


def _refuse_shards(name: str, state: object) -> None:
    for where, tensor in tensors(state, name):
        if _is_one_of(tensor, _SHARDED_TENSORS):
            raise TypeError(f"{_sharded(name, type(tensor).__name__)} ({where})")


def tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors anywhere in a state, each with its place in words: `model.layer.weight`."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from tensors(inner, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from tensors(inner, f"{name}.{number}")


def _without_numbers(value: Any) -> Any:
    """The state with empty tensors: to try whether it can be stored does not take the time that storing it takes."""
    if type(value) in (Tensor, nn.Parameter) or nn.parameter.is_lazy(value):
        return torch.empty(0)
    if isinstance(value, Mapping):
        return {key: _without_numbers(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_without_numbers(inner) for inner in value)
    return value


def not_finite(objects: Mapping[str, Stateful]) -> list[str]:
    """Places of what holds NaN or infinity among the parameters of models and the state of optimizers.

    Only these: a number there that is not finite never becomes finite again. Buffers (a mask of -inf), schedulers (a
    best loss of inf) and objects of your own may hold them for good reasons. One pass over the memory and, for each
    device, one answer that is waited for.
    """
    found: list[tuple[str, Tensor]] = []
    for name, thing in objects.items():
        inner = unwrap(thing)
        if isinstance(inner, nn.Module):
            found += [(f"{name}.{key}", parameter.detach()) for key, parameter in inner.named_parameters()]
        elif isinstance(inner, torch.optim.Optimizer):
            found += tensors(inner.state_dict()["state"], f"{name}.state")
    return _not_finite(found)


def some(places: Sequence[str]) -> str:
    """The first three of them, and how many more there are."""
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return f"{', '.join(places[:3])}{more}"


def _not_finite(found: Iterable[tuple[str, Tensor]]) -> list[str]:
    names: dict[torch.device, list[str]] = {}
    extremes: dict[torch.device, list[Tensor]] = {}
    for name, tensor in found:
        tensor = getattr(tensor, "to_local", lambda own=tensor: own)()  # of a sharded one this rank's part
        if tensor.numel() == 0 or not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        flat = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
        flat = flat.float() if flat.element_size() == 1 else flat  # float8 can not be compared
        flat = flat.coalesce().values() if flat.is_sparse else flat
        names.setdefault(tensor.device, []).append(name)
        extremes.setdefault(tensor.device, []).append(torch.stack(torch.aminmax(flat)).double())  # NaN is kept
    return [
        name
        for device, ends in extremes.items()
        for name, finite in zip(names[device], torch.stack(ends).isfinite().all(dim=1).tolist(), strict=True)
        if not finite
    ]


def outline(objects: Mapping[str, Stateful]) -> bytes:
    """Names, shapes and types of what the models hold, to be compared between ranks."""
    models = {name: inner for name, thing in objects.items() if isinstance(inner := unwrap(thing), nn.Module)}
    parts = [part for name, model in models.items() for part in tensors(model.state_dict(), name)]
    return repr([(where, tuple(tensor.shape), str(tensor.dtype)) for where, tensor in parts]).encode()


def encode(value: object) -> bytes:
    """A plain value as bytes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def decode(data: bytes) -> Any:
    """The value in bytes that another rank made; code in them is never run."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


RANDOM = ("python", "torch", "numpy", "cuda")
"""Names of the random generators."""


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


def spread_random(generators: list[Mapping[str, Any]], rank: int, alike: Collection[str]) -> None:
    """Set the random generators when there were other ranks before: `generators` are theirs, in order.

    A rank that was there goes on where it was. One that is new must not draw what another draws, as it would with a
    copy or with the script's seed; unless the ranks draw alike on purpose.

    Args:
        alike: the RANDOM that the script left in the same state on all ranks.
    """
    if rank < len(generators):
        restore_random(generators[rank])
        return
    first = generators[0]
    restore_random(first)
    generator = torch.Generator()
    generator.set_state(first["torch"])
    seed = int(torch.randint(2**31, (), generator=generator)) + rank
    seeds: dict[str, Callable[[int], object]] = {"python": random.seed, "torch": torch.default_generator.manual_seed}
    if "numpy" in sys.modules:
        seeds["numpy"] = sys.modules["numpy"].random.seed
    if torch.cuda.is_available():
        seeds["cuda"] = torch.cuda.manual_seed
    for name, reseed in seeds.items():
        former = {encode(own.get(name)) for own in generators}
        if not (name in alike and len(former) == 1):
            reseed(seed)

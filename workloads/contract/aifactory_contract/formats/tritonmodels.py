"""The back ends of the image that serve a Triton model directory, and what each asks of the model in it.

A back end is here if it runs no code of the model's. Of the others is told why not, and what to do instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import onnx, pt2, torch_export
from aifactory_contract.formats.rules import Files, invalid
from aifactory_contract.server import ONNXRUNTIME
from aifactory_contract.signature import DATA_TYPES, DataType

PBTXT = "config.pbtxt"
MODEL = "model.onnx"
"""A model in ONNX where config.pbtxt names no file, as in Triton."""
THREADS = ("intra_op_thread_count", "inter_op_thread_count")
"""Parameters of Triton's own back end for ONNX that ours has too."""
KINDS = CPU, AUTO, GPU = "KIND_CPU", "KIND_AUTO", "KIND_GPU"
"""Triton's kinds of instances; AUTO: on each GPU if there are any, else on the CPU."""


@dataclass(frozen=True)
class Backend:
    """A back end of the image."""

    name: str
    """In config.pbtxt."""
    what: str
    """What it serves, in words."""
    model: str
    """Its file, where config.pbtxt names none."""
    types: Mapping[str, DataType]
    """Of tensors, by their names in config.pbtxt."""
    inspect: Callable[[Files, str, Mapping[str, Any]], Collection[str]]
    """Whether the model's file and config.pbtxt fit; gives the names of more files beside it that it is made of. Raises
    FactoryError (InvalidArtifact)."""
    parameters: tuple[str, ...] = ()
    """Those of config.pbtxt that it knows, numbers all."""
    on_gpus: bool = False
    """Whether it computes on GPUs where there are any."""
    platform: str = ""
    """Another name of it."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of instances that may be asked for."""
        return (AUTO, CPU, GPU) if self.on_gpus else (CPU, AUTO)


_IN_ONNX = "save the model in ONNX"
_EXPORTED = "save it by torch.export.save"
_DIRECTORY = "publish the model's own directory, as save_pretrained writes it, as format huggingface"
_ELSEWHERE: Mapping[str, tuple[str, str]] = {
    "python": ("runs Python of the model's own, which is never run here", f"{_IN_ONNX} or {_EXPORTED}"),
    "ensemble": (
        "puts several models together, and a pool has one",
        "make one model in ONNX of them (onnx.compose.merge_models)",
    ),
    **dict.fromkeys(
        ("pytorch", "pytorch_libtorch", "torch_aoti"),
        ("loads TorchScript or compiled code, which may do anything", _EXPORTED),
    ),
    **dict.fromkeys(
        ("vllm", "transformers", "bytes", "embeddings", "tensorrtllm"),
        ("is an engine for language models, which are not served in this format", _DIRECTORY),
    ),
}
"""By names of back ends and platforms: why they are not served here, and the way out."""


def first(message: Mapping[str, Any], name: str, default: Any = "") -> Any:
    """The value of a field that is there once at most."""
    values = message.get(name)
    return values[0] if values else default


def backend_of(message: Mapping[str, Any]) -> Backend:
    """The back end that config.pbtxt names. Raises FactoryError (InvalidArtifact, or Unservable)."""
    named = [str(one) for key in ("backend", "platform") for one in message.get(key, []) if one]
    if not named:
        raise invalid(
            f'{PBTXT} names no backend; write backend: "{ONNXRUNTIME}", or what the model is for: {_served()}'
        )
    found = []
    for name in named:
        if name not in _BY_NAME:
            why, way_out = _ELSEWHERE.get(name, ("is not in the image", _IN_ONNX))
            words = f"{PBTXT}: {name} {why}: {way_out}, or choose another format. The image has {_served()}"
            raise FactoryError(Reason.UNSERVABLE, words)
        found.append(_BY_NAME[name])
    if found[0] is not found[-1]:
        raise invalid(f"{PBTXT}: backend is {named[0]} and platform is {named[1]}, which is another one; keep one")
    return found[0]


def _served() -> str:
    return " and ".join(f"{one.name} ({one.what})" for one in BACKENDS)


def _inspect_onnx(files: Files, path: str, config: Mapping[str, Any]) -> Collection[str]:
    with files.open(path) as stream:
        model = onnx.read_onnx(stream, files.sizes[path], path)
    folder = path.partition("/")[0]
    for name, needed in sorted(model.external.items()):
        file = f"{folder}/{name}"
        if file not in files.sizes or "/" in name:
            raise invalid(f"{path} has tensors in {name!r}, which is no file beside it in {folder}/; bring it along")
        if files.sizes[file] < needed:
            raise invalid(f"{file} has {files.sizes[file]} bytes, {path} wants {needed}: was the copy cut short?")
    _check_fits(config, model, path)
    return model.external


def _check_fits(config: Mapping[str, Any], model: onnx.Onnx, path: str) -> None:
    """Whether config.pbtxt is about this model; Triton's own back end for ONNX asks for the same."""
    batched = int(first(config, "max_batch_size", "0")) > 0
    for field, there in (("input", model.inputs), ("output", model.outputs)):
        stated = {first(entry, "name"): entry for entry in config.get(field, [])}
        for name, entry in stated.items():
            if name not in there:
                raise invalid(f"{PBTXT}: {field} {name!r} is none of {path}, which has {', '.join(there)}")
            _check_tensor(f"{field} {name}", entry, there[name], batched, path)
        absent = [name for name in there if name not in stated]
        if absent and (field == "input" or not stated):
            lines = "; ".join(_line(field, name, there[name], batched) for name in absent)
            raise invalid(f"{PBTXT}: {field} {', '.join(absent)} of {path} is not in it; write {lines}")


def _inspect_program(files: Files, path: str, config: Mapping[str, Any]) -> Collection[str]:
    """A program's tensors have an order, and no names that anybody gave them: config.pbtxt has them in that order."""
    with files.open(path) as stream:
        inputs, outputs = pt2.tensors_of(pt2.check_pt2(stream))
    batched = int(first(config, "max_batch_size", "0")) > 0
    for field, there in (("input", inputs), ("output", outputs)):
        stated = config.get(field, [])
        if len(stated) != len(there):
            stand_ins = (f"{field}_{place}" for place in range(len(stated), len(there)))
            names = [*(first(entry, "name") for entry in stated), *stand_ins]
            lines = "; ".join(_line(field, name, one, batched) for name, one in zip(names, there, strict=False))
            raise invalid(
                f"{PBTXT}: there are {len(stated)} of {field}, and the program in {path} has {len(there)}, in this "
                f"order: write {lines or 'none'}"
            )
        for entry, one in zip(stated, there, strict=True):
            _check_tensor(f"{field} {first(entry, 'name')}", entry, one, batched, path)
    return ()


def _check_tensor(
    what: str, entry: Mapping[str, Any], tensor: onnx.Tensor | pt2.Tensor, batched: bool, path: str
) -> None:
    if tensor.data_type not in DATA_TYPES:
        hint = " (skl2onnx: options={'zipmap': False})" if tensor.data_type == "a sequence" else ""
        raise invalid(f"{path}: {what} is {tensor.data_type}, for which Triton has no type; export it otherwise{hint}")
    stated = first(entry, "data_type")
    if stated != DATA_TYPES[tensor.data_type].pbtxt:
        raise invalid(
            f"{PBTXT}: {what} has {stated}, but it is {tensor.data_type} in {path}: write "
            f"{DATA_TYPES[tensor.data_type].pbtxt}"
        )
    if tensor.dims is None:
        return
    dims = _dims(entry)
    inner = tensor.dims
    if batched:
        if not inner or inner[0] != -1:
            raise invalid(
                f"{PBTXT}: max_batch_size is not 0, but {what} of {path} has the shape {list(inner)}: export it with a "
                "first dimension of any size, or write max_batch_size: 0"
            )
        inner = inner[1:]
    if len(dims) != len(inner) or any(fixed not in (-1, dim) for dim, fixed in zip(dims, inner, strict=True)):
        without = " without the batch" if batched else ""
        raise invalid(f"{PBTXT}: {what} has dims {list(dims)}, but {list(inner)}{without} in {path}; make them agree")


def _dims(entry: Mapping[str, Any]) -> tuple[int, ...]:
    """As the model sees it."""
    reshape = first(entry, "reshape", None)
    return tuple(map(int, entry.get("dims", []) if reshape is None else reshape.get("shape", [])))


def _line(field: str, name: str, tensor: onnx.Tensor | pt2.Tensor, batched: bool) -> str:
    known = DATA_TYPES.get(tensor.data_type)
    dims = list(tensor.dims or ())[1 if batched else 0 :]
    return f'{field} {{ name: "{name}" data_type: {known.pbtxt if known else "?"} dims: {dims} }}'


BACKENDS = (
    Backend(
        ONNXRUNTIME,
        "a model in ONNX",
        MODEL,
        {known.pbtxt: known for known in DATA_TYPES.values() if known.name != "BF16"},  # as ONNX Runtime has in Python
        _inspect_onnx,
        THREADS,
        platform="onnxruntime_onnx",
    ),
    Backend(
        torch_export.NAME,
        "a program by torch.export.save",
        torch_export.PROGRAM,
        {known.pbtxt: known for known in DATA_TYPES.values() if known.torch},
        _inspect_program,
        on_gpus=True,
    ),
)
_BY_NAME = {name: one for one in BACKENDS for name in (one.name, one.platform) if name}

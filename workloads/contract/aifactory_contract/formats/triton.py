"""Format `triton`: a Triton model directory, config.pbtxt beside one version directory with the model in it.

Served is what a back end of the image reads without running code of the model's (`tritonmodels`). Triton itself
believes a config.pbtxt everything: one with `parameters` can name an interpreter to run, one with `model_operations` a
library. So what may be in it is listed here, each with its kind. Another field is refused by its name, and Triton gets
what was understood, written anew.
Source: Triton, common/protobuf/model_config.proto, and onnxruntime_backend's README.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

from aifactory_contract.engines import AUTO
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import pbtxt
from aifactory_contract.formats import tritonmodels as models
from aifactory_contract.formats.rules import Files, Format, Serving, invalid, missing
from aifactory_contract.formats.tritonmodels import MODEL, PBTXT, Backend, backend_of, first
from aifactory_contract.names import CONFIG
from aifactory_contract.server import Server
from aifactory_contract.signature import MAX_ELEMENTS, Signature, TensorSpec

NAME = "triton"
_MAX_PBTXT_BYTES = 1024 * 1024
_IN_VERSION = re.compile(r"(\d+)/[^/]+")
_CODE = frozenset({".py", ".pyc", ".so", ".sh", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".dill", ".ckpt"})
"""Never a model or its weights, whatever the model says; told apart by their names."""


def _any(value: Any) -> Any:
    return value


def _text(value: Any) -> str:
    if isinstance(value, pbtxt.Word | dict):
        raise ValueError("a text in quotes")
    if not value.isascii() or not value.isprintable():
        raise ValueError("of ASCII's letters and signs")
    return str(value)


def _whole(value: Any) -> pbtxt.Word:
    return _word(r"\d{1,18}", value, "a whole number from 0")


def _size(value: Any) -> pbtxt.Word:
    return _word(r"-1|[1-9]\d{0,9}", value, "a number above 0, or -1 for any size")


def _flag(value: Any) -> pbtxt.Word:
    return _word("true|false", value, "true or false")


def _constant(value: Any) -> pbtxt.Word:
    return _word("[A-Z][A-Z0-9_]*", value, "the name of a constant")


def _word(pattern: str, value: Any, what: str) -> pbtxt.Word:
    if not isinstance(value, pbtxt.Word) or not re.fullmatch(pattern, value):
        raise ValueError(what)
    return value


class _Each:
    """A field that may be there several times."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


_TENSOR = {
    "name": _text,
    "data_type": _constant,
    "dims": _Each(_size),
    "reshape": {"shape": _Each(_size)},
}
_QUEUE = {
    "timeout_action": _constant,
    "default_timeout_microseconds": _whole,
    "allow_timeout_override": _flag,
    "max_queue_size": _whole,
}
_FIELDS: Mapping[str, Any] = {
    "name": _any,  # the ModelVersion's takes its place
    "version_policy": _any,  # so does its version's
    "platform": _text,
    "backend": _text,
    "default_model_filename": _text,
    "max_batch_size": _whole,
    "input": _Each({**_TENSOR, "format": _constant}),
    "output": _Each(_TENSOR),
    "instance_group": _Each({"name": _text, "count": _whole, "kind": _constant}),
    "dynamic_batching": {
        "preferred_batch_size": _Each(_whole),
        "max_queue_delay_microseconds": _whole,
        "preserve_ordering": _flag,
        "priority_levels": _whole,
        "default_priority_level": _whole,
        "default_queue_policy": _QUEUE,
        "priority_queue_policy": _Each({"key": _whole, "value": _QUEUE}),
    },
    "parameters": _Each({"key": _text, "value": {"string_value": _text}}),
    "model_transaction_policy": {"decoupled": _flag},
}
_WRITTEN_ANEW = ("name", "version_policy", "platform", "backend", "max_batch_size")


def is_part(path: str) -> bool:
    """config.pbtxt and what is in the version directory; which of that is the model's, the model says."""
    inside = _IN_VERSION.fullmatch(path) and PurePosixPath(path).suffix.lower() not in _CODE
    return path == PBTXT or bool(inside)


def place(path: str) -> str:
    """See `Format.place`: the version directory's number is the ModelVersion's."""
    return path.partition("/")[2] if _IN_VERSION.fullmatch(path) else path


def parse(raw: bytes) -> dict[str, Any]:
    """See `Format.parse`: the fields of config.pbtxt, all known and well formed."""
    try:
        message = pbtxt.parse(raw.decode())
    except ValueError as error:
        raise invalid(f"{PBTXT} is not in protobuf's text format: {error}") from error
    backend = backend_of(message)  # first of all: what another one has in its config.pbtxt is not known here
    found = _checked(message, _FIELDS, "")
    _check_settings(found, backend)
    return found


def _checked(message: pbtxt.Message, fields: Mapping[str, Any], above: str) -> pbtxt.Message:
    """What is known of a message. Raises FactoryError (InvalidArtifact) if that is not all of it."""
    found: pbtxt.Message = {}
    for name, values in message.items():
        path = f"{above}{name}"
        if name not in fields:
            raise invalid(f"{PBTXT}: {path} is not known here (known: {', '.join(fields)}); remove it")
        kind = fields[name]
        if isinstance(kind, _Each):
            kind = kind.kind
        elif len(values) > 1 and kind is not _any:
            raise invalid(f"{PBTXT}: {path} is there {len(values)} times; write it once")
        found[name] = [_value(value, kind, path) for value in values]
    return found


def _value(value: Any, kind: Any, path: str) -> Any:
    if isinstance(kind, Mapping):
        if not isinstance(value, dict):
            raise invalid(f"{PBTXT}: {path} must be a message in braces")
        return _checked(value, kind, f"{path}.")
    try:
        return kind(value)
    except ValueError as error:
        raise invalid(f"{PBTXT}: {path} must be {error}") from error


def _check_settings(found: pbtxt.Message, backend: Backend) -> None:
    for entry in found.get("parameters", []):
        key, value = first(entry, "key"), first(first(entry, "value", {}), "string_value")
        if key not in backend.parameters:
            known = ", ".join(backend.parameters) or "none"
            raise invalid(
                f"{PBTXT}: parameter {key!r} is not known here ({backend.name}: {known}), and some would run code; "
                "remove it"
            )
        if not re.fullmatch(r"\d{1,4}", value):
            raise invalid(f"{PBTXT}: parameter {key} must be a number of threads, not {value!r}")
    for group in found.get("instance_group", []):
        if (kind := first(group, "kind", models.AUTO)) not in backend.kinds:
            raise invalid(
                f"{PBTXT}: instance_group.kind is {kind}, and {backend.name} computes on "
                f"{'GPUs and CPUs' if backend.on_gpus else 'CPUs'}: write {backend.kinds[0]}"
            )
    if first(first(found, "model_transaction_policy", {}), "decoupled", "false") != "false":
        raise invalid(f"{PBTXT}: {backend.what} gives one answer to a request; remove model_transaction_policy")
    name = first(found, "default_model_filename", backend.model)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise invalid(f"{PBTXT}: default_model_filename {name!r} is no name of a file beside the others")


def check(files: Files) -> dict[str, Any]:
    """See `Format.check`."""
    if PBTXT not in files.sizes:
        raise missing(PBTXT, files, "which says what Triton has to know of the model")
    config = parse(files.read(PBTXT, _MAX_PBTXT_BYTES))
    _signature(config)
    _model_path(files, config)
    for other in files.sizes:
        if place(other) != other and place(other) in files.sizes:
            raise invalid(f"{other} has the name of a file outside: remove one of them")
    if CONFIG in files.sizes:
        config["metrics"] = files.json(CONFIG).get("metrics")
    return config


def _model_path(files: Files, config: Mapping[str, Any]) -> str:
    numbers = sorted({match[1] for path in files.sizes if (match := _IN_VERSION.fullmatch(path))})
    if len(numbers) > 1:
        raise invalid(f"there are {', '.join(f'{one}/' for one in numbers)}: a ModelVersion is one version; keep one")
    name = first(config, "default_model_filename", backend_of(config).model)
    path = f"{numbers[0] if numbers else 1}/{name}"
    if path not in files.sizes:
        raise missing(path, files, "the model; another name of it is default_model_filename in config.pbtxt")
    return path


def inspect(files: Files, config: Mapping[str, Any]) -> None:
    """See `Format.inspect`."""
    path = _model_path(files, config)
    parts = backend_of(config).inspect(files, path, config)
    folder = path.partition("/")[0]
    for file in sorted(files.sizes):
        if file.startswith(f"{folder}/") and file != path and place(file) not in parts:
            raise invalid(f"{file} is no part of the model ({path} does not name it); remove it")


def _signature(config: Mapping[str, Any]) -> Signature:
    """Raises FactoryError (InvalidArtifact)."""
    size = int(first(config, "max_batch_size", "0"))
    if size >= 2**31:
        raise invalid(f"{PBTXT}: max_batch_size {size} is not a number of requests")
    return Signature(_tensors(config, "input"), _tensors(config, "output"), size)


def _tensors(config: Mapping[str, Any], field: str) -> tuple[TensorSpec, ...]:
    types = backend_of(config).types
    found: dict[str, TensorSpec] = {}
    for entry in config.get(field, []):
        name, kind = first(entry, "name"), first(entry, "data_type")
        if not name or name in found:
            raise invalid(f"{PBTXT}: an {field} has " + (f"the name of another, {name!r}" if name else "no name"))
        if kind not in types:
            known = ", ".join(types)
            raise invalid(f"{PBTXT}: {field} {name}: data_type {kind or 'is missing'}; write one of {known}")
        dims = tuple(map(int, entry.get("dims", [])))
        if not dims:
            raise invalid(f"{PBTXT}: {field} {name} has no dims; write -1 for any size, and [1] for a single number")
        if math.prod(map(abs, dims)) > MAX_ELEMENTS:
            raise invalid(
                f"{PBTXT}: {field} {name}: dims {list(dims)} are more than {MAX_ELEMENTS} elements; no request has room"
            )
        found[name] = TensorSpec(name, types[kind].name, dims)
    return tuple(found.values())


def _leaves_out(path: str, paths: Collection[str]) -> str:
    """Nothing but what no format has."""
    return ""


def _placed(group: Mapping[str, Any], instead: Mapping[str, str]) -> dict[str, Any]:
    kind = first(group, "kind", models.AUTO)
    return {**group, "kind": [pbtxt.Word(instead.get(kind, kind))]}


def _serving(config: Mapping[str, Any], wish: str = AUTO, server: Server | None = None) -> Serving:
    if wish != AUTO:
        message = f"engine {wish} serves language models, and this is of format {NAME}: leave runtime.engine out"
        raise FactoryError(Reason.UNSERVABLE, message)
    backend = backend_of(config)
    if lack := (server or Server()).lack(backend.name):
        raise FactoryError(Reason.UNSERVABLE, lack)
    kept = {name: values for name, values in config.items() if name in _FIELDS and name not in _WRITTEN_ANEW}
    # By itself Triton makes an instance on each GPU, and where none is it loads no model that asks for one.
    kind = {models.GPU: models.AUTO} if backend.on_gpus else dict.fromkeys(models.KINDS, models.CPU)
    kept["instance_group"] = [_placed(group, kind) for group in kept.get("instance_group") or [{}]]
    return Serving(backend.name, _signature(config), pbtxt=pbtxt.render(kept))


TRITON = Format(
    NAME,
    (PBTXT, f"1/{MODEL}"),
    is_part,
    _leaves_out,
    check,
    inspect,
    _serving,
    config=PBTXT,
    parse=parse,
    place=place,
)

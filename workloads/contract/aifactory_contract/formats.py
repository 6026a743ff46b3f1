"""The formats of model artifacts: which files they have and what must be true of them before anybody loads them.

An artifact holds exactly the files its format names, plus plain documentation. That is an allow-list on purpose: a
pickle, a Python file or a shared library beside the weights can not become code that runs, because it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import Manifest, Opener
from aifactory_contract.names import CONFIG as CONFIG
from aifactory_contract.pt2 import check_pt2
from aifactory_contract.safetensors import check_safetensors
from aifactory_contract.signature import Signature
from aifactory_contract.userjson import parse_json

_MAX_CONFIG_BYTES = 4 * 1024 * 1024
_DOCUMENTATION = frozenset({".md", ".txt", ".json", ".jsonl"})
_PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz", ".dill"})


@dataclass(frozen=True)
class Format:
    """A format's name, its weights file, and what checks that file and what config.json says of it."""

    name: str
    weights: str
    check_weights: Callable[[BinaryIO], None]
    check_config: Callable[[Mapping[str, Any]], object]


def _check_nothing(_: Mapping[str, Any]) -> None:
    """All models of the format have the same signature."""


CAUSAL_LM = Format("causal-lm", "model.safetensors", check_safetensors, _check_nothing)
TORCH_EXPORT = Format("torch-export", "model.pt2", check_pt2, Signature.of_config)
FORMATS: Mapping[str, Format] = {form.name: form for form in (CAUSAL_LM, TORCH_EXPORT)}


def format_of(name: str) -> Format:
    """The format of a name. Raises FactoryError (InvalidArtifact) for one this release does not know."""
    if name not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise FactoryError(Reason.INVALID_ARTIFACT, f"format {name!r} is not known here; write one of: {known}")
    return FORMATS[name]


def parse_config(raw: bytes) -> dict[str, Any]:
    """Contents of config.json. Raises FactoryError (InvalidArtifact) if it is not a JSON object."""
    try:
        config = parse_json(raw)
    except ValueError as error:
        raise FactoryError(Reason.INVALID_ARTIFACT, f"{CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise FactoryError(Reason.INVALID_ARTIFACT, f"{CONFIG} must be a JSON object")
    return config


def read_config(manifest: Manifest, opener: Opener) -> dict[str, Any]:
    """Read the artifact's config.json. Raises FactoryError (InvalidArtifact) if it is missing or unreadable."""
    entry = next((entry for entry in manifest.files if entry.path == CONFIG), None)
    if entry is None:
        names = ", ".join(entry.path for entry in manifest.files[:5])
        message = f"{CONFIG} is missing (found: {names}); write it next to the weights, the export helpers do"
        raise FactoryError(Reason.INVALID_ARTIFACT, message)
    if entry.size > _MAX_CONFIG_BYTES:
        raise FactoryError(Reason.INVALID_ARTIFACT, f"{CONFIG} has {entry.size} bytes; that is no configuration")
    with opener(CONFIG) as stream:
        return parse_config(stream.read(_MAX_CONFIG_BYTES + 1))


def check_artifact(manifest: Manifest, opener: Opener, expected: str | None = None) -> dict[str, Any]:
    """Check an artifact against its format and return its config.json.

    Args:
        expected: the format it has to be of; None: the one config.json names.

    Raises FactoryError (InvalidArtifact): the message names the file and the way out.
    """
    config = read_config(manifest, opener)
    stated = config.get("format")
    if expected is not None and stated not in (None, expected):
        message = f"{CONFIG} says format {stated!r} but {expected!r} is asked for; make the two agree"
        raise FactoryError(Reason.INVALID_ARTIFACT, message)
    if expected is None and not isinstance(stated, str):
        raise FactoryError(Reason.INVALID_ARTIFACT, f'{CONFIG} names no format: add "format": "causal-lm" or another')
    form = format_of(expected or str(stated))
    paths = {entry.path for entry in manifest.files}
    for path in sorted(paths - {CONFIG, form.weights}):
        _check_extra(path, form, opener)
    if form.weights not in paths:
        message = f"{form.weights} is missing; a {form.name} artifact is {CONFIG} and {form.weights}"
        raise FactoryError(Reason.INVALID_ARTIFACT, message)
    form.check_config(config)
    with opener(form.weights) as stream:
        form.check_weights(stream)
    return config


def _check_extra(path: str, form: Format, opener: Opener) -> None:
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _PICKLES or (suffix in _DOCUMENTATION and _looks_pickled(path, opener)):
        message = (
            f"{path} may be a pickle, which runs code when loaded; save the weights as {form.weights} and remove it"
        )
        raise FactoryError(Reason.INVALID_ARTIFACT, message)
    if suffix not in _DOCUMENTATION and not PurePosixPath(path).name.upper().startswith("LICENSE"):
        message = f"{path} is no part of a {form.name} artifact ({CONFIG}, {form.weights}, documentation); remove it"
        raise FactoryError(Reason.INVALID_ARTIFACT, message)


def _looks_pickled(path: str, opener: Opener) -> bool:
    with opener(path) as stream:
        head = stream.read(4)
    return (len(head) > 1 and head[0] == 0x80 and head[1] <= 5) or head.startswith((b"PK\x03\x04", b"\x93NUM"))


def metrics_of(config: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers under `metrics` in config.json."""
    metrics = config.get("metrics")
    if not isinstance(metrics, dict):
        return {}
    numbers = {}
    for key, value in metrics.items():
        with suppress(OverflowError):  # JSON knows whole numbers of any length
            if isinstance(value, (int, float)) and math.isfinite(value):
                numbers[str(key)] = float(value)
    return numbers

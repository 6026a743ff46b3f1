"""The formats of model artifacts: which files they have and what must be true of them before anybody loads them.

An artifact holds exactly the files of its format, plus plain documentation. That is an allow-list on purpose: a
pickle, a Python file or a shared library beside the weights can not become code that runs, because it is refused.
Each format is one file here, with the rules that `rules.Format` lists.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats.huggingface import HUGGINGFACE as HUGGINGFACE
from aifactory_contract.formats.rules import Files, Format, check_extra, invalid, left_out, missing
from aifactory_contract.formats.torch_export import TORCH_EXPORT as TORCH_EXPORT
from aifactory_contract.formats.triton import TRITON as TRITON
from aifactory_contract.formats.tritonmodels import PBTXT
from aifactory_contract.manifest import Manifest, Opener, open_regular, walk
from aifactory_contract.names import CONFIG as CONFIG

FORMATS: Mapping[str, Format] = {form.name: form for form in (HUGGINGFACE, TORCH_EXPORT, TRITON)}
_RENAMED = {"causal-lm": HUGGINGFACE.name}


@dataclass(frozen=True)
class Checked:
    """What is known of an artifact that was checked."""

    format: str
    config: dict[str, Any]


def format_of(name: str) -> Format:
    """The format of a name. Raises FactoryError (InvalidArtifact) for one this release does not know."""
    if name not in FORMATS:
        known = f"; it is {_RENAMED[name]} now" if name in _RENAMED else f"; write one of: {', '.join(sorted(FORMATS))}"
        raise FactoryError(Reason.INVALID_ARTIFACT, f"format {name!r} is not known here{known}")
    return FORMATS[name]


def check_artifact(manifest: Manifest, opener: Opener, expected: str | None = None, *, inspect: bool = True) -> Checked:
    """Check an artifact against its format.

    Args:
        expected: the format it has to be of; None: the one that config.json or config.pbtxt tells.
        inspect: look into the small files too; not needed where the digest is that of an artifact that was verified.

    Raises FactoryError (InvalidArtifact): the message names the file and the way out.
    """
    return _check(Files.of(manifest, opener), expected, inspect=inspect)


def check_directory(directory: Path, expected: str | None = None) -> Checked:
    """`check_artifact` of a local directory, whose files are not all read for it. Raises FactoryError."""
    paths, _ = parts_of(directory, stated_format(directory, expected))
    sizes = {path: (directory / path).stat().st_size for path in paths}
    return _check(Files(sizes, lambda path: open_regular(directory / path)), expected, inspect=True)


def parts_of(directory: Path, form: Format) -> tuple[list[str], dict[str, str]]:
    """The files of an artifact in a local directory, and what is left out, with the reasons. Raises FactoryError."""
    paths = walk(directory, may_miss=lambda path: bool(left_out(form, [path])))
    beside = left_out(form, paths)
    return [path for path in paths if path not in beside], beside


def stated_format(directory: Path, expected: str | None) -> Format:
    """The format asked for, or else the one that a local directory says. Raises FactoryError."""
    if expected is not None:
        return format_of(expected)
    paths = walk(directory, may_miss=lambda _: True)
    sizes = {path: (directory / path).stat().st_size for path in paths}
    return _format(Files(sizes, lambda path: open_regular(directory / path)), None)


def _check(files: Files, expected: str | None, *, inspect: bool) -> Checked:
    form = _format(files, expected)
    for path in sorted(files.sizes):
        if not form.is_part(path):
            check_extra(path, form, files)
    config = form.check(files)
    if inspect:
        form.inspect(files, config)
    return Checked(form.name, config)


def _format(files: Files, expected: str | None) -> Format:
    """The format asked for, if the files do not say another; else the one they say."""
    if expected is not None:
        format_of(expected)
    if expected == TRITON.name or (expected is None and PBTXT in files.sizes):
        return TRITON
    if CONFIG not in files.sizes:
        if PBTXT in files.sizes:
            raise invalid(f"{PBTXT} is there and no {CONFIG}: this is a Triton model directory, format {TRITON.name}")
        if "adapter_config.json" in files.sizes:
            raise invalid(
                "this is a LoRA adapter, not a model: merge it (model.merge_and_unload) and save the result, or put it "
                "beside the files of its model as adapters/NAME/"
            )
        raise missing(CONFIG, files, "which save_pretrained and the export helpers write next to the weights")
    config = files.json(CONFIG)
    stated = config.get("format", HUGGINGFACE.name if "architectures" in config else None)
    if expected is not None and stated not in (None, expected):
        raise invalid(f"{CONFIG} says format {stated!r} but {expected!r} is asked for; make the two agree")
    if expected is None and not isinstance(stated, str):
        raise invalid(f'{CONFIG} names no format: add "format": "{TORCH_EXPORT.name}", or write a model directory')
    return format_of(expected or str(stated))


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

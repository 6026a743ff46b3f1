"""The highest version number a model has ever had: no number is used twice, also when its version was deleted.

It stands in an annotation of a ConfigMap that belongs to nobody, one for each model: a pool or a client that names a
version must never get another artifact under it. A number is written down before its version is Ready (`models.plan`),
so what was never written down was never served. Who deletes the ConfigMap takes the memory away; the numbers of the
versions that exist are then written down anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aifactory.api import names

ANNOTATION: Final = f"{names.GROUP}/highest-version"


def object_name(model: str) -> str:
    """Name of the model's ConfigMap."""
    return f"aifactory-{model}-versions"


def highest(annotations: Mapping[str, str]) -> int:
    """The number in the annotations; 0 when there is none that can be read."""
    text = annotations.get(ANNOTATION, "")
    return int(text) if text.isdecimal() else 0

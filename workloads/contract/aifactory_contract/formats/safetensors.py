"""The structure of a safetensors file, checked without loading a tensor.

Format (huggingface/safetensors, README): eight bytes little-endian header length, a JSON header, then the data. The
format can not carry code; what is checked here is that the file is one, whole and not overlapping, so that a truncated
upload is told from a broken model in the artifact's own terms.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, BinaryIO

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.userjson import parse_json

_MAX_HEADER = 16 * 1024 * 1024
"""Enough for a hundred thousand tensors. A larger one would fill the memory of the pod that checks it."""
_MAX_DIMENSIONS = 64
"""Nobody's tensor has more, and to multiply a million numbers would take for ever."""
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
}
"""Of an element, by type; the size of a tensor of another type is not checked."""


def read_safetensors(stream: BinaryIO, path: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors, by name. Raises FactoryError (InvalidArtifact) if this is not a whole safetensors file."""
    header, data_bytes = _header(stream, path)
    shapes: dict[str, tuple[int, ...]] = {}
    spans: list[tuple[int, int]] = []
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        fields: dict[str, Any] = tensor if isinstance(tensor, dict) else {}
        shape, offsets, kind = (fields.get(key, "") for key in ("shape", "data_offsets", "dtype"))
        if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2 and isinstance(kind, str)):
            raise _broken(path, f"tensor {name!r} has no dtype, shape or data_offsets")
        begin, end = offsets
        if kind in _BITS and (end - begin) * 8 != math.prod(shape) * _BITS[kind]:
            raise _broken(path, f"tensor {name!r} of type {kind} and shape {shape} has {end - begin} bytes")
        shapes[name] = tuple(shape)
        spans.append((begin, end))
    spans.sort()
    if not spans:
        raise _broken(path, "it holds no tensor")
    whole = spans[0][0] == 0 and all(before[1] == after[0] for before, after in pairwise(spans))
    if not whole or any(start > end for start, end in spans):
        raise _broken(path, "its tensors overlap or leave holes")
    if spans[-1][1] != data_bytes:
        raise _broken(
            path, f"its tensors need {spans[-1][1]} bytes but {data_bytes} are there; was the copy cut short?"
        )
    return shapes


def _are_sizes(found: Any) -> bool:
    short = isinstance(found, list) and len(found) <= _MAX_DIMENSIONS
    return short and all(type(size) is int and 0 <= size < 2**63 for size in found)


def _header(stream: BinaryIO, path: str) -> tuple[dict[str, Any], int]:
    """The JSON header and the number of bytes after it."""
    end = stream.seek(0, 2)
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    if end < 8 or length > min(_MAX_HEADER, end - 8):
        raise _broken(path, "its header does not fit into the file; was the copy cut short?")
    try:
        header = parse_json(stream.read(length))
    except ValueError as error:
        raise _broken(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _broken(path, "its header is not a JSON object")
    return header, end - 8 - length


def _broken(path: str, what: str) -> FactoryError:
    message = f"{path} is not a whole safetensors file: {what}; write it with safetensors' save_file"
    return FactoryError(Reason.INVALID_ARTIFACT, message)

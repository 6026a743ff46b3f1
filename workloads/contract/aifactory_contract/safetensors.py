"""The structure of a safetensors file, checked without loading a tensor.

Format (huggingface/safetensors, README): eight bytes little-endian header length, a JSON header, then the data. The
format can not carry code; what is checked here is that the file is one, whole and not overlapping, so that a truncated
upload is told from a broken model in the artifact's own terms.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, BinaryIO

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.userjson import parse_json

_MAX_HEADER = 16 * 1024 * 1024
"""Enough for a hundred thousand tensors. A larger one would fill the memory of the pod that checks it."""


def check_safetensors(stream: BinaryIO) -> None:
    """Raises FactoryError (InvalidArtifact) if this is not a whole safetensors file."""
    header, data_bytes = _header(stream)
    spans: list[tuple[int, int]] = []
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(at) is int for at in offsets)):
            raise _broken(f"tensor {name!r} has no data_offsets")
        spans.append((offsets[0], offsets[1]))
    spans.sort()
    if not spans:
        raise _broken("it holds no tensor")
    whole = spans[0][0] == 0 and all(before[1] == after[0] for before, after in pairwise(spans))
    if not whole or any(start > end for start, end in spans):
        raise _broken("its tensors overlap or leave holes")
    if spans[-1][1] != data_bytes:
        raise _broken(f"its tensors need {spans[-1][1]} bytes but {data_bytes} are there; was the copy cut short?")


def _header(stream: BinaryIO) -> tuple[dict[str, Any], int]:
    """The JSON header and the number of bytes after it."""
    end = stream.seek(0, 2)
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    if end < 8 or length > min(_MAX_HEADER, end - 8):
        raise _broken("its header does not fit into the file")
    try:
        header = parse_json(stream.read(length))
    except ValueError as error:
        raise _broken("its header is not JSON") from error
    if not isinstance(header, dict):
        raise _broken("its header is not a JSON object")
    return header, end - 8 - length


def _broken(what: str) -> FactoryError:
    message = f"model.safetensors is not a whole safetensors file: {what}; write it with safetensors' save_file"
    return FactoryError(Reason.INVALID_ARTIFACT, message)

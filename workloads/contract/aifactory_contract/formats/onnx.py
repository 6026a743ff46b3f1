"""What an ONNX file says of itself, without ONNX: inputs, outputs, operators, and the files its tensors are in.

The file is one protobuf message. It is walked through by the lengths that it gives, and what is large (weights) is
jumped over: a model of any size takes the same small memory. Field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from aifactory_contract.formats.rules import invalid

DATA_TYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES", 9: "BOOL",
    10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip
"""Names in requests of the types of elements, by TensorProto.DataType; there are more, for which Triton has none."""
_MAX_FIELDS = 5_000_000
"""Of the message: 5 s of work. A graph of 50,000 operators has a million."""
_MAX_TEXT_BYTES = 4096
_OPERATORS = ("ai.onnx", "com.microsoft", "com.ms.internal.nhwc")
"""Domains of the operators that ONNX Runtime brings, or their beginnings; "" is ai.onnx."""

_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "function": {7: "node", 11: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Fields that hold a message in which operators or tensors may be, by the kind of the message around."""
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}

Span = tuple[int, int]
"""Where something begins and ends in the file."""


@dataclass(frozen=True)
class Tensor:
    """An input or output."""

    data_type: str
    """One of DATA_TYPES' names; else what it is, in words."""
    dims: tuple[int, ...] | None
    """-1 for any size; None: any shape."""


@dataclass
class Onnx:
    """What was found."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    """Without those that have a value of their own."""
    outputs: dict[str, Tensor] = field(default_factory=dict)
    external: dict[str, int] = field(default_factory=dict)
    """Files that tensors are in, as the model names them, each with the bytes it has to have at least."""


def read_onnx(stream: BinaryIO, size: int, path: str) -> Onnx:
    """Raises FactoryError (InvalidArtifact) if it is none, is not whole, or needs operators that are code beside it.

    Args:
        size: bytes of the file.
        path: its name, for messages.
    """
    try:
        return _Reader(stream, size).read()
    except _NotWhole as error:
        raise invalid(f"{path} is not whole ({error}): was the copy cut short?") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise invalid(f"{path} is no ONNX model that can be served: {error}") from error


class _NotWhole(Exception):
    pass


class _Reader:
    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self._fields = 0
        self._found = Onnx()
        self._valued: set[str] = set()
        self._domains: set[str] = set()
        self._own: set[str] = set()

    def read(self) -> Onnx:
        todo = [("model", 0, self._size)]
        graphs = 0
        while todo:
            kind, start, end = todo.pop()
            for number, value in self._each(start, end):
                inner = _INSIDE.get(kind, {}).get(number)
                if inner and isinstance(value, tuple):
                    todo.append((inner, *value))
                if kind == "model" and number == 7 and isinstance(value, tuple):
                    graphs += 1
                    self._signature(*value)
                elif kind == "node" and number == 7:
                    self._domains.add(self._text(value))
                elif kind == "function" and number == 10:
                    self._own.add(self._text(value))
            if kind == "tensor":
                self._tensor(start, end)
        if not graphs or not self._found.outputs:
            raise ValueError("it has no graph with an output")
        foreign = sorted(one for one in self._domains - self._own if one and not one.startswith(_OPERATORS))
        if foreign:
            raise ValueError(
                f"it has operators of {', '.join(map(repr, foreign))}, which are in a library of code beside ONNX "
                "Runtime; export it with operators of ONNX's own"
            )
        return self._found

    def _signature(self, start: int, end: int) -> None:
        """Inputs, outputs and what has a value, of the outer graph."""
        inputs: dict[str, Tensor] = {}
        for number, value in self._each(start, end):
            if number in (11, 12):
                name, tensor = self._value_info(value)
                (inputs if number == 11 else self._found.outputs)[name] = tensor
            elif number == 5:
                self._valued |= {self._text(one) for inner, one in self._each(*_span(value)) if inner == 8}
        self._found.inputs |= {name: one for name, one in inputs.items() if name not in self._valued}

    def _value_info(self, value: int | Span) -> tuple[str, Tensor]:
        name, tensor = "", Tensor("a value of no type", None)
        for number, one in self._each(*_span(value)):
            if number == 1:
                name = self._text(one)
            elif number == 2:
                tensor = self._type(one)
        return name, tensor

    def _type(self, value: int | Span) -> Tensor:
        kinds = {4: "a sequence", 5: "a map", 8: "a sparse tensor", 9: "an optional value"}
        for number, one in self._each(*_span(value)):
            if number != 1:
                return Tensor(kinds.get(number, "no tensor"), None)
            element, dims = 0, None
            for inner, part in self._each(*_span(one)):
                if inner == 1:
                    element = _number(part)
                elif inner == 2:
                    dims = tuple(self._dim(dim) for key, dim in self._each(*_span(part)) if key == 1)
            return Tensor(DATA_TYPES.get(element, f"a tensor of ONNX's type {element}"), dims)
        return Tensor("a value of no type", None)

    def _dim(self, value: int | Span) -> int:
        sizes = [_number(one) for number, one in self._each(*_span(value)) if number == 1]
        return sizes[-1] if sizes and 0 < sizes[-1] < 2**31 else -1

    def _tensor(self, start: int, end: int) -> None:
        """Where its bytes are, if they are in another file. What says so is believed wherever it stands: protobuf
        puts together a message that comes in several pieces."""
        names, numbers = [], {"offset": 0, "length": 0}
        for number, value in self._each(start, end):
            if number != 13:
                continue
            texts = {inner: self._text(one) for inner, one in self._each(*_span(value)) if inner in (1, 2)}
            key, text = texts.get(1, ""), texts.get(2, "")
            if key == "location":
                names.append(text)
            elif key in numbers:
                numbers[key] = int(text) if text.isdecimal() and len(text) < 19 else self._size_of(key, text)
        for name in names:
            needed = numbers["offset"] + numbers["length"]
            self._found.external[name] = max(self._found.external.get(name, 0), needed)

    def _size_of(self, key: str, text: str) -> int:
        raise ValueError(f"a tensor in another file has the {key} {text[:40]!r}")

    def _text(self, value: int | Span) -> str:
        start, end = _span(value)
        if end - start > _MAX_TEXT_BYTES:
            raise ValueError(f"it has a name of {end - start} bytes")
        self._stream.seek(start)
        raw = self._stream.read(end - start)
        if len(raw) < end - start:
            raise _NotWhole(f"it ends at byte {start + len(raw)}")
        return raw.decode()

    def _each(self, start: int, end: int) -> Iterator[tuple[int, int | Span]]:
        """The fields of a message: number, and the value or where it is."""
        at = start
        while at < end:
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                raise ValueError(f"it has more than {_MAX_FIELDS} parts")
            self._stream.seek(at)
            key, at = self._varint(at, end)
            number, wire = key >> 3, key & 7
            value: int | Span
            if wire == _VARINT:
                value, at = self._varint(at, end)
            elif wire in _FIXED or wire == _BYTES:
                length = _FIXED.get(wire, 0)
                if wire == _BYTES:
                    length, at = self._varint(at, end)
                value = (at, at + length)
                at += length
            else:
                raise ValueError(f"at byte {at} is no field of a protobuf message")
            if number == 0:
                raise ValueError(f"at byte {at} is no field of a protobuf message")
            if at > end:
                if end == self._size:
                    raise _NotWhole(f"{at} bytes are announced, it has {self._size}")
                raise ValueError(f"at byte {at} a part is longer than what it is in")
            yield number, value

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number at the stream's place, and the place after it."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._stream.read(1) if at < end else b""
            if not byte:
                raise _NotWhole(f"it ends at byte {at}")
            at += 1
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value & (2**64 - 1), at
        raise ValueError(f"at byte {at} is no number of a protobuf message")


def _span(value: int | Span) -> Span:
    if isinstance(value, int):
        raise ValueError("a part of it is a number where a message belongs")
    return value


def _number(value: int | Span) -> int:
    if isinstance(value, int):
        return value
    raise ValueError("a part of it is a message where a number belongs")

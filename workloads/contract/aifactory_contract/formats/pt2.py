"""What a `.pt2` archive (torch.export.save) may hold, checked without torch and before torch sees it.

`torch.export.load` is not made for files of strangers: it unpickles tensors marked `use_pickle`, custom and opaque
objects and (when the safe loader refuses them) the sample inputs; it loads compiled libraries; it hands size
expressions to sympy, which evaluates them as Python; it looks up operators by any dotted name below `torch`; and it
compiles guards from source text. So an archive must consist of known entries only, raw tensors, operators of PyTorch's
own operator libraries, and expressions and guards that are nothing but arithmetic on sizes.
Read from torch 2.15: torch/export/pt2_archive/_package.py, torch/_export/serde/{serialize,schema}.py,
torch/export/_unlift.py.
"""

from __future__ import annotations

import ast
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.userjson import parse_json

_MAX_METADATA_BYTES = 256 * 1024 * 1024

_ENTRIES = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/[\w.]+|\.format_version|\.storage_alignment"
    r"|models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt|extra/[\w./-]+"
)
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
_OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+(\.\w+)?|torch\.sym_(int|float|max|min|ite|not|sqrt|sum)|math\.(trunc|ceil|floor|sqrt)"
    r"|_operator\.(eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|truediv|mod|pow|and_|or_|getitem)"
    r"|torch\.ops\.higher_order\.(cond|map_impl|scan|while_loop|wrap_with_set_grad_enabled|wrap_with_autocast)"
)
_NAMES = re.compile(r"[\w.\[\]/-]*")
_PICKLED_GLOBALS = re.compile(
    r"torch\._utils _rebuild_(tensor_v2|parameter)|collections OrderedDict"
    r"|torch (Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool|ComplexFloat|ComplexDouble)Storage"
    r"|torch device|torch\.storage UntypedStorage"
)
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, UnicodeDecodeError, OverflowError,
    NotImplementedError,  # a compression, or a version of zip, that Python does not know
    RuntimeError,  # encrypted
)  # fmt: skip
_PICKLE_LOOKUPS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})

_EXPRESSION_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.keyword, ast.Constant, ast.Name,
    ast.Load, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.Subscript, ast.Attribute,
)  # fmt: skip
_FUNCTIONS = re.compile(
    "Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|ModularIndexing|Where"
    "|Eq|Ne|Le|Lt|Ge|Gt|Equality|Unequality|LessThan|GreaterThan|StrictLessThan|StrictGreaterThan|And|Or|Not|Piecewise"
    "|TruncToInt|TruncToFloat|CeilToInt|FloorToInt|RoundToInt|ToFloat|IntTrueDiv|FloatTrueDiv|PowByNatural|Abs"
    "|Identity|ceiling|floor"
)
_SIZE_METHODS = frozenset({"size", "stride", "storage_offset"})
_SCALAR_TYPES = {
    1: "UINT8", 2: "INT8", 3: "INT16", 4: "INT32", 5: "INT64", 6: "FP16", 7: "FP32", 8: "FP64", 12: "BOOL", 13: "BF16",
}  # fmt: skip
"""Names in requests of the types of elements, by ScalarType in schema.py; there are more."""
_PLAIN_NAMES = re.compile(r"[suzfi]\d+|L|true|false|oo|int_oo|zoo|nan|None|True|False")


@dataclass(frozen=True)
class Tensor:
    """An input or output of the program."""

    data_type: str
    """Its name in requests, or else what it is, in words."""
    dims: tuple[int, ...]
    """-1 for any size."""


def check_pt2(stream: BinaryIO) -> Any:
    """The program, as its metadata describes it (`tensors_of`).

    Raises FactoryError (InvalidArtifact) if the archive could make torch run anything but its own operators.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = _entries(archive)
            for name in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
                _check_payloads(name, _json(archive, entries, name))
            _check_program(program := _json(archive, entries, "models/model.json"))
            _check_sample_inputs(_bytes(archive, entries, "data/sample_inputs/model.pt"))
            return program
    except _DAMAGED as error:
        raise _refused(f"it is not a whole zip archive ({error}); was the copy cut short?") from error


def tensors_of(program: Any) -> tuple[list[Tensor], list[Tensor]]:
    """What a program takes and gives, in its order. Raises FactoryError (InvalidArtifact) if it does not say that."""
    try:
        module = program["graph_module"]
        sizes, signature = module["graph"]["tensor_values"], module["signature"]
        inputs = [spec["user_input"]["arg"] for spec in signature["input_specs"] if "user_input" in spec]
        outputs = [spec["user_output"]["arg"] for spec in signature["output_specs"] if "user_output" in spec]
        return [_tensor(one, sizes) for one in inputs], [_tensor(one, sizes) for one in outputs]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _refused(f"it does not say what its program takes and gives ({error}); export it again") from error


def _tensor(argument: Any, values: Any) -> Tensor:
    named = argument.get("as_tensor")
    if named is None:
        return Tensor("no tensor", ())
    value = values[named["name"]]
    kind = _SCALAR_TYPES.get(value["dtype"], f"of PyTorch's type {value['dtype']}")
    return Tensor(kind, tuple(int(size.get("as_int", -1)) for size in value["sizes"]))


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Entries by their path below the archive's one root directory."""
    entries: dict[str, zipfile.ZipInfo] = {}
    folded: set[str] = set()
    for info in archive.infolist():
        _, _, name = info.filename.partition("/")
        if not _ENTRIES.fullmatch(name) or ".." in name:
            hint = "compiled code is not accepted" if "aotinductor" in name else "save it with torch.export.save"
            raise _refused(f"it has an entry {info.filename[:120]!r}; {hint}")
        # torch's reader looks names up without regard to case: two entries may be one to it.
        if info.filename.lower() in folded or info.compress_type != zipfile.ZIP_STORED:
            raise _refused(
                f"entry {info.filename[:120]!r} is there twice or compressed; torch.export.save does neither"
            )
        folded.add(info.filename.lower())
        entries[name] = info
    if len({info.filename.partition("/")[0] for info in entries.values()}) != 1:
        raise _refused("it has no single root directory; save it with torch.export.save")
    return entries


def _bytes(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], name: str) -> bytes:
    info = entries.get(name)
    if info is None:
        raise _refused(f"it has no {name}; save it with torch.export.save of this PyTorch generation (2.8 or later)")
    if info.file_size > _MAX_METADATA_BYTES:
        raise _refused(f"{name} has {info.file_size} bytes; that is too large for metadata")
    return archive.read(info)


def _json(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], name: str) -> Any:
    try:
        return parse_json(_bytes(archive, entries, name))
    except ValueError as error:
        raise _refused(f"{name} is not JSON") from error


def _check_payloads(name: str, config: Any) -> None:
    payloads = config.get("config") if isinstance(config, dict) else None
    if not isinstance(payloads, dict):
        raise _refused(f"{name} lists no payloads")
    for tensor, meta in payloads.items():
        if not isinstance(meta, dict) or meta.get("use_pickle") is not False:
            raise _refused(f"{tensor} is stored as a pickle; convert it to a plain tensor before the export")
        if not _PAYLOAD.fullmatch(str(meta.get("path_name"))):
            raise _refused(f"{tensor} is a custom object; only plain tensors are accepted")


def _check_program(program: Any) -> None:
    for key, value in _walk(program):
        if key in ("target", "as_operator") and not (isinstance(value, str) and _OPERATORS.fullmatch(value)):
            raise _refused(f"its graph uses {str(value)[:120]!r}, which is none of PyTorch's own operators")
        if key == "expr_str" or key == "guards_code":
            for text in value if isinstance(value, list) else [value]:
                _check_expression(str(text))
        if key in ("name", "parameter_name", "buffer_name", "fqn", "forward_arg_names"):
            for text in value if isinstance(value, list) else [value]:
                if text is not None and not _NAMES.fullmatch(str(text)):
                    raise _refused(f"its graph has a strange name {str(text)[:80]!r}")


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value below, without recursion: a deep file must not exhaust the stack."""
    todo = [value]
    while todo:
        current = todo.pop()
        if isinstance(current, dict):
            yield from current.items()
            todo.extend(current.values())
        elif isinstance(current, list):
            todo.extend(current)


def _check_expression(text: str) -> None:
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refused(f"a size expression is not one: {text[:120]!r}") from error
    for node in ast.walk(tree):
        if not (isinstance(node, _EXPRESSION_NODES) and _harmless(node)):
            raise _refused(f"a size expression does more than arithmetic: {text[:120]!r}")


def _harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return bool(_PLAIN_NAMES.fullmatch(node.id)) or bool(_FUNCTIONS.fullmatch(node.id))
    if isinstance(node, ast.Attribute):
        return node.attr in _SIZE_METHODS
    if isinstance(node, ast.Call):
        by_name = isinstance(node.func, ast.Name) and bool(_FUNCTIONS.fullmatch(node.func.id))
        return by_name or (isinstance(node.func, ast.Attribute) and not node.args and not node.keywords)
    if isinstance(node, ast.Constant):
        # sympy evaluates strings again.
        return not isinstance(node.value, str) or bool(re.fullmatch(r"[\w.+-]*", node.value))
    return True


def _check_sample_inputs(raw: bytes) -> None:
    if not raw:
        return
    with zipfile.ZipFile(BytesIO(raw)) as inner:
        pickles = [info for info in inner.infolist() if info.filename.lower().endswith(".pkl")]
        if len(pickles) != 1:
            raise _refused("its sample inputs are not one saved value")
        # Compressed, a few bytes could be gigabytes.
        if pickles[0].compress_type != zipfile.ZIP_STORED or pickles[0].file_size > len(raw):
            raise _refused("its sample inputs are compressed; torch.export.save does not do that")
        pickled = inner.read(pickles[0])
    try:
        operations = list(pickletools.genops(pickled))
    except (ValueError, IndexError, struct.error, OverflowError) as error:
        raise _refused("its sample inputs are damaged") from error
    for operation, argument, _ in operations:
        allowed = operation.name == "GLOBAL" and _PICKLED_GLOBALS.fullmatch(str(argument))
        if operation.name in _PICKLE_LOOKUPS and not allowed:
            raise _refused(
                f"its sample inputs would import {argument or 'something'}; export with plain tensors as inputs"
            )


def _refused(what: str) -> FactoryError:
    return FactoryError(Reason.INVALID_ARTIFACT, f"model.pt2 is refused: {what}")

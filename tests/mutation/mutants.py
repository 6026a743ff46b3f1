"""The changes: every way in which one place of a module is made wrong.

Each mutant replaces one node of the syntax tree and is told by what a reader sees: the function it is in and the
statement before and after. That is also its name in `accepted.toml`, so it survives edits elsewhere in the file.

Not changed, because no test of behaviour should notice: docstrings, annotations, decorators, options of classes;
logging, metrics and the words of exceptions; named numbers other than 0 and 1 (constants, defaults, fields): how long a
queue may get is a choice, and that its bound is kept shows where the bound is used.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final

QUIET: Final = re.compile(
    r"(logger|metrics)\."
    r"|self\._(\w*gauge|depth|adds|retries|waited|worked|objects|counters|errors|seconds|active|delayed)(\[.*\])?"
    r"\.(set|inc|dec|observe)\("
    r"|_(requests|seconds)\("
)
"""Statements that only tell people what happens."""

_OPERATORS: Final[dict[type[ast.AST], type[ast.AST]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_NEGATED: Final = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
"""Comparisons whose other form is their negation."""
_NAMES: Final = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "sorted": "list",
    "popleft": "pop",
    "partition": "rpartition",
    "rpartition": "partition",
    "startswith": "endswith",
    "lower": "upper",
    "upper": "lower",
    "deepcopy": "copy",
    "removeprefix": "removesuffix",
}
"""Functions and methods with a sibling that takes the same arguments."""
LONG, AROUND = 120, 40
"""A statement longer than this is shown by what differs and so many characters around it."""
_DECLARED: Final = ("annotation", "returns", "decorator_list", "type_comment")
_JUMPS: Final = (ast.Return, ast.Raise, ast.Break, ast.Continue)


@dataclass(frozen=True)
class Mutant:
    """One change to a module."""

    where: str
    """The function or class it is in, for example `WorkQueue.get`; empty at module level."""
    change: str
    """The statement before and after."""
    line: int
    lines: range
    """What a test must have run to be able to notice."""
    always: bool
    """It takes effect when the module is imported, so any test may notice."""
    scope: str
    """Stands for the code of the function it is in, or of the statement: another one makes another mutant."""
    number: int


@dataclass(frozen=True)
class _Edit:
    parent: ast.AST
    field: str
    index: int | None
    new: ast.AST
    statement: ast.stmt
    where: str
    always: bool
    scope: ast.AST
    """The function it is in, or the statement where there is none."""

    def make(self) -> Any:
        """Make the change; returns what was there."""
        return self.swap(ast.fix_missing_locations(self.new))

    def swap(self, node: ast.AST) -> Any:
        """Put a node in this place; returns the one that was there."""
        holder = getattr(self.parent, self.field)
        if self.index is None:
            setattr(self.parent, self.field, node)
            return holder
        old, holder[self.index] = holder[self.index], node
        return old


def mutants(source: str) -> list[Mutant]:
    """Every change to a module, in the order of its lines."""
    found: list[Mutant] = []
    seen: Counter[tuple[str, str]] = Counter()
    scopes: dict[ast.AST, str] = {}
    for number, edit in enumerate(Module(source).edits):
        if edit.scope not in scopes:
            scopes[edit.scope] = hashlib.sha256(ast.unparse(edit.scope).encode()).hexdigest()[:8]
        before = _header(edit.statement)
        old = edit.swap(edit.new)
        after = _header(edit.new if isinstance(edit.new, ast.stmt) else edit.statement)
        edit.swap(old)
        if isinstance(edit.statement, _JUMPS) and isinstance(edit.parent, (ast.If, ast.For, ast.While)):
            before = f"{_header(edit.parent)} {before}"  # `return` alone says nothing
        change = "  ->  ".join(_short(before, after))
        seen[edit.where, change] += 1
        if (count := seen[edit.where, change]) > 1:
            change += f"  ({count})"
        first = edit.statement.lineno
        last = _last_line(edit.statement)
        line = getattr(old, "lineno", first)
        found.append(Mutant(edit.where, change, line, range(first, last + 1), edit.always, scopes[edit.scope], number))
    return found


def mutated(source: str, mutant: Mutant) -> ast.Module:
    """The module with the change made."""
    module = Module(source)
    module.edits[mutant.number].make()
    return module.tree


class Module:
    """A module and every change to it."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        # Complete before the first is made: an edit must not change what is walked over.
        self.edits = list(_walk(self.tree, self.tree.body[0], "", True, None))

    def compiled(self, mutant: Mutant, path: str) -> CodeType:
        """The code with the change made, which is taken back."""
        edit = self.edits[mutant.number]
        old = edit.make()
        code = compile(self.tree, path, "exec", dont_inherit=True)
        edit.swap(old)
        return code


def _walk(parent: ast.AST, statement: ast.stmt, where: str, always: bool, function: ast.AST | None) -> Iterator[_Edit]:
    for field, value in ast.iter_fields(parent):
        if field in _DECLARED or (isinstance(parent, ast.ClassDef) and field == "keywords"):
            continue
        for index, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST):
                continue
            own = node if isinstance(node, ast.stmt) else statement
            if isinstance(node, ast.stmt) and _is_quiet(node):
                continue
            inside = isinstance(parent, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and field == "body"
            at_import = always and not inside
            for new in _replacements(parent, field, node, where, at_import):
                place = index if isinstance(value, list) else None
                yield _Edit(parent, field, place, new, own, where, at_import, function or own)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = f"{where}.{node.name}" if where else node.name
                inner = node if function is None and not isinstance(node, ast.ClassDef) else function
                yield from _walk(node, own, name, at_import, inner)
            elif not isinstance(node, ast.Raise):
                yield from _walk(node, own, where, at_import, function)


def _is_quiet(node: ast.stmt) -> bool:
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.Assert)):
        return True
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or QUIET.match(ast.unparse(node)) is not None
    return isinstance(node, ast.Assign) and bool(re.match(r"\w+ = (TypeVar|logging|Literal)\b", ast.unparse(node)))


def _replacements(parent: ast.AST, field: str, node: ast.AST, where: str, at_import: bool) -> Iterator[ast.AST]:
    """What a node becomes in each of its mutants."""
    if isinstance(node, ast.stmt):
        if _may_go(node, where):
            yield ast.copy_location(ast.Pass(), node)
        if isinstance(node, (ast.Break, ast.Continue)):
            yield ast.copy_location(ast.Continue() if isinstance(node, ast.Break) else ast.Break(), node)
        if isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
            yield ast.copy_location(ast.Return(ast.Constant(None)), node)
    elif isinstance(node, ast.Constant):
        yield from _constants(parent, field, node, at_import)
    elif isinstance(node, (ast.cmpop, ast.operator)):
        if type(node) in _OPERATORS and not _joins_text(parent):
            yield _OPERATORS[type(node)]()
    elif isinstance(node, ast.BoolOp):
        for index in range(len(node.values)):
            rest = node.values[:index] + node.values[index + 1 :]
            yield ast.copy_location(ast.BoolOp(node.op, rest) if len(rest) > 1 else rest[0], node)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Name) and node.id in _NAMES and isinstance(parent, ast.Call):
        yield ast.copy_location(ast.Name(_NAMES[node.id], ast.Load()), node)
    elif isinstance(node, ast.Attribute) and node.attr in _NAMES and isinstance(parent, ast.Call):
        yield ast.copy_location(ast.Attribute(node.value, _NAMES[node.attr], ast.Load()), node)
    elif isinstance(node, ast.ExceptHandler) and node.type is not None:
        yield from _handlers(node)
    elif isinstance(node, ast.Call):
        for index, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                rest_of = node.keywords[:index] + node.keywords[index + 1 :]
                yield ast.copy_location(ast.Call(node.func, node.args, rest_of), node)
    if isinstance(node, ast.expr) and _is_condition(parent, field) and not _is_negated_by_others(node):
        yield ast.copy_location(ast.UnaryOp(ast.Not(), node), node)


def _may_go(node: ast.stmt, where: str) -> bool:
    """Whether a module without this statement still means something."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, (ast.Call, ast.Await))
    if isinstance(node, (ast.Raise, ast.Delete)):
        return True
    if isinstance(node, ast.Return):
        return node.value is None
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    if isinstance(node, ast.Assign) and where.endswith("__init__"):
        return False  # an attribute that is missing is noticed by whatever runs at all
    return any(
        isinstance(target, (ast.Attribute, ast.Subscript)) or isinstance(node, ast.AugAssign) for target in targets
    )


def _constants(parent: ast.AST, field: str, node: ast.Constant, at_import: bool) -> Iterator[ast.AST]:
    value = node.value
    new: bool | int | float | str | bytes | None = None
    if isinstance(value, bool):
        new = not value
    elif isinstance(value, (int, float)):
        if value in (0, 1) or not (at_import or isinstance(parent, ast.arguments)):
            new = value + 1
    elif isinstance(value, str) and not isinstance(parent, ast.FormattedValue):
        is_type = isinstance(parent, ast.Call) and ast.unparse(parent.func) == "cast"
        new = f"{value}XX" if value.strip(" ,:;.") and not is_type else None
    elif isinstance(value, bytes):
        new = value + b"XX"
    if new is not None:
        yield ast.copy_location(ast.Constant(new), node)


def _handlers(node: ast.ExceptHandler) -> Iterator[ast.AST]:
    """A handler that misses an exception, or every one."""
    types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    for index in range(len(types)):
        rest = ast.Tuple([type_ for n, type_ in enumerate(types) if n != index and type_ is not None], ast.Load())
        yield ast.copy_location(ast.ExceptHandler(rest, node.name, node.body), node)


def _joins_text(parent: ast.AST) -> bool:
    """Text can be joined but not subtracted: such a mutant would only show that the line was run."""
    sides = (parent.left, parent.right) if isinstance(parent, ast.BinOp) else ()
    return any(
        isinstance(s, ast.JoinedStr) or (isinstance(s, ast.Constant) and isinstance(s.value, str)) for s in sides
    )


def _is_condition(parent: ast.AST, field: str) -> bool:
    return field == "test" or (field == "ifs" and isinstance(parent, ast.comprehension))


def _is_negated_by_others(node: ast.expr) -> bool:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return isinstance(node.ops[0], _NEGATED)
    return isinstance(node, ast.Constant) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))


def _last_line(node: ast.stmt) -> int:
    """Where a statement ends, or its first line before a block."""
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
        return max(node.lineno, body[0].lineno - 1)
    return node.end_lineno or node.lineno


def _header(node: ast.AST) -> str:
    """A statement in one line, without the block that belongs to it."""
    if isinstance(node, ast.Try):
        return "; ".join(f"except {ast.unparse(h.type) if h.type else ''}" for h in node.handlers)
    text = ast.unparse(node)
    if getattr(node, "body", None):
        lines = text.splitlines()
        text = next((line for line in lines if not line.startswith("@")), text)
    return re.sub(r"\s+", " ", text)


def _same(one: str, other: str) -> int:
    """How many characters are the same at the start."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _short(before: str, after: str) -> tuple[str, str]:
    """Of long statements only what differs and a little around it."""
    if len(before) <= LONG:
        return before, after
    start = _same(before, after)
    end = _same(before[start:][::-1], after[start:][::-1])
    first, last = max(0, start - AROUND), max(0, end - AROUND)
    return tuple(  # type: ignore[return-value]
        ("…" if first else "") + text[first : len(text) - last] + ("…" if last else "") for text in (before, after)
    )

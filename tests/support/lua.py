"""Lua as Argo CD runs it: version 5.1, with `base`, `table` and the clock, and without the other libraries."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from lupa import lua51

_CLOSED = """
getmetatable("").__index = nil
os = {time = os.time, date = os.date}
coroutine, debug, io, math, python, string = nil
"""


def run(script: Path, obj: Any) -> Any:
    """What a script returns for an object, as Python's dictionaries and lists; the object is left as it is."""
    lua = lua51.LuaRuntime(register_eval=False)
    lua.execute(_CLOSED)
    lua.globals().obj = lua.table_from(obj, recursive=True)
    return _plain(lua.execute(_text(script)))


@cache
def _text(script: Path) -> str:
    return script.read_text()


def _plain(value: Any) -> Any:
    """Lua does not tell an empty list from an empty map: both are the empty dictionary here."""
    if lua51.lua_type(value) != "table":
        return int(value) if isinstance(value, float) and value.is_integer() else value
    keys = list(value)
    if keys and keys == list(range(1, len(keys) + 1)):
        return [_plain(value[key]) for key in keys]
    return {key: _plain(value[key]) for key in keys}

"""What an answer is to keep to, in the form of vLLM's StructuredOutputsParams: a JSON schema, or, where the answer may
call tools, a structural tag. Calls are written as `toolcalls` reads them, and as the models were taught to write them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from aifactory_agent.openai.toolcalls import BEGIN, END

Structure = Mapping[str, Any]


def one_call(functions: Iterable[Mapping[str, Any]]) -> Structure:
    """A call of one of them, after the mark that begins it."""
    return _tagged({"type": "or", "elements": [{"type": "tag", **_call(one)} for one in functions]})


def answer_or_calls(answer: Structure, functions: Iterable[Mapping[str, Any]], several: bool) -> Structure:
    """Calls, or an answer that keeps to what an answer without tools would."""
    tags = [_call(one, f"{BEGIN}\n", f"\n{END}") for one in functions]
    calls: dict[str, Any] = {"type": "tags_with_separator", "tags": tags, "separator": "\n"}
    calls |= {"at_least_one": True, "stop_after_first": not several}
    return _tagged({"type": "or", "elements": [_schema(answer.get("json") or {"type": "object"}), calls]})


def _call(function: Mapping[str, Any], before: str = "", after: str = "") -> dict[str, Any]:
    name = json.dumps(function["name"], ensure_ascii=False)
    begin = f'{before}{{"name": {name}, "arguments": '
    return {"begin": begin, "content": _schema(function.get("parameters") or {"type": "object"}), "end": f"}}{after}"}


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": schema}


def _tagged(form: Mapping[str, Any]) -> Structure:
    # It is a string in StructuredOutputsParams.
    return {"structural_tag": json.dumps({"type": "structural_tag", "format": form})}

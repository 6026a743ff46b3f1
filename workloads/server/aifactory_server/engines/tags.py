"""Structural tags: answers of which parts keep to JSON schemas, between texts that are given. Of xgrammar's form, which
vLLM takes, this much, written as a grammar of llguidance:

    {"type": "structural_tag", "format": FORMAT}

    FORMAT  {"type": "json_schema", "json_schema": {...}}
            {"type": "tag", "begin": "<tool_call>", "content": FORMAT, "end": "</tool_call>"}
            {"type": "or", "elements": [FORMAT, ...]}
            {"type": "tags_with_separator", "tags": [tag, ...], "separator": "\\n", "at_least_one": true,
             "stop_after_first": false}

There is no repetition but of tags and nothing that may be empty: such a grammar is compiled in a time that grows with
its length only, whoever has written it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from aifactory_server.engines.request import BadRequest

MAX_LENGTH = 128 * 1024
"""Of a whole grammar."""
_MAX_DEPTH = 8
_MARK = re.compile(r"(<[^<>\s]+>)")


def is_tag(document: object) -> bool:
    """Whether it is a structural tag; no JSON schema has this type."""
    return isinstance(document, dict) and document.get("type") == "structural_tag"


def grammar(tag: Mapping[str, Any], schema: Mapping[str, Any], is_special: Callable[[str], bool]) -> str:
    """The grammar of a structural tag, as Lark. Raises BadRequest.

    Args:
        schema: what is added to each schema.
        is_special: whether a text is a token of its own that no text spells.
    """
    writer = _Writer(schema, is_special)
    start = writer.form(tag.get("format"), 0)
    text = "".join(f"{name}: {body}\n" for name, body in [("start", start), *writer.rules.items()])
    if len(text) > MAX_LENGTH:
        raise _wrong(f"becomes {len(text)} characters; {MAX_LENGTH} at most are read")
    return text


class _Writer:
    def __init__(self, schema: Mapping[str, Any], is_special: Callable[[str], bool]) -> None:
        self.rules: dict[str, str] = {}
        self._schema = schema
        self._is_special = is_special

    def form(self, given: Any, depth: int) -> str:
        kind = given.get("type") if isinstance(given, dict) else None
        if depth > _MAX_DEPTH:
            raise _wrong(f"is nested deeper than {_MAX_DEPTH}")
        match kind:
            case "json_schema":
                schema = given.get("json_schema")
                if not isinstance(schema, dict):
                    raise _wrong("has a json_schema that is no object")
                return f"%json {json.dumps({**schema, **self._schema})}"
            case "or":
                return self._one_of(_list(given, "elements"), depth)
            case "tag":
                return self._tag(given, depth)
            case "tags_with_separator":
                return self._tags(given, depth)
        raise _wrong(f"has a format of type {kind!r:.100}; json_schema, or, tag and tags_with_separator are known here")

    def _one_of(self, given: list[Any], depth: int) -> str:
        return f"({' | '.join(self.form(each, depth + 1) for each in given)})"

    def _tag(self, given: Mapping[str, Any], depth: int) -> str:
        begin, end = given.get("begin"), given.get("end")
        if not (isinstance(begin, str) and isinstance(end, str)) or not (begin and end):
            raise _wrong("has a tag without text in begin and end")
        return f"({self._text(begin)} {self.form(given.get('content'), depth + 1)} {self._text(end)})"

    def _tags(self, given: Mapping[str, Any], depth: int) -> str:
        tags = _list(given, "tags")
        if not all(isinstance(tag, dict) for tag in tags):
            raise _wrong("has tags that are no objects")
        if given.get("at_least_one") is not True:
            raise _wrong("must have at_least_one in tags_with_separator: an answer is not empty")
        body = self._one_of([{"type": "tag", **tag} for tag in tags], depth)
        each = f"tags_{len(self.rules)}"
        self.rules[each] = body
        if given.get("stop_after_first") is True:
            return each
        separator = given.get("separator")
        if not isinstance(separator, str) or not separator:
            raise _wrong("has tags_with_separator without text in separator")
        return f"({each} ({self._text(separator)} {each})*)"

    def _text(self, text: str) -> str:
        """As it is spelled; a mark that is a token of its own may be that token: it is what the model knows."""
        parts = [part for part in _MARK.split(text) if part]
        if not any(self._is_special(part) for part in parts):
            return _quoted(text)
        return " ".join(f"({_quoted(part)} | {part})" if self._is_special(part) else _quoted(part) for part in parts)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _list(given: Mapping[str, Any], name: str) -> list[Any]:
    found = given.get(name)
    if not isinstance(found, list) or not found:
        raise _wrong(f"has no list of {name}")
    return found


def _wrong(what: str) -> BadRequest:
    return BadRequest(f"structured_outputs has a structural tag that {what}")

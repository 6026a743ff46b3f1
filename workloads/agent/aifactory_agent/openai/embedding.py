"""Vectors of texts: what a client asks `/v1/embeddings` for, how the engine is asked for it, and how it is told.

The engine gets the texts of a request in parts, a few at a time: it puts together what waits, of several requests too,
and one with many texts keeps the others waiting no longer than it has to.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aifactory_agent.openai.catalog import Served
from aifactory_agent.openai.engine import Engine, Texts, Vectors
from aifactory_agent.openai.errors import ApiError, bad
from aifactory_agent.openai.fields import Fields

MAX_INPUTS = 2048
"""Of one request, as with OpenAI."""
_PART = 16
"""Texts that the engine is asked for at once; so many count as one sequence."""
_AT_ONCE = 4
_MAX_TOKEN = 2**31 - 1
_NAMED = re.compile(r"(?:text_input|input_ids)\[(\d+)\]")


@dataclass(frozen=True)
class EmbeddingWish:
    """Texts, each of which becomes a vector."""

    model: str
    texts: tuple[bytes, ...]
    tokens: tuple[tuple[int, ...], ...]
    """Texts as their tokens. One of the two is empty."""
    single: bool
    """Whether the client has written one text, not a list."""
    as_base64: bool

    @property
    def parts(self) -> list[Texts]:
        """What the engine is asked for, one after the other."""
        # Rows of a tensor are of one length, so each text that comes as tokens is a part of its own.
        if self.tokens:
            return [Texts((), row) for row in self.tokens]
        return [Texts(self.texts[start : start + _PART], ()) for start in range(0, len(self.texts), _PART)]

    @property
    def sequences(self) -> int:
        """What counts against the limit of the pod."""
        return -(-(len(self.texts) + len(self.tokens)) // _PART)


def read_embeddings(body: Mapping[str, Any]) -> EmbeddingWish:
    """Raises ApiError that names the field."""
    fields = Fields(body)
    model = fields.text("model")
    if not model:
        raise bad("model", "is missing: name one of those that /v1/models lists")
    given = fields.take("input")
    encoding = fields.take("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise bad("encoding_format", 'must be "float" or "base64"')
    if fields.take("dimensions") is not None:
        message = "is not supported: a model's vectors have the length that they have; leave it out"
        raise bad("dimensions", message, "unsupported_parameter")
    fields.ignore("user")
    fields.end()
    texts, tokens = _inputs(given)
    single = isinstance(given, str) or (bool(tokens) and isinstance(given[0], int))
    return EmbeddingWish(model, texts, tokens, single, encoding == "base64")


def _inputs(given: Any) -> tuple[tuple[bytes, ...], tuple[tuple[int, ...], ...]]:
    if isinstance(given, str):
        return (_encoded("input", given),), ()
    if not isinstance(given, list) or not given or (len(given) > MAX_INPUTS and not _is_token(given[0])):
        raise bad("input", f"must be a string, a list of up to {MAX_INPUTS} strings, or tokens, or lists of tokens")
    if isinstance(given[0], str):
        return tuple(_encoded(f"input[{place}]", text) for place, text in enumerate(given)), ()
    if isinstance(given[0], list):
        return (), tuple(_tokens(f"input[{place}]", row) for place, row in enumerate(given))
    return (), (_tokens("input", given),)


def _encoded(place: str, text: Any) -> bytes:
    if not isinstance(text, str):
        raise bad(place, "must be a string, as the first of the list is")
    if not text:
        raise bad(place, "is empty: there is nothing to make a vector of")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise bad(place, "has half of a surrogate pair, which is no text") from error


def _tokens(place: str, row: Any) -> tuple[int, ...]:
    if not isinstance(row, list) or not row or not all(map(_is_token, row)):
        raise bad(place, "must be text, or a list of tokens of the model, which are whole numbers from 0 on")
    return tuple(row)


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_TOKEN


async def embed(engine: Engine, served: Served, wish: EmbeddingWish, seconds: float) -> list[Vectors]:
    """The vectors of the texts, in order and in parts. Raises ApiError."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int, part: Texts) -> Vectors:
        async with turns:
            try:
                return await engine.vectors(served.name, served.version, part, seconds)
            except ApiError as error:
                raise _in_the_client_s_words(error, wish, number * (_PART if part.texts else 1)) from error

    loop = asyncio.get_running_loop()
    asked = [loop.create_task(one(number, part)) for number, part in enumerate(wish.parts)]
    try:
        async with asyncio.timeout(seconds):
            return list(await asyncio.gather(*asked))
    except TimeoutError:
        message = f"the vectors were not whole after {seconds:.0f} s; ask for fewer at once"
        raise ApiError(504, message, code="timeout") from None
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


def _in_the_client_s_words(error: ApiError, wish: EmbeddingWish, start: int) -> ApiError:
    """The engine names the text that it means by its place in the part that it got."""
    named = _NAMED.match(error.message)
    if named is None:
        return error
    return bad("input" if wish.single else f"input[{start + int(named[1])}]", error.message[named.end() :].strip())


def told(model: str, found: Sequence[Vectors], as_base64: bool) -> Iterator[bytes]:
    """The answer, a piece for each vector: all together may be many times what the engine has sent."""
    yield b'{"object": "list", "data": ['
    rows = [row for part in found for row in part.rows]
    numbers = ",".join(["%.9g"] * (len(rows[0]) // 4))  # as many digits as tell one float32 from the next
    for index, row in enumerate(rows):
        vector = json.dumps(base64.b64encode(row).decode()) if as_base64 else f"[{numbers % _floats(row)}]"
        comma = ", " if index else ""
        yield f'{comma}{{"object": "embedding", "index": {index}, "embedding": {vector}}}'.encode()
    count = sum(part.tokens for part in found)
    usage = {"prompt_tokens": count, "total_tokens": count}
    yield f'], "model": {json.dumps(model)}, "usage": {json.dumps(usage)}}}'.encode()


def _floats(row: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(row) // 4}f", row)

"""The HTTP side: routes, limits, request ids, and answers whole or in server-sent events.

A client that goes away cancels the handler of its request, and with it its sequences in the engine. The status of an
answer is known before its first byte: streams begin when the engine has given the first piece, so that a refusal is
an HTTP status, which clients understand and try again.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote

from aiohttp import web

from aifactory_agent.logs import fields
from aifactory_agent.openai.answers import DONE, Chunks, Head, Usage, error_chunk, whole
from aifactory_agent.openai.asking import Plan, plan_chat, plan_completion, together
from aifactory_agent.openai.catalog import Catalog, Served, model_of
from aifactory_agent.openai.embedding import EmbeddingWish, embed, read_embeddings, told
from aifactory_agent.openai.engine import Engine, Piece, Vectors
from aifactory_agent.openai.errors import ApiError, ModelGone, unavailable
from aifactory_agent.openai.limits import Limits
from aifactory_agent.openai.loading import Loading
from aifactory_agent.openai.wishes import read_chat, read_completion
from aifactory_contract.userjson import parse_json

_log = logging.getLogger(__name__)
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_INLINE = 16 * 1024
"""Bytes of a body whose prompt is made at once; a longer one is worked on in a thread, and stalls nobody."""
_EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_JSON = {"Content-Type": "application/json; charset=utf-8"}
_OK = {"status": "ok"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Asked:
    """A request under way."""

    http: web.BaseRequest
    id: str
    """What log lines and the client's error messages have in common."""


_Handler = Callable[[Asked], Awaitable[web.StreamResponse]]
_Placed = tuple[int, Piece]
_Pieces = AsyncIterator[_Placed]


class Door:
    """Answers requests.

    Args:
        catalog: the models there are.
        engine: what generates.
        limits: for all requests.
        age: seconds since a request's connection was made.
        loading: has a model loaded that is asked for.
    """

    def __init__(
        self, catalog: Catalog, engine: Engine, limits: Limits, age: Callable[[object], float], loading: Loading
    ) -> None:
        self._catalog = catalog
        self._loading = loading
        self._engine = engine
        self._limits = limits
        self._age = age
        self._sequences = 0
        self._routes: dict[tuple[str, str], _Handler] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completion,
            ("POST", "/v1/embeddings"): self._embeddings,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
            ("GET", "/healthz"): self._healthz,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        given = request.headers.get("X-Request-Id", "")
        asked = Asked(request, given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}")
        started = time.monotonic()
        try:
            return await self._route(request)(asked)
        except ApiError as error:
            failure = error
        except Exception:
            _log.exception("unexpected failure", extra=fields(requestId=asked.id, path=request.path))
            failure = ApiError(500, f"unexpected failure; the log of this pod has the whole story under {asked.id}")
        if failure.status >= 500:
            self._tell(asked, "not answered", failure, seconds=round(time.monotonic() - started, 3))
        return self._json(asked, failure.as_json(), failure)

    def _route(self, request: web.BaseRequest) -> _Handler:
        method, path = request.method, request.path
        if (route := self._routes.get((method, path))) is not None:
            return route
        if method == "GET" and path.startswith("/v1/models/"):
            return self._model
        if any(path == known for _, known in self._routes):
            raise ApiError(405, f"{path} does not take {method}", code="method_not_allowed")
        raise ApiError(404, f"Invalid URL ({method} {path[:200]})", code="unknown_url")

    async def _chat(self, asked: Asked) -> web.StreamResponse:
        body, size = await self._body(asked)
        chat = read_chat(body)
        make = partial(plan_chat, chat, max_answer=self._limits.answer_tokens)
        return await self._answer(asked, chat.wish.model, chat.wish.choices, make, size)

    async def _completion(self, asked: Asked) -> web.StreamResponse:
        body, size = await self._body(asked)
        completion = read_completion(body)
        make = partial(plan_completion, completion, max_answer=self._limits.answer_tokens)
        sequences = len(completion.prompts) * completion.wish.choices
        return await self._answer(asked, completion.wish.model, sequences, make, size)

    async def _embeddings(self, asked: Asked) -> web.StreamResponse:
        body, _ = await self._body(asked)
        wish = read_embeddings(body)
        with self._room(wish.sequences):
            served, found = await self._found(wish.model, partial(self._vectors, wish), embeds=True)
            return await self._tell_vectors(asked, told(served.id, found, wish.as_base64))

    async def _vectors(self, wish: EmbeddingWish, served: Served) -> tuple[Served, list[Vectors]]:
        return served, await embed(self._engine, served, wish, self._limits.seconds)

    async def _tell_vectors(self, asked: Asked, pieces: Iterator[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={**_JSON, "X-Request-Id": asked.id})
        self._let_go(asked, response)
        try:
            async with asyncio.timeout(self._limits.seconds):
                await response.prepare(asked.http)
                for piece in pieces:
                    await response.write(piece)
                    await asyncio.sleep(0)  # writing waits for nothing but a slow client, and others want their turn
        except TimeoutError:
            return self._cut(asked, response)
        await response.write_eof()
        return response

    async def _models(self, asked: Asked) -> web.StreamResponse:
        served = self._catalog.all()
        newest = {one.name: one.version for one in served}
        cards = [_card(one.short, one) for one in served if one.version == newest[one.name]]
        cards += [_card(one.id, one) for one in served]
        cards += [card for card in await self._at_rest() if card["id"] not in {each["id"] for each in cards}]
        return self._json(asked, {"object": "list", "data": cards})

    async def _model(self, asked: Asked) -> web.StreamResponse:
        name = unquote(asked.http.path.removeprefix("/v1/models/"))
        if resting := [card for card in await self._at_rest() if card["id"] == name]:
            return self._json(asked, resting[0])
        return self._json(asked, _card(name, await self._catalog.find(name)))

    async def _at_rest(self) -> list[dict[str, Any]]:
        """Cards of models that are served and not loaded now: what their files would tell is read when they are."""
        loaded = {one.name for one in self._catalog.all()}
        found = []
        for name, versions in sorted((await self._loading.models()).items()):
            for version in versions if name not in loaded else ():
                card = {"object": "model", "created": self._catalog.created(name, version), "owned_by": "aifactory"}
                found += [{"id": id_, **card, "root": f"{name}@{version}"} for id_ in (name, f"{name}@{version}")]
        return found

    async def _health(self, asked: Asked) -> web.StreamResponse:
        if not await self._engine.live():
            raise unavailable("Triton does not answer", "engine_restarting")
        return self._json(asked, _OK)

    async def _healthz(self, asked: Asked) -> web.StreamResponse:
        return self._json(asked, _OK)

    async def _answer(
        self, asked: Asked, model: str, sequences: int, make: Callable[[Served], Plan], size: int
    ) -> web.StreamResponse:
        with self._room(sequences):
            return await self._found(model, partial(self._try, asked, make, size), embeds=False)

    async def _found(self, model: str, ask: Callable[[Served], Awaitable[_T]], *, embeds: bool) -> _T:
        """Ask, and once more if the version has gone between looking and asking, as it may in a rollout."""
        async with self._loading.hold(model_of(model)):
            try:
                return await ask(await self._find(model, embeds))
            except ModelGone:
                await self._catalog.refresh()
                return await ask(await self._find(model, embeds))

    async def _find(self, model: str, embeds: bool) -> Served:
        served = await self._catalog.find(model)
        if served.embeds == embeds:
            return served
        message = f"model {served.id} generates text; it makes no embeddings"
        if served.embeds:
            message = f"model {served.id} makes embeddings and generates no text; ask it by /v1/embeddings"
        raise ApiError(400, message, param="model", code="model_not_supported")

    async def _try(self, asked: Asked, make: Callable[[Served], Plan], size: int, served: Served) -> web.StreamResponse:
        plan = make(served) if size <= _INLINE else await asyncio.to_thread(make, served)
        async with aclosing(together(self._engine, plan.sequences, self._limits.seconds)) as pieces:
            first = await anext(pieces)
            tell = self._stream if plan.wish.stream else self._whole
            return await tell(asked, plan, first, pieces)

    async def _whole(self, asked: Asked, plan: Plan, first: _Placed, pieces: _Pieces) -> web.StreamResponse:
        usage = Usage(plan.counted, plan.wish.choices)
        usage.add(*first)
        plan.choices[first[0]].add(first[1])
        async for place, piece in pieces:
            usage.add(place, piece)
            plan.choices[place].add(piece)
        return self._json(asked, whole(_head(plan), (choice.as_json() for choice in plan.choices), usage))

    async def _stream(self, asked: Asked, plan: Plan, first: _Placed, pieces: _Pieces) -> web.StreamResponse:
        response = web.StreamResponse(headers={**_EVENTS, "X-Request-Id": asked.id})
        self._let_go(asked, response)
        usage, choices = Usage(plan.counted, plan.wish.choices), plan.choices
        chunks = Chunks(_head(plan), plan.wish.include_usage)
        try:
            # The engine has a time of its own; this one is for clients that read slowly.
            async with asyncio.timeout(self._limits.seconds):
                await response.prepare(asked.http)
                usage.add(*first)
                begin = b"".join(choice.begin(chunks) for choice in choices)
                await response.write(begin + choices[first[0]].told(first[1], chunks))
                async for place, piece in pieces:
                    usage.add(place, piece)
                    if told := choices[place].told(piece, chunks):
                        await response.write(told)
                await response.write((chunks.usage(usage) if plan.wish.include_usage else b"") + DONE)
        except ApiError as error:
            self._tell(asked, "ended early", error)
            await response.write(error_chunk(error.as_json()))
        except TimeoutError:
            return self._cut(asked, response)
        await response.write_eof()
        return response

    def _cut(self, asked: Asked, response: web.StreamResponse) -> web.StreamResponse:
        """Half an answer must not look whole: the connection ends without its last chunk."""
        self._tell(asked, "ended early", ApiError(504, "the client has read too slowly"))
        if asked.http.transport is not None:
            asked.http.transport.abort()
        return response

    async def _body(self, asked: Asked) -> tuple[dict[str, Any], int]:
        """The JSON object, and how many bytes it had."""
        limit, seconds = self._limits.body_bytes, self._limits.body_seconds
        data = bytearray()
        try:
            async with asyncio.timeout(seconds):
                async for chunk in asked.http.content.iter_any():
                    data += chunk
                    if len(data) > limit:
                        raise ApiError(413, f"the body has more than {limit} bytes; shorten it", code="body_too_large")
        except TimeoutError:
            raise ApiError(408, f"the body was not whole after {seconds:.0f} s", code="timeout") from None
        except web.RequestPayloadError as error:
            raise ApiError(400, f"the body can not be read: {error}") from error
        try:
            body = parse_json(bytes(data))
        except ValueError as error:
            raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error
        if not isinstance(body, dict):
            raise ApiError(400, "the body must be a JSON object", code="invalid_json")
        return body, len(data)

    @contextmanager
    def _room(self, sequences: int) -> Iterator[None]:
        if self._sequences + sequences > self._limits.sequences:
            message = f"this pod is at work on {self._sequences} sequences already; ask again in a moment"
            raise unavailable(message, "overloaded")
        self._sequences += sequences
        try:
            yield
        finally:
            self._sequences -= sequences

    def _json(self, asked: Asked, body: dict[str, Any], failure: ApiError | None = None) -> web.Response:
        headers, status = {"X-Request-Id": asked.id}, 200
        if failure is not None:
            status = failure.status
            if failure.retry_after is not None:
                headers["Retry-After"] = str(failure.retry_after)
        response = web.json_response(body, status=status, headers=headers)
        self._let_go(asked, response)
        if status in (408, 413, 503):
            # The rest of the body is not read, or a new connection may find a pod that answers.
            response.force_close()
        return response

    def _let_go(self, asked: Asked, response: web.StreamResponse) -> None:
        if self._age(asked.http.protocol) > self._limits.connection_seconds:
            response.force_close()

    def _tell(self, asked: Asked, what: str, failure: ApiError, **more: object) -> None:
        words = fields(requestId=asked.id, path=asked.http.path, status=failure.status, **more)
        _log.warning("%s: %s", what, failure.message, extra=words)


def _head(plan: Plan) -> Head:
    return Head(plan.kind, f"{plan.kind.prefix}-{uuid.uuid4().hex}", int(time.time()), plan.served.id)


def _card(name: str, served: Served) -> dict[str, Any]:
    card = {"id": name, "object": "model", "created": served.created, "owned_by": "aifactory"}
    parent = {"parent": replace(served, adapter="").id} if served.adapter else {}
    return {**card, "root": served.id, **parent, "max_model_len": served.text.context}

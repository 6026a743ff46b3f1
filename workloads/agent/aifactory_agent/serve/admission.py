"""Requests of the OpenAI port, where models are loaded on demand: each asks here first, over a socket on the volume
that both share, waits until its model is loaded, and holds the connection while it is under way.

    {"model": "gpt"}            what is asked: one line
    {"state": "Admitted"}       the answer: one line; the connection's end ends the request
    {"state": "Unknown"}        no such model is wished for here: whoever asks finds out himself
    {"state": "Refused", "message": "..."}
    {}                          what else is asked: which versions are served, loaded or not
    {"models": {"gpt": [3]}}

A process that ends, this or the other, ends its connections: nothing is kept that could be wrong. A model is admitted
to only when it answers and is not to go, and what is decided about that is decided and told here in one go (`settle`),
before anything is unloaded.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aifactory_contract.desired import OnDemand
from aifactory_contract.names import ADMITTED, REFUSED, UNKNOWN

_log = logging.getLogger(__name__)
_QUESTION_BYTES = 4096
_QUESTION_SECONDS = 10.0


@dataclass(eq=False)
class _Waiting:
    """A request that waits for its model."""

    model: str
    answer: asyncio.Future[dict[str, str]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Admission:
    """Who waits for a model, and who asks one.

    Args:
        wake: called when a model is wished for that is not there, and when one is no longer in use.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._given: OnDemand | None = None
        self._known: Mapping[str, list[int]] = {}
        self._open: frozenset[str] = frozenset()
        self._failures: Mapping[str, str] = {}
        self._waiting: dict[_Waiting, None] = {}
        self._in_use: Counter[str] = Counter()
        self._used: dict[str, float] = {}

    @property
    def waiting(self) -> frozenset[str]:
        """Models for which requests wait."""
        return frozenset(each.model for each in self._waiting)

    @property
    def held(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def admitted(self) -> int:
        """Requests under way."""
        return self._in_use.total()

    @property
    def in_use(self) -> frozenset[str]:
        """Models with requests under way."""
        return frozenset(self._in_use)

    @property
    def used(self) -> Mapping[str, float]:
        """When each model was last asked, or first answered, in monotonic seconds."""
        return self._used

    def touch(self, model: str) -> None:
        """A model has been loaded and has answered."""
        self._used[model] = time.monotonic()

    def settle(
        self,
        given: OnDemand | None,
        known: Mapping[str, list[int]],
        answering: frozenset[str],
        failures: Mapping[str, str],
    ) -> None:
        """What holds from now on.

        Args:
            given: how long is waited, and by how many; None where all models are loaded all the time.
            known: the models that are wished for, and which versions of them are served, loaded or not.
            answering: those that answer, and are not to go.
            failures: why others can not be loaded, which will not be better in a moment.
        """
        self._given, self._known, self._open, self._failures = given, known, answering, failures
        for each in list(self._waiting):
            if (answer := self._answer(each.model)) is not None:
                del self._waiting[each]
                each.answer.set_result(answer)

    async def serve(self, path: Path) -> asyncio.AbstractServer:
        """Listen at a socket; one that an earlier agent has left is replaced."""
        path.unlink(missing_ok=True)
        return await asyncio.start_unix_server(self._serve, path, limit=_QUESTION_BYTES)

    def _answer(self, model: str) -> dict[str, str] | None:
        """What a request is told at once; None: it waits. One that is admitted counts as under way."""
        if self._given is None or model not in self._known:
            return {"state": UNKNOWN}
        if model in self._open:
            self._in_use[model] += 1
            self._used[model] = time.monotonic()
            return {"state": ADMITTED}
        if words := self._failures.get(model):
            return {"state": REFUSED, "message": f"model {model} can not be loaded: {words}"}
        return None

    def _leave(self, model: str) -> None:
        self._used[model] = time.monotonic()
        self._in_use[model] -= 1
        if not self._in_use[model]:
            del self._in_use[model]
            self._wake()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        admitted = ""
        try:
            async with asyncio.timeout(_QUESTION_SECONDS):
                question = json.loads(await reader.readline())
            if model := str(question.get("model", "")):
                answer: Mapping[str, Any] = self._answer(model) or await self._wait(model, reader)
                admitted = model if answer["state"] == ADMITTED else ""
            else:
                answer = {"models": {name: versions for name, versions in self._known.items() if versions}}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
            await reader.read()
        except (OSError, ValueError, AttributeError) as error:
            _log.debug("a request has gone: %r", error)
        finally:
            if admitted:
                self._leave(admitted)
            writer.close()

    async def _wait(self, model: str, reader: asyncio.StreamReader) -> dict[str, str]:
        """Until the model answers, can not, or it has taken too long. Raises OSError: whoever asked has gone."""
        given = self._given
        assert given is not None
        if len(self._waiting) >= given.max_held_requests:
            message = (
                f"as many requests wait for their models as loading.maxHeldRequests allows; ask again, {model} too"
            )
            return {"state": REFUSED, "message": message}
        mine = _Waiting(model)
        self._waiting[mine] = None
        self._wake()
        gone = asyncio.ensure_future(reader.read())
        try:
            both: set[asyncio.Future[Any]] = {mine.answer, gone}
            await asyncio.wait(both, timeout=given.hold_seconds, return_when=asyncio.FIRST_COMPLETED)
            if mine.answer.done():
                answer = mine.answer.result()
                if gone.done() and answer["state"] == ADMITTED:
                    self._leave(model)
                    raise ConnectionResetError
                return answer
            if gone.done():
                raise ConnectionResetError
            message = (
                f"model {model} was not loaded within the {given.hold_seconds:.0f} s of loading.holdSeconds; "
                "ask again a bit later"
            )
            return {"state": REFUSED, "message": message}
        finally:
            self._waiting.pop(mine, None)
            gone.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await gone

"""Where models are loaded on demand: a request asks the agent for its model before it looks for it, and the agent
leaves the model alone for as long as the connection is held (`aifactory_agent.serve.admission`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aifactory_agent.openai.errors import unavailable
from aifactory_contract.names import REFUSED

_ANSWER_BYTES = 64 * 1024
_CONNECT_SECONDS = 5.0


class Loading:
    """The agent's socket.

    Args:
        socket: its path; None where all models are loaded all the time.
    """

    def __init__(self, socket: Path | None) -> None:
        self._socket = socket

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """A model stays loaded meanwhile. Raises ApiError: it is not, and the agent says why.

        An agent that is away loads nothing, and takes nothing away either.
        """
        connection = await self._connect()
        if connection is None:
            yield
            return
        reader, writer = connection
        try:
            answer = await _ask(reader, writer, {"model": name})
            if answer.get("state") == REFUSED:
                raise unavailable(str(answer.get("message")), "model_not_loaded")
            yield
        finally:
            writer.close()

    async def models(self) -> dict[str, list[int]]:
        """The versions that are served, loaded or not, by the names of their models; none where it is not on demand."""
        connection = await self._connect()
        if connection is None:
            return {}
        reader, writer = connection
        try:
            found = (await _ask(reader, writer, {})).get("models")
            return {str(name): [int(one) for one in versions] for name, versions in dict(found or {}).items()}
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        if self._socket is None:
            return None
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await asyncio.open_unix_connection(self._socket, limit=_ANSWER_BYTES)
        except (OSError, TimeoutError):
            return None


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, question: dict[str, str]) -> dict[str, Any]:
    try:
        writer.write(json.dumps(question).encode() + b"\n")
        await writer.drain()
        answer = json.loads(await reader.readline())
    except (OSError, ValueError) as error:
        raise unavailable("the agent that loads models was restarted; ask again", "model_not_loaded") from error
    return dict(answer)

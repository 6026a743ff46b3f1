"""Which models answer in this pod's Triton, by the names clients call them: `model`, or `model@version`, with a LoRA
adapter of it `model:adapter` or `model@version:adapter`.

The names come from the volume that agent and Triton share, what is loaded from Triton itself, once a second, and before
the next request when the agent has noted on the volume that other versions run; one that has gone meanwhile is noticed
by the request that meets it. A name without a version means the highest loaded one, as Triton has it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from aifactory_agent.logs import fields
from aifactory_agent.openai.engine import EMBEDDING, LOGPROBS, SAMPLING, TEXT_INPUT, Engine, Interface
from aifactory_agent.openai.errors import ApiError, unavailable
from aifactory_agent.openai.text import BrokenModel, ModelText, read_encoder_text, read_model_text
from aifactory_contract.names import SERVING

_log = logging.getLogger(__name__)
EVERY_SECONDS = 1.0
_SEPARATOR, _ADAPTER = "@", ":"


def model_of(wanted: str) -> str:
    """The name of the model that a client means.

    >>> model_of("gpt@3:lawyer")
    'gpt'
    """
    return wanted.partition(_ADAPTER)[0].partition(_SEPARATOR)[0]


@dataclass(frozen=True)
class Served:
    """A loaded version that takes text."""

    name: str
    version: int
    created: int
    """When its files were written, in seconds since 1970."""
    text: ModelText
    logprobs: bool
    """Whether the engine can tell log probabilities."""
    embeds: bool = False
    """Whether it makes vectors of texts; else it generates text."""
    adapter: str = ""
    """The one that is called, if one is."""

    @property
    def id(self) -> str:
        """The name by which this version and no other is called."""
        return f"{self.name}{_SEPARATOR}{self.version}{self._tail}"

    @property
    def short(self) -> str:
        """The name by which the newest version is called."""
        return self.name + self._tail

    @property
    def _tail(self) -> str:
        return f"{_ADAPTER}{self.adapter}" if self.adapter else ""


class Catalog:
    """The models of one pod.

    Args:
        models: the directory of Triton's models, <name>/<version>/<files>.
        engine: the pod's Triton.
    """

    def __init__(self, models: Path, engine: Engine) -> None:
        self._models = models
        self._noted = str(models.parent / SERVING)
        self._engine = engine
        self._served: dict[str, dict[int, Served]] = {}
        self._others: set[str] = set()
        self._texts: dict[tuple[str, int, int], ModelText | BrokenModel] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._seen: tuple[int, int] | None = None
        """The agent's note as it was when Triton was last looked at."""

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await self.refresh()
            await asyncio.sleep(EVERY_SECONDS)

    def all(self) -> list[Served]:
        """Every version that answers, in order, each with its adapters after it."""
        found = [versions[version] for _, versions in sorted(self._served.items()) for version in sorted(versions)]
        return [one for plain in found for one in (plain, *(replace(plain, adapter=a) for a in plain.text.adapters))]

    def created(self, name: str, version: int) -> int:
        """When the files of a version were written, in seconds since 1970; 0 if they are not there."""
        with suppress(OSError):
            return (self._models / name / str(version)).stat().st_mtime_ns // 10**9
        return 0

    async def find(self, wanted: str) -> Served:
        """The version a client means. Raises ApiError."""
        for _ in range(2):  # a look that is under way may have begun before the note was written
            if self._note() == self._seen:
                break
            await self.refresh()
        if (found := self._lookup(wanted)) is None:
            await self.refresh()
            if (found := self._lookup(wanted)) is None:
                raise self._missing(wanted)
        return found

    async def refresh(self) -> None:
        """Look now. Whoever asks while somebody looks already waits for that."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._look())
        await asyncio.shield(self._refreshing)

    def _lookup(self, wanted: str) -> Served | None:
        called, colon, adapter = wanted.partition(_ADAPTER)
        name, separator, version = called.partition(_SEPARATOR)
        versions = self._served.get(name)
        if not versions:
            return None
        number = version if separator else str(max(versions))
        found = next((one for other, one in versions.items() if str(other) == number), None)
        if found is None or not colon:
            return found
        return replace(found, adapter=adapter) if adapter in found.text.adapters else None

    def _missing(self, wanted: str) -> ApiError:
        """Why there is no such version."""
        called, colon, _ = wanted.partition(_ADAPTER)
        name, _, version = called.partition(_SEPARATOR)
        if name in self._others:
            message = f"model {name} takes tensors, not text; ask Triton's own ports for it, 8000 (HTTP) or 8001 (gRPC)"
            return ApiError(400, message, param="model", code="model_not_supported")
        for (broken, number, _), text in self._texts.items():
            if isinstance(text, BrokenModel) and broken == name and version in ("", str(number)):
                return ApiError(500, f"model {wanted} can not be used: {text}", param="model", code="model_broken")
        on_volume = self._on_volume().get(name)
        loaded = colon and self._lookup(called) is not None  # and has no such adapter
        if on_volume is not None and version in ("", *on_volume) and not loaded:
            return unavailable(f"model {wanted} is being loaded; ask again in a moment", "model_not_loaded")
        listed = ", ".join(served.id for served in self.all())
        there = f"this pod serves {listed}" if listed else "this pod serves none yet"
        return ApiError(
            404, f"The model {wanted[:100]!r} does not exist; {there}", param="model", code="model_not_found"
        )

    async def _look(self) -> None:
        note = self._note()
        with suppress(ApiError):  # Triton is away: what it served is what it will serve, and requests say so
            served: dict[str, dict[int, Served]] = {}
            others = set()
            texts: dict[tuple[str, int, int], ModelText | BrokenModel] = {}
            for name in self._on_volume():
                interface = await self._engine.interface(name)
                if interface is None:
                    continue
                embeds = _embeds(interface)
                if not embeds and not {TEXT_INPUT, SAMPLING} <= interface.inputs:
                    others.add(name)
                    continue
                for version in interface.versions:
                    with suppress(OSError):  # it has gone since Triton was asked
                        changed = (self._models / name / str(version)).stat().st_mtime_ns
                        key = (name, version, changed)
                        text = texts[key] = self._texts.get(key) or await self._read(name, version, embeds)
                        if isinstance(text, ModelText):
                            logprobs = LOGPROBS in interface.outputs
                            one = Served(name, version, changed // 10**9, text, logprobs, embeds)
                            served.setdefault(name, {})[version] = one
            self._served, self._others, self._texts, self._seen = served, others, texts, note

    def _note(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._noted)  # by its text: for each request it is looked at
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _on_volume(self) -> dict[str, list[str]]:
        """The models whose files are there, loaded or not, and the names of their versions."""
        with suppress(OSError):
            found = [path.parent for path in self._models.glob("*/config.pbtxt")]
            return {folder.name: [path.name for path in folder.iterdir()] for folder in sorted(found)}
        return {}

    async def _read(self, name: str, version: int, embeds: bool) -> ModelText | BrokenModel:
        started = time.monotonic()
        read = read_encoder_text if embeds else read_model_text
        try:
            text = await asyncio.to_thread(read, self._models / name / str(version))
        except BrokenModel as error:
            _log.error("model can not be offered: %s", error, extra=fields(model=name, version=version))
            return error
        seconds = round(time.monotonic() - started, 3)
        _log.info("model is offered", extra=fields(model=name, version=version, seconds=seconds))
        return text


def _embeds(interface: Interface) -> bool:
    return TEXT_INPUT in interface.inputs and EMBEDDING in interface.outputs

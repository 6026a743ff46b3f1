"""Loads a version into the Triton beside this process, asks it, and measures what that takes.

The artifact is fetched once: it is checked (`artifacts.transfer.verify`) while it is copied to the volume that Triton
reads. What can not be tried here (too large for the pod, or an engine that it lacks) says nothing about the version: it
is skipped, with the reason. What ends Triton, does not load or answers wrongly has failed. A load or an answer that
fails in any other way than by being wrong may be an accident, and is tried once more.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aifactory_agent.artifacts.store import Source
from aifactory_agent.artifacts.transfer import verify
from aifactory_agent.logs import fields
from aifactory_agent.openai.errors import ApiError
from aifactory_agent.openai.text import BrokenModel, read_model_text
from aifactory_agent.serve.repository import Repository
from aifactory_agent.serve.triton import Triton
from aifactory_agent.validate.requests import WrongAnswer, requests_of
from aifactory_contract.control import HEADER, control_key, probe_sign
from aifactory_contract.desired import ModelKey, ModelSpec
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats.rules import Serving
from aifactory_contract.memory import PERIOD_SECONDS, read_memory
from aifactory_contract.server import read_server

_log = logging.getLogger(__name__)
START_SECONDS = 120.0
"""For Triton to start, or to be started again."""
_LOOK_SECONDS = 0.1
SERVER_BYTES = 512 * 1024 * 1024
"""Triton and a worker with PyTorch, before a model is loaded: 320 MiB, and some room."""
_NEARLY = 0.8
"""Part of the memory from which it is told that it was nearly used up when a load failed."""
_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Trial:
    """What is to be tried, and where."""

    key: ModelKey
    triton: str
    """Its gRPC address, in this pod."""
    repository: Path
    """The volume shared with Triton."""
    timeout_seconds: float
    """For loads and answers together."""
    memory: int | None = None
    """Bytes that Triton's container may take; None if nobody has said."""
    requests: Sequence[Mapping[str, Any]] = ()

    def too_large(self, size: int) -> str:
        """Why an artifact of a size can not be tried here; "" if it can."""
        if self.memory is not None and 2 * size + SERVER_BYTES > self.memory:
            return (
                f"it has {_mebibytes(size)} MiB, of which a CPU may need twice as much and Triton "
                f"{_mebibytes(SERVER_BYTES)} MiB beside them, and the pod that tries it may use "
                f"{_mebibytes(self.memory)} MiB: write more into spec.validation.resources"
            )
        free = shutil.disk_usage(self.repository).free
        if size > free:
            return f"it has {_mebibytes(size)} MiB, and the node's disk has {_mebibytes(free)} MiB free"
        return ""


class Skipped(Exception):
    """It can not be tried here; the message says why."""


class _Failed(Exception):
    """It was tried, and is not good; the message says why."""


def verify_and_try(source: Source, digest: str | None, form: str, trial: Trial) -> dict[str, Any]:
    """What is found of an artifact, and what became of trying it; with `reason` and `message` if that failed.

    Raises FactoryError: as `transfer.verify`, or TritonUnavailable if Triton does not start.
    """
    repository = Repository(trial.repository)
    repository.prepare()
    skipped = ""
    with repository.incoming() as incoming:

        def keep(size: int) -> Path | None:
            nonlocal skipped
            skipped = trial.too_large(size)
            return None if skipped else incoming

        artifact = verify(source, digest, form, keep)
        spec = ModelSpec(trial.key, source.uri, artifact.digest, form)
        if not skipped:
            repository.put(spec, incoming)
    found = artifact.as_result()
    if skipped:
        return {**found, "validation": {"skipped": skipped}}
    try:
        return {**found, "validation": asyncio.run(_measured(trial, repository, spec))}
    except Skipped as error:
        return {**found, "validation": {"skipped": str(error)}}
    except _Failed as error:
        return {**found, "reason": str(Reason.VALIDATION_FAILED), "message": str(error)}


async def _measured(trial: Trial, repository: Repository, spec: ModelSpec) -> dict[str, Any]:
    """Raises Skipped, _Failed, or FactoryError if Triton does not start."""
    return await _Tried(trial, repository, spec).result()


class _Tried:
    """One version in one Triton."""

    def __init__(self, trial: Trial, repository: Repository, spec: ModelSpec) -> None:
        self._trial, self._repository, self._spec = trial, repository, spec
        root = trial.repository
        self._triton = Triton(trial.triton, {HEADER: control_key(root)}, probe_sign(root))
        self._most = 0
        """Bytes of memory that Triton's container has taken, as far as it was seen."""
        self._doing = "starting Triton"

    async def result(self) -> dict[str, Any]:
        """What was measured. Raises Skipped, _Failed, or FactoryError if Triton does not start."""
        try:
            async with self._watching():
                await self._up()
                try:
                    async with asyncio.timeout(self._trial.timeout_seconds):
                        return await self._twice()
                except TimeoutError as error:
                    limit = f"{self._trial.timeout_seconds:.0f} s"
                    message = f"{self._doing} has taken longer than the {limit} of spec.validation.timeoutSeconds"
                    raise _Failed(message) from error
        finally:
            await self._triton.close()

    async def _twice(self) -> dict[str, Any]:
        serving = self._serving()
        try:
            try:
                return await self._once(serving)
            except FactoryError as error:
                _log.warning("tried again", extra=fields(reason=str(error.reason), detail=error.message))
                words, took = error.message, self._nearly_full()
            try:
                await self._up()
            except FactoryError as error:
                raise _Failed(f"{words}, and has not come back{took}") from error
            with suppress(FactoryError):  # a model whose process has died is loaded anew only so
                await self._triton.unload(self._spec.key.name)
            return await self._once(serving)
        except FactoryError as error:
            raise _Failed(f"{error.message}{self._nearly_full() or took}") from error
        except WrongAnswer as error:
            raise _Failed(str(error)) from error

    def _serving(self) -> Serving:
        key = self._spec.key
        try:
            serving = self._repository.how_served(key)
            self._repository.configure(key.name, [key.version], self._spec)
        except FactoryError as error:
            if error.reason is Reason.UNSERVABLE:  # by this server; none at all was found out before
                raise Skipped(error.message) from error
            raise
        return serving

    async def _once(self, serving: Serving) -> dict[str, Any]:
        key, root = self._spec.key, self._trial.repository
        before = read_memory(root)
        self._most = before.now if before is not None else 0
        self._doing = "loading it"
        started = time.monotonic()
        await self._load()
        load_seconds = time.monotonic() - started
        self._doing = "its first answer"
        await self._triton.confirm(key, serving)  # whatever is made for the first request is there now
        first: float | None = None
        requests = requests_of(self._trial.requests, serving, self._render)
        for request in requests:
            self._doing = f"the answer to {request.name}"
            answers = await self._triton.ask(key, serving, request.values, self._trial.timeout_seconds)
            request.check(serving, answers)
            first = answers[0].seconds if first is None else first
        measured: dict[str, Any] = {"loadSeconds": round(load_seconds, 3), "requests": len(requests)}
        if serving.decoupled and first is not None:
            measured["firstTokenSeconds"] = round(first, 4)
        if before is not None and not read_server(root).gpus:
            await asyncio.sleep(2 * PERIOD_SECONDS)  # so that what was taken last is told
            measured["memoryBytes"] = max(0, self._most - before.now)
        return measured

    async def _load(self) -> None:
        key = self._spec.key
        try:
            await self._triton.load(key.name, self._trial.timeout_seconds)
        except FactoryError as error:
            if error.reason is Reason.NO_ROOM:
                raise Skipped(f"the pod that tries it has too little memory: {error.message}") from error
            raise
        if key.version not in (await self._triton.serving()).get(key.name, frozenset()):
            raise FactoryError(Reason.LOAD_FAILED, "Triton said it was loaded but its index does not list it as READY")

    async def _up(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                await self._triton.serving()
                return
            except FactoryError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_LOOK_SECONDS)

    def _render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        try:
            return read_model_text(self._repository.folder(self._spec.key)).render(messages, {})
        except (ApiError, BrokenModel) as error:
            raise WrongAnswer(str(error)) from error

    def _nearly_full(self) -> str:
        """What to say of memory after Triton has failed."""
        limit = self._trial.memory
        if limit is None or self._most < _NEARLY * limit:
            return ""
        return (
            f"; it had taken {_mebibytes(self._most)} of the {_mebibytes(limit)} MiB that the pod which tries it may "
            "use: where pools have more, write it into spec.validation.resources of the next version"
        )

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        """Keep the most memory that was told."""

        async def look() -> None:
            while True:
                if (told := read_memory(self._trial.repository)) is not None:
                    self._most = max(self._most, told.now)
                await asyncio.sleep(PERIOD_SECONDS / 2)

        task = asyncio.create_task(look())
        try:
            yield
        finally:
            task.cancel()


def _mebibytes(size: int) -> str:
    return f"{-(-size // _MEBIBYTE):,}"

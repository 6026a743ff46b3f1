"""Wiring of `aifactory-agent openai`, and its end on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from aifactory_agent import __version__
from aifactory_agent.logs import fields
from aifactory_agent.openai.catalog import Catalog
from aifactory_agent.openai.door import Door
from aifactory_agent.openai.engine import Engine
from aifactory_agent.openai.limits import Limits
from aifactory_agent.openai.listener import Listener
from aifactory_agent.openai.loading import Loading
from aifactory_contract.names import ADMISSION

_log = logging.getLogger(__name__)
_END_SECONDS = 5.0
"""For answers under way at SIGTERM. In a pod Triton has ended before, and they with it."""


@dataclass(frozen=True)
class Options:
    """What `openai` is given on the command line."""

    repository: Path
    triton: str
    port: int
    limits: Limits = field(default_factory=Limits)
    on_demand: bool = False
    """The agent loads models when they are asked for."""


async def serve(options: Options) -> None:
    """Run until SIGTERM or SIGINT."""
    engine = Engine(options.triton)
    catalog = Catalog(options.repository / "models", engine)
    listener: Listener
    loading = Loading(options.repository / ADMISSION if options.on_demand else None)
    door = Door(catalog, engine, options.limits, lambda connection: listener.age(connection), loading)
    listener = Listener(door.handle, options.limits)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.ServerRunner(listener, shutdown_timeout=_END_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, port=options.port).start()
    _log.info("OpenAI door open", extra=fields(release=__version__, port=options.port, triton=options.triton))
    watch, waiter = loop.create_task(catalog.watch()), loop.create_task(stop.wait())
    # The watch ends by itself only with a failure: then the container must end too, and be started again.
    await asyncio.wait({watch, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    await runner.cleanup()
    await engine.close()
    if watch.done():
        watch.result()
    watch.cancel()
    _log.info("OpenAI door closed")

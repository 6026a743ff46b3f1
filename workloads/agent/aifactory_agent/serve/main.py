"""Wiring of `aifactory-agent serve`, and its end on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from aifactory_agent import __version__
from aifactory_agent.artifacts.stores import Mounts
from aifactory_agent.logs import fields
from aifactory_agent.serve.metrics import Metrics
from aifactory_agent.serve.reconciler import Reconciler
from aifactory_agent.serve.repository import Repository
from aifactory_agent.serve.triton import Triton
from aifactory_agent.serve.web import application
from aifactory_contract.control import HEADER, control_key, probe_sign
from aifactory_contract.names import ADMISSION

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What `serve` is given on the command line."""

    desired: Path
    repository: Path
    triton: str
    port: int
    mounts: Mounts
    load_timeout_seconds: float


async def serve(options: Options) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    metrics = Metrics()
    key, sign = control_key(options.repository), probe_sign(options.repository)
    triton = Triton(options.triton, {HEADER: key}, sign)
    reconciler = Reconciler(
        options.desired,
        Repository(options.repository),
        triton,
        options.mounts,
        metrics,
        options.load_timeout_seconds,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(application(lambda: reconciler.status, metrics), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=options.port).start()
    admission = await reconciler.admission.serve(options.repository / ADMISSION)
    _log.info("agent started", extra=fields(release=__version__, port=options.port, triton=options.triton))
    work = loop.create_task(reconciler.run())
    waiter = loop.create_task(stop.wait())
    await asyncio.wait({work, waiter}, return_when=asyncio.FIRST_COMPLETED)
    # The loop ends by itself only with a failure: then the container must end too, and be started again.
    failed = work.done()
    for task in (work, waiter):
        task.cancel()
    with suppress(asyncio.CancelledError):
        await work
    admission.close()
    await triton.close()
    await runner.cleanup()
    _log.info("agent stopped")
    return 1 if failed else 0

"""The process's life: it ends when it is told to, from the first moment, and is not ready on a view that grows old."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from typing import Any

from aifactory.api.modelversion import ModelVersion
from aifactory.app import main, shell, start
from aifactory.app.domains import DOMAINS, make
from aifactory.app.main import Process
from aifactory.app.options import Options
from aifactory.app.watching import Watched
from aifactory.engine import custom
from aifactory.kube.errors import Forbidden, Unreachable
from aifactory.kube.resources import LEASES, PODS, Key
from tests.support.faketime import FakeClock, run, until
from tests.support.kinds import MODELVERSIONS, TRAININGJOBS
from tests.unit.memory_api import MemoryApi

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: away
clusters: [{name: away, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: away, context: {cluster: away, user: nobody}}]
users: [{name: nobody, user: {}}]
"""


def test_a_signal_is_heard_before_the_api_server_is(tmp_path: Any) -> None:
    """PID 1 ignored SIGTERM until kopf ran: a pod whose API server was away took its whole grace period to end."""
    file = tmp_path / "config"
    file.write_text(KUBECONFIG)
    command = [sys.executable, "-m", "aifactory.app", "--http-port=0", "--progress-port=0"]
    process = subprocess.Popen(
        command, env={"KUBECONFIG": str(file), "PYTHONPATH": ":".join(sys.path)}, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "does not answer as it should" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.stderr.close()


async def test_what_is_waited_for_ends_with_a_stop() -> None:
    stop = asyncio.Event()
    assert await start.unless(stop, asyncio.sleep(0, "done")) == "done"
    waiting = asyncio.create_task(start.unless(stop, asyncio.sleep(3600, "never")))
    await asyncio.sleep(0)
    stop.set()
    assert await waiting is None


class Listed:
    """Delivers nothing: every list of kopf's has just begun, and its watches are heard of while `heard` says so."""

    heard = True

    async def run(self, kinds: Collection[Watched], stop: asyncio.Event, on_signal: Callable[[], None]) -> None:
        for kind in kinds:
            kind.listed.set()
        while not stop.is_set():
            await asyncio.sleep(30)
            for kind in kinds if self.heard else ():
                kind.heard.now()


def process_on(api: MemoryApi, deliver: shell.Shell) -> Process:
    options = Options(identity="a", address="a", leader_elect=False)
    return Process(options, api, make(options, DOMAINS), (), deliver, clock=FakeClock())


def test_a_replica_whose_watch_is_refused_is_ready_no_more_and_says_which() -> None:
    """Watches of pods answered 403 for an hour, and /readyz 200."""

    async def story() -> None:
        api, deliver = MemoryApi(), Listed()
        process = process_on(api, deliver)
        running = asyncio.create_task(process.run())
        health = process._health
        await health.wait_ready()
        await asyncio.sleep(1000)
        assert health.trouble() == ""
        api.reject_watches_with = Forbidden(403, "Forbidden", "no")
        api.cut_watches()
        await asyncio.sleep(50)
        assert health.trouble() == ""
        await asyncio.sleep(200)
        assert f"{PODS.plural} for " in health.trouble()
        assert TRAININGJOBS.plural not in health.trouble()
        deliver.heard, api.reject_watches_with = False, None
        await asyncio.sleep(300)
        assert f"{TRAININGJOBS.plural} for " in health.trouble()
        assert PODS.plural not in health.trouble()
        process.stop()
        await running

    run(story)


def test_each_store_is_read_again_about_once_an_hour() -> None:
    async def story() -> None:
        api = MemoryApi()
        process = process_on(api, Listed())
        running = asyncio.create_task(process.run())
        await process._health.wait_ready()
        before = len(api.calls)
        await asyncio.sleep(main.RESYNC_SECONDS + 60)
        lists = [call[1] for call in api.calls[before:] if call[0] == "list"]
        assert lists.count("Pod") == 1
        assert set(lists) >= {resource.kind for resource in process.cluster.stores}
        process.stop()
        await running

    run(story)


def test_a_replica_that_loses_the_lease_steps_down_and_leads_again() -> None:
    """It ended, and its replacement listed everything anew from an API server that had been too slow for a lease."""

    async def story() -> None:
        api = MemoryApi()
        options = Options(identity="a", address="a")
        process = Process(options, api, make(options, DOMAINS), (), Listed(), clock=FakeClock(), rng=random.Random(1))
        running = asyncio.create_task(process.run())
        await until(process.leading, seconds=30)
        api.failures["patch"] = [Unreachable("away")] * 1000
        await until(lambda: not process.leading(), seconds=30)
        await asyncio.sleep(60)
        assert not running.done()
        writes = len([call for call in api.writes() if call[1] != "Lease"])
        looked = len(api.calls)
        spec = {"model": "gpt", "version": 1, "source": {"uri": "pvc://models/gpt/1"}, "format": "huggingface"}
        made = api.put(MODELVERSIONS, "ns", "gpt-v1", spec=spec)
        process.cluster.stored(MODELVERSIONS).put(custom.parser(ModelVersion)(made))
        await asyncio.sleep(10)
        assert len([call for call in api.writes() if call[1] != "Lease"]) == writes, "it does not act"
        api.failures["patch"].clear()
        await until(process.leading, seconds=30)
        await until(lambda: Key("ns", "gpt-v1-verify-0") in api.objects[PODS], seconds=30)
        assert ("list", "Pod", "") in api.calls[looked:], "it reads again what another leader may have done"
        process.stop()
        assert await running == 0
        assert api.objects[LEASES][Key("kube-system", "aifactory.dev")]["spec"]["holderIdentity"] == ""

    run(story)

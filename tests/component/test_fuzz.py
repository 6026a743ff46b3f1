"""Objects that nobody would write, through a real API server to a running operator, which must take note of each.

`AIFACTORY_FUZZ` says how many (10,000 with AIFACTORY_LONG=1). The seed is printed by hypothesis when it fails.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aifactory.engine.controller import SLOW_STATUS_DELAY
from aifactory.kube.api import Api
from aifactory.kube.auth import SessionProvider, from_kubeconfig
from aifactory.kube.client import Client
from aifactory.kube.errors import ApiError
from aifactory.kube.retry import Retrying
from localcluster.controlplane import ControlPlane
from tests.component import schemas
from tests.component.conftest import Operator
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS, TRAININGJOBS
from tests.support.kubectl import Json, Kubectl

TOTAL = int(os.environ.get("AIFACTORY_FUZZ") or (10_000 if os.environ.get("AIFACTORY_LONG") == "1" else 300))
BATCH = 100
"""Objects under way at once."""
OBSERVED_SECONDS = SLOW_STATUS_DELAY + 15.0
"""A status may be held back so long where the API server is slow, and is then still to be written."""
KINDS = {resource.plural: resource for resource in (TRAININGJOBS, INFERENCEPOOLS, MODELVERSIONS)}

_numbers = itertools.count(1)
_decode = msgspec.json.Decoder(dict[str, Any]).decode

batches = st.lists(
    st.sampled_from(sorted(KINDS)).flatmap(lambda plural: st.tuples(st.just(plural), schemas.anything(plural))),
    min_size=BATCH,
    max_size=BATCH,
)


@dataclass
class Figures:
    """What became of the objects."""

    fates: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def show(self, operator: Operator, seconds: float) -> str:
        page = operator.fetch("/metrics")
        total = sum(count for fate, count in self.fates.items() if not fate.startswith("of them"))
        return (
            f"{total} objects in {seconds:.0f} s: {dict(sorted(self.fates.items()))}; "
            f"observed after {self.slowest:.1f} s at most; event loop late by {_lag(page)}"
        )


@pytest.fixture(scope="module")
def operator(start_operator: Callable[..., Operator]) -> Iterator[Operator]:
    process = start_operator("--no-leader-elect")
    process.wait_ready()
    yield process
    assert process.stop() == 0, process.words()


@pytest.mark.timeout(3600)
def test_nothing_unobserved(operator: Operator, ns: Kubectl, control_plane: ControlPlane) -> None:
    figures, started = Figures(), time.monotonic()
    assert ns.namespace is not None
    namespace = ns.namespace

    @settings(
        max_examples=max(1, TOTAL // BATCH),
        deadline=None,
        derandomize=TOTAL < 1000,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(batches)
    def run(batch: list[tuple[str, Json]]) -> None:
        asyncio.run(_send(batch, control_plane, namespace, figures))
        assert operator.process.poll() is None, operator.words()
        assert operator.fetch("/healthz") == "ok\n"

    run()
    print(figures.show(operator, time.monotonic() - started))
    assert "Traceback" not in operator.log.read_text(errors="replace"), operator.words()
    assert figures.fates["accepted"] > 0.15 * TOTAL, figures.fates
    assert _late(operator.fetch("/metrics"), 5.0) == 0, "the event loop stood still for five seconds"


async def _send(batch: list[tuple[str, Json]], plane: ControlPlane, namespace: str, figures: Figures) -> None:
    provider = SessionProvider(await from_kubeconfig(str(plane.kubeconfig)), user_agent="aifactory-fuzz")
    client = Client(provider)
    try:
        async with asyncio.TaskGroup() as group:
            for plural, body in batch:
                group.create_task(_one(Retrying(client), plural, body, namespace, figures))
    finally:
        await client.close()
        await provider.close()


async def _one(client: Api, plural: str, body: Json, namespace: str, figures: Figures) -> None:
    resource, number = KINDS[plural], next(_numbers)
    name = f"f{number}"
    if plural == "modelversions" and type(body["spec"].get("model")) is str and body["spec"].get("version") == 1:
        body["spec"]["model"] = name
        name = f"{name}-v1"
    body = {**body, "metadata": {"name": name, "namespace": namespace}}
    try:
        created = _decode(await client.create(resource, body))
    except ApiError as error:
        _check_refusal(error, body)
        figures.fates[f"refused {error.status}"] += 1
        return
    figures.fates["accepted"] += 1
    if created["spec"].get("managedBy") not in (None, "aifactory.dev/operator"):
        figures.fates["of them another's"] += 1
    else:
        await _observed(client, plural, created, figures)
    await client.delete(resource, namespace, name)


def _check_refusal(error: ApiError, body: Json) -> None:
    assert 400 <= error.status < 500, f"{error}\n{json.dumps(body)}"
    assert error.message, f"refused without a word: {json.dumps(body)}"


async def _observed(client: Api, plural: str, created: Json, figures: Figures) -> None:
    """Wait until its status is about what was written."""
    started = time.monotonic()
    metadata = created["metadata"]
    while True:
        found = _decode(await client.get(KINDS[plural], metadata["namespace"], metadata["name"]))
        took = time.monotonic() - started
        if found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]:
            figures.slowest = max(figures.slowest, took)
            return
        assert took < OBSERVED_SECONDS, f"not observed within {took:.0f} s: {json.dumps(found)}"
        await asyncio.sleep(0.1)


def _late(page: str, seconds: float) -> int:
    """How often the event loop was later than `seconds`."""
    counts = dict(re.findall(r'aifactory_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', page))
    return int(float(counts["+Inf"]) - float(counts[str(seconds)]))


def _lag(page: str) -> str:
    counts = [
        (bound, float(count))
        for bound, count in re.findall(r'aifactory_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', page)
    ]
    worst = next(bound for bound, count in counts if count == counts[-1][1])
    p99 = next(bound for bound, count in counts if count >= 0.99 * counts[-1][1])
    return f"at most {p99} s (p99) and {worst} s (worst)"

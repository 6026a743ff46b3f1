"""A factory for the dashboard: three lines from data to tokens. The statuses are of the operator's own making."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime, timedelta
from typing import Any

from aifactory.api.base import CustomResource
from aifactory.api.inferencepool import InferencePool
from aifactory.api.modelversion import ModelVersion
from aifactory.api.trainingjob import TrainingJob
from plugin import kubectl_aifactory as plugin
from tests.unit.plugin import factory
from tests.unit.plugin.factory import LATER, Json

KINDS: dict[str, type[CustomResource]] = {kind.__name__: kind for kind in (TrainingJob, ModelVersion, InferencePool)}
STEPS = 120


def named(obj: Json, model: str, *names: tuple[str, str], **status: Any) -> Json:
    """The object under other names, with these parts in its status; an unknown field is refused."""
    text = re.sub(r"\btiny\b", model, json.dumps(obj))
    for old, new in names:
        text = text.replace(old, new)
    made: Json = json.loads(text)
    made["metadata"]["uid"] = f"{made['kind']}-{made['metadata']['name']}"
    for part, fields in status.items():
        known = made["status"].get(part)
        made["status"][part] = {**known, **fields} if isinstance(known, dict) else fields
    status_ = KINDS[made["kind"]].model_validate(made).status.dump()  # type: ignore[attr-defined]
    for part, fields in status.items():
        known = status_[part] if isinstance(fields, dict) else {}
        assert not isinstance(fields, dict) or set(fields) <= set(known), f"{part}: {set(fields) - set(known)}"
    return made


def moved(obj: Json, now: datetime) -> Json:
    """All that was said at LATER is said now."""

    def later(found: re.Match[str]) -> str:
        then = datetime.fromisoformat(found[0].replace("Z", "+00:00"))
        return (then + (now - LATER)).strftime("%Y-%m-%dT%H:%M:%SZ")

    made: Json = json.loads(re.sub(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", later, json.dumps(obj)))
    return made


COST = {"gpus": 16, "since": "2026-01-01T12:00:00Z", "gpuHourPrice": "2.49"}


def at_work() -> list[Json]:
    """Data, a job that trains, its version of before and the pool that serves that."""
    spent = {"gpuSeconds": 86400, "cost": "59.76", "lostGPUSeconds": 6912, "lostCost": "4.78", "goodput": "0.92"}
    saved = {"step": 600, "time": LATER_TEXT, "path": "step-600"}
    job = named(factory.running_job(), "tiny-gpt", cost={**COST, **spent}, checkpoint=saved)
    job["spec"]["inputs"] = [{"name": "corpus", "uri": "s3://team/corpus"}]
    ready = {"name": "corpus", "phase": "Ready", "totalBytes": 48_318_382_080, "digest": f"sha256:{'b' * 64}"}
    job["status"]["inputs"] = [ready]
    used = {"usedBy": [{"kind": "InferencePool", "name": "chat"}], "inUse": 1}
    version = named(factory.published_version(), "tiny-gpt", **used)
    figures = {"tokensPerSecond": "1843", "requestsPerSecond": "31.4", "costPerMillionTokens": "1.50"}
    idle = {"gpus": 4, "gpuSeconds": 28800, "cost": "19.92", "idleGPUSeconds": 5184, "idleCost": "3.59"}
    decided = [
        {"time": LATER_TEXT, "from": 3, "to": 4, "metric": "tokensPerSecond", "value": "1760"},
        {"time": "2026-01-01T12:00:00Z", "from": 2, "to": 3, "metric": "tokensPerSecond", "value": "1312"},
    ]
    scaling = {"replicas": 4, "summary": "4 (2-8)", "decisions": decided}
    more = {"throughput": figures, "cost": {**COST, **idle}, "scaling": scaling}
    return [job, version, named(factory.served_pool(), "tiny-gpt", **more)]


def in_a_canary() -> list[Json]:
    """Two versions and a pool that goes from one to the other, step by step."""
    pool = named(factory.situations()["pool: a canary can not tell"], "tiny-summary", ('"chat', '"summaries'))
    pool["status"]["throughput"] = {"tokensPerSecond": "412", "requestsPerSecond": "6.2"}
    first = named(factory.version(), "tiny-summary")
    second = named(factory.version(), "tiny-summary", ("-v1", "-v2"))
    second["spec"]["version"] = 2
    return [first, second, pool]


def refused() -> list[Json]:
    """A job whose corpus is refused, and the pool that waits for what it makes."""
    job = named(factory.fetching_job(), "translate", ('"name": "train"', '"name": "translate"'))
    return [job, named(factory.waiting_pool(), "translate", ('"chat', '"translations'))]


LATER_TEXT = LATER.strftime("%Y-%m-%dT%H:%M:%SZ")


def told_to(floor: plugin.Floor, now: datetime, objects: list[Json], asked: float) -> None:
    """A list of each kind."""
    for kind in plugin.PLURAL:
        floor.listed(kind, [moved(obj, now) for obj in objects if obj["kind"] == kind], asked, now)


def event(type_: str, obj: Json) -> Json:
    """As kubectl prints it."""
    return {"type": type_, "object": json.loads(json.dumps(obj))}


def worked(floor: plugin.Floor, now: datetime, seconds: float = 480) -> None:
    """The floor after some time in which it has heard of all three lines: a loss that falls, requests that vary."""
    objects = [*at_work(), *in_a_canary(), *refused()]
    job, pool = moved(objects[0], now), moved(objects[2], now)
    for step in range(STEPS):
        # Curves that have a shape and are the same whenever they are made.
        ripple, swell = math.sin(step * 2.4) + math.sin(step * 5.3), math.sin(step / 15)
        job["status"]["progress"].update(
            step=25 + 5 * step,
            loss=f"{1.5 + 2.7 * math.exp(-step / 30) + 0.04 * ripple:.3f}",
            tokensPerSecond=str(round(27000 + 300 * ripple)),
        )
        pool["status"]["throughput"].update(
            tokensPerSecond=str(round(1500 + 343 * swell + 30 * ripple)),
            requestsPerSecond=f"{26 + 5.4 * swell:.1f}",
        )
        then = now - timedelta(seconds=seconds * (STEPS - step) / STEPS)
        floor.event(event("MODIFIED", job), 0.0, then)
        floor.event(event("MODIFIED", pool), 0.0, then)
    told_to(floor, now, objects, 1.0)

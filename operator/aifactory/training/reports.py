"""Reports of training programs: an authenticated endpoint and the newest report of each job.

A worker proves who it is with a token that is bound to its pod and to our audience (a projected service account
token); the API server checks it (TokenReview), the pod's labels say which job and attempt it speaks for. A report only
lands in memory and wakes the job's reconcile; what is written to status, and how often, is planned in `training`.
A replica that does not lead answers 307 with the leader's address.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from aifactory.engine.domain import Route
from aifactory.kube.tokens import Reporter
from aifactory.training.state import ProgressReport

logger = logging.getLogger(__name__)

TOKEN_CACHE_SECONDS = 300.0
TOKEN_CACHE_SIZE = 20_000


class CheckpointBody(BaseModel):
    """A checkpoint that was completed."""

    step: Annotated[int, Field(ge=0)]
    path: Annotated[str, Field(max_length=1024)] = ""


class ReportBody(BaseModel):
    """What a training program sends."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    step: Annotated[int, Field(ge=0, le=2**53)]
    total_steps: Annotated[int, Field(ge=1, le=2**53)] | None = None
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    metrics: Annotated[dict[Annotated[str, Field(max_length=64)], float], Field(max_length=32)] = {}
    checkpoint: CheckpointBody | None = None
    resumed_from_step: Annotated[int, Field(ge=0)] | None = None


@dataclass(frozen=True, slots=True)
class ReportingPod:
    """What our store knows about a pod."""

    job_name: str
    job_uid: str
    attempt: int


class ProgressBook:
    """The newest report of each job, by the job's UID."""

    def __init__(self) -> None:
        self._reports: dict[str, ProgressReport] = {}

    def get(self, job_uid: str) -> ProgressReport | None:
        """The newest report, if there was one."""
        return self._reports.get(job_uid)

    def forget(self, job_uid: str) -> None:
        """The job is gone."""
        self._reports.pop(job_uid, None)

    def record(self, job_uid: str, attempt: int, body: ReportBody, now: datetime) -> bool:
        """Keep a report; returns False for one of an attempt that is over."""
        last = self._reports.get(job_uid)
        if last is not None and last.attempt > attempt:
            return False
        same = last if last is not None and last.attempt == attempt else None
        checkpoint = body.checkpoint
        checkpoint_time = None
        if checkpoint is not None:
            known = same is not None and same.checkpoint_step == checkpoint.step
            checkpoint_time = same.checkpoint_time if same is not None and known else now
        self._reports[job_uid] = ProgressReport(
            attempt=attempt,
            time=now,
            step=body.step,
            total_steps=body.total_steps,
            tokens_per_second=body.tokens_per_second,
            metrics=tuple(sorted(body.metrics.items())),
            checkpoint_step=checkpoint.step if checkpoint is not None else None,
            checkpoint_path=checkpoint.path if checkpoint is not None else "",
            checkpoint_time=checkpoint_time,
            resumed_from_step=body.resumed_from_step,
            first_time=same.first_time if same is not None else now,
            first_step=same.first_step if same is not None else body.step,
        )
        return True


class ProgressEndpoint:
    """`POST /v1/progress/{namespace}/{job}`."""

    def __init__(
        self,
        *,
        book: ProgressBook,
        review: Callable[[str], Awaitable[Reporter | None]],
        find_pod: Callable[[Reporter], ReportingPod | None],
        wake: Callable[[str, str], None],
        leading: Callable[[], bool],
        leader_address: Callable[[], str | None],
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._book = book
        self._review = review
        self._find_pod = find_pod
        self._wake = wake
        self._leading = leading
        self._leader_address = leader_address
        self._now = now
        self._monotonic = monotonic
        self._tokens: dict[str, tuple[float, Reporter]] = {}

    def route(self) -> Route:
        """Where it is served."""
        return Route("POST", "/v1/progress/{namespace}/{job}", self.handle)

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one report."""
        namespace, job = request.match_info["namespace"], request.match_info["job"]
        if not self._leading():
            return self._elsewhere(request)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return _refuse(
                401, "send the pod's token: Authorization: Bearer <content of AIFACTORY_PROGRESS_TOKEN_FILE>"
            )
        reporter = await self._identify(token.strip())
        if reporter is None:
            return _refuse(401, "the token is not valid for audience aifactory.dev/progress or has expired")
        pod = self._find_pod(reporter)
        if pod is None or reporter.namespace != namespace or pod.job_name != job:
            return _refuse(403, f"pod {reporter.namespace}/{reporter.pod} does not train for {namespace}/{job}")
        try:
            body = ReportBody.model_validate_json(await request.read())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            return _refuse(400, f"{where}: {first['msg']}")
        if not self._book.record(pod.job_uid, pod.attempt, body, self._now()):
            return _refuse(403, f"attempt {pod.attempt} of {namespace}/{job} is over")
        self._wake(namespace, job)
        return web.Response(status=204)

    def _elsewhere(self, request: web.Request) -> web.Response:
        address = self._leader_address()
        if not address:
            return web.Response(status=503, headers={"Retry-After": "2"}, text="no leader yet\n")
        return web.Response(status=307, headers={"Location": f"http://{address}{request.path}"})

    async def _identify(self, token: str) -> Reporter | None:
        digest = hashlib.sha256(token.encode()).hexdigest()
        now = self._monotonic()
        cached = self._tokens.get(digest)
        if cached is not None and cached[0] > now:
            return cached[1]
        reporter = await self._review(token)
        if reporter is not None:
            if len(self._tokens) >= TOKEN_CACHE_SIZE:
                self._tokens = {key: entry for key, entry in self._tokens.items() if entry[0] > now}
            self._tokens[digest] = (now + TOKEN_CACHE_SECONDS, reporter)
        return reporter


def _refuse(status: int, why: str) -> web.Response:
    logger.info("progress report refused with %d: %s", status, why)
    return web.Response(status=status, text=f"{why}\n")

"""Reports of training programs: an authenticated endpoint and the newest report of each job.

A worker proves who it is with a token that is bound to its pod and to our audience (a projected service account
token); the API server checks it (TokenReview), the pod's labels say which job and attempt it speaks for. A report only
lands in memory. A job is woken for it when its status may be written again, not each time: of a thousand jobs that
report every two seconds five hundred reports a second arrive and a hundred are told. What is written to status is
planned in `training`. A replica that does not lead answers 307 with the leader's address.

What anybody may send is bounded: the size of a body, its numbers and names, reviews under way, remembered tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Meta

from aifactory.engine.domain import Route
from aifactory.kube.errors import KubeError
from aifactory.kube.tokens import Reporter
from aifactory.training.progress import WRITE_INTERVAL_SECONDS
from aifactory.training.state import ProgressReport

logger = logging.getLogger(__name__)

TOKEN_CACHE_SECONDS = 300.0
REFUSED_CACHE_SECONDS = 10.0
"""A token that is not valid does not become so; but a clock may be a little behind the one that issued it."""
TOKEN_CACHE_SIZE = 20_000
MAX_REVIEWS = 16
"""Reviews under way: tokens nobody has issued must not keep the API server busy."""
_BIG: Final = 2**53
"""Larger integers are not exact in every JSON parser."""

Step = Annotated[int, Meta(ge=0, le=_BIG)]
Words = Annotated[str, Meta(max_length=64)]


class CheckpointBody(msgspec.Struct, frozen=True, rename="camel"):
    """A checkpoint that was completed."""

    step: Step
    path: Annotated[str, Meta(max_length=1024)] = ""


class ReportBody(msgspec.Struct, frozen=True, rename="camel"):
    """What a training program sends. JSON has no infinity and no NaN, so numbers are finite."""

    step: Step
    total_steps: Annotated[int, Meta(ge=1, le=_BIG)] | None = None
    tokens_per_second: Annotated[float, Meta(ge=0)] | None = None
    metrics: Annotated[dict[Words, float], Meta(max_length=32)] = {}
    checkpoint: CheckpointBody | None = None
    resumed_from_step: Step | None = None

    @property
    def finished(self) -> bool:
        """There is no step left."""
        return self.total_steps is not None and self.step >= self.total_steps


_decode = msgspec.json.Decoder(ReportBody).decode


@dataclass(frozen=True, slots=True)
class ReportingPod:
    """What our store knows about a pod."""

    job_name: str
    job_uid: str
    attempt: int


def _share(job_uid: str) -> float:
    """A number from 0 to 1 that is always the same for a job."""
    return zlib.crc32(job_uid.encode()) / 2**32


class ProgressBook:
    """The newest report of each job, by the job's UID, and when the job is to be looked at for it."""

    def __init__(self, share: Callable[[str], float] = _share) -> None:
        self._reports: dict[str, ProgressReport] = {}
        self._due: dict[str, float] = {}
        """When each job was or will be woken last, in seconds of the monotonic clock."""
        self._first: set[str] = set()
        """Jobs that have been woken once and have no place in the interval yet."""
        self._share = share

    def get(self, job_uid: str) -> ProgressReport | None:
        """The newest report, if there was one."""
        return self._reports.get(job_uid)

    def forget(self, job_uid: str) -> None:
        """The job is gone."""
        self._reports.pop(job_uid, None)
        self._due.pop(job_uid, None)
        self._first.discard(job_uid)

    def wake_after(self, job_uid: str, now: float) -> float:
        """Seconds until the job is to be looked at for its newest report; it is taken for granted that it then is.

        At once for the first report of an attempt and for a finished one; for the others once in the interval in which
        a status may be written. After a start everybody's first report comes within seconds; so that not all are
        written together from then on, the second wake-up waits for the job's own place in the interval.

        `now` is monotonic.
        """
        due = self._due.get(job_uid)
        if due is None:
            due = now
            self._first.add(job_uid)
        elif due <= now:
            place = self._share(job_uid) if job_uid in self._first else 0.0
            self._first.discard(job_uid)
            due = max(now, due + WRITE_INTERVAL_SECONDS * (1.0 + place))
        self._due[job_uid] = due
        return due - now

    def record(self, job_uid: str, attempt: int, body: ReportBody, now: datetime) -> bool:
        """Keep a report; returns False for one of an attempt that is over."""
        last = self._reports.get(job_uid)
        if last is not None and last.attempt > attempt:
            return False
        same = last if last is not None and last.attempt == attempt else None
        if same is None or (body.finished and not same.finished):
            self._due.pop(job_uid, None)
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
        wake: Callable[[str, str, float], None],
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
        self._tokens: OrderedDict[bytes, tuple[float, Reporter | None]] = OrderedDict()
        self._reviews = asyncio.Semaphore(MAX_REVIEWS)

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
        try:
            reporter = await self._identify(token.strip())
        except KubeError as error:
            logger.warning("a progress token could not be reviewed: %s", error)
            return web.Response(status=503, headers={"Retry-After": "2"}, text="the token can not be reviewed now\n")
        if reporter is None:
            return _refuse(401, "the token is not valid for audience aifactory.dev/progress or has expired")
        pod = self._find_pod(reporter)
        if pod is None or reporter.namespace != namespace or pod.job_name != job:
            return _refuse(403, f"pod {reporter.namespace}/{reporter.pod} does not train for {namespace}/{job}")
        raw = await request.read()
        try:
            body = _decode(raw)
        except msgspec.MsgspecError as error:
            return _refuse(400, _mistake(raw, error))
        except RecursionError:
            return _refuse(400, "body: it nests too deeply")
        if not self._book.record(pod.job_uid, pod.attempt, body, self._now()):
            return _refuse(403, f"attempt {pod.attempt} of {namespace}/{job} is over")
        self._wake(namespace, job, self._book.wake_after(pod.job_uid, self._monotonic()))
        return web.Response(status=204)

    def _elsewhere(self, request: web.Request) -> web.Response:
        address = self._leader_address()
        if not address:
            return web.Response(status=503, headers={"Retry-After": "2"}, text="no leader yet\n")
        return web.Response(status=307, headers={"Location": f"http://{address}{request.path}"})

    async def _identify(self, token: str) -> Reporter | None:
        """Whose token it is; raises KubeError while nobody can say."""
        digest = hashlib.sha256(token.encode()).digest()
        now = self._monotonic()
        cached = self._tokens.get(digest)
        if cached is not None and cached[0] > now:
            return cached[1]
        async with self._reviews:
            reporter = await self._review(token)
        keep = REFUSED_CACHE_SECONDS if reporter is None else TOKEN_CACHE_SECONDS
        self._tokens[digest] = (now + keep, reporter)
        self._tokens.move_to_end(digest)
        if len(self._tokens) > TOKEN_CACHE_SIZE:
            self._tokens.popitem(last=False)
        return reporter


def _mistake(raw: bytes, error: msgspec.MsgspecError) -> str:
    """What is wrong, beginning with the field: `metrics.loss: Expected float, got str`."""
    what, _, where = str(error).replace("Object missing required field", "missing:").partition(" - at ")
    if what.startswith("missing: "):
        where, what = f"{where}.{what.removeprefix('missing: ')}", "is missing"
    path = where.replace("`", "").removeprefix("key in ").replace("$", "").strip(".") or "body"
    if path == "metrics[...]":
        metrics = msgspec.json.decode(raw, type=_Metrics).metrics
        path = f"metrics.{next((name for name, value in metrics.items() if not _is_number(value)), '...')}"
    return f"{path}: {what.replace('`', '')}"


class _Metrics(msgspec.Struct):
    metrics: dict[str, msgspec.Raw]


def _is_number(value: msgspec.Raw) -> bool:
    try:
        msgspec.json.decode(value, type=float)
    except msgspec.MsgspecError:
        return False
    return True


def _refuse(status: int, why: str) -> web.Response:
    logger.info("progress report refused with %d: %s", status, why)
    return web.Response(status=status, text=f"{why}\n")

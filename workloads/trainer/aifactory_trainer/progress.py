"""Report progress to the operator without ever being in the way of training.

Role: send the newest report over HTTP from a background thread.

What always holds:
- `submit` keeps a report and returns: it takes no network, converts no tensor and never blocks on the sender.
- Only the newest report counts: one that meets a temporary trouble is tried again until there is a newer one.
- The token goes to the address that the operator gave, and to its leader (`leader`), and to nobody else.
- No failure of the receiving side (down, slow, refusing, wrong) reaches the training loop. Each kind is logged once.
- At most one report every `interval` seconds, but the last one is sent at once.

A 307 names the leading operator replica. Proxies are not used: the receiver is inside the cluster.
"""

from __future__ import annotations

import http.client
import json
import logging
import math
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import SupportsFloat
from urllib.parse import SplitResult, urljoin, urlsplit

log = logging.getLogger("aifactory")

CHECKPOINT_FAILED = "checkpoint_failed"
"""Metric: how many saves in a row were not written. It is reported only while there are any."""
INTERVAL_SECONDS = 2.0
TIMEOUT_SECONDS = 3.0
_RETRY_SECONDS = 0.3
"""Between two tries while somebody waits for the last report."""
_LONGEST_WAIT_SECONDS = 30.0
"""However long the receiver asks to be left alone."""
_TOKEN_TRIES = 3
"""So often in a row may a token be refused before it counts as refused for good: the kubelet may be about to replace
it, and the clock of who checks it may be behind that of who issued it."""
_METRICS = 32
_METRIC_NAME = 64
_TEMPORARY = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Report:
    """One report.

    Attributes:
        step: number of steps done.
        total_steps: number of steps to do.
        tokens_per_second: speed of all processes together.
        metrics: numbers or one-element tensors; they are converted by the sender.
        checkpoint: step and path (relative to the workspace) of the newest checkpoint.
        resumed_from: the step this attempt started from, when it did not start from the beginning.
    """

    step: int
    total_steps: int | None = None
    tokens_per_second: float | None = None
    metrics: Mapping[str, SupportsFloat] = field(default_factory=dict)
    checkpoint: tuple[int, str] | None = None
    resumed_from: int | None = None

    def number(self, name: str) -> float | None:
        """A metric as a number, if it is one; it may be NaN."""
        try:
            return float(self.metrics[name])
        except (KeyError, TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several elements
            return None

    def numbers(self) -> dict[str, float]:
        """The metrics that the operator takes; one that it does not take must not cost the report.

        JSON knows finite numbers only, and the operator takes 32 of them, with names of up to 64 characters.
        """
        found: dict[str, float] = {}
        for name in self.metrics:
            number = self.number(name)
            if number is not None and math.isfinite(number) and len(name) <= _METRIC_NAME and len(found) < _METRICS:
                found[name] = number
        return found

    def to_json(self) -> bytes:
        """The body of the request."""
        body: dict[str, object] = {"step": self.step}
        if self.total_steps is not None:
            body["totalSteps"] = self.total_steps
        if self.tokens_per_second is not None and math.isfinite(self.tokens_per_second):
            body["tokensPerSecond"] = round(self.tokens_per_second, 1)
        numbers = self.numbers()
        if numbers:
            body["metrics"] = numbers
        if self.checkpoint is not None:
            body["checkpoint"] = {"step": self.checkpoint[0], "path": self.checkpoint[1]}
        if self.resumed_from is not None:
            body["resumedFromStep"] = self.resumed_from
        return json.dumps(body).encode()


class Reporter:
    """Sends the newest report; make one on rank 0 only."""

    def __init__(
        self,
        url: str,
        token_file: Path | None = None,
        *,
        interval: float = INTERVAL_SECONDS,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """Args: url: http or https. token_file: re-read for each report. timeout: for each network operation."""
        self._url = url
        self._token_file = token_file
        self._interval = interval
        self._timeout = timeout
        self._changed = threading.Condition()
        self._pending: Report | None = None
        self._sending = False
        self._done = True
        self._hurry_until = 0.0
        self._pause = 0.0
        """Seconds that the receiver asked for with its last answer."""
        self._tokens_refused = 0
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="aifactory-progress", daemon=True)
        self._thread.start()

    def submit(self, report: Report) -> None:
        """Replace the report that waits to be sent."""
        with self._changed:
            self._pending = report
            self._changed.notify_all()

    def flush(self, deadline_seconds: float = TIMEOUT_SECONDS) -> bool:
        """Send what waits now, and wait for it at most this long. True: the last report is done with."""
        with self._changed:
            self._hurry_until = time.monotonic() + deadline_seconds
            self._changed.notify_all()
            sent = self._changed.wait_for(lambda: self._pending is None and not self._sending, deadline_seconds)
            self._hurry_until = 0.0
            return sent and self._done

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending is not None)
                report, self._pending = self._pending, None
                self._sending = True
            assert report is not None
            done = self._deliver(report)
            with self._changed:
                self._done = done
                if not done and self._pending is None:
                    self._pending = report
                self._sending = False
                self._changed.notify_all()
                self._pace(done)

    def _pace(self, done: bool) -> None:
        """Wait before the next report; the lock is held."""
        resume = time.monotonic() + self._pause
        self._changed.wait_for(self._hurrying, max(self._interval, self._pause))
        left, asked = self._hurry_until - time.monotonic(), resume - time.monotonic()
        if left <= 0:
            return
        if 0 < asked < left:
            self._changed.wait_for(lambda: False, asked)
        elif not done:  # to wait beyond the end would be to give the report up
            self._changed.wait_for(lambda: False, _RETRY_SECONDS)

    def _hurrying(self) -> bool:
        return time.monotonic() < self._hurry_until

    def _deliver(self, report: Report) -> bool:
        """True: done with this report, delivered or refused for good."""
        self._pause = 0.0
        try:
            status, self._pause = self._post(report.to_json())
        except Exception as error:
            self._say_once(type(error).__name__, f"progress is not reported: {type(error).__name__}: {error}")
            return False
        self._tokens_refused = self._tokens_refused + 1 if status == 401 else 0
        if status in (200, 204):
            return True
        hint = {401: "the token was not accepted", 403: "this pod may not report for this job"}.get(status, "")
        detail = f"HTTP {status}{': ' + hint if hint else ''}"
        self._say_once(str(status), f"progress is not reported: {self._url} answered {detail}; training goes on")
        return not (status in _TEMPORARY or 0 < self._tokens_refused < _TOKEN_TRIES)

    def _post(self, body: bytes) -> tuple[int, float]:
        """Status, and the seconds that the receiver asks to be left alone."""
        status, location, pause = self._request(self._url, body)
        if status == 307 and location:
            status, location, pause = self._request(leader(self._url, location), body)
            if status == 307:
                raise RuntimeError("the operator's replicas do not agree about who leads")
        return status, pause

    def _request(self, url: str, body: bytes) -> tuple[int, str | None, float]:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"{url} is no http address")
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=self._timeout, context=context)
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=self._timeout)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {self._token_file.read_text().strip()}"
        try:
            target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
            connection.request("POST", target, body, headers)
            response = connection.getresponse()
            after = response.getheader("Retry-After", "").strip()
            pause = min(float(after), _LONGEST_WAIT_SECONDS) if after.isdecimal() else 0.0
            return response.status, response.getheader("Location"), pause
        finally:
            connection.close()

    def _say_once(self, kind: str, message: str) -> None:
        level = logging.DEBUG if kind in self._said else logging.WARNING
        self._said.add(kind)
        log.log(level, "%s", message)


def leader(url: str, location: str) -> str:
    """The address that a redirect from `url` leads to, if a token may be sent there.

    That is the same host, or what the operator's replicas say of each other: the same scheme, port and path at an IP
    address that is of no public, link-local or multicast network, and of the own machine only where `url` is. Who can
    answer in the operator's place has the token already; but a proxy or a name server that lies can not have it sent
    out of the cluster. Clusters whose pods have public addresses get reports from the leading replica alone.

    Raises:
        ValueError: it may not be sent there.
    """
    target = urljoin(url, location)
    ours, theirs = urlsplit(url), urlsplit(target)
    door = (theirs.scheme, _port(theirs)) == (ours.scheme, _port(ours))
    if door and theirs.hostname == ours.hostname:
        return target
    if door and (theirs.path, theirs.query) == (ours.path, ours.query) and _in_cluster(theirs.hostname, ours.hostname):
        return target
    raise ValueError(f"the redirect from {url} to {target} is not followed: the token is for the operator alone")


def _port(parts: SplitResult) -> int:
    return parts.port or {"https": 443}.get(parts.scheme, 80)


def _in_cluster(host: str | None, ours: str | None) -> bool:
    address = _address(host)
    if address is None or address.is_global or address.is_link_local or address.is_multicast or address.is_unspecified:
        return False
    own = _address(ours)
    return not address.is_loopback or ours == "localhost" or (own is not None and own.is_loopback)


def _address(host: str | None) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(host or "")
    except ValueError:  # a name: who answers for it is for a name server to say
        return None
    return getattr(found, "ipv4_mapped", None) or found


class Speed:
    """Tokens a second over the last seconds; the first step, which pays for warming up, is left out."""

    def __init__(self, window_seconds: float = 10.0) -> None:
        self._window = window_seconds
        self._marks: list[tuple[float, int]] = []
        self._tokens = 0

    def add(self, tokens: int, now: float) -> float | None:
        """Count the tokens of a step that has just ended, and return the speed once it can be told."""
        self._tokens += tokens
        self._marks.append((now, self._tokens))
        while len(self._marks) > 2 and now - self._marks[0][0] > self._window:
            self._marks.pop(0)
        start, before = self._marks[0]
        return (self._tokens - before) / (now - start) if now > start else None

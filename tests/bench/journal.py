"""What happened, from the API server's audit log: nobody has to watch, so measuring costs next to nothing.

Times are the API server's own, taken when a request had been answered. The log tells who wrote what; of our own kinds'
status it also tells which phase was written.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
POLL_SECONDS = 0.2


class _Ref(msgspec.Struct, rename="camel"):
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class _Response(msgspec.Struct):
    code: int = 0


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct, rename="camel"):
    phase: str = ""
    summary: str = ""
    version: str = ""
    terminal_state: str = ""
    """Of a JobSet, which has no phase."""
    conditions: list[_Condition] | None = None

    @property
    def told(self) -> str:
        """The phase; of kinds that have none, the end that they have come to."""
        if self.phase or self.terminal_state:
            return self.phase or self.terminal_state
        return next((each.type for each in self.conditions or () if (each.type, each.status) == _COMPLETE), "")


_COMPLETE = ("Complete", "True")


class _Metadata(msgspec.Struct, rename="camel"):
    generate_name: str = ""


class _Object(msgspec.Struct):
    status: _Status | None = None
    metadata: _Metadata | None = None


class _Line(msgspec.Struct, rename="camel"):
    verb: str
    request_received_timestamp: datetime
    stage_timestamp: datetime
    user_agent: str = ""
    object_ref: _Ref | None = None
    response_status: _Response | None = None
    request_object: _Object | None = None
    """In the log for what the audit policy says only: status of kinds that are measured."""


@dataclass(frozen=True, slots=True)
class Write:
    """One write call. `sent` and `at` are seconds since the epoch: when it arrived and when it was answered."""

    sent: float
    at: float
    agent: str
    verb: str
    resource: str
    """With the subresource: `pods/status`."""
    name: str
    """Where the API server chooses it, what it begins with."""
    code: int
    phase: str
    """The phase a status patch of ours set, if it did."""
    version: str

    @property
    def ok(self) -> bool:
        return 200 <= self.code < 300


_decode = msgspec.json.Decoder(_Line).decode
_NO_REF, _NO_STATUS, _NO_OBJECT, _NO_METADATA = _Ref(), _Status(), _Object(), _Metadata()


def agent_of(user_agent: str) -> str:
    """The program's name: `kube-scheduler`, `aifactory-operator`."""
    return user_agent.partition("/")[0]


def parse(line: bytes) -> Write | str:
    """One line of the log; of a list only what was listed."""
    found = _decode(line)
    if found.verb not in WRITES:
        return found.object_ref.resource if found.object_ref is not None else ""
    ref = found.object_ref or _NO_REF
    body = found.request_object or _NO_OBJECT
    status = body.status or _NO_STATUS
    return Write(
        sent=found.request_received_timestamp.timestamp(),
        at=found.stage_timestamp.timestamp(),
        agent=agent_of(found.user_agent),
        verb=found.verb,
        resource=f"{ref.resource}/{ref.subresource}" if ref.subresource else ref.resource,
        name=ref.name or (body.metadata or _NO_METADATA).generate_name,
        code=found.response_status.code if found.response_status is not None else 0,
        phase=status.told,
        version=status.version,
    )


class Journal:
    """The audit log as far as it has been read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.writes: list[Write] = []
        self.lists: Counter[str] = Counter()
        """Pages of lists by resource, of whom the audit policy names (the operator)."""

    def read(self) -> int:
        """Take in what was added; returns how many writes are known now."""
        try:
            with self._path.open("rb") as log:
                log.seek(self._offset)
                text = log.read()
        except FileNotFoundError:
            return 0
        end = text.rfind(b"\n") + 1
        self._offset += end
        for line in text[:end].splitlines():
            found = parse(line)
            if isinstance(found, Write):
                self.writes.append(found)
            else:
                self.lists[found] += 1
        return len(self.writes)

    async def wait(
        self, check: Callable[[], str], what: str, *, seconds: float, alive: Callable[[], None] = lambda: None
    ) -> None:
        """Read on until `check` answers with an empty string. Raises TimeoutError with its last words.

        `alive` is asked now and then, and raises if waiting has become pointless.
        """
        deadline = time.monotonic() + seconds
        while True:
            self.read()
            if not (words := check()):
                return
            alive()
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:.0f} s: {what}; last seen: {words}")
            await asyncio.sleep(POLL_SECONDS)

    async def settle(self, agent: str, quiet: float = 3.0, seconds: float = 120.0) -> None:
        """Wait until a writer has written nothing for a while."""

        def busy() -> str:
            last = max((write.at for write in self.writes if write.agent == agent), default=0.0)
            return f"{agent} wrote {time.time() - last:.1f} s ago" if time.time() - last < quiet else ""

        await self.wait(busy, f"{agent} writes nothing for {quiet:.0f} s", seconds=seconds)

    def select(
        self, verb: str = "", resource: str = "", *, agent: str = "", since: int = 0, ok: bool = True
    ) -> Iterator[Write]:
        """Writes in the order of the log, from number `since` on."""
        for write in self.writes[since:]:
            if (
                (not verb or write.verb == verb)
                and (not resource or write.resource == resource)
                and (not agent or write.agent == agent)
                and (write.ok or not ok)
            ):
                yield write


def by_agent(writes: Iterable[Write]) -> dict[str, int]:
    """Number of write calls by program, failed ones included."""
    return dict(sorted(Counter(write.agent for write in writes).items()))


def by_target(writes: Iterable[Write]) -> dict[str, int]:
    """Number of write calls by what they did: `create pods`."""
    found = Counter(f"{write.verb} {write.resource}" + ("" if write.ok else f" ({write.code})") for write in writes)
    return dict(found.most_common())


def percentile(values: Iterable[float], share: float) -> float:
    """Nearest rank; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

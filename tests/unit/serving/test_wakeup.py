"""Proxies of pools at zero are asked whether a request waits: who, how often, and whom that wakes."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from aifactory.serving import wakeup
from aifactory.serving.holding import Held
from aifactory.serving.wakeup import CONCURRENCY, INTERVAL_SECONDS, PER_SECOND, SILENT_LOOKS, Proxy, Wakeups
from tests.support.faketime import FakeClock, run

CHAT, TALK = ("ns", "chat"), ("ns", "talk")
PROXIES = [Proxy("a", "10.0.0.1", CHAT), Proxy("b", "10.0.0.2", CHAT), Proxy("c", "fd00::3", TALK)]


class Site:
    """Proxies that tell how many requests wait in each; one that is not there does not answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **waiting: int) -> None:
        self.waiting, self.asked, self.woken, self.now = waiting, list[str](), list[Any](), 0.0
        self.wakeups = Wakeups()
        self.names = {
            f"http://{'[' + p.address + ']' if ':' in p.address else p.address}:8003/held": p.uid for p in PROXIES
        }
        monkeypatch.setattr(wakeup, "fetch", self._fetch)

    async def _fetch(self, _: object, url: str) -> bytes:
        uid = self.names.get(url, url)
        self.asked.append(uid)
        if uid not in self.waiting:
            raise aiohttp.ClientConnectionError
        return f"cluster.hold.upstream_rq_active: {self.waiting[uid]}\n".encode()

    def round(self, proxies: list[Proxy] = PROXIES) -> None:
        self.now += INTERVAL_SECONDS
        asyncio.run(self.wakeups.round(None, proxies, self.woken.append, self.now))  # type: ignore[arg-type]


def test_a_pool_is_woken_when_what_it_is_told_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, a=0, b=0, c=0)
    site.round()
    assert (site.wakeups.held(CHAT), site.wakeups.held(TALK)) == (Held(0), Held(0))
    site.woken.clear()
    site.round()
    assert site.woken == []
    site.waiting |= {"a": 2, "b": 3}
    site.round()
    assert set(site.woken) == {CHAT}
    assert site.wakeups.held(CHAT) == Held(5)
    site.round(PROXIES[2:])
    assert site.wakeups.held(CHAT) is None, "it has pods again"


def test_one_that_does_not_answer_is_told_after_a_while_and_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, a=4, c=0)
    for look in range(1, 2 * SILENT_LOOKS):
        site.round()
        assert site.wakeups.held(CHAT) == Held(4, silent=int(look >= SILENT_LOOKS))
    site.waiting["b"] = 1
    site.round()
    assert site.wakeups.held(CHAT) == Held(5)


def test_where_there_are_many_those_are_asked_that_have_waited_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    site, most = Site(monkeypatch), int(PER_SECOND * INTERVAL_SECONDS)
    many = [Proxy(str(n), f"10.1.{n // 200}.{n % 200}", ("ns", str(n))) for n in range(3 * most)]
    for _ in range(3):
        site.asked.clear()
        site.round(many)
        assert len(site.asked) == most
    assert len(site.wakeups._asked) == len(many)
    assert set(site.wakeups._asked.values()) == {0.5, 1.0, 1.5}


def test_one_that_was_away_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, a=0)
    for _ in range(SILENT_LOOKS):
        site.round()
    assert site.wakeups.held(CHAT) == Held(0, silent=1)
    site.round([])
    assert not any((site.wakeups._told, site.wakeups._failures, site.wakeups._asked))
    site.round()
    assert site.wakeups.held(CHAT) == Held(0)


@pytest.mark.parametrize(
    "answer", [aiohttp.ClientConnectionError(), TimeoutError(), b"x"], ids=["away", "late", "nonsense"]
)
def test_what_one_has_told_before_it_was_silent_counts_no_more(
    answer: Exception | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(monkeypatch, a=4, b=1)
    site.round()
    assert site.wakeups.held(CHAT) == Held(5)

    async def fetch(session: object, url: str) -> bytes:
        if site.names[url] != "a":
            return await site._fetch(session, url)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(wakeup, "fetch", fetch)
    site.round()
    assert site.wakeups.held(CHAT) == Held(1)
    for _ in range(SILENT_LOOKS):
        site.round()
    assert site.wakeups.held(CHAT) == Held(1, silent=1)


def test_so_many_are_asked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    site, now, most = Site(monkeypatch), 0, 0

    async def fetch(session: object, url: str) -> bytes:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return await site._fetch(session, url)

    monkeypatch.setattr(wakeup, "fetch", fetch)
    site.round([Proxy(str(n), f"10.1.0.{n}", CHAT) for n in range(2 * CONCURRENCY)])
    assert (most, len(site.asked)) == (CONCURRENCY, 2 * CONCURRENCY)


def test_it_asks_twice_a_second_whatever_happens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site, clock, broken = Site(monkeypatch, a=1), FakeClock(), [True]

    def proxies() -> list[Proxy]:
        if broken:
            broken.clear()
            raise RuntimeError("as a mistake of ours would")
        return PROXIES[:1]

    async def main() -> None:
        asking = asyncio.create_task(site.wakeups.run(proxies, site.woken.append, clock.monotonic))
        await asyncio.sleep(2.75)
        assert not asking.done()
        asking.cancel()
        await asyncio.wait([asking])

    run(main)
    assert site.asked == ["a"] * 5
    assert site.woken == [CHAT]
    assert "asking gateways whether a request waits failed; it is tried again" in caplog.text

"""Proxies of pools at zero are asked whether a request waits: who, how often, and whom that wakes."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from aifactory.serving import wakeup
from aifactory.serving.holding import Held
from aifactory.serving.wakeup import INTERVAL_SECONDS, PER_SECOND, SILENT_LOOKS, Proxy, Wakeups

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

"""Releases on fake time: of two that watch the same, or some of the same, never more than one leads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory.api import names
from aifactory.kube import metrics
from aifactory.kube.claims import Claims
from aifactory.kube.errors import Forbidden, ServerError, Unreachable
from aifactory.kube.lease import REMIND_SECONDS, LeaderElection, LeaseConfig
from aifactory.kube.resources import LEASES, Key
from tests.support.faketime import FakeClock, run, until
from tests.unit.memory_api import MemoryApi

PATIENCE_SECONDS = 60.0
TURN_SECONDS = 2.0


class Link:
    """A way to the API server that is slow and may be cut off."""

    def __init__(self, api: MemoryApi, rng: random.Random) -> None:
        self._api, self._rng, self.cut = api, rng, False

    def __getattr__(self, verb: str) -> Callable[..., Awaitable[bytes]]:
        async def call(*args: Any, **options: Any) -> bytes:
            await asyncio.sleep(self._rng.random() * 0.1)
            if self.cut:
                raise Unreachable("cut off")
            answer: bytes = await getattr(self._api, verb)(*args, **options)
            await asyncio.sleep(self._rng.random() * 0.1)
            if self.cut:
                raise Unreachable("cut off")
            return answer

        return call


class Replica:
    """One replica of a release that watches a namespace, or all of them."""

    def __init__(
        self, api: Any, release: str, namespace: str | None = None, *, pod: str = "pod", seed: int = 0
    ) -> None:
        clock = FakeClock()
        self.namespace, self.said = namespace, list[str]()
        config = LeaseConfig("kube-system", names.lease(namespace), identity=f"{release}/{pod}", release=release)
        self.claims = Claims(api, config, clock=clock)
        self.election = LeaderElection(
            api, config, rival=self.claims.rival, waits=self.said.append, clock=clock, rng=random.Random(seed)
        )
        self.led = 0
        """Times it was told that it leads."""
        self.task = asyncio.create_task(self._take_part())

    async def _take_part(self) -> None:
        while True:
            await self.election.acquire()
            self.led += 1
            await self.election.hold()

    @property
    def leads(self) -> bool:
        return self.election.leading

    def overlaps(self, other: Replica) -> bool:
        return None in (self.namespace, other.namespace) or self.namespace == other.namespace

    async def stop(self) -> None:
        """As after SIGTERM."""
        await self.election.release()
        await self.kill()

    async def kill(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


def now() -> float:
    return asyncio.get_running_loop().time()


def hang_once(api: MemoryApi, verb: str) -> None:
    """The next call of a verb gets no answer."""

    async def before(called: str, _: Any, __: str) -> None:
        if called == verb:
            api.before = None
            await asyncio.sleep(3600)

    api.before = before


OVERLAPS = [(None, None), ("x", "x"), (None, "x"), ("x", None)]


@pytest.mark.parametrize(("first", "second"), OVERLAPS)
def test_a_second_release_waits_and_says_for_whom(first: str | None, second: str | None) -> None:
    async def main() -> None:
        api = MemoryApi()
        one = Replica(api, "system/one", first)
        await until(lambda: one.leads, seconds=1)
        two = Replica(api, "other/two", second)
        await asyncio.sleep(2 * PATIENCE_SECONDS)
        assert (one.leads, two.leads) == (True, False)
        (said,) = two.said
        assert said == two.election.waits_for
        assert said == (
            f"release system/one acts on {names.led_by(names.lease(first))} (lease kube-system/{names.lease(first)}), "
            f"so this one, other/two, does not act on {names.led_by(names.lease(second))}: uninstall one of them, or "
            "give each watchNamespaces of its own; it takes over when the other has been gone for 60 s"
        )
        gauge = metrics.WAITS_FOR_RELEASE.labels(names.lease(second))
        assert gauge._value.get() == 1
        await asyncio.sleep(REMIND_SECONDS)
        assert two.said == [said, said], "it is said again now and then"
        assert not one.said
        assert not one.election.waits_for
        await one.kill()
        await until(lambda: two.leads, seconds=PATIENCE_SECONDS + TURN_SECONDS)
        assert two.election.waits_for == ""
        assert gauge._value.get() == 0
        await two.kill()

    run(main)


@pytest.mark.parametrize(("first", "second"), OVERLAPS)
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_release_that_is_started_again_finds_its_place_free(end: str, first: str | None, second: str | None) -> None:
    """Also when it has given its lease up: an upgrade does, and hands over to its own next pod."""

    async def main() -> None:
        api = MemoryApi()
        one = Replica(api, "system/one", first)
        await until(lambda: one.leads, seconds=1)
        two = Replica(api, "other/two", second, seed=1)
        await asyncio.sleep(10)
        for number in range(5):
            await (one.stop() if end == "stop" else one.kill())
            await asyncio.sleep(PATIENCE_SECONDS / 2)
            assert not two.leads
            one = Replica(api, "system/one", first, pod=f"pod-{number}", seed=number)
            await until(lambda: one.leads, seconds=TURN_SECONDS + (15 if end == "kill" else 0))  # noqa: B023
            await asyncio.sleep(PATIENCE_SECONDS)
            assert (one.leads, two.leads) == (True, False)
        await one.stop()
        await until(lambda: two.leads, seconds=PATIENCE_SECONDS + TURN_SECONDS)
        await two.kill()

    run(main)


def test_releases_that_watch_nothing_in_common_do_not_wait() -> None:
    async def main() -> None:
        api = MemoryApi()
        replicas = [Replica(api, "system/one", "x"), Replica(api, "system/two", "y"), Replica(api, "z/one", "z")]
        await until(lambda: all(replica.leads for replica in replicas), seconds=TURN_SECONDS)
        assert all(replica.claims.none for replica in replicas)
        for replica in replicas:
            await replica.kill()

    run(main)


def test_a_release_that_comes_to_watch_something_else_waits_for_its_old_pod_and_is_ready() -> None:
    """A Deployment ends the old pod when the new one is ready: that it waits must not make it unready."""

    async def main() -> None:
        api = MemoryApi()
        old = Replica(api, "system/one", pod="old")
        await until(lambda: old.leads, seconds=1)
        new = Replica(api, "system/one", "x", pod="new")
        await asyncio.sleep(10)
        assert (old.leads, new.leads, new.election.waits_for) == (True, False, "")
        await old.stop()
        await until(lambda: new.leads, seconds=TURN_SECONDS)
        assert not new.claims.none, "another has led: what was read before is to be read again"
        await new.kill()

    run(main)


@pytest.mark.parametrize("error", [Forbidden(403, "Forbidden", "no rights"), ServerError(500, "", "away")])
def test_who_can_not_see_whether_others_lead_does_not_act_and_says_so(error: Exception) -> None:
    async def main() -> None:
        api = MemoryApi()
        api.failures["list"] = [error] * 20
        one = Replica(api, "system/one")
        await asyncio.sleep(10)
        assert not one.leads
        assert one.election.waits_for == f"the leases of other releases can not be read: {error}"
        written = len(api.writes())
        await asyncio.sleep(5)
        assert len(api.writes()) == written, "it does not take the lease again and again"
        await until(lambda: one.leads, seconds=30)
        assert one.election.waits_for == ""
        await one.kill()

    run(main)


def test_an_answer_that_never_comes_is_not_waited_for() -> None:
    async def main() -> None:
        api = MemoryApi()
        hang_once(api, "list")
        one = Replica(api, "system/one")
        await until(lambda: "can not be read" in one.election.waits_for, seconds=11)
        await until(lambda: one.leads, seconds=TURN_SECONDS)
        await one.kill()

    run(main)


@pytest.mark.parametrize("patch", ["answered", "refused", "hangs"])
def test_who_can_not_give_back_what_it_took_does_not_lead_either(patch: str) -> None:
    async def main() -> None:
        api = MemoryApi()
        one = Replica(api, "system/one")
        await until(lambda: one.leads, seconds=1)
        await one.stop()
        if patch == "refused":
            api.failures["patch"].append(Unreachable("away"))
        elif patch == "hangs":
            hang_once(api, "patch")
        two = Replica(api, "other/two", "x")
        await asyncio.sleep(10)
        assert two.led == 0
        assert not two.task.done(), "it waits for its turn"
        await two.kill()

    run(main)


def listed(name: str, holder: str = "other", namespace: str = "kube-system") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "resourceVersion": "7"}
    return {"metadata": metadata, "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15}}


@pytest.mark.parametrize(
    ("own", "lease", "rivals"),
    [
        ("aifactory.dev", None, False),
        ("aifactory.dev", listed("aifactory.dev"), False),
        ("aifactory.dev", listed("x.aifactory.dev"), True),
        ("aifactory.dev", listed("x.aifactory.dev", namespace="x"), False),
        ("aifactory.dev", listed("kube-scheduler"), False),
        ("x.aifactory.dev", listed("aifactory.dev"), True),
        ("x.aifactory.dev", listed("y.aifactory.dev"), False),
    ],
)
def test_only_leases_of_those_who_watch_some_of_the_same_count(
    own: str, lease: dict[str, Any] | None, rivals: bool
) -> None:
    class Leases:
        async def list(self, _: Any, *, namespace: str | None = None) -> bytes:
            found = lease is not None and namespace in (None, lease["metadata"]["namespace"])
            return msgspec.json.encode({"items": [lease] if found else None})

    async def main() -> None:
        config = LeaseConfig("kube-system", own, identity="me")
        claims = Claims(Leases(), config, clock=FakeClock())  # type: ignore[arg-type]
        assert (await claims.rival() is not None) == rivals
        assert claims.none != rivals

    run(main)


def test_a_lease_that_was_taken_and_given_back_is_nobodys() -> None:
    async def main() -> None:
        api = MemoryApi()
        one = Replica(api, "system/one")
        await until(lambda: one.leads, seconds=1)
        two = Replica(api, "other/two", "x")
        await until(lambda: bool(two.election.waits_for), seconds=1)
        lease = api.objects[LEASES][Key("kube-system", "x.aifactory.dev")]
        assert lease["spec"]["holderIdentity"] == ""
        held = api.objects[LEASES][Key("kube-system", "aifactory.dev")]
        assert held["metadata"]["annotations"]["aifactory.dev/release"] == "system/one"
        assert "aifactory.dev/release" not in lease["metadata"]["annotations"]
        for replica in (one, two):
            await replica.kill()

    run(main)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_never_two_that_overlap_and_one_soon_after_all_is_well(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        api = MemoryApi(seed)
        count = 0
        running: list[tuple[Replica, Link]] = []

        def start() -> None:
            nonlocal count
            count += 1
            link = Link(api, random.Random(seed + count))
            release, namespace = rng.choice(["a", "b", "c"]), rng.choice([None, "x", "x", "y"])
            running.append((Replica(link, release, namespace, pod=f"p{count}", seed=seed + count), link))

        def check() -> None:
            leading = [replica for replica, _ in running if replica.leads]
            for one in leading:
                for other in leading:
                    assert one is other or not one.overlaps(other), [r.election.config.identity for r in leading]

        for _ in range(150):
            await asyncio.sleep(rng.choice([0.05, 0.1, 0.5, 5.0]))
            check()
            if len(running) < 3 or rng.random() < 0.05:
                start()
            replica, link = rng.choice(running)
            if rng.random() < 0.05:
                link.cut = not link.cut
            if rng.random() < 0.03 or len(running) > 5:
                running.remove((replica, link))
                await (replica.stop() if rng.random() < 0.5 else replica.kill())
        for _, link in running:
            link.cut = False
        for _ in range(400):
            await asyncio.sleep(0.5)
            check()
        for replica, _ in running:
            assert any(other.leads and replica.overlaps(other) for other, _ in running), "nobody leads"
        for replica, _ in running:
            await replica.kill()

    run(main)

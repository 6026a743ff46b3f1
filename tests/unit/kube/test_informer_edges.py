"""The informer step by step: what it asks for, how long it waits, and what it makes of each kind of line."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import msgspec
import pytest

from aifactory.kube.errors import Forbidden, Gone, ServerError, TooManyRequests, Unreachable
from aifactory.kube.informer import (
    PAGE_SIZE,
    SILENCE_SECONDS,
    SLICE,
    WATCH_SECONDS,
    Informer,
    drop_missing,
    put_listed,
)
from aifactory.kube.objects import Metadata, Pod, decoder
from aifactory.kube.resources import PODS, Key
from aifactory.kube.store import Change, Store
from tests.support.faketime import FakeClock, run, until

Line = bytes | Exception | float
"""What a watch delivers: a line, a failure, or silence of so many seconds."""


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


class Script:
    """An API server that plays back lists and watches in order; the last watch of all stays open in silence."""

    def __init__(self, lists: Sequence[Any], watches: Sequence[Sequence[Line]] = ()) -> None:
        self.lists = list(lists)
        self.watches = [list(lines) for lines in watches]
        self.asked: list[tuple[float, str, dict[str, Any]]] = []
        """Time, verb and options of each call."""

    def _note(self, verb: str, **options: Any) -> None:
        self.asked.append((round(asyncio.get_running_loop().time(), 3), verb, options))

    async def list(self, resource: Any, **options: Any) -> bytes:
        self._note("list", **options)
        answer = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(answer, Exception):
            raise answer
        return msgspec.json.encode(answer)

    async def watch(self, resource: Any, **options: Any) -> AsyncIterator[Sequence[bytes]]:
        self._note("watch", **options)
        if not self.watches:
            await asyncio.Event().wait()
        for line in self.watches.pop(0):
            if isinstance(line, Exception):
                raise line
            if isinstance(line, float):
                await asyncio.sleep(line)
            else:
                yield [line]

    def times(self, verb: str) -> list[float]:
        return [at for at, called, _ in self.asked if called == verb]

    def versions(self) -> list[str]:
        """From where each watch was asked to start."""
        return [options["resource_version"] for _, verb, options in self.asked if verb == "watch"]


def pod(name: str, version: int, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "ns", "uid": f"{name}-uid", "resourceVersion": str(version)}
    return {"metadata": metadata, "status": status}


def page(version: int, *pods: dict[str, Any], more: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version), "continue": more}, "items": pods}


def line(type_: str, obj: Any) -> bytes:
    return msgspec.json.encode({"type": type_, "object": obj})


def bookmark(version: int) -> bytes:
    return line("BOOKMARK", {"metadata": {"resourceVersion": str(version), "creationTimestamp": None}})


def expired() -> bytes:
    return line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})


class Play:
    """An informer that reads a script for some seconds."""

    def __init__(self, script: Script, seconds: float = 50.0, **options: Any) -> None:
        self.script = script
        self.store: Store[Pod] = Store()
        self.changes: list[Change[Pod]] = []
        self.store.subscribe(self.changes.append)

        async def main() -> None:
            settings = {"rng": NoJitter(), "clock": FakeClock(), **options}
            self.informer = Informer(script, PODS, Pod, self.store, **settings)  # type: ignore[arg-type]
            self.silent_before = self.informer.silent_seconds()
            task = asyncio.create_task(self.informer.run())
            await asyncio.sleep(seconds)
            assert not task.done()
            self.silent = self.informer.silent_seconds()
            self.synced = self.informer.synced.is_set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        run(main)

    @property
    def names(self) -> list[str]:
        return sorted(key.name for key in self.store.keys())  # noqa: SIM118 - a store is no mapping


# --- Lists ---


def test_pages_are_asked_for_one_after_another_and_watched_from_the_version_of_the_first() -> None:
    script = Script([page(7, pod("a", 3), more="t1"), page(9, pod("b", 4), more="t2"), page(9, pod("c", 5))])
    play = Play(script, namespace="ns", label_selector="app=x")
    options = {"namespace": "ns", "label_selector": "app=x", "limit": PAGE_SIZE}
    assert [asked for _, verb, asked in script.asked if verb == "list"] == [
        {**options, "continue_": ""},
        {**options, "continue_": "t1"},
        {**options, "continue_": "t2"},
    ]
    (watch,) = [asked for _, verb, asked in script.asked if verb == "watch"]
    assert watch == {
        "resource_version": "7",
        "namespace": "ns",
        "label_selector": "app=x",
        "timeout_seconds": WATCH_SECONDS,
    }
    assert play.names == ["a", "b", "c"]
    assert play.synced
    assert all(change.background for change in play.changes)


def test_an_empty_list_as_go_writes_it() -> None:
    play = Play(Script([{"metadata": {"resourceVersion": "7"}, "items": None}]))
    assert play.synced
    assert play.script.versions() == ["7"]


def test_a_version_that_is_no_number_is_watched_from_all_the_same() -> None:
    play = Play(Script([{"metadata": {"resourceVersion": "opaque"}, "items": []}]))
    assert (len(play.script.times("list")), play.script.versions()) == (1, ["opaque"])


def test_a_page_with_an_object_of_another_shape_keeps_the_others_and_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Script([page(7, pod("a", 3), {"metadata": {"name": 7}}, pod("b", 4), more="t1"), page(9, pod("c", 5))])
    play = Play(script)
    assert play.names == ["a", "b", "c"]
    assert script.versions() == ["7"]
    assert "an object of pods is skipped" in caplog.text


def test_a_page_of_nothing_but_nonsense_is_no_reason_to_stop() -> None:
    items: list[Any] = [{"metadata": None}, 7]
    play = Play(Script([{"metadata": {"resourceVersion": "7"}, "items": items}]))
    assert (play.names, play.synced, play.script.versions()) == ([], True, ["7"])


def test_what_a_second_list_shows_is_told_as_news() -> None:
    play = Play(Script([page(7, pod("a", 3)), page(20, pod("b", 15))], [[expired()]]))
    assert [(change.object.metadata.name, change.background) for change in play.changes] == [
        ("a", True),
        ("b", False),
        ("a", False),
    ]
    assert play.names == ["b"]


def test_a_refresh_brings_the_store_to_what_the_server_holds() -> None:
    async def main() -> None:
        store: Store[Pod] = Store()
        script = Script([page(7, pod("a", 3)), page(20, pod("b", 15)), Forbidden(403, "Forbidden", "no")])
        informer = Informer(script, PODS, Pod, store, rng=NoJitter(), clock=FakeClock())  # type: ignore[arg-type]
        await informer.refresh()
        assert informer.synced.is_set()
        await informer.refresh()
        assert [key.name for key in store.keys()] == ["b"]  # noqa: SIM118 - a store is no mapping
        with pytest.raises(Forbidden):
            await informer.refresh()

    run(main)


def test_who_drops_what_a_list_did_not_hold_learns_how_much_that_was() -> None:
    async def main() -> int:
        store: Store[Pod] = Store()
        for number in range(5):
            store.put(decoder(Pod)(msgspec.json.encode(pod(f"p{number}", number + 1))))
        return await drop_missing(store, {"p0-uid", "p4-uid"}, "4")

    assert run(main) == 3


async def turns(work: Coroutine[Any, Any, object], each: Callable[[], object] = lambda: None) -> int:
    """How often others had their turn before some work was done; no time may pass."""
    task, count, started = asyncio.create_task(work), 0, asyncio.get_running_loop().time()
    await asyncio.sleep(0)
    while not task.done():
        count += 1
        each()
        await asyncio.sleep(0)
    await task
    assert asyncio.get_running_loop().time() == started
    return count


@pytest.mark.parametrize(
    ("size", "wanted"), [(1, 0), (SLICE - 1, 0), (SLICE, 1), (2 * SLICE - 1, 1), (2 * SLICE + 1, 2)]
)
def test_a_long_list_is_taken_in_slices_between_which_others_have_their_turn(size: int, wanted: int) -> None:
    async def main() -> None:
        store: Store[Pod] = Store()
        changes: list[Change[Pod]] = []
        store.subscribe(changes.append)
        decode = decoder(Pod)
        pods = [decode(msgspec.json.encode(pod(f"p{number}", number + 1))) for number in range(size)]
        listed: set[str] = set()
        assert await turns(put_listed(store, pods, listed)) == wanted
        assert (len(store), len(listed), changes[0].background) == (size, size, False)

        late = decode(msgspec.json.encode(pod("late", 5)))
        answers: list[bool] = []
        dropped = turns(drop_missing(store, set(), "100000"), lambda: answers.append(store.apply_response(late)))
        assert await dropped == wanted
        assert len(store) == 0
        assert answers == [False] * wanted, "what the list did not contain must not come back meanwhile"

    run(main)


# --- Watches ---


def test_each_kind_of_event(caplog: pytest.LogCaptureFixture) -> None:
    lines = [
        line("ADDED", pod("new", 8)),
        line("MODIFIED", pod("a", 9, phase="Running")),
        line("DELETED", pod("b", 10)),
        bookmark(30),
        1.0,
    ]
    play = Play(Script([page(7, pod("a", 3), pod("b", 4))], [lines]))
    assert play.names == ["a", "new"]
    found = play.store.get("ns", "a")
    assert found is not None
    assert found.status.phase == "Running"
    assert play.script.versions() == ["7", "30"]
    late = Metadata(name="late", namespace="ns", uid="late-uid", resource_version="30")
    assert not play.store.apply_response(Pod(metadata=late)), "everything up to 30 has been seen"
    assert "skipped" not in caplog.text


def test_a_bookmark_with_a_name_brings_no_object() -> None:
    lines = [line("BOOKMARK", pod("not-there", 30)), 1.0]
    play = Play(Script([page(7)], [lines]))
    assert play.names == []
    assert play.script.versions() == ["7", "30"]


def test_an_event_from_before_does_not_take_the_watch_back() -> None:
    play = Play(Script([page(7)], [[line("ADDED", pod("a", 9)), line("ADDED", pod("b", 8)), 1.0]]))
    assert play.names == ["a", "b"]
    assert play.script.versions() == ["7", "9"]


def test_an_object_of_another_shape_is_passed_by(caplog: pytest.LogCaptureFixture) -> None:
    odd = pod("odd", 8) | {"status": {"phase": 7}}
    play = Play(Script([page(7, pod("odd", 3))], [[line("MODIFIED", odd), 1.0]]))
    assert play.names == ["odd"], "what is known stays"
    assert play.script.versions() == ["7", "8"]
    assert caplog.text.count("an object of pods is skipped because it has an unexpected shape") == 1


def test_the_deletion_of_an_object_of_another_shape_is_a_deletion() -> None:
    odd = pod("odd", 8) | {"status": {"phase": 7}}
    play = Play(Script([page(7, pod("odd", 3))], [[line("DELETED", odd), 1.0]]))
    assert play.names == []
    assert play.script.versions() == ["7", "8"]


def test_a_line_that_makes_no_sense_is_a_failure_and_the_watch_goes_on_from_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    play = Play(Script([page(7)], [[line("ADDED", pod("a", 8)), b"<html>"]]))
    assert play.script.versions() == ["7", "8"]
    assert len(play.script.times("list")) == 1
    assert "watch of pods fails and is tried again" in caplog.text


# --- When it asks again ---


def test_a_watch_that_ends_is_asked_for_again_at_once_and_one_that_ends_at_once_a_little_later() -> None:
    play = Play(Script([page(7)], [[1.0], [0.5], [], [5.0]]))
    assert play.script.times("watch") == pytest.approx([0.0, 1.0, 1.6, 1.7, 6.7])


def test_a_silent_watch_is_asked_for_again_and_its_end_waits_for_nobody() -> None:
    play = Play(Script([page(7)], [[1000.0]]), seconds=SILENCE_SECONDS + 10)
    assert play.script.times("watch") == pytest.approx([0.0, SILENCE_SECONDS])
    play = Play(Script([page(7)], [[4.0, bookmark(8), 4.0, bookmark(9), 1000.0]]), seconds=15, silence_seconds=5.0)
    assert play.script.times("watch") == pytest.approx([0.0, 13.0])
    assert play.silent == pytest.approx(7.0)
    assert play.silent_before == float("inf")


def test_watches_do_not_all_end_at_one_time() -> None:
    script = Script([page(7)], [[1.0]] * 20)
    Play(script, seconds=19.5, rng=random.Random(0))
    asked = [options["timeout_seconds"] for _, verb, options in script.asked if verb == "watch"]
    assert all(WATCH_SECONDS <= seconds <= WATCH_SECONDS * 1.2 for seconds in asked)
    assert max(asked) - min(asked) > WATCH_SECONDS * 0.1
    assert all(isinstance(seconds, int) for seconds in asked)


def test_waits_double_up_to_ten_seconds_and_start_anew_after_a_success() -> None:
    away = Unreachable("away")
    script = Script([*[away] * 9, page(7)], [[away], [bookmark(8), away], [away]])
    Play(script, seconds=100)
    lists = script.times("list")
    gaps = [round(after - before, 2) for before, after in itertools.pairwise(lists)]
    assert gaps == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    watches = script.times("watch")
    gaps = [round(after - before, 2) for before, after in itertools.pairwise(watches)]
    assert gaps == [0.1, 0.1, 0.2], "the bookmark was a success, so the failure after it is the first"


def test_waits_are_spread_by_up_to_a_half() -> None:
    class FullJitter(random.Random):
        def random(self) -> float:
            return 1.0

    script = Script([Unreachable("away"), page(7)])
    Play(script, rng=FullJitter())
    assert script.times("list") == pytest.approx([0.0, 0.15])


def test_it_needs_no_clock_and_no_dice_of_its_own() -> None:
    async def main() -> None:
        script = Script([page(7)], [[bookmark(8)]])
        informer = Informer(script, PODS, Pod, Store())  # type: ignore[arg-type]
        task = asyncio.create_task(informer.run())
        await until(lambda: script.versions() == ["7", "8"])
        assert 0.0 <= informer.silent_seconds() < 60.0
        task.cancel()

    asyncio.run(main())


@pytest.mark.parametrize(("asked", "waited"), [(7.0, 7.0), (0.01, 0.1), (None, 0.1), (3600.0, 10.0)])
def test_a_server_that_says_how_long_to_wait_is_obeyed_within_reason(asked: float | None, waited: float) -> None:
    """A list that is answered 429 would else be asked for again after 0.1 s, by every informer."""
    script = Script([TooManyRequests(429, "TooManyRequests", "slow down", retry_after=asked), page(7)])
    Play(script)
    assert script.times("list") == pytest.approx([0.0, waited])


def test_a_version_that_is_gone_is_listed_anew_with_growing_waits_until_a_watch_works() -> None:
    gone = Gone(410, "Expired", "too old")
    script = Script([page(7)], [[gone], [gone], [expired()], [bookmark(9), gone], [1.0]])
    Play(script)
    lists = script.times("list")
    gaps = [round(after - before, 2) for before, after in itertools.pairwise(lists)]
    assert gaps == [0.1, 0.2, 0.4, 0.1]


def test_a_list_that_is_gone_on_the_way_starts_anew() -> None:
    script = Script([page(7, pod("a", 3), more="t1"), Gone(410, "Expired", "token too old"), page(9, pod("b", 4))])
    play = Play(script)
    assert play.names == ["b"]
    assert [options["continue_"] for _, verb, options in script.asked if verb == "list"] == ["", "t1", ""]


@pytest.mark.parametrize(
    ("status", "lists"),
    [
        ({"kind": "Status", "code": 500, "reason": "InternalError", "message": "etcd"}, 1),
        ({"kind": "Status", "message": "no code"}, 1),
        ({"kind": "Status", "code": 410, "message": "no reason"}, 2),
    ],
)
def test_an_error_in_a_watch_is_what_it_says(status: dict[str, Any], lists: int) -> None:
    play = Play(Script([page(7)], [[line("ERROR", status)]]))
    assert len(play.script.times("list")) == lists
    assert play.script.times("watch") == pytest.approx([0.0, 0.1])


def test_each_kind_of_failure_is_told_once_and_that_it_is_over_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    failures = [
        Unreachable("away"),
        Unreachable("still away"),
        ServerError(500, "", "etcd"),
        ServerError(503, "", "busy"),
        ServerError(503, "ServiceUnavailable", "busy again"),
        Forbidden(403, "Forbidden", "no"),
        RuntimeError("a mistake of ours"),
        Unreachable("away once more"),
    ]
    Play(Script([*failures, page(7)], [[Unreachable("later")]]))
    told = [record for record in caplog.records if record.name == "aifactory.kube.informer"]
    assert [(record.getMessage().rpartition(": ")[2], bool(record.exc_info)) for record in told] == [
        ("away", False),
        ("etcd", False),
        ("busy", False),
        ("busy again", False),
        ("no", False),
        ("a mistake of ours", True),
        ("away once more", False),
        ("watch of pods works again", False),
        ("later", False),
    ]


def test_keys_are_those_of_the_objects() -> None:
    play = Play(Script([page(7, pod("a", 3))]))
    assert play.store.keys() == [Key("ns", "a")]

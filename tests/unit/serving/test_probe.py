"""Asking serving pods: what is read from their pages, whose turn it is, and what is told of it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import pytest

from aifactory.api import names
from aifactory.api.inferencepool import MOST_MODELS, Measured, ModelThroughput, Throughput
from aifactory.engine import asking
from aifactory.serving import probe as probes
from aifactory.serving.measure import Analysed, Measurement, Sums, Tally
from aifactory.serving.probe import (
    FIGURES_PER_SECOND,
    INTERVAL_SECONDS,
    PER_SECOND,
    SILENT_LOOKS,
    WINDOW_SECONDS,
    Counters,
    ServingBook,
    ServingPod,
    ServingProbe,
    rates,
    read_counters,
    read_joules,
    read_load_error,
    read_models,
    read_report,
    worth_telling,
)
from aifactory.serving.state import Report
from tests.support.faketime import FakeClock, run

PAGE = b"""\
# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="tiny",version="1"} 120
nv_inference_request_success{model="a } b",version="2"} 30 1395066363000
nv_inference_request_success_created{model="tiny"} 1.7e9
# HELP aifactory_probe_requests_total Requests of the agent
# TYPE aifactory_probe_requests_total counter
aifactory_probe_requests_total{model="tiny",version="1"} 20
# HELP aifactory_generated_tokens_total Tokens, see also nv_inference_request_success
# TYPE aifactory_generated_tokens_total counter
aifactory_generated_tokens_total 4.0e+03"""


def test_the_agents_own_requests_are_not_traffic() -> None:
    assert read_counters(PAGE) == (130.0, 4000.0)
    assert read_counters(b"") == (0.0, 0.0)
    assert read_counters(b"nv_inference_request_success 5\n") == (5.0, 0.0)
    assert read_counters(b'nv_inference_request_success{model="m"} 5 1395066363000 7\n') == (5.0, 0.0)
    assert read_counters(b"aifactory_probe_requests_total 5\n") == (0.0, 0.0), "they are counted before their answers"


@pytest.mark.parametrize("value", [b"NaN", b"+Inf", b"many", b"1e999", b"", b" "])
def test_a_page_with_nonsense_is_no_page(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_counters(b'nv_inference_request_success{model="m"} ' + value + b"\n")


def test_the_agents_words_are_read_and_bounded() -> None:
    models = b'{"name":"m","state":"Failed","reason":"LoadFailed","message":"%s"},{"state":"Ready"}'
    assert read_load_error(b'{"models":[%s]}' % (models % b"bad weights")) == "LoadFailed: bad weights"
    assert read_load_error(b'{"models":[]}') == ""
    silent = b'{"state":"Failed","message":"no"}'
    assert read_load_error(b'{"models":[%s,%s]}' % (silent, models % b"bad")) == "Failed: no; LoadFailed: bad"
    assert len(read_load_error(b'{"models":[%s]}' % (models % (b"x" * 9000)))) == probes.MAX_WORDS


REPORT = b"""{"revision":"v2-a-b","ready":true,"reason":"Ready","answers":{"tiny":2,"other":9},"models":[
 {"name":"tiny","version":1,"state":"Failed","reason":"NoRoom","message":"no","traffic":"warm"},
 {"name":"tiny","version":2,"state":"Ready","traffic":"live","loadSeconds":3.25}]}"""


def test_what_a_pod_serves_is_read() -> None:
    assert read_report(REPORT) == Report("v2-a-b", ready=True, version=2, load_seconds=3.25), "warm ones do not count"
    failed = REPORT.replace(b'"Ready","traffic"', b'"Failed","reason":"LoadFailed","message":"bad","traffic"')
    assert read_report(failed).error == "LoadFailed: bad"
    assert read_report(b"{}") == Report(), "an agent of an earlier release"


SEVERAL = b"""{"revision": "v2-a-b", "ready": false, "answers": {"bert": 2, "gpt": 1, "old": 7}, "models": [
{"name": "bert", "version": 2, "state": "Ready", "traffic": "live", "loadSeconds": 2.5},
{"name": "gpt", "version": 2, "state": "Failed", "reason": "LoadFailed", "message": "bad", "traffic": "live"},
{"name": "bert", "version": 1, "state": "Failed", "reason": "LoadFailed", "message": "cold", "traffic": "warm"}]}"""


def test_of_several_models_each_is_told_by_itself() -> None:
    report = read_report(SEVERAL)
    assert report.answers == (("bert", 2), ("gpt", 1))
    assert (report.error_of("gpt"), report.error_of("bert")) == ("LoadFailed: bad", "")
    assert (report.version_of("gpt"), report.version_of("bert"), report.version_of("old")) == (1, 2, None)
    assert report.load_seconds == 2.5
    turned = {"revision": "r", "ready": True, "answers": {"gpt": 1, "bert": 2, "t5": -1, "new": 2**31}}
    models = [
        {"name": name, "version": 1, "state": "Ready", "traffic": "live", "loadSeconds": seconds}
        for name, seconds in (("gpt", 2.5), ("t5", None), ("bert", 4.0), ("new", 3.0), ("none", 1.0))
    ]
    assert read_report(json.dumps({**turned, "models": models}).encode()) == Report(
        "r",
        ready=True,
        version=1,
        load_seconds=4.0,
        answers=(("bert", 2), ("gpt", 1)),
        resident=("gpt", "t5", "bert", "new", "none"),
    )


def test_requests_and_tokens_of_each_of_several_models() -> None:
    page = b"""nv_inference_request_success{model="gpt",version="1"} 10
nv_inference_request_success{model="gpt",version="2"} 5
nv_inference_request_success{model="bert",version="1"} 3
nv_inference_request_success{model="NOT A NAME",version="1"} 3
aifactory_generated_tokens_total{model="gpt",version="2"} 70
"""
    assert read_models(page) == {"bert": (3.0, 0.0), "gpt": (15.0, 70.0)}
    asked = b"".join(b'aifactory_probe_requests_total{model="%s"} %d\n' % each for each in ((b"gpt", 4), (b"bert", 3)))
    assert read_models(page + asked) == {"bert": (0.0, 0.0), "gpt": (11.0, 70.0)}
    many = b"".join(b'nv_inference_request_success{model="m%02d"} 1\n' % number for number in range(30, 0, -1))
    assert list(read_models(many)) == [f"m{number:02}" for number in range(1, MOST_MODELS + 1)]
    start = {"a": Counters(0.0, 18.0, 70.0, models={"bert": (3.0, 0.0), "gpt": (15.0, 70.0)})}
    end = {"a": Counters(10.0, 38.0, 170.0, models={"bert": (3.0, 0.0), "gpt": (35.0, 170.0), "t5": (0.0, 0.0)})}
    found = rates(start, end)
    assert found is not None
    assert [each.dump() for each in found.models or ()] == [
        {"name": "bert", "requestsPerSecond": "0", "tokensPerSecond": "0"},
        {"name": "gpt", "requestsPerSecond": "2", "tokensPerSecond": "10"},
        {"name": "t5", "requestsPerSecond": "0", "tokensPerSecond": "0"},
    ]
    end = {
        "a": Counters(10.0, 38.0, 170.0, models={"t5": (10.0, 100.0), "gpt": (35.0, 170.0)}),
        "b": Counters(10.0, 9.0, 0.0, models={"bert": (9.0, 0.0), "gpt": (20.0, 0.0)}),
    }
    found = rates({**start, "b": Counters(0.0, 0.0, 0.0)}, end)
    assert found is not None
    assert [each.dump() for each in found.models or ()] == [
        {"name": "bert", "requestsPerSecond": "0.9", "tokensPerSecond": "0"},
        {"name": "gpt", "requestsPerSecond": "4", "tokensPerSecond": "10"},
        {"name": "t5", "requestsPerSecond": "1", "tokensPerSecond": "10"},
    ]


def test_that_requests_go_from_one_model_to_another_is_worth_telling() -> None:
    def told(gpt: str, bert: str) -> Throughput:
        models = [
            ModelThroughput(name=name, requests_per_second=value) for name, value in (("gpt", gpt), ("bert", bert))
        ]
        return Throughput(requests_per_second="10", models=tuple(models))

    assert worth_telling(told("9", "1"), told("1", "9"))
    assert not worth_telling(told("9", "1"), told("9", "1"))
    assert worth_telling(Throughput(requests_per_second="10"), told("9", "1"))


@pytest.mark.parametrize("read", [read_load_error, read_report])
def test_what_nests_too_deeply_is_no_status(read: Callable[[bytes], object]) -> None:
    """Anything but a ValueError would end the round for the pods of all pools."""
    with pytest.raises(ValueError, match="nests too deeply"):
        read(b'{"ready":true,"other":' + b"[" * 9000)


@pytest.mark.parametrize(("old", "new"), [(b"3.25", b"-1"), (b"3.25", b"1e6"), (b"3.25", b"1e300"), (b"3.25", b"null")])
def test_nonsense_about_a_load_is_not_told(old: bytes, new: bytes) -> None:
    assert read_report(REPORT.replace(old, new)).load_seconds is None


@pytest.mark.parametrize(("field", "told"), [("version", 1), ("version", 2**31 - 1), ("load_seconds", 0.0)])
def test_the_least_and_the_most_that_can_be_is_told(field: str, told: float) -> None:
    old = b'"tiny":2' if field == "version" else b"3.25"
    new = b'"tiny":%d' % told if field == "version" else b"0"
    assert getattr(read_report(REPORT.replace(old, new)), field) == told


@pytest.mark.parametrize("version", [b"0", b"-4", b"99999999999", b"2147483648"])
def test_no_version_that_could_not_be_is_told(version: bytes) -> None:
    assert read_report(REPORT.replace(b'"tiny":2', b'"tiny":' + version)).version is None


def test_rates_are_summed_over_pods() -> None:
    idle = Counters(5.0, 70, 700)
    start = {"a": Counters(5.0, 100, 1000), "b": Counters(5.0, 0, 0), "idle": idle, "not asked": idle}
    end = {
        "new": Counters(15.0, 9, 9),
        "a": Counters(15.0, 150, 3000),
        "b": Counters(15.0, 50, 1000),
        "idle": Counters(15.0, 70, 700),
        "not asked": idle,
    }
    assert rates(start, end) == Throughput(requests_per_second="10", tokens_per_second="300")
    assert rates(start, {"a": Counters(15.0, 112.34, 1056.78)}) == Throughput(
        requests_per_second="1.2", tokens_per_second="5.7"
    )


def test_a_triton_that_was_restarted_counts_from_zero() -> None:
    assert rates({"a": Counters(0.0, 1000, 9000)}, {"a": Counters(10.0, 20, 100)}) == Throughput(
        requests_per_second="2", tokens_per_second="10"
    )


def test_a_look_while_the_agent_asks_is_no_restart() -> None:
    quiet = Throughput(requests_per_second="0", tokens_per_second="0")
    assert rates({"a": Counters(0.0, 1000, 9000)}, {"a": Counters(10.0, 999, 8998)}) == quiet


def test_energy_is_told_by_token_where_every_pod_meters_it() -> None:
    start = {"a": Counters(0.0, 0, 0, 1000.0), "b": Counters(0.0, 0, 0, 5000.0)}
    end = {"a": Counters(10.0, 9, 100, 1300.0), "b": Counters(10.0, 9, 300, 100.0)}  # Triton of b was started again
    assert rates(start, end) == Throughput(requests_per_second="1.8", tokens_per_second="40", joules_per_token="1")
    blind = rates(start, {**end, "b": Counters(10.0, 9, 300)})
    assert blind is not None
    assert blind.joules_per_token is None, "a part of the pods is not the pool"
    silent = rates(start, {uid: Counters(10.0, 9, 0, 9000.0) for uid in start})
    assert silent is not None
    assert silent.joules_per_token is None, "no token, no energy for one"


def test_energy_is_read_for_all_gpus_of_a_pod() -> None:
    page = b"""# HELP nv_energy_consumption GPU energy consumption in joules since the Triton Server started
# TYPE nv_energy_consumption gauge
nv_energy_consumption{gpu_uuid="GPU-1"} 1200.5
nv_energy_consumption{gpu_uuid="GPU-2"} 800
"""
    assert read_joules(page) == 2000.5
    assert read_joules(b"# TYPE nv_energy_consumption gauge\n") is None


def test_one_look_is_no_rate() -> None:
    look = {"a": Counters(10.0, 20, 100)}
    assert rates({}, look) is None
    assert rates(look, look) is None


def test_only_news_wakes_anybody() -> None:
    book = ServingBook()
    assert book.set_error("uid", "LoadFailed: bad weights")
    assert not book.set_error("uid", "LoadFailed: bad weights")
    assert book.load_error("uid") == "LoadFailed: bad weights"
    assert book.set_error("uid", "")
    assert not book.set_error("uid", "")
    figures, pool = Throughput(requests_per_second="3"), ("ns", "pool")
    assert book.throughput(pool) is None
    assert book.set_throughput(pool, figures)
    assert not book.set_throughput(pool, figures)
    assert book.throughput(pool) == figures


def test_what_is_known_of_others_is_forgotten() -> None:
    book = ServingBook()
    for name in ("kept", "gone"):
        book.set_error(name, "LoadFailed: bad weights")
        book.set_throughput(("ns", name), Throughput())
    book.retain(["kept"], [("ns", "kept")])
    assert [bool(book.load_error(name)) for name in ("kept", "gone")] == [True, False]
    assert [book.throughput(("ns", name)) for name in ("kept", "gone")] == [Throughput(), None]


def test_an_agent_is_silent_that_was_asked_again_and_again_and_has_never_said_anything() -> None:
    book = ServingBook()
    for times in range(1, probes.SILENT_AFTER + 3):
        assert book.set_unanswered("uid") == (times == probes.SILENT_AFTER), "that is news once"
        assert book.is_silent("uid") == (times >= probes.SILENT_AFTER)
    assert book.set_report("uid", Report())
    assert not book.is_silent("uid")
    for times in range(1, probes.SILENT_AFTER + 3):
        assert book.set_unanswered("uid") == (times == probes.SILENT_AFTER), "it is counted anew"
        assert not book.is_silent("uid"), "it has said something once"
    for name in ("kept", "gone"):
        for _ in range(probes.SILENT_AFTER):
            book.set_unanswered(name)
    book.retain(["kept"], [])
    assert [book.is_silent(name) for name in ("kept", "gone")] == [True, False]


@pytest.mark.parametrize(
    ("told", "new", "worth"),
    [
        (None, "5", True),
        ("100", "105", False),
        ("100", "111", False),
        ("90", "100", False),
        ("100", "115", True),
        ("0", "0.1", True),
        ("3", "0", True),
        ("0", "0", False),
    ],
)
def test_figures_are_told_when_they_differ_by_enough(told: str | None, new: str, worth: bool) -> None:
    before = None if told is None else Throughput(requests_per_second=told, tokens_per_second="7")
    assert worth_telling(before, Throughput(requests_per_second=new, tokens_per_second="7")) is worth
    before = None if told is None else Throughput(requests_per_second="7", tokens_per_second=told)
    assert worth_telling(before, Throughput(requests_per_second="7", tokens_per_second=new)) is worth


class World:
    """Serving pods that answer at once, and a probe that asks them on made-up time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pods: list[ServingPod]) -> None:
        self.pods = pods
        self.swapping: list[ServingPod] = []
        self.analysed: list[Analysed] = []
        self.scaled: set[probes.PoolKey] = set()
        self.running: dict[str, int] = {}
        """Requests that a pod's engine tells, by its address."""
        self.takes = 0.001
        """Seconds until a pod answers."""
        self.busy = self.busiest = 0
        """Pods that are being asked, now and at most."""
        self.urls: list[str] = []
        self.raised: Exception = TimeoutError()
        self.asked: list[tuple[float, str]] = []
        self.woken: list[tuple[float, probes.PoolKey]] = []
        self.errors: dict[str, str] = {}
        self.requests: Callable[[str, float], float] = lambda host, now: 0.0
        self.book = ServingBook()
        self.clock = FakeClock()
        monkeypatch.setattr(probes, "fetch", self._fetch)
        self.probe = ServingProbe(
            book=self.book,
            pods=lambda: self.pods,
            wake=lambda pool: self.woken.append((self.clock.monotonic(), pool)),
            swapping=lambda: self.swapping,
            analysed=lambda: self.analysed,
            scaled=lambda: self.scaled,
            monotonic=self.clock.monotonic,
        )

    async def _fetch(self, session: Any, url: str) -> bytes:
        host, _, path = url.removeprefix("http://").partition("/")
        now, name = self.clock.monotonic(), host.rpartition(":")[0]
        self.asked.append((now, name))
        self.urls.append(url)
        self.busy += 1
        self.busiest = max(self.busy, self.busiest)
        await asyncio.sleep(self.takes)
        self.busy -= 1
        if self.errors.get(name) == "away":
            raise self.raised
        if path == "v1/status":
            words = self.errors.get(name, "")
            if not words:
                return b"{}"
            return b'{"models":[{"state":"Failed","reason":"LoadFailed","message":"%s"}]}' % words.encode()
        told = b"aifactory_requests_running %d\n" % self.running[name] if name in self.running else b""
        return told + b"nv_inference_request_success %f\n" % self.requests(name, now)

    async def rounds(self, seconds: float, every: float = INTERVAL_SECONDS) -> None:
        until = self.clock.monotonic() + seconds
        while (started := self.clock.monotonic()) < until:
            await self.probe.round(None)  # type: ignore[arg-type] # `fetch` is replaced
            await asyncio.sleep(max(0.0, started + every - self.clock.monotonic()))

    def gaps(self) -> list[float]:
        """Seconds between two that are woken."""
        return [round(after - before, 1) for (before, _), (after, _) in itertools.pairwise(self.woken)]


def ready(number: int, pool: int = 0) -> ServingPod:
    return ServingPod(uid=f"uid-{number}", address=f"pod-{number}", pool=("ns", f"pool-{pool}"), ready=True)


def unready(number: int, pool: int = 0) -> ServingPod:
    return replace(ready(number, pool), ready=False)


def test_many_ready_pods_are_asked_less_often_and_those_that_are_not_ready_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        count = int(10 * PER_SECOND * INTERVAL_SECONDS)
        starting = ServingPod(uid="new", address="new", pool=("ns", "pool-0"), ready=False)
        world = World(monkeypatch, [*map(ready, range(count)), starting])
        await world.rounds(200)
        asked = Counter(name for _, name in world.asked)
        assert 38 <= asked.pop("new") <= 41
        assert len(asked) == count
        assert 3 <= min(asked.values()) <= max(asked.values()) <= 5, "each every 50 seconds"
        assert len(world.asked) <= 205 * PER_SECOND

    run(main)


def test_a_few_pods_are_asked_every_five_seconds_each(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(monkeypatch, [*map(ready, range(100))])
        await world.rounds(100)
        assert set(Counter(name for _, name in world.asked).values()) == {20}

    run(main)


def test_a_pod_that_does_not_answer_is_asked_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(monkeypatch, [ready(0), ready(1)])
        world.errors["pod-1"] = "away"
        await world.rounds(300)
        asked = Counter(name for _, name in world.asked)
        assert asked["pod-0"] >= 58
        assert [round(at) for at, name in world.asked if name == "pod-1"] == [2, 10, 25, 50, 95, 180]
        world.errors.clear()
        await world.rounds(10)
        world.errors["pod-1"] = "away"
        world.asked.clear()
        await world.rounds(30)
        asked = Counter(name for _, name in world.asked)
        assert asked["pod-1"] == 3, "it has answered meanwhile, so its waits begin again"

    run(main)


@pytest.mark.parametrize("error", [aiohttp.ClientError(), TimeoutError(), ValueError(), msgspec.DecodeError()])
def test_whatever_keeps_a_pod_from_answering_concerns_it_alone(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        world = World(monkeypatch, [ready(0), ready(1)])
        world.errors["pod-0"], world.raised = "away", error
        await world.rounds(5)
        assert [name for _, name in world.asked] == ["pod-0", "pod-1"]

    run(main)


def test_ready_pods_are_asked_of_triton_and_others_of_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        pods = [replace(ready(0), address="fd00::1"), replace(unready(1), address="10.0.0.1")]
        world = World(monkeypatch, pods)
        await world.rounds(5)
        assert sorted(world.urls) == [
            f"http://10.0.0.1:{names.AGENT_PORT}/v1/status",
            f"http://[fd00::1]:{names.TRITON_METRICS_PORT}/metrics",
        ]

    run(main)


def test_pods_are_asked_one_after_the_other_over_most_of_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(monkeypatch, [ready(number) for number in range(4)])
        await world.rounds(5)
        assert [round(at, 1) for at, _ in world.asked] == [0, 1, 2, 3]

    run(main)


def test_who_is_not_asked_by_the_end_of_the_interval_is_the_first_to_be_asked_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        monkeypatch.setattr(probes, "CONCURRENCY", 2)
        world = World(monkeypatch, [ready(number) for number in range(6)])
        world.takes = 3.0
        await world.rounds(7)
        assert world.busiest == 2
        asked = [int(name.removeprefix("pod-")) for _, name in world.asked]
        assert asked == [0, 1, 2, 3, 4, 5, 0, 1]

    run(main)


@pytest.mark.parametrize(("count", "asked"), [(7, [5, 5]), (9, [5, 4])])
def test_no_ready_pod_is_asked_long_before_its_turn(
    count: int, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one a second: those asked five seconds ago are due after seven seconds, to the nearest round."""

    async def main() -> None:
        monkeypatch.setattr(probes, "PER_SECOND", 1.0)
        world = World(monkeypatch, [ready(number) for number in range(count)])
        counts = []
        for _ in asked:
            before = len(world.asked)
            await world.rounds(5)
            counts.append(len(world.asked) - before)
        assert counts == asked

    run(main)


def test_of_many_pods_that_are_not_ready_those_are_asked_first_that_have_waited_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        monkeypatch.setattr(probes, "PER_SECOND", 1.0)
        world = World(monkeypatch, [unready(number) for number in range(15)])
        await world.rounds(30)
        assert set(Counter(name for _, name in world.asked).values()) == {2}
        assert len(world.asked) == 30

    run(main)


def test_a_model_that_is_loaded_after_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(monkeypatch, [unready(0)])
        world.errors["pod-0"] = "bad weights"
        await world.rounds(5)
        world.pods = [ready(0)]
        await world.rounds(5)
        assert world.book.load_error("uid-0") == ""
        assert len(world.woken) == 2

    run(main)


def test_a_load_error_wakes_its_pool_at_once_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        pod = ServingPod(uid="uid", address="pod", pool=("ns", "pool"), ready=False)
        world = World(monkeypatch, [pod])
        world.errors["pod"] = "bad weights"
        await world.rounds(30)
        assert [pool for _, pool in world.woken] == [("ns", "pool")]
        assert world.book.load_error("uid") == "LoadFailed: bad weights"

    run(main)


def test_one_busy_pool_is_as_fresh_as_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(monkeypatch, [ready(0)])
        world.requests = lambda _, now: now**3
        await world.rounds(150)
        times = [at for at, _ in world.woken]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert len(times) >= 8
        assert max(gaps) <= WINDOW_SECONDS + 1
        assert min(gaps) >= WINDOW_SECONDS - 1

    run(main)


def test_the_round_that_is_nearest_to_its_end_closes_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(monkeypatch, [ready(0)])
        world.requests = lambda _, now: now**3
        await world.rounds(100, every=6.5)
        assert set(world.gaps()) == {13.0}

    run(main)


def test_a_window_is_long_enough_for_every_pod_to_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(probes, "PER_SECOND", 0.2)
        world = World(monkeypatch, [ready(number) for number in range(4)])
        world.requests = lambda _, now: now**3
        await world.rounds(200)
        assert set(world.gaps()) == {25.0}

    run(main)


def test_each_model_is_counted_where_a_pod_serves_several(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(monkeypatch, [replace(ready(0), several=True), ready(1)])
        monkeypatch.setattr(probes, "read_models", lambda page: {"gpt": (1.0, 2.0)})
        await world.rounds(INTERVAL_SECONDS)
        counted = {uid: counters.models for uid, counters in world.probe._latest.items()}
        assert counted == {"uid-0": {"gpt": (1.0, 2.0)}, "uid-1": {}}

    run(main)


def test_figures_that_are_as_they_were_told_wait_for_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(probes, "FIGURES_PER_SECOND", 0.01)
        world = World(monkeypatch, [ready(0)])
        world.book.set_throughput(("ns", "pool-0"), Throughput())
        world.requests = lambda _, now: now
        await world.rounds(20)
        assert list(world.probe._news) == [("ns", "pool-0")]
        world.requests = lambda _, now: 1e6
        await world.rounds(40)
        assert not world.probe._news

    run(main)


def test_however_often_it_looks_only_so_many_pools_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(monkeypatch, [])
        figures = Throughput(requests_per_second="1")
        world.probe._news = {("ns", f"pool-{number}"): figures for number in range(100)}
        for _ in range(10):
            world.probe._tell()
            await asyncio.sleep(1.0)
        at_once = int(FIGURES_PER_SECOND * INTERVAL_SECONDS)
        assert len(world.woken) == at_once + 9 * FIGURES_PER_SECOND
        world.woken.clear()
        await asyncio.sleep(100)
        world.probe._tell()
        assert len(world.woken) == at_once, "what was not used is not saved up"

    run(main)


def test_many_busy_pools_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(monkeypatch, [ready(number, pool=number) for number in range(400)])
        world.requests = lambda _, now: now**3
        await world.rounds(300)
        per_second = len(world.woken) / 300
        assert 0.8 * FIGURES_PER_SECOND <= per_second <= FIGURES_PER_SECOND + 0.2
        told = Counter(pool for _, pool in world.woken)
        assert len(told) == 400
        assert max(told.values()) - min(told.values()) <= 1, "those first that have waited longest"

    run(main)


def test_what_is_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(monkeypatch, [ready(number, pool=number) for number in range(5)])
        world.requests = lambda _, now: now**3
        await world.rounds(40)
        world.book.set_error("uid-0", "LoadFailed: no")
        world.pods = []
        await world.rounds(1)
        assert world.book.load_error("uid-0") == ""
        probe = world.probe
        assert not any((probe._asked, probe._silent, probe._latest, probe._windows, probe._news, probe._told))

    run(main)


def test_it_goes_on_after_a_mistake(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = ServingProbe(book=ServingBook(), pods=list, wake=lambda _: None, monotonic=FakeClock().monotonic)
    rounds = 0

    async def round_(session: aiohttp.ClientSession) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(probe, "round", round_)

    async def main() -> None:
        task = asyncio.create_task(probe.run())
        await asyncio.sleep(INTERVAL_SECONDS * 3 - 1)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main)
    assert rounds == 3
    assert caplog.text.count("probing serving pods failed") == 1


def test_rounds_begin_at_an_interval_and_leave_time_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    probe = ServingProbe(book=ServingBook(), pods=list, wake=lambda _: None, monotonic=clock.monotonic)
    began: list[float] = []
    sessions = []

    async def round_(session: aiohttp.ClientSession) -> None:
        began.append(clock.monotonic())
        sessions.append((session.timeout.total, session.connector))
        await asyncio.sleep([2.0, 7.0, 0.0][len(began) - 1])

    monkeypatch.setattr(probe, "round", round_)

    async def main() -> None:
        task = asyncio.create_task(probe.run())
        await asyncio.sleep(14)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main)
    assert began == [0.0, INTERVAL_SECONDS, 12.5]
    timeout, connector = sessions[0]
    assert timeout == asking.TIMEOUT_SECONDS
    assert connector is not None
    assert (connector.limit, connector.force_close) == (probes.CONCURRENCY, True)


# --- Pods that change over to another version ---


def test_pods_that_change_over_are_asked_again_and_again_and_news_wake_their_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        world = World(monkeypatch, [])
        world.swapping = [ready(1), unready(2, pool=1), ready(3)]
        world.errors["pod-2"], world.errors["pod-3"] = "bad weights", "away"
        for _ in range(3):
            await world.probe.follow_round(None)  # type: ignore[arg-type] # `fetch` is replaced
        assert Counter(name for _, name in world.asked) == {"pod-1": 3, "pod-2": 3, "pod-3": 3}
        assert set(world.urls) == {f"http://pod-{number}:8081/v1/status" for number in (1, 2, 3)}
        assert Counter(pool for _, pool in world.woken) == {("ns", "pool-0"): 1, ("ns", "pool-1"): 1}
        assert world.book.report("uid-1") == Report()
        assert world.book.report("uid-2") == Report(error="LoadFailed: bad weights")
        assert world.book.report("uid-3") is None, "it has not answered"
        assert not world.book.is_silent("uid-3")
        for _ in range(probes.SILENT_AFTER):
            await world.probe.follow_round(None)  # type: ignore[arg-type] # `fetch` is replaced
        assert [world.book.is_silent(f"uid-{number}") for number in (1, 2, 3)] == [False, False, True]
        assert Counter(pool for _, pool in world.woken)["ns", "pool-0"] == 2, "once more, by its silence"
        assert world.book.load_error("uid-2") == "", "that is told of pods that are not ready"
        world.book.retain(["uid-2"], [])
        assert world.book.report("uid-1") is None

    run(story)


def test_pods_that_change_over_are_asked_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        world = World(monkeypatch, [])
        world.swapping = [ready(1)]
        task = asyncio.create_task(world.probe.follow())
        await asyncio.sleep(4.9)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(world.asked) == 10

    run(story)


@pytest.mark.parametrize("raised", [aiohttp.ClientError(), TimeoutError(), ValueError("nonsense")])
def test_whatever_keeps_a_pod_that_changes_over_from_answering_concerns_it_alone(
    monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    async def story() -> None:
        world = World(monkeypatch, [])
        world.swapping = [ready(1), ready(2)]
        world.errors["pod-1"], world.raised = "away", raised
        await world.probe.follow_round(None)  # type: ignore[arg-type] # `fetch` is replaced
        assert [world.book.report(f"uid-{number}") for number in (1, 2)] == [None, Report()]

    run(story)


def test_of_many_pods_that_change_over_a_bounded_number_is_asked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        world = World(monkeypatch, [])
        most = int(PER_SECOND)
        world.swapping = [ready(number) for number in range(most + 50)]
        await world.probe.follow_round(None)  # type: ignore[arg-type] # `fetch` is replaced
        assert (len(world.asked), world.busiest) == (most, probes.CONCURRENCY)
        world.asked.clear()
        await world.probe.follow_round(None)  # type: ignore[arg-type] # `fetch` is replaced
        first = [name for _, name in world.asked[:50]]
        assert first == [f"pod-{number}" for number in range(most, most + 50)], "those who were not asked come first"

    run(story)


def test_what_versions_that_are_compared_have_done_is_added_up_and_told_every_15_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        world = World(monkeypatch, [ready(0), ready(1)])
        world.requests = lambda host, now: 1000 + now * (1 if host == "pod-0" else 10)
        pool, since = ("ns", "pool-0"), datetime(2026, 1, 1, tzinfo=UTC)
        window = Measurement("new", since, Measured(requests=100), Measured())
        await world.rounds(30)
        assert world.book.measured(pool) is None
        world.analysed = [Analysed(pool, window, frozenset(["uid-0"]), frozenset(["uid-1"]))]
        world.woken.clear()
        await world.rounds(63)
        found = world.book.measured(pool)
        assert found is not None
        assert (found.revision, found.since) == ("new", since)
        assert 150 <= found.candidate.requests <= 160, "it goes on from what stood in the status"
        assert 500 <= found.stable.requests <= 600
        assert len(world.woken) == 4, "as often as figures are told"
        world.analysed = [Analysed(pool, replace(window, revision="newer"), frozenset(["uid-0"]), frozenset())]
        await world.rounds(20)
        found = world.book.measured(pool)
        assert found is not None
        assert (found.revision, found.stable) == ("newer", Measured())
        world.pods, world.analysed = [], []
        await world.rounds(5)
        assert world.book.measured(pool) is None

    run(main)


def test_of_many_pools_that_are_compared_so_many_are_told_at_a_time_and_each_has_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        count, since = 100, datetime(2026, 1, 1, tzinfo=UTC)
        world = World(monkeypatch, [ready(number, pool=number) for number in range(count)])
        world.requests = lambda host, now: now
        world.analysed = [
            Analysed(
                ("ns", f"pool-{number}"),
                Measurement("new", since, Measured(), Measured()),
                frozenset([f"uid-{number}"]),
                frozenset(),
            )
            for number in range(count)
        ]
        told: list[tuple[float, probes.PoolKey]] = []
        monkeypatch.setattr(
            world.book, "set_measured", lambda pool, result: told.append((world.clock.monotonic(), pool))
        )
        await world.rounds(120)
        assert {pool for _, pool in told} == {each.pool for each in world.analysed}
        most = int(FIGURES_PER_SECOND * INTERVAL_SECONDS)
        assert max(Counter(round(at) for at, _ in told).values()) <= most

    run(main)


class Comparisons(World):
    """Pools whose versions were compared, and told of it so many seconds ago."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ago: dict[str, float], counted: float = 1.0) -> None:
        super().__init__(monkeypatch, [])
        window = Measurement("new", datetime(2026, 1, 1, tzinfo=UTC), Measured(), Measured())
        for pool, seconds in ago.items():
            each = Analysed(("ns", pool), window, frozenset(), frozenset())
            tally = Tally.begin(each, self.clock.monotonic() - seconds)
            tally.candidate = Sums(requests=counted)
            self.probe._tallies["ns", pool] = tally

    def tell(self) -> list[str]:
        """Who is told now."""
        self.woken.clear()
        self.probe._tell()
        return [pool for _, (_, pool) in self.woken]


def test_comparisons_take_turns_and_come_before_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(probes, "FIGURES_PER_SECOND", 2 / INTERVAL_SECONDS)
        world = Comparisons(monkeypatch, {"a": 20, "b": 40, "c": 30})
        world.probe._news = {("ns", "d"): Throughput(requests_per_second="1")}
        assert world.tell() == ["b", "c"], "those first that have waited longest"
        await asyncio.sleep(INTERVAL_SECONDS)
        assert world.tell() == ["a", "d"]
        await asyncio.sleep(INTERVAL_SECONDS)
        assert world.tell() == []

    run(main)


def test_the_round_that_is_nearest_to_15_seconds_later_tells_what_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = Comparisons(monkeypatch, {"due": 12.5, "early": 12.4})
        assert world.tell() == ["due"]
        tally = world.probe._tallies["ns", "due"]
        assert world.book.measured(("ns", "due")) == tally.told == tally.result()
        assert tally.told.candidate.requests == 1
        await asyncio.sleep(12.4)
        tally.candidate = Sums(requests=2)
        assert world.tell() == ["early"], "it was told a moment ago"
        assert Comparisons(monkeypatch, {"unchanged": 60}, counted=0.0).tell() == []

    run(main)


def test_counters_of_pods_that_nobody_compares_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the time in between would count when they are compared again."""

    async def main() -> None:
        world = World(monkeypatch, [ready(0), ready(1)])
        world.requests = lambda host, now: now
        window = Measurement("new", datetime(2026, 1, 1, tzinfo=UTC), Measured(), Measured())
        for pods in (["uid-0", "uid-1"], ["uid-1"], []):
            world.analysed = [Analysed(("ns", "pool-0"), window, frozenset(pods), frozenset())] if pods else []
            await world.rounds(20)
            assert set(world.probe._sums) == set(pods)
            assert len(world.probe._tallies) == bool(pods)

    run(main)


def test_what_has_not_been_asked_for_and_what_has_not_changed_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(monkeypatch, [ready(0), ready(1)])
        window = Measurement("new", datetime(2026, 1, 1, tzinfo=UTC), Measured(), Measured())
        world.analysed = [Analysed(("ns", "pool-0"), window, frozenset(["uid-0"]), frozenset(["uid-1"]))]
        await world.rounds(60)
        assert world.book.measured(("ns", "pool-0")) is None, "nothing was counted"
        world.analysed = []
        world.requests = lambda host, now: now
        await world.rounds(60)
        assert world.book.measured(("ns", "pool-0")) is None, "nobody compares it any more"

    run(main)


def test_pods_that_come_in_the_middle_of_a_comparison_count(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(monkeypatch, [ready(0), ready(1)])
        world.requests = lambda host, now: 10 * now if host == "pod-1" else 0
        window = Measurement("new", datetime(2026, 1, 1, tzinfo=UTC), Measured(), Measured())
        for pods in (["uid-0"], ["uid-0", "uid-1"]):
            world.analysed = [Analysed(("ns", "pool-0"), window, frozenset(pods), frozenset())]
            await world.rounds(30)
        found = world.book.measured(("ns", "pool-0"))
        assert found is not None
        assert found.candidate.requests >= 100

    run(main)


def test_pools_that_are_scaled_are_woken_when_their_pods_have_something_else_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        world = World(monkeypatch, [ready(0), ready(1), ready(2, pool=1), unready(3)])
        world.scaled, world.running = {("ns", "pool-0"), ("ns", "empty")}, {"pod-0": 3, "pod-1": 4, "pod-2": 5}
        await world.rounds(60)
        found = world.book.demand(("ns", "pool-0"))
        assert found is not None
        assert (found.in_flight, found.most_in_flight, found.complete, found.silent) == (7.0, 7.0, True, 0)
        assert [world.book.in_flight(f"uid-{number}") for number in range(4)] == [3.0, 4.0, None, None]
        assert world.book.demand(("ns", "pool-1")) is None
        assert world.book.demand(("ns", "empty")) is None

        world.woken.clear()
        await world.rounds(60)
        assert world.woken == [], "nothing has changed"
        world.running["pod-0"] = 9
        await world.rounds(60)
        assert [pool for _, pool in world.woken] == [("ns", "pool-0")] * 4, "until all looks of the average have it"

    run(main)


def test_what_pods_do_with_copies_is_in_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        copies = replace(ready(1), live=False)
        world = World(monkeypatch, [ready(0), copies])
        world.scaled, world.running = {("ns", "pool-0")}, {"pod-0": 3, "pod-1": 4}
        world.requests = lambda host, now: now * {"pod-0": 1, "pod-1": 7}[host]
        await world.rounds(60)
        found, figures = world.book.demand(("ns", "pool-0")), world.book.throughput(("ns", "pool-0"))
        assert found is not None
        assert figures is not None
        assert (found.in_flight, figures.requests_per_second) == (3.0, "1")

    run(main)


def test_a_pod_whose_metrics_can_not_be_read_is_told_and_then_old_figures_count_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        world = World(monkeypatch, [ready(0), ready(1)])
        world.scaled, world.running = {("ns", "pool-0")}, {"pod-0": 3, "pod-1": 4}
        await world.rounds(60)
        world.errors["pod-1"] = "away"
        await world.rounds(60)
        found = world.book.demand(("ns", "pool-0"))
        assert found is not None
        assert (found.in_flight, found.complete, found.silent) == (3.0, False, 1)

        world.errors.clear()
        await world.rounds(400)
        found = world.book.demand(("ns", "pool-0"))
        assert found is not None
        assert (found.in_flight, found.complete, found.silent) == (7.0, True, 0)
        world.scaled = set()
        await world.rounds(5)
        assert world.book.demand(("ns", "pool-0")) is None
        world.pods = []
        await world.rounds(5)
        assert world.book.in_flight("uid-0") is None

    run(main)


def test_a_pod_is_silent_after_three_looks_and_pods_with_copies_are_waited_for_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        world, pool = World(monkeypatch, [ready(0), ready(1), replace(ready(2), live=False)]), ("ns", "pool-0")
        world.scaled, world.running = {pool}, {"pod-0": 3, "pod-1": 4, "pod-2": 5}
        await world.rounds(60)
        for failures, silent in ((SILENT_LOOKS - 1, 0), (SILENT_LOOKS, 1)):
            world.probe._silent["uid-1"] = probes._Silence(failures)
            world.probe._weigh(world.pods, world.scaled, INTERVAL_SECONDS)
            found = world.book.demand(pool)
            assert found is not None
            assert (found.in_flight, found.complete, found.silent) == (7.0, True, silent)

    run(main)


@pytest.mark.parametrize(
    ("before", "now"), [(None, 900.0), (900.0, None), (900.0, 900.0)], ids=["just begun", "gone", "it stands still"]
)
def test_a_meter_that_has_not_gone_on_tells_no_energy(before: float | None, now: float | None) -> None:
    found = rates({"a": Counters(0.0, 0, 0, before)}, {"a": Counters(10.0, 9, 100, now)})
    assert found == Throughput(requests_per_second="0.9", tokens_per_second="10")

"""The page's content out of statuses, what keeps it up to date, and who is let in."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from plugin import kubectl_aifactory as plugin
from tests.unit.plugin import factory, scene
from tests.unit.plugin.factory import LATER, Json
from tests.unit.plugin.scene import event, named
from tests.unit.plugin.test_screen import shared_pool

TOKEN = "the-token"


def view(*objects: Json, history: plugin.History | None = None) -> Json:
    return plugin.view_of(objects, LATER, history or plugin.History())


def card(found: Json, stage: str, place: int = 0) -> Json:
    """A card of the first line."""
    cards = dict(found["lines"][0]["stages"])[stage]
    return dict(cards[place])


def table(found: Json, title: str) -> list[list[str]]:
    (rows,) = (each["rows"] for each in found["tables"] if each["title"] == title)
    return list(rows)


# ---- what is shown


@pytest.mark.parametrize("name", factory.situations())
def test_every_situation_is_drawn_with_its_words(name: str) -> None:
    obj = factory.situations()[name]
    found = view(obj)
    told = json.loads(json.dumps(found))
    assert [title for title, _ in told["lines"][0]["stages"]] == ["Data", "Train", "Version", "Serve", "Tokens"]
    stage = {plugin.JOB: "Train", plugin.VERSION: "Version", plugin.POOL: "Serve"}[obj["kind"]]
    shown, judged = card(told, stage), plugin.lines([obj], LATER)[0].items()[0].state
    assert (shown["mark"], shown["reason"], shown["message"]) == (judged.mark, judged.reason, judged.message)
    assert bool(told["blocked"]) == (judged.mark in plugin.BLOCKS)


def test_a_line_is_shown_from_data_to_tokens() -> None:
    found = view(*scene.at_work())
    assert card(found, "Data")["facts"] == [["size", "45.0 GiB"], ["from", "s3://team/corpus"]]
    job = card(found, "Train")
    assert job["bars"][0]["words"] == "step 620 of 1000, 62 %"
    assert job["bars"][1]["words"] == "24.00 GPU hours, cost 59.76, of which lost 4.78"
    assert job["bars"][1]["parts"] == [{"name": "kept", "percent": 92.0}, {"name": "lost", "percent": 8.0}]
    assert ["made by", "tjob/train"] in card(found, "Version")["facts"]
    pool = card(found, "Serve")
    assert pool["bars"][0]["words"] == "all to tiny-gpt-v1"
    assert [row[1:4] for row in table(pool, "Decisions of autoscaling")] == [
        ["3", "4", "tokensPerSecond"],
        ["2", "3", "tokensPerSecond"],
    ]
    tokens = card(found, "Tokens")
    assert tokens["big"] == [["1843", "tokens/s"], ["31.4", "requests/s"]]
    assert ["1M tokens cost", "1.50"] in tokens["facts"]
    assert dict(map(reversed, found["totals"])) == {
        "tokens/s in training": "27,337",
        "tokens/s served": "1,843",
        "requests/s": "31.4",
        "GPUs held": "20",
        "cost an hour": "49.8",
    }


def test_a_canary_shows_its_weights_its_steps_and_what_was_compared() -> None:
    pool = card(view(*scene.in_a_canary()), "Serve")
    assert pool["bars"][0]["words"] == "25 % to the new version, 30 % wanted"
    parts = {part["name"]: part["percent"] for part in pool["bars"][0]["parts"]}
    assert parts == {"tiny-summary-v1": 75, "tiny-summary-v2": 25}
    assert pool["steps"] == [["30 %", "done"], ["compare 60 s", "now"]]
    assert table(pool, "Analysis of the new version")[0][:2] == ["errorRate", "Inconclusive"]


def test_who_gets_copies_gets_no_traffic() -> None:
    pool = scene.in_a_canary()[2]
    pool["spec"]["rollout"]["steps"] = [{"mirror": 20}, {"pause": {}}, {"analyzeSeconds": 60}]
    pool["status"]["rollout"].update(strategy="Shadow", mirror=20, step=1)
    (bar,) = plugin.traffic_of(pool)
    assert bar["words"] == "tiny-summary-v2 gets copies of 20 %"
    assert bar["parts"] == [{"name": "tiny-summary-v1", "percent": 100}]
    assert plugin.steps_of(pool) == [["copy 20 %", "done"], ["wait for promote", "now"], ["compare 60 s", "next"]]


def test_without_weights_traffic_is_that_of_the_pods_that_answer() -> None:
    (bar,) = plugin.traffic_of(factory.situations()["pool: rolls out"])
    assert bar["words"] == "to as many of the pods that answer"
    parts = [(part["name"], round(part["percent"])) for part in bar["parts"]]
    assert parts == [("tiny-v1", 67), ("tiny-v2", 33)]


def test_models_that_share_a_pool_are_one_line_and_each_is_told() -> None:
    found = view(*shared_pool("of two models one has no room", gpt="5.4"))
    assert [line["title"] for line in found["lines"]] == ["bert, gpt"]
    pool = card(found, "Serve")
    assert pool["bars"][0]["words"] == "all to gpt-v1"
    assert pool["facts"] == [
        ["pods", "2/2"],
        ["gpt", "Serving: version 1, 2 pods, memory 600MiB, 5.4 requests/s"],
        ["bert", "Refused: version 1 wanted"],
    ]
    assert [row[:3] for row in table(pool, "Models")] == [["gpt", "Serving", "1"], ["bert", "Refused", ""]]
    assert "ModelVersion bert-v1 does not fit" in table(pool, "Models")[1][-1]
    assert card(view(*shared_pool()), "Serve")["bars"][0]["words"] == "all to bert-v1 + gpt-v2"


def test_what_blocks_has_the_words_and_commands_of_status() -> None:
    objects = [*scene.at_work(), *scene.refused()]
    found = view(*objects)
    told = plugin.as_json(plugin.lines(objects, LATER))["blocked"]
    assert found["blocked"][0]["ref"] == "tjob/translate"
    assert found["blocked"][0]["commands"] == told[0]["commands"]
    assert found["blockedInAll"] == len(told)


def test_what_a_spec_holds_beyond_names_is_not_shown() -> None:
    job = factory.running_job()
    job["spec"]["template"]["spec"]["containers"][0].update(
        env=[{"name": "KEY", "value": "hunter2"}], args=["--password=hunter2"]
    )
    assert "hunter2" not in json.dumps(view(job))


def test_words_of_programs_are_one_line_without_control_characters() -> None:
    job = factory.failing_job()
    for found in job["status"]["conditions"]:
        found["message"] = "a\nb\x1b[2J\u202ec"
    found = view(job)
    assert found["blocked"][0]["message"] == card(found, "Train")["message"] == "a b [2J c"


def test_of_many_lines_those_are_shown_that_block_or_serve() -> None:
    many = [named(factory.published_version(), f"m{number:03}") for number in range(plugin.LINES + 20)]
    found = view(*many, *scene.refused())
    titles = [line["title"] for line in found["lines"]]
    assert len(titles) == plugin.LINES
    assert "translate" in titles
    assert found["linesInAll"] == plugin.LINES + 21


# ---- curves


def points(history: plugin.History, obj: Json, name: str) -> Any:
    return next((each["points"] for each in history.curves(obj, {name: name}, "")), None)


def test_a_curve_of_a_job_goes_by_its_steps_and_begins_again_with_an_attempt() -> None:
    history, job = plugin.History(), factory.running_job()
    for step, loss in ((10, "4.5"), (20, "4.0"), (20, "4.1"), (30, "nan"), (15, "4.2")):
        job["status"]["progress"].update(step=step, loss=loss)
        history.note(job, LATER)
    assert points(history, job, "loss") == [(10, 4.5), (20, 4.1), (15, 4.2)]


def test_a_curve_of_a_pool_goes_by_the_time_and_ends_where_nothing_is_measured() -> None:
    history, pool = plugin.History(), factory.served_pool()
    told: tuple[Json, ...] = (
        {},
        {"tokensPerSecond": "96"},
        {"tokensPerSecond": "96"},
        {},
        {},
        {"tokensPerSecond": "7"},
    )
    for second, figures in enumerate(told):
        pool["status"]["throughput"] = figures
        history.note(pool, LATER + timedelta(seconds=second))
    begin = LATER.timestamp()
    assert points(history, pool, "tokensPerSecond") == [(begin + 1, 96), (begin + 3, None), (begin + 5, 7)]


def test_a_long_curve_keeps_its_ends_and_its_memory_is_bounded() -> None:
    history, job = plugin.History(), factory.running_job()
    for step in range(5000):
        job["status"]["progress"].update(step=step, loss=str(5000 - step))
        history.note(job, LATER)
    found = points(history, job, "loss")
    assert len(found) <= plugin.WINDOW
    assert (found[0], found[-1]) == ((0, 5000), (4999, 1))
    assert found == sorted(found)
    history.keep(set())
    assert points(history, job, "loss") is None


# ---- what keeps it up to date


def names(floor: plugin.Floor) -> set[str]:
    stages = [stage for line in floor.view(LATER)["lines"] for stage in line["stages"]]
    return {found["ref"] for title, cards in stages for found in cards if title in ("Train", "Version", "Serve")}


def test_lists_and_events_come_to_what_there_is() -> None:
    floor, job = plugin.Floor(LATER), factory.running_job()
    other = named(job, "tiny", ('"name": "train"', '"name": "other"'))
    assert not floor.view(LATER)["known"]
    floor.listed(plugin.JOB, [job, other], 1.0, LATER)
    floor.event(event("DELETED", other), 2.0, LATER)
    assert names(floor) == {"tjob/train"}
    # A list that was asked for before the event does not bring it back; a later one does.
    floor.listed(plugin.JOB, [job, other], 1.5, LATER)
    assert names(floor) == {"tjob/train"}
    floor.listed(plugin.JOB, [job, other], 3.0, LATER)
    assert names(floor) == {"tjob/train", "tjob/other"}
    # What no watch has told is found by the list.
    floor.listed(plugin.JOB, [job], 4.0, LATER)
    assert names(floor) == {"tjob/train"}
    # What has come up since that list was asked for stays, as it is.
    changed = json.loads(json.dumps(job))
    changed["status"]["phase"] = "Failed"
    floor.event(event("MODIFIED", changed), 6.0, LATER)
    floor.event(event("ADDED", other), 6.0, LATER)
    floor.listed(plugin.JOB, [job], 5.0, LATER)
    assert names(floor) == {"tjob/train", "tjob/other"}
    assert [card(floor.view(LATER), "Train", place)["phase"] for place in (0, 1)] == ["Running", "Failed"]


def test_a_kind_that_can_not_be_read_says_so_and_hides_nothing() -> None:
    floor = plugin.Floor(LATER)
    floor.listed(plugin.JOB, [factory.running_job()], 1.0, LATER)
    floor.listed(plugin.POOL, [], 1.0, LATER)
    floor.trouble(plugin.VERSION, "cannot list\nresource")
    found = floor.view(LATER)
    assert found["troubles"] == [["ModelVersion", "cannot list resource"]]
    assert found["known"]
    assert names(floor) == {"tjob/train"}
    floor.trouble(plugin.VERSION, "")
    assert floor.view(LATER)["troubles"] == []


# ---- who is let in


@contextmanager
def served(floor: plugin.Floor) -> Iterator[Callable[..., http.client.HTTPResponse]]:
    """Asks the server for a path, as a browser or somebody else."""
    server = plugin.serving(floor, "namespace ns", TOKEN)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    connections = []

    def ask(path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
        connections.append(connection)
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return connection.getresponse()

    try:
        yield ask
    finally:
        for connection in connections:
            connection.close()
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_page_is_for_who_has_the_address() -> None:
    with served(plugin.Floor(LATER)) as ask:
        page = ask(f"/{TOKEN}/")
        assert page.status == 200
        assert b"<title>AI factory</title>" in page.read()
        assert page.getheader("Content-Type") == "text/html; charset=utf-8"
        policy = str(page.getheader("Content-Security-Policy"))
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';")
        assert "unsafe" not in policy
        assert page.getheader("Referrer-Policy") == "no-referrer"
        assert page.getheader("Server") == "aifactory"
        for name in ("style.css", "page.js"):
            assert ask(f"/{TOKEN}/{name}?x=1").status == 200
        for path in ("/", "/changes", "/page.js", f"/{TOKEN}", f"/{TOKEN}/nothing", f"/{TOKEN}x/", "/%00/", "//x/"):
            assert ask(path).status == 404, path
        assert ask(f"/{TOKEN}/", "POST").status == 501


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:80", "127.0.0.1.evil.com", "[", ""])
def test_another_name_for_this_machine_is_refused(host: str) -> None:
    with served(plugin.Floor(LATER)) as ask:
        assert ask(f"/{TOKEN}/", Host=host).status == 403
        assert ask(f"/{TOKEN}/changes", Host=host).status == 403


@pytest.mark.parametrize("host", ["localhost:8888", "127.0.0.1", "[::1]:9"])
def test_a_tunnel_to_it_is_let_in(host: str) -> None:
    with served(plugin.Floor(LATER)) as ask:
        assert ask(f"/{TOKEN}/", Host=host, Sec_Fetch_Site="none").status == 200


def test_another_page_may_not_ask() -> None:
    with served(plugin.Floor(LATER)) as ask:
        for site, code in (("cross-site", 403), ("same-site", 403), ("same-origin", 200)):
            assert ask(f"/{TOKEN}/page.js", Sec_Fetch_Site=site).status == code


def told(stream: http.client.HTTPResponse) -> Json:
    """The next view."""
    for line in stream:
        if line.startswith(b"data: "):
            return dict(json.loads(line[6:]))
    raise AssertionError("the stream has ended")


def test_changes_come_as_they_happen() -> None:
    floor = plugin.Floor(LATER)
    with served(floor) as ask:
        stream = ask(f"/{TOKEN}/changes")
        assert stream.getheader("Content-Type") == "text/event-stream; charset=utf-8"
        first = told(stream)
        assert (first["title"], first["lines"]) == ("namespace ns", [])
        floor.event(event("ADDED", factory.running_job()), 1.0, LATER)
        assert card(told(stream), "Train")["ref"] == "tjob/train"


def test_so_many_pages_are_served_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "STREAMS", 2)
    with served(plugin.Floor(LATER)) as ask:
        open_ = [ask(f"/{TOKEN}/changes") for _ in range(2)]
        for stream in open_:
            told(stream)
        refused = ask(f"/{TOKEN}/changes")
        assert refused.status == 503
        assert refused.read() == b"it is open 2 times: close one\n"


def test_a_port_that_can_not_be_had_is_said() -> None:
    with pytest.raises(plugin.Failed, match=r"port 70000 of this machine can not be used: .*0-65535.*leave out --port"):
        plugin.serving(plugin.Floor(LATER), "", TOKEN, 70000)
    with plugin.serving(plugin.Floor(LATER), "", TOKEN) as server:
        port = server.server_address[1]
        with pytest.raises(plugin.Failed, match=rf"port {port} of this machine can not be used: .*; leave out --port"):
            plugin.serving(plugin.Floor(LATER), "", TOKEN, port)

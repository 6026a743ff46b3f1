"""Every query of the dashboards has an answer from a real Prometheus that scraped what real processes have told.

The pages in `recorded` were told by pods on the local cluster (tests/cluster/test_metrics.py), twice, so that counters
grow. They are served again here, and a Prometheus of this test's own scrapes them.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import threading
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import yaml

from tests.component.conftest import free_port
from tests.support.kubectl import ROOT, binary, command
from tests.support.waiting import wait_for

RECORDED = Path(__file__).parent / "recorded"
WHO = ("operator", "agent", "triton", "gateway")
VARIABLES = {"$__rate_interval": "1m", "$namespace": ".+", "$pool": "priced|shared"}


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards", ROOT / "docs/dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["dashboards"] = found  # for its dataclasses
    spec.loader.exec_module(found)
    return found


DASHBOARDS = _module()
QUERIES = [
    pytest.param(query, id=f"{board.uid}: {title}: {number}")
    for board in DASHBOARDS.DASHBOARDS
    for number, (title, query) in enumerate(DASHBOARDS.queries(board))
]


class Replay(BaseHTTPRequestHandler):
    """Tells the first page once, and the second from then on."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        who = self.path.strip("/")
        Replay.asked[who] += 1
        body = (RECORDED / f"{who}-{min(2, Replay.asked[who])}.txt").read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prometheus that has scraped every page twice."""
    folder = tmp_path_factory.mktemp("prometheus")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Replay)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    scrapes = [
        {
            "job_name": who,
            "metrics_path": f"/{who}",
            "honor_labels": who == "operator",
            "static_configs": [
                {"targets": [f"127.0.0.1:{server.server_port}"], "labels": {**_pod(who), "instance": who}}
            ],
        }
        for who in WHO
    ]
    settings = {"global": {"scrape_interval": "1s"}, "scrape_configs": scrapes}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    flags = [f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binary("prometheus"), *flags, f"--web.listen-address={address}"], stdout=log, stderr=log, cwd=folder
        )
    try:
        wait_for(
            "every page to be scraped again and again",
            lambda: [Replay.asked[who] for who in WHO],
            lambda seen: min(seen) >= 3,
            never=lambda _: process.poll() is not None,
        )
        found = wait_for(
            "every page to be well-formed",
            lambda: ask(address, "targets")["activeTargets"],
            lambda seen: all(target["health"] == "up" for target in seen),
            seconds=20,
        )
        assert len(found) == len(WHO)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)
        server.shutdown()


def _pod(who: str) -> dict[str, str]:
    return {} if who == "operator" else {"aifactory_dev_pool_name": "priced"}


def ask(address: str, path: str, **parameters: str) -> Any:
    """The answer of Prometheus' API."""
    url = f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error
    except urllib.error.URLError:
        return {"activeTargets": [{"health": "not there yet"}]}


@pytest.mark.parametrize("query", QUERIES)
def test_no_panel_is_empty(prometheus: str, query: str) -> None:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query, "a variable that this test does not know"
    found = ask(prometheus, "query", query=query)["result"]
    assert found, query
    assert not all(sample["value"][1] == "NaN" for sample in found), query


def test_the_chart_delivers_them_where_grafana_looks() -> None:
    values = ["--set=dashboards.enabled=true"]
    text = command([binary("helm"), "template", "aifactory", str(ROOT / "charts/aifactory"), *values])
    found = [each for each in yaml.safe_load_all(text) if each and "-dashboard-" in each["metadata"]["name"]]
    assert len(found) == len(DASHBOARDS.DASHBOARDS)
    for each in found:
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        ((_, body),) = each["data"].items()
        board = json.loads(body)
        panels = [panel for panel in board["panels"] if panel["type"] != "row"]
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        assert all(target["expr"] for panel in panels for target in panel["targets"])
        cells = [
            (x, y)
            for panel in board["panels"]
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(cells) == len(set(cells)), "two panels lie over each other"
        assert max(x for x, _ in cells) < 24

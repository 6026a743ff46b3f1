"""docs/training-program.md says what the operator does: whoever changes one of the two is told here."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aifactory.api import names
from aifactory.app import web
from aifactory.engine.lastwords import root_cause
from aifactory.training import causes, children, progress, rendezvous, reports
from aifactory_contract.formats import FORMATS
from tests.unit.training.builders import SETTINGS, job

PAGE = (Path(__file__).parents[3] / "docs" / "training-program.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str, columns: int) -> dict[str, list[str]]:
    """The rows of a section's tables that have so many columns, by the first one."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section(title).splitlines()
        if line.startswith("|")
    ]
    return {first.strip("`"): rest for first, *rest in cells if len(rest) == columns - 1 and set(first) != {"-"}}


def block(title: str, language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", section(title), re.DOTALL)
    return str(found)


def environment(launcher: str, nodes: int) -> dict[str, str]:
    """What the operator sets in the container; the template sets nothing."""
    pod = children.pod(job(nodes=nodes, launcher=launcher), 0, 2, SETTINGS, gang=False)
    (container,) = (found for found in pod["spec"]["containers"] if found["name"] == names.CONTAINER_TRAINER)
    return {entry["name"]: entry["value"] for entry in container["env"]}


def test_the_variables_are_those_that_are_set() -> None:
    told = {name: when for name, (when, _) in rows("Environment", 3).items() if name not in ("variable", "default")}
    assert set(told) == {*names.RESERVED_ENV, *rendezvous.optional_environment(job())}
    for launcher in ("torchrun", "none"):
        for nodes in (1, 2):
            expected = {name for name, when in told.items() if when in ("always", f"`launcher: {launcher}`")}
            assert set(environment(launcher, nodes)) == expected


def test_the_values_are_those_that_are_set() -> None:
    told = {name: value for name, (_, value) in rows("Environment", 3).items()}
    for launcher in ("torchrun", "none"):
        for name, value in environment(launcher, nodes=1).items():
            if value.startswith("/") and name != "AIFACTORY_PROGRESS_TOKEN_FILE":
                assert f"`{value}`" in told[name]
            elif name in ("MASTER_PORT", "PET_RDZV_BACKEND", "PET_MAX_RESTARTS", "PET_RDZV_CONF"):
                assert told[name].strip("`").startswith(value)
    assert str(names.RENDEZVOUS_PORT) in told["PET_RDZV_ENDPOINT"]
    assert environment("torchrun", 2)["AIFACTORY_PROGRESS_TOKEN_FILE"] in rows("Paths", 2)
    assert str(names.RUN_AS_UID) in section("Paths")


def test_every_mount_is_named() -> None:
    pod = children.pod(job(), 0, 0, SETTINGS, gang=False)
    paths = [path.rstrip("/") for path in rows("Paths", 2)]
    for mount in pod["spec"]["containers"][0]["volumeMounts"]:
        assert any(path == mount["mountPath"] or path.startswith(f"{mount['mountPath']}/") for path in paths), mount


def test_the_exit_code_that_asks_for_no_restart() -> None:
    assert "NoRestartRequested" in rows("Start, stop, exit", 2)[str(causes.NO_RESTART_EXIT_CODE)][0]


def test_the_last_words_are_understood() -> None:
    cause = root_cause(block("Last words", "json"))
    assert (cause.name, cause.message, cause.exit_code) == ("ValueError", "ValueError: lr must be positive", 93)


def test_the_fields_and_limits_are_those_of_the_endpoint() -> None:
    told = {name: rest for name, rest in rows("Progress", 3).items() if name != "field"}
    assert set(told) == {field.encode_name for field in msgspec.structs.fields(reports.ReportBody)}
    schema = msgspec.json.schema(reports.ReportBody)["$defs"]["ReportBody"]["properties"]
    most = re.findall(r"\d+", told["metrics"][1])
    assert most == [str(_metrics(schema["metrics"])), str(schema["metrics"]["propertyNames"]["maxLength"])]
    assert schema["step"]["maximum"] == 2**53
    path = msgspec.json.schema(reports.CheckpointBody)["$defs"]["CheckpointBody"]["properties"]["path"]
    assert str(path["maxLength"]) in told["checkpoint"][1]
    assert f"at most {web.MAX_BODY_BYTES} bytes" in section("Progress")
    assert progress.WRITE_INTERVAL_SECONDS == 10
    assert "the status is written every ten" in section("Progress")


def _metrics(schema: dict[str, Any]) -> int:
    return int(schema["maxProperties"])


def test_the_formats_are_those_that_can_be_published() -> None:
    told = {name: re.findall(r"`(.*?)`", files) for name, (files,) in rows("Output", 2).items() if name in FORMATS}
    assert told == {name: list(known.needs) for name, known in FORMATS.items()}
    assert f", {children._MAX_METRICS} of them at most" in section("Output")


@contextmanager
def replica(status: int, headers: dict[str, str], seen: list[tuple[str, str | None, bytes]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, self.headers.get("Authorization"), body))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_the_example_is_a_report() -> None:
    words = shlex.split(block("Progress", "sh").replace("\\\n", " "))
    body = words[words.index("--data") + 1]
    report = msgspec.json.decode(body, type=reports.ReportBody)
    assert set(json.loads(body)) == {field.encode_name for field in msgspec.structs.fields(reports.ReportBody)}
    assert report.checkpoint is not None


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_example_reaches_the_leader(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    seen: list[tuple[str, str | None, bytes]] = []
    with (
        replica(204, {}, seen) as leader,
        replica(307, {"Location": f"{leader}/v1/progress/team/job"}, seen) as other,
    ):
        env = {
            "PATH": "/usr/bin:/bin:/usr/local/bin",
            "AIFACTORY_PROGRESS_URL": f"{other}/v1/progress/team/job",
            "AIFACTORY_PROGRESS_TOKEN_FILE": str(tmp_path / "token"),
        }
        subprocess.run(["/bin/sh", "-ec", block("Progress", "sh")], env=env, check=True, timeout=60)
    assert [(path, token) for path, token, _ in seen] == [("/v1/progress/team/job", "Bearer secret")] * 2
    assert seen[0][2] == seen[1][2]
    assert msgspec.json.decode(seen[1][2], type=reports.ReportBody).step == 120

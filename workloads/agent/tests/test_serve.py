"""The agent beside a real Triton: everything that may happen to a serving pod."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from harness import AgentProcess, TritonProcess, as_process_one, ended_by_sigterm, http, wait_for
from tritonclient.utils import InferenceServerException

from aifactory_agent.serve.triton import Triton
from aifactory_contract.desired import ModelKey

Published = Callable[..., dict[str, Any]]


def generate(triton: TritonProcess, model: str, version: int | None = None) -> tuple[int, str]:
    where = f"/versions/{version}" if version else ""
    code, text = http(f"{triton.url}/v2/models/{model}{where}/generate", {"text_input": "x"})
    return code, json.loads(text).get("text_output") or text


async def answers(triton: TritonProcess, name: str, version: int) -> int:
    """As the agent counts them, to tell a version that is busy from one that hangs."""
    client = Triton(triton.grpc)
    try:
        return await client.answers(ModelKey(name, version))
    finally:
        await client.close()


def test_brings_a_model_up_and_reports_it(triton: TritonProcess, agent: AgentProcess, published: Published) -> None:
    triton.start()
    agent.want(published("gpt", 1))
    agent.start()
    status = agent.wait_ready()
    assert [(m["name"], m["version"], m["state"]) for m in status["models"]] == [("gpt", 1, "Ready")]
    assert status["models"][0]["loadSeconds"] > 0
    assert agent.get("/readyz")[0] == 200
    before = asyncio.run(answers(triton, "gpt", 1))
    assert generate(triton, "gpt") == (200, "gpt 1")
    # Triton counts an answer a moment after it has sent it.
    wait_for("it is counted", lambda: asyncio.run(answers(triton, "gpt", 1)) > before, 10)
    assert asyncio.run(answers(triton, "other", 1)) == 0
    metrics = agent.get("/metrics")[1]
    assert 'aifactory_agent_model_state{model="gpt",state="Ready",version="1"} 1.0' in metrics
    assert "aifactory_agent_ready 1.0" in metrics


CONTROL: tuple[tuple[str, Any], ...] = (
    ("repository/index", {}),
    ("repository/models/gpt/load", {}),
    ("repository/models/gpt/unload", {}),
    ("trace/setting", None),
    ("trace/setting", {"trace_level": ["TIMESTAMPS"]}),
    ("models/gpt/trace/setting", {"trace_file": "/tmp/trace"}),
    ("logging", None),
    ("logging", {"log_file": "/tmp/log"}),
    ("systemsharedmemory/status", None),
    ("systemsharedmemory/region/r/register", {"key": "/r", "offset": 0, "byte_size": 64}),
    ("systemsharedmemory/unregister", {}),
    ("cudasharedmemory/status", None),
    ("cudasharedmemory/unregister", {}),
)
"""What Triton offers at its HTTP port beside inference, and what is sent there; None for a GET."""
CALLS: dict[str, Callable[[grpcclient.InferenceServerClient], Any]] = {
    "index": lambda client: client.get_model_repository_index(),
    "load": lambda client: client.load_model("gpt"),
    "unload": lambda client: client.unload_model("gpt"),
    "trace": lambda client: client.get_trace_settings(),
    "set trace": lambda client: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
    "log": lambda client: client.get_log_settings(),
    "set log": lambda client: client.update_log_settings({"log_file": "/tmp/log"}),
    "memory": lambda client: client.get_system_shared_memory_status(),
    "register memory": lambda client: client.register_system_shared_memory("r", "/r", 64),
    "unregister memory": lambda client: client.unregister_system_shared_memory(),
    "GPU memory": lambda client: client.get_cuda_shared_memory_status(),
    "unregister GPU memory": lambda client: client.unregister_cuda_shared_memory(),
}
"""The same at its gRPC port."""


def test_only_the_agent_may_control_triton_and_everybody_may_ask(
    triton: TritonProcess, agent: AgentProcess, published: Published
) -> None:
    triton.start()
    agent.want(published("gpt", 1))
    agent.start()
    agent.wait_ready()
    for guess in ({}, {"aifactory-control": "guess"}, {"aifactory-control": ""}):
        for path, body in CONTROL:
            code, text = http(f"{triton.url}/v2/{path}", body, headers=guess)
            assert (code, "restricted" in text) == (403, True), f"{path} {guess}: {code} {text}"
    stranger = grpcclient.InferenceServerClient(triton.grpc)
    for name, call in CALLS.items():
        with pytest.raises(InferenceServerException, match="restricted"):
            pytest.fail(f"{name}: {call(stranger)}")
    stranger.close()
    assert generate(triton, "gpt") == (200, "gpt 1")
    for path in (
        "health/live",
        "health/ready",
        "models/gpt/ready",
        "models/gpt",
        "models/gpt/config",
        "models/gpt/stats",
    ):
        assert http(f"{triton.url}/v2/{path}")[0] == 200, path


def test_waits_for_triton_and_fetches_meanwhile(
    triton: TritonProcess, agent: AgentProcess, published: Published
) -> None:
    agent.want(published("gpt", 1))
    agent.start()
    model = wait_for(
        "the files are there", lambda: list((triton.repository / "models").glob("gpt/1/config.json")), 20, agent.tail
    )
    assert model
    assert agent.wait_state("gpt", 1, "Pending")["reason"] == "TritonUnavailable"
    assert agent.get("/readyz")[0] == 503
    triton.start()
    agent.wait_ready()


def test_a_new_version_replaces_the_old_one_without_a_failed_request(
    triton: TritonProcess, agent: AgentProcess, published: Published
) -> None:
    first, second = published("gpt", 1), published("gpt", 2, loadSeconds=1)
    triton.start()
    agent.want(first)
    agent.start()
    agent.wait_ready()
    answers: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(generate(triton, "gpt"))

    client = threading.Thread(target=ask)
    client.start()
    try:
        agent.want(second, revision="s")
        agent.wait_ready("s")
        wait_for("version 1 is gone", lambda: generate(triton, "gpt", 1)[0] != 200, 20, agent.tail)
        wait_for("its files are gone", lambda: not (triton.repository / "models/gpt/1").exists(), 20, agent.tail)
    finally:
        stop.set()
        client.join()
    assert [answer for answer in answers if answer[0] != 200] == []
    served = [text for _, text in answers]
    assert served[0] == "gpt 1"
    assert served[-1] == "gpt 2"
    assert len(answers) > 50, "the client was stalled"


def test_the_version_before_stays_warm_and_going_back_takes_moments(
    triton: TritonProcess, agent: AgentProcess, published: Published
) -> None:
    first, second = published("gpt", 1, loadSeconds=3), published("gpt", 2, loadSeconds=3)
    triton.start()
    agent.want(first)
    agent.start()
    agent.wait_ready()
    answers: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(generate(triton, "gpt"))

    client = threading.Thread(target=ask)
    client.start()
    try:
        agent.want(second, first | {"traffic": "warm"}, revision="s")
        status = agent.wait_ready("s")
        assert status["answers"] == {"gpt": 2}
        assert {m["version"]: (m["state"], m["traffic"]) for m in status["models"]} == {
            2: ("Ready", "live"),
            1: ("Ready", "warm"),
        }
        assert generate(triton, "gpt", 1) == (200, "gpt 1"), "it is at hand"
        switched = len(answers)
        started = time.monotonic()
        agent.want(first, second | {"traffic": "warm"}, revision="t")
        assert agent.wait_ready("t")["answers"] == {"gpt": 1}
        seconds = time.monotonic() - started
        back = len(answers)
        wait_for("more answers", lambda: len(answers) > back + 20, 20, agent.tail)
    finally:
        stop.set()
        client.join()
    assert [answer for answer in answers if answer[0] != 200] == []
    assert seconds < 1.5, "no version was loaded for it"
    assert {text for _, text in answers[switched + 1 : switched + 3]} == {"gpt 2"}
    assert {text for _, text in answers[back + 1 :]} == {"gpt 1"}
    assert (triton.repository / "models/gpt/2").is_dir(), "its files are kept for the way forward"
    started = time.monotonic()
    agent.want(second, first | {"traffic": "warm"}, revision="u")
    agent.wait_ready("u")
    assert time.monotonic() - started > 3, "forward it is loaded again"


def test_a_pod_that_restarts_has_its_live_version_first_and_the_warm_one_after_it(
    triton: TritonProcess, agent: AgentProcess, published: Published
) -> None:
    first, second = published("gpt", 1, loadSeconds=1), published("gpt", 2)
    triton.start()
    agent.want(second, first | {"traffic": "warm"})
    agent.start()
    agent.wait_ready()
    assert agent.model("gpt", 1)["state"] != "Ready", "nothing waits for it"
    agent.wait_state("gpt", 1, "Ready")
    assert generate(triton, "gpt") == (200, "gpt 2")
    triton.kill()
    wait_for("the agent sees it", lambda: agent.get("/readyz")[0] == 503, 20, agent.tail)
    triton.start()
    agent.wait_ready()
    agent.wait_state("gpt", 1, "Ready")
    assert generate(triton, "gpt") == (200, "gpt 2")


def test_a_version_without_room_is_told_so_and_is_tried_at_once_when_it_is_wished_again(
    triton: TritonProcess, agent: AgentProcess, published: Published
) -> None:
    first = published("gpt", 1)
    second = published("gpt", 2, loadError="no room in memory: the model needs 3 GiB for its weights alone")
    triton.start()
    agent.want(first)
    agent.start()
    agent.wait_ready()
    for revision in ("s", "t"):
        agent.want(second, first | {"traffic": "warm"}, revision=revision)
        failed = agent.wait_state("gpt", 2, "Failed", seconds=20)
        assert failed["reason"] == "NoRoom"
        assert agent.status()["answers"] == {"gpt": 1}
        agent.want(first, revision="r")
        agent.wait_ready("r")
    assert agent.get("/readyz")[0] == 200


def test_a_version_that_does_not_load_leaves_the_old_one_and_other_models_alone(
    triton: TritonProcess, agent: AgentProcess, published: Published
) -> None:
    good, other = published("gpt", 1), published("other", 7)
    triton.start()
    agent.want(good)
    agent.start()
    agent.wait_ready()
    agent.want(published("gpt", 2, loadError="weights do not fit the config"), other, revision="s")
    failed = agent.wait_state("gpt", 2, "Failed")
    assert failed["reason"] == "LoadFailed"
    assert "weights do not fit the config" in failed["message"]
    assert "\n" not in failed["message"]
    assert not failed["message"].endswith((";", " "))
    agent.wait_state("other", 7, "Ready")
    code, text = agent.get("/readyz")
    assert code == 200, "version 1 bears the traffic and answers"
    assert "weights do not fit the config" in text
    assert not agent.status()["ready"]
    assert generate(triton, "gpt") == (200, "gpt 1")
    agent.want(published("gpt", 3), other, revision="t")
    agent.wait_ready("t")
    assert generate(triton, "gpt") == (200, "gpt 3")


def test_a_version_that_loads_but_does_not_answer_gets_no_traffic(
    triton: TritonProcess, agent: AgentProcess, published: Published
) -> None:
    triton.start()
    agent.want(published("gpt", 1))
    agent.start()
    agent.wait_ready()
    agent.want(published("gpt", 2, answerError="no such token"), revision="s")
    failed = agent.wait_state("gpt", 2, "Failed")
    assert failed["reason"] == "ConfirmFailed"
    assert "no such token" in failed["message"]
    wait_for("it is taken out again", lambda: generate(triton, "gpt") == (200, "gpt 1"), 20, agent.tail)


def test_never_loads_bytes_of_another_digest(triton: TritonProcess, agent: AgentProcess, published: Published) -> None:
    entry = published("gpt", 1)
    folder = agent.claims / entry["uri"].removeprefix("pvc://")
    config = folder / "config.json"
    config.write_text(config.read_text().replace("Qwen3", "Qwen2"))
    triton.start()
    agent.want(entry, published("other", 1))
    agent.start()
    failed = agent.wait_state("gpt", 1, "Failed")
    assert failed["reason"] == "DigestMismatch"
    agent.wait_state("other", 1, "Ready")
    assert not (triton.repository / "models/gpt").exists()
    assert list((triton.repository / "incoming").iterdir()) == []


def test_waits_for_a_source_that_is_not_there_yet(
    triton: TritonProcess, agent: AgentProcess, published: Published, claims: Path
) -> None:
    entry = published("gpt", 1)
    folder = claims / entry["uri"].removeprefix("pvc://")
    hidden = folder.with_name("hidden")
    folder.rename(hidden)
    triton.start()
    agent.want(entry)
    agent.start()
    assert agent.wait_state("gpt", 1, "Failed")["reason"] == "SourceNotFound"
    hidden.rename(folder)
    agent.wait_ready()


def test_a_killed_triton_gets_its_models_back(triton: TritonProcess, agent: AgentProcess, published: Published) -> None:
    triton.start()
    agent.want(published("gpt", 1), published("gpt", 2))
    agent.start()
    agent.wait_ready()
    files = triton.repository / "models/gpt/1/model.safetensors"
    before = files.stat().st_ino
    triton.kill()
    wait_for("the agent sees it", lambda: agent.get("/readyz")[0] == 503, 20, agent.tail)
    assert agent.status()["reason"] == "TritonUnavailable"
    triton.start()
    agent.wait_ready()
    assert generate(triton, "gpt", 1) == (200, "gpt 1")
    assert generate(triton, "gpt") == (200, "gpt 2")
    assert files.stat().st_ino == before, "the files were fetched again"


def test_a_killed_worker_process_is_replaced(triton: TritonProcess, agent: AgentProcess, published: Published) -> None:
    triton.start()
    agent.want(published("gpt", 1))
    agent.start()
    agent.wait_ready()
    (worker,) = triton.workers()
    os.kill(worker, signal.SIGKILL)
    wait_for("another worker", lambda: [pid for pid in triton.workers() if pid != worker], 30, agent.tail)
    wait_for("it answers", lambda: generate(triton, "gpt") == (200, "gpt 1"), 20, agent.tail)
    agent.wait_ready()


def test_a_change_while_loading_ends_at_the_latest_wish(
    triton: TritonProcess, agent: AgentProcess, published: Published
) -> None:
    slow, last = published("gpt", 1, loadSeconds=2), published("gpt", 3)
    triton.start()
    agent.want(slow)
    agent.start()
    agent.wait_state("gpt", 1, "Loading")
    agent.want(published("gpt", 2), revision="s")
    agent.want(last, revision="t")
    agent.wait_ready("t")
    assert generate(triton, "gpt") == (200, "gpt 3")
    wait_for("only version 3 is left", lambda: len(triton.workers()) == 1, 20, agent.tail)


def test_a_model_that_is_no_longer_wanted_is_unloaded(
    triton: TritonProcess, agent: AgentProcess, published: Published
) -> None:
    one, two = published("one", 1), published("two", 1)
    triton.start()
    agent.want(one, two)
    agent.start()
    agent.wait_ready()
    agent.want(two, revision="s")
    agent.wait_ready("s")
    wait_for("one is gone", lambda: not (triton.repository / "models/one").exists(), 20, agent.tail)
    assert generate(triton, "one")[0] != 200
    assert generate(triton, "two") == (200, "two 1")
    agent.want(revision="t")
    wait_for("no worker is left", lambda: not triton.workers(), 20, agent.tail)
    assert agent.wait_ready("t")["models"] == []


def test_an_unreadable_wish_is_reported_and_changes_nothing(
    triton: TritonProcess, agent: AgentProcess, published: Published
) -> None:
    triton.start()
    agent.want(published("gpt", 1))
    agent.start()
    agent.wait_ready()
    agent.write('{"models": [{"name": "../up", "version": 1}]}')
    wait_for("it is reported", lambda: agent.status()["reason"] == "InvalidDesired", 20, agent.tail)
    assert "../up" in agent.status()["message"]
    assert generate(triton, "gpt") == (200, "gpt 1")
    triton.kill()
    triton.start()
    wait_for("the last good wish is in force", lambda: generate(triton, "gpt") == (200, "gpt 1"), 20, agent.tail)


@pytest.mark.parametrize("killed", ["triton", "agent"])
def test_what_is_killed_before_the_next_version_is_there_answers_from_the_one_before(
    triton: TritonProcess, agent: AgentProcess, published: Published, claims: Path, killed: str
) -> None:
    first, second = published("gpt", 1), published("gpt", 2)
    away = Path(str(second["uri"]).removeprefix("pvc://"))
    (claims / away).rename(claims / "away")
    triton.start()
    agent.want(first)
    agent.start()
    agent.wait_ready()
    agent.want(second, first | {"traffic": "warm"}, revision="s")
    wait_for("it has tried", lambda: agent.model("gpt", 2).get("reason"), 20, agent.tail)
    assert agent.get("/readyz")[0] == 200
    process = triton if killed == "triton" else agent
    process.kill()
    if killed == "triton":
        wait_for("it is seen", lambda: agent.get("/readyz")[0] != 200, 20, agent.tail)
    process.start()
    wait_for("the pod has traffic", lambda: agent.get("/readyz")[0] == 200, 60, agent.tail)
    assert generate(triton, "gpt") == (200, "gpt 1")
    assert not agent.status()["ready"]
    (claims / "away").rename(claims / away)
    agent.wait_ready("s")
    assert generate(triton, "gpt") == (200, "gpt 2")


def test_a_killed_agent_takes_up_what_runs(triton: TritonProcess, agent: AgentProcess, published: Published) -> None:
    triton.start()
    agent.want(published("gpt", 1))
    agent.start()
    agent.wait_ready()
    workers = triton.workers()
    agent.kill()
    (triton.repository / "incoming/half").mkdir()
    (triton.repository / "checked/gpt/9.json").write_text("{")
    agent.start()
    agent.wait_ready()
    assert triton.workers() == workers, "the model was loaded again"
    assert not (triton.repository / "incoming/half").exists()


def test_sigterm_ends_it_while_it_works(triton: TritonProcess, agent: AgentProcess, published: Published) -> None:
    triton.start()
    agent.want(published("gpt", 1, loadSeconds=5))
    agent.start()
    agent.wait_state("gpt", 1, "Loading")
    started = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - started < 4


def test_a_pod_that_is_deleted_while_the_agent_starts_ends_at_once() -> None:
    process = as_process_one(sys.executable, "-X", "importtime", "-m", "aifactory_agent", "serve", "--desired", "/none")
    assert process.stderr is not None
    while b"aifactory_agent.logs" not in process.stderr.readline():  # it imports for a while yet
        pass
    code, seconds = ended_by_sigterm(process)
    assert code == 128 + signal.SIGTERM
    assert seconds < 3


def test_a_store_that_hangs_holds_up_neither_other_models_nor_the_end(
    triton: TritonProcess, agent: AgentProcess, published: Published, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says a word
        folder = tmp_path / "secrets" / "s3"
        folder.mkdir(parents=True)
        values = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        values["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for key, value in values.items():
            (folder / key).write_text(value)
        agent.secrets = folder.parent
        triton.start()
        hanging = published("slow", 1) | {"uri": "s3://bucket/slow", "secret": "s3"}
        agent.want(hanging, published("gpt", 1))
        agent.start()
        agent.wait_state("gpt", 1, "Ready")
        assert agent.model("slow", 1)["state"] == "Fetching"
        started = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - started < 4


def test_a_full_volume_is_told_and_the_models_that_run_go_on(
    triton: TritonProcess, agent: AgentProcess, published: Published
) -> None:
    triton.repository.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(triton.repository)], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        triton.start()
        agent.want(published("gpt", 1))
        agent.start()
        agent.wait_ready()
        filler = triton.repository / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        agent.want(published("gpt", 2), revision="s")
        failed = agent.wait_state("gpt", 2, "Failed")
        assert failed["reason"] == "DiskFull"
        assert "enlarge /repository" in failed["message"]
        assert generate(triton, "gpt") == (200, "gpt 1")
        filler.unlink()
        agent.wait_ready("s")
        assert list((triton.repository / "incoming").iterdir()) == []
    finally:
        agent.kill()
        triton.kill()
        subprocess.run(["umount", str(triton.repository)], check=True)


def test_a_version_comes_back_while_a_client_still_holds_the_old_load(
    triton: TritonProcess, agent: AgentProcess, published: Published
) -> None:
    """A gRPC stream that stays open keeps the version it has asked in memory; going back must work all the same."""
    first, second = published("gpt", 1), published("gpt", 2)
    triton.start()
    agent.want(first)
    agent.start()
    agent.wait_ready()
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    text = grpcclient.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"x"], dtype=np.object_))
    with grpcclient.InferenceServerClient(triton.grpc) as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        client.async_stream_infer("gpt", [text])
        assert answers.get(timeout=20).as_numpy("text_output")[0] == b"gpt 1"
        agent.want(second, revision="s")
        agent.wait_ready("s")
        wait_for("version 1 is gone", lambda: generate(triton, "gpt", 1)[0] != 200, 20, agent.tail)
        agent.want(first, revision="t")
        agent.wait_ready("t")
        assert generate(triton, "gpt") == (200, "gpt 1")
        client.async_stream_infer("gpt", [text])
        assert answers.get(timeout=20).as_numpy("text_output")[0] == b"gpt 1"
        client.stop_stream()
    wait_for("what was held is gone", lambda: len(triton.workers()) == 1, 30, agent.tail)

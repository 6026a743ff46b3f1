"""A pod goes from one version to another and back, again and again, under clients of every kind that count each answer.

AIFACTORY_SWAPS=20 goes there and back more often.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from harness import AgentProcess, TritonProcess, wait_for
from pod import Pod

TIMES = int(os.environ.get("AIFACTORY_SWAPS", "2"))
TEXT_BACKEND = Path(__file__).parents[1] / "testing" / "text_backend.py"


class Client(ABC):
    """A connection that asks one request after the other; `ask` returns the version that has answered."""

    @abstractmethod
    def ask(self) -> str: ...

    @abstractmethod
    def close(self) -> None: ...


class Http(Client):
    """Triton's own port, or the OpenAI port."""

    def __init__(self, port: int, *, openai: bool = False, model: str = "gpt") -> None:
        self._openai = openai
        self._model = model
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self) -> str:
        if self._openai:
            path, body = "/v1/completions", {"model": self._model, "prompt": "a", "max_tokens": 3}
        else:
            sampling = json.dumps({"max_tokens": 3})
            path, body = (
                f"/v2/models/{self._model}/generate",
                {"text_input": "a", "sampling_parameters": sampling, "stream": False},
            )
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        document = json.loads(text)
        return str(document["model"]).partition("@")[2] if self._openai else str(document["model_version"])

    def close(self) -> None:
        self._connection.close()


class Stream(Client):
    """gRPC: one stream, on which each request is answered in three pieces."""

    def __init__(self, triton: TritonProcess, model: str = "gpt") -> None:
        self._model = model
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._client = grpcclient.InferenceServerClient(triton.grpc)
        self._client.start_stream(lambda result, error: self._answers.put(error or result))

    def ask(self) -> str:
        values: dict[str, Any] = {"text_input": b"a", "sampling_parameters": b'{"max_tokens": 3}', "stream": True}
        inputs = []
        for name, value in values.items():
            one = grpcclient.InferInput(name, [1], "BOOL" if value is True else "BYTES")
            one.set_data_from_numpy(np.array([value], dtype=np.bool_ if value is True else np.object_))
            inputs.append(one)
        self._client.async_stream_infer(self._model, inputs, enable_empty_final_response=True)
        versions = []
        while True:
            result = self._answers.get(timeout=30)
            if isinstance(result, Exception):
                raise result
            response = result.get_response()
            if response.outputs:
                versions.append(response.model_version)
            if response.parameters["triton_final_response"].bool_param:
                assert (len(versions), len(set(versions))) == (3, 1), "an answer is of one version, and whole"
                return str(versions[0])

    def close(self) -> None:
        self._client.stop_stream()
        self._client.close()


class Traffic:
    """Clients of each kind, until `stop`."""

    def __init__(self, kinds: dict[str, tuple[Callable[[], Client], bool]]) -> None:
        self.failed: list[str] = []
        self.done: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []
        self._expected: tuple[float, str] = (float("inf"), "")
        """From when on requests are to be answered by which version."""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(kind, *how)) for kind, how in kinds.items()]
        for thread in self._threads:
            thread.start()

    def expect(self, version: str) -> None:
        """Every request that is sent from now on is answered by this version."""
        self._expected = (time.monotonic(), version)

    def expect_anything(self) -> None:
        self._expected = (float("inf"), "")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _ask(self, kind: str, make: Callable[[], Client], kept: bool) -> None:
        client: Client | None = None
        while not self._stop.is_set():
            since, expected = self._expected
            sent = time.monotonic()
            try:
                client = client or make()
                version = client.ask()
            except Exception as error:
                self.failed.append(f"{kind}: {error!r}")
                version = ""
            self.done[kind, version] += 1
            if version and self._expected == (since, expected) and sent > since and version != expected:
                self.wrong.append(f"{kind}: {version} instead of {expected}, {sent - since:.3f} s late")
            if client is not None and not (kept and version):
                with suppress(Exception):
                    client.close()
                client = None
        if client is not None:
            client.close()


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[TritonProcess]:
    process = TritonProcess(tmp_path, light=True, light_backend=TEXT_BACKEND)
    yield process
    process.kill()


def every_kind(triton: TritonProcess, door: Pod, model: str = "gpt") -> dict[str, tuple[Callable[[], Client], bool]]:
    """Clients of a model, and whether they keep their connection."""
    kinds: dict[str, tuple[Callable[[], Client], bool]] = {}
    for how, kept in (("new", False), ("kept", True)):
        kinds[f"http, {how}"] = (lambda: Http(triton.http_port, model=model), kept)
        kinds[f"openai, {how}"] = (lambda: Http(door.port, openai=True, model=model), kept)
        kinds[f"grpc, {how}"] = (lambda: Stream(triton, model), kept)
    return kinds


@pytest.mark.timeout(60 + 30 * TIMES)
def test_there_and_back_no_request_is_lost_and_none_is_answered_by_the_other_version(
    triton: TritonProcess, agent: AgentProcess, published: Callable[..., dict[str, Any]]
) -> None:
    first, second = published("gpt", 1, loadSeconds=1), published("gpt", 2, loadSeconds=1)
    triton.repository.mkdir()
    door = Pod(triton.repository)
    door.triton.port = triton.grpc_port
    triton.start()
    agent.want(first)
    agent.start()
    agent.wait_ready()
    door.start()
    wait_for("the model is offered", lambda: "gpt" in door.listed(), 30, door.tail)
    kinds = every_kind(triton, door)
    traffic = Traffic(kinds)
    seconds: dict[str, list[float]] = {"1": [], "2": []}
    try:
        for number in range(2 * TIMES):
            wanted, warm, version = (first, second, "1") if number % 2 else (second, first, "2")
            traffic.expect_anything()
            started = time.monotonic()
            agent.want(wanted, warm | {"traffic": "warm"}, revision=f"{number}")
            agent.wait_ready(f"{number}")
            traffic.expect(version)
            seconds[version].append(time.monotonic() - started)
            before = dict(traffic.done)
            wait_for(
                "each client has had answers",
                lambda before=before, version=version: all(
                    traffic.done[kind, version] > before.get((kind, version), 0) + 5 for kind in kinds
                ),
                60,
                lambda: f"{traffic.done} {traffic.failed[:5]} {traffic.wrong[:5]}\n{agent.tail()}",
            )
    finally:
        traffic.stop()
        door.end()
    assert traffic.failed == []
    assert traffic.wrong == []
    print(f"{sum(traffic.done.values())} answers {dict(traffic.done)}; seconds to the report: {seconds}")
    assert max(seconds["1"]) < 2.0, "back to the version that is at hand"


@pytest.mark.timeout(300)
def test_of_two_models_one_is_swapped_and_goes_and_the_other_loses_no_request(
    triton: TritonProcess, agent: AgentProcess, published: Callable[..., dict[str, Any]]
) -> None:
    first, second = published("gpt", 1, loadSeconds=1), published("gpt", 2, loadSeconds=1)
    other, third = published("bert", 1, loadSeconds=1), published("t5", 1, loadSeconds=1)
    warm = {"traffic": "warm"}
    triton.repository.mkdir()
    door = Pod(triton.repository)
    door.triton.port = triton.grpc_port
    triton.start()
    agent.want(first, other)
    agent.start()
    agent.wait_ready()
    door.start()
    wait_for("both models are offered", lambda: {"gpt", "bert"} <= set(door.listed()), 30, door.tail)
    kept = Traffic(every_kind(triton, door, "bert"))
    swapped = Traffic(every_kind(triton, door, "gpt"))

    def more(traffic: Traffic, version: str) -> None:
        before = dict(traffic.done)
        wait_for(
            f"each client has had answers of version {version}",
            lambda: all(
                traffic.done[kind, version] > before.get((kind, version), 0) + 3 for kind in every_kind(triton, door)
            ),
            60,
            lambda: f"{traffic.done} {traffic.failed[:5]}\n{agent.tail()}",
        )

    try:
        kept.expect("1")
        for number, (wanted, before, version) in enumerate(((second, first, "2"), (first, second, "1"))):
            agent.want(wanted, other, before | warm, revision=f"swap {number}")
            agent.wait_ready(f"swap {number}")
            swapped.expect(version)
            more(swapped, version)
            more(kept, "1")
            swapped.expect_anything()
        agent.want(first, other, third, revision="three")  # the version that is no longer kept goes before it comes
        agent.wait_ready("three")
        more(kept, "1")
        more(swapped, "1")
        swapped.stop()
        agent.want(other, third, revision="without gpt")
        agent.wait_ready("without gpt")
        wait_for("gpt is gone", lambda: "gpt" not in door.listed(), 30, agent.tail)
        more(kept, "1")
    finally:
        for traffic in (swapped, kept):
            traffic.stop()
        door.end()
    assert (kept.failed, kept.wrong) == ([], [])
    assert (swapped.failed, swapped.wrong) == ([], [])
    print(f"{sum(kept.done.values())} answers of bert, {sum(swapped.done.values())} of gpt, none failed")

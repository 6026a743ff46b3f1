"""The back ends in a real Triton, through the calls that clients make."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from harness import AgentProcess, TritonProcess, http, wait_for
from tritonclient.utils import InferenceServerException

from aifactory_agent.artifacts.stores import Mounts
from aifactory_agent.artifacts.transfer import publish
from aifactory_contract import refusals
from aifactory_contract.uri import ArtifactUri
from aifactory_trainer.export import export_torch
from aifactory_trainer.model import GPT
from aifactory_trainer.model import generate as reference_generate

from .conftest import TwoHeads

PROMPT = "def main():"
RETURNS = ("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens")


def tensor(name: str, values: list[Any], kind: str) -> Any:
    types = {"BYTES": np.object_, "BOOL": np.bool_}
    given = grpcclient.InferInput(name, [len(values)], kind)
    given.set_data_from_numpy(np.array(values, dtype=types[kind]))
    return given


class Stream:
    """One generation over gRPC streaming, as a client of Triton writes it."""

    def __init__(self, triton: TritonProcess, prompt: str = PROMPT, **parameters: Any) -> None:
        inputs = [tensor("text_input", [prompt.encode()], "BYTES"), tensor("stream", [True], "BOOL")]
        inputs.append(tensor("sampling_parameters", [json.dumps(parameters).encode()], "BYTES"))
        inputs += [tensor(name, [True], "BOOL") for name in RETURNS]
        self._answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._client = grpcclient.InferenceServerClient(triton.grpc)
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))
        self._client.async_stream_infer("gpt", inputs, enable_empty_final_response=True)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop_stream()
        self._client.close()

    def results(self) -> Iterator[Any]:
        """Results up to the last one; raises an error response."""
        while True:
            result, error = self._answers.get(timeout=60)
            if error is not None:
                raise error
            yield result
            if _is_last(result):
                return

    def ended(self) -> bool:
        """Whether the last result is among those that have come since the last look."""
        came = []
        with suppress(queue.Empty):
            while True:
                came.append(self._answers.get_nowait())
        return any(result is None or _is_last(result) for result, _ in came)

    def cancel(self) -> None:
        """Go away in the middle."""
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


def _is_last(result: Any) -> bool:
    return bool(result.get_response().parameters["triton_final_response"].bool_param)


def stream(triton: TritonProcess, **parameters: Any) -> list[Any]:
    """All results of one generation."""
    with Stream(triton, **parameters) as running:
        return list(running.results())


def text_of(result: Any) -> str:
    return str(result.as_numpy("text_output")[0].decode())


def generate(
    triton: TritonProcess, text: str = PROMPT, model: str = "gpt", **parameters: Any
) -> tuple[int, dict[str, Any]]:
    """Triton's generate endpoint: the whole answer over HTTP."""
    body = {"text_input": text, "exclude_input_in_output": True, **dict.fromkeys(RETURNS, True)}
    body["sampling_parameters"] = json.dumps({"temperature": 0, **parameters})
    code, answer = http(f"{triton.url}/v2/models/{model}/generate", body, seconds=60)
    return code, json.loads(answer)


def test_generates_over_http_what_the_trainer_generates(triton: TritonProcess, gpt: GPT) -> None:
    code, answer = generate(triton, max_tokens=90)
    assert code == 200, answer
    expected = bytes(reference_generate(gpt, PROMPT.encode(), 90, temperature=0))
    assert answer["text_output"] == expected.decode("utf-8", "replace")
    assert answer["model_version"] == "2"
    assert answer["num_input_tokens"] == len(PROMPT)
    assert answer["num_output_tokens"] == len(expected)
    assert answer["finish_reason"] in ("stop", "length")


def test_streams_over_grpc_piece_by_piece(triton: TritonProcess) -> None:
    results = stream(triton, max_tokens=40, temperature=0.0)
    _, whole = generate(triton, max_tokens=40)
    assert "".join(map(text_of, results)) == whole["text_output"]
    assert len(results) > 5
    assert results[-1].as_numpy("finish_reason")[0].decode() == whole["finish_reason"]
    assert results[-1].as_numpy("num_output_tokens")[0] == whole["num_output_tokens"]
    assert results[0].as_numpy("finish_reason")[0] == b"None"


def test_streams_over_http_as_server_sent_events(triton: TritonProcess) -> None:
    body = {"text_input": PROMPT, "temperature": 0, "max_tokens": 20, "stream": True}
    code, text = http(f"{triton.url}/v2/models/gpt/generate_stream", body)
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert code == 200
    assert "".join(event["text_output"] for event in events) == generate(triton, max_tokens=20)[1]["text_output"]
    assert len(events) > 3


def test_each_version_answers_for_itself(triton: TritonProcess) -> None:
    answers = [generate(triton, model=f"gpt/versions/{version}", max_tokens=30)[1] for version in (1, 2)]
    assert [answer["model_version"] for answer in answers] == ["1", "2"]
    assert answers[0]["text_output"] != answers[1]["text_output"]


def test_seed_and_stop(triton: TritonProcess) -> None:
    one, again, other = (
        generate(triton, temperature=1.0, seed=seed, max_tokens=40)[1]["text_output"] for seed in (3, 3, 4)
    )
    assert one == again != other
    end = one[5:7]
    _, answer = generate(triton, temperature=1.0, seed=3, max_tokens=40, stop=[end, "never to be seen"])
    assert answer["text_output"] == one[: one.find(end)]
    assert answer["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"max_tokens": 0}, "max_tokens must be a whole number from 1"),
        ({"temperature": -1}, "temperature must be from 0"),
        ({"stop": [""]}, "stop must be strings of 1 to 256 characters"),
        ({"top_p": 0.5}, "top_p is not known"),
        ({"aifactory_probe": True}, "aifactory_probe is not known"),
        ({"text": "x" * 63}, "text_input has 63 tokens, this model reads 62 at most"),
    ],
)
def test_a_bad_request_is_an_error_that_says_why(triton: TritonProcess, parameters: dict[str, Any], words: str) -> None:
    code, answer = generate(triton, **parameters)
    assert code == 400
    assert words in answer["error"]


def test_a_bad_request_over_grpc_is_an_error_too(triton: TritonProcess) -> None:
    with pytest.raises(InferenceServerException, match="max_tokens must be a whole number from 1"):
        stream(triton, max_tokens=-4)


def test_an_error_tells_its_kind_to_those_who_ask(triton: TritonProcess) -> None:
    body = {"text_input": PROMPT, refusals.PARAMETER: True, "sampling_parameters": json.dumps({"max_tokens": -4})}
    _, answer = http(f"{triton.url}/v2/models/gpt/generate", body, seconds=60)
    kind, words = refusals.read(json.loads(answer)["error"])
    assert kind == refusals.INVALID
    assert words.startswith("max_tokens must be")


def test_requests_make_progress_together(triton: TritonProcess) -> None:
    """Short answers come while a long one is under way; without continuous batching they would wait for its end."""
    long = Stream(triton, max_tokens=60_000, temperature=0.0)  # without chance it never comes to an end
    next(long.results())
    for _ in range(3):
        code, answer = generate(triton, max_tokens=5)
        assert code == 200, answer
    assert not long.ended()
    wait_for("the long one goes on", lambda: not long._answers.empty(), 20)
    long.cancel()


def test_what_finds_no_slot_waits_or_is_refused(triton: TritonProcess) -> None:
    """Four slots and six places to wait for fourteen at once."""
    answers: list[tuple[int, dict[str, Any]]] = []
    ask = [
        threading.Thread(target=lambda n=n: answers.append(generate(triton, temperature=1.0, seed=n, max_tokens=300)))
        for n in range(14)
    ]
    for thread in ask:
        thread.start()
    for thread in ask:
        thread.join()
    assert len(answers) == 14
    served = [answer for code, answer in answers if code == 200]
    refused = [answer["error"] for code, answer in answers if code != 200]
    assert len(served) >= 7  # one running and six waiting at the least
    assert all("waiting already; ask again later" in error for error in refused), refused


def test_a_client_that_goes_away_frees_its_slot(triton: TritonProcess) -> None:
    def requests() -> float:
        return triton.metric("aifactory_requests_running", model="gpt", version="2")

    def told() -> str:
        _, page = http(f"http://127.0.0.1:{triton.metrics_port}/metrics")
        return "\n".join(line for line in page.splitlines() if line.startswith("aifactory_requests"))

    gone = [Stream(triton, max_tokens=60_000, temperature=0.0) for _ in range(4)]  # with chance one soon has its end
    try:
        for running in gone:
            next(running.results())
        wait_for("they are told", lambda: requests() == 4, 20, told)
    finally:  # or the server has no slot for the tests that follow, and does not end
        for running in gone:
            running.cancel()
    wait_for("none is told any more", lambda: requests() == 0, 20)
    code, answer = generate(triton, max_tokens=3)
    assert code == 200, answer


def test_tokens_are_counted_and_probes_are_not(triton: TritonProcess) -> None:
    def tokens() -> tuple[float, float]:
        names = ("aifactory_prompt_tokens_total", "aifactory_generated_tokens_total")
        prompt, generated = (triton.metric(name, model="gpt", version="2") for name in names)
        return prompt, generated

    def settled() -> tuple[float, float] | None:
        first = tokens()
        time.sleep(0.6)  # longer than counters are gathered for
        return first if tokens() == first else None

    before = wait_for("earlier requests are counted", settled)
    assert before is not None
    _, answer = generate(triton, max_tokens=25)
    wanted = (before[0] + len(PROMPT), before[1] + answer["num_output_tokens"])
    wait_for("the counters have moved", lambda: tokens() == wanted, 10, lambda: f"{before} {tokens()} {wanted}")

    def asked() -> float:
        return triton.metric("aifactory_probe_requests_total", model="gpt", version="2")

    probes = asked()
    wait_for("the agent has asked", lambda: asked() > probes, 20)
    assert tokens() == wanted


def test_what_clients_asked_is_what_triton_counts_less_the_probes(triton: TritonProcess) -> None:
    def clients(model: str, version: str) -> float:
        names = ("nv_inference_request_success", "aifactory_probe_requests_total")
        success, probes = (triton.metric(name, model=model, version=version) for name in names)
        return success - probes

    before, program = clients("gpt", "1"), clients("program", "1")
    for _ in range(7):
        generate(triton, model="gpt/versions/1", max_tokens=1)
    wait_for("seven requests of clients", lambda: clients("gpt", "1") - before == 7, 20)
    probes = triton.metric("aifactory_probe_requests_total", model="program")
    wait_for("the agent asks", lambda: triton.metric("aifactory_probe_requests_total", model="program") > probes, 20)
    wait_for("which changes nothing", lambda: clients("program", "1") == program, 5)


def test_a_torch_program_answers_as_it_did_in_training(triton: TritonProcess, program: TwoHeads) -> None:
    with httpclient.InferenceServerClient(f"127.0.0.1:{triton.http_port}") as client:
        x, index = torch.randn(3, 4), torch.arange(3).unsqueeze(1)
        inputs = [httpclient.InferInput("x", [3, 4], "FP32"), httpclient.InferInput("index", [3, 1], "INT64")]
        inputs[0].set_data_from_numpy(x.numpy())
        inputs[1].set_data_from_numpy(index.numpy())
        result = client.infer("program", inputs)
    with torch.no_grad():
        y, total = program(x, index)
    np.testing.assert_allclose(result.as_numpy("y"), y.numpy(), rtol=1e-5)
    np.testing.assert_allclose(result.as_numpy("total"), total.numpy(), rtol=1e-5)


def test_an_output_of_one_number_a_row_is_a_list_of_one(triton: TritonProcess) -> None:
    """Triton knows no tensor without dimensions (case: triton-inference-server/server#2052)."""
    x = np.array([[1, 2, 3, 4], [0, 0, 0, 1]], np.float32)
    given = httpclient.InferInput("x", [2, 4], "FP32")
    given.set_data_from_numpy(x)
    with httpclient.InferenceServerClient(f"127.0.0.1:{triton.http_port}") as client:
        np.testing.assert_allclose(client.infer("score", [given]).as_numpy("score"), [[10], [1]])


class Picky(torch.nn.Module):
    """Can not compute zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table(x - 1).sum(dim=1)


def test_a_program_that_can_not_be_called_fails_the_load_and_no_request(
    triton: TritonProcess, agent: AgentProcess, tmp_path: Path
) -> None:
    before = agent.desired.read_text()
    picky = export_torch(
        Picky(), {"x": torch.ones(2, 1, dtype=torch.int64)}, outputs=("y",), max_batch_size=8, output=tmp_path / "picky"
    )
    artifact = publish(picky, ArtifactUri.parse("pvc://models"), "picky", Mounts(agent.claims))
    entry = {"name": "picky", "version": 1, "uri": artifact.uri, "digest": artifact.digest, "format": artifact.format}
    agent.want(*json.loads(before)["models"], entry, revision="picky")
    try:
        failed = agent.wait_state("picky", 1, "Failed")
        assert failed["reason"] == "LoadFailed"
        assert "the program failed when it was asked for the first time: index out of range" in failed["message"]
    finally:
        agent.write(before)
    agent.wait_ready()


def test_requests_for_a_program_are_batched(triton: TritonProcess, program: TwoHeads) -> None:
    """What arrives while Triton computes is computed together. How much that is depends on who of the two is faster."""

    def computed_at_once() -> bool:
        before = counts()
        _burst(triton, program, 64)
        requests, calls = (now - then for now, then in zip(counts(), before, strict=True))
        assert requests >= 64
        return calls < requests * 0.8

    def counts() -> list[float]:
        return [triton.metric(name, model="program") for name in ("nv_inference_count", "nv_inference_exec_count")]

    wait_for("a burst that is not computed one by one", computed_at_once, 30)


def _burst(triton: TritonProcess, program: TwoHeads, count: int) -> None:
    """Send requests without waiting for answers, then check each answer."""
    client = grpcclient.InferenceServerClient(triton.grpc)
    done: queue.SimpleQueue[tuple[int, Any, Any]] = queue.SimpleQueue()
    rows = torch.randn(count, 1, 4)
    for number, row in enumerate(rows):
        inputs = [grpcclient.InferInput("x", [1, 4], "FP32"), grpcclient.InferInput("index", [1, 1], "INT64")]
        inputs[0].set_data_from_numpy(row.numpy())
        inputs[1].set_data_from_numpy(np.array([[number]]))
        client.async_infer("program", inputs, lambda result, error, n=number: done.put((n, result, error)))
    for _ in rows:
        number, result, error = done.get(timeout=30)
        assert error is None
        with torch.no_grad():
            expected = program(rows[number], torch.tensor([[number]]))[1]
        np.testing.assert_allclose(result.as_numpy("total"), expected.numpy(), rtol=1e-4)
    client.close()


def test_nobody_else_can_pass_for_the_agent(triton: TritonProcess) -> None:
    """Neither by the parameter's name nor by having it in another one's value; what a client asks is traffic."""

    def clients() -> float:
        success = triton.metric("nv_inference_request_success", model="program", version="1")
        return success - triton.metric("aifactory_probe_requests_total", model="program", version="1")

    before = clients()
    x, index = grpcclient.InferInput("x", [1, 4], "FP32"), grpcclient.InferInput("index", [1, 1], "INT64")
    x.set_data_from_numpy(np.zeros((1, 4), np.float32))
    index.set_data_from_numpy(np.zeros((1, 1), np.int64))
    with grpcclient.InferenceServerClient(triton.grpc) as client:
        for parameters in ({"aifactory_probe": "true"}, {"aifactory_probe": True}, {"note": "aifactory_probe"}):
            client.infer("program", [x, index], parameters=parameters)
    wait_for("three requests of clients", lambda: clients() - before == 3, 20)


def test_a_batch_that_is_too_large_is_refused(triton: TritonProcess) -> None:
    client = grpcclient.InferenceServerClient(triton.grpc)
    inputs = [grpcclient.InferInput("x", [9, 4], "FP32"), grpcclient.InferInput("index", [9, 1], "INT64")]
    inputs[0].set_data_from_numpy(np.zeros((9, 4), np.float32))
    inputs[1].set_data_from_numpy(np.zeros((9, 1), np.int64))
    with pytest.raises(InferenceServerException, match="batch-size must be <= 8"):
        client.infer("program", inputs)
    client.close()


def test_sigterm_lets_a_running_answer_finish(serving: tuple[TritonProcess, AgentProcess]) -> None:
    """Stays last in this file: it ends the server."""
    triton, agent = serving
    agent.kill()
    codes: list[int] = []
    ending = threading.Thread(target=lambda: codes.append(triton.terminate()))
    with Stream(triton, max_tokens=400, temperature=1.0) as running:
        results = running.results()
        next(results)
        ending.start()
        rest = list(results)
    assert rest[-1].as_numpy("finish_reason") is not None
    ending.join()
    assert codes == [0], triton.tail()

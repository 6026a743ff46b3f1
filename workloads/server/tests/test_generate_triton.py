"""Back end `transformers` in a real Triton, by the calls that clients of Triton's vLLM back end make."""

from __future__ import annotations

import json
import queue
import re
import shutil
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from harness import TritonProcess, http, wait_for
from hf_models import write_llama, write_qwen
from tritonclient.utils import InferenceServerException

from aifactory_agent.serve.tritonconfig import render
from aifactory_contract.control import HEADER, control_key, probe_sign
from aifactory_contract.formats.huggingface import HUGGINGFACE
from aifactory_contract.names import PROBE_PARAMETER

from .test_paged import reference

PROMPT = "def main():"
_TYPES = {bool: ("BOOL", np.bool_), str: ("BYTES", np.object_), bytes: ("BYTES", np.object_)}


def tensor(name: str, value: Any) -> Any:
    kind, dtype = _TYPES[type(value)]
    given = grpcclient.InferInput(name, [1], kind)
    given.set_data_from_numpy(np.array([value.encode() if isinstance(value, str) else value], dtype=dtype))
    return given


class Stream:
    """Requests over one gRPC stream."""

    def __init__(self, triton: TritonProcess, model: str = "llama") -> None:
        self._model = model
        self._answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._client = grpcclient.InferenceServerClient(triton.grpc)
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))

    def ask(self, prompt: str = PROMPT, parameters: dict[str, Any] | None = None, **more: Any) -> Stream:
        inputs = [tensor("text_input", prompt)]
        inputs += [tensor(name, value) for name, value in more.items() if name not in ("timeout", "plain")]
        if parameters is not None:
            inputs.append(tensor("sampling_parameters", json.dumps(parameters)))
        self._client.async_stream_infer(
            self._model,
            inputs,
            enable_empty_final_response=True,
            timeout=more.get("timeout"),
            parameters=more.get("plain"),
        )
        return self

    def results(self) -> Iterator[Any]:
        """Up to the last one; raises an error response."""
        while True:
            result, error = self._answers.get(timeout=60)
            if error is not None:
                raise error
            yield result
            if result.get_response().parameters["triton_final_response"].bool_param:
                return

    def cancel(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop_stream()
        self._client.close()


def texts(result: Any) -> str:
    return str(result.as_numpy("text_output")[0].decode())


def control(triton: TritonProcess) -> dict[str, str]:
    return {HEADER: control_key(triton.repository)}


def put(triton: TritonProcess, name: str, folder: Path) -> None:
    """As the agent puts a version where Triton looks for it."""
    model = triton.repository / "models" / name
    shutil.copytree(folder, model / "1")
    config = json.loads((folder / "config.json").read_text())
    (model / "config.pbtxt").write_text(render(HUGGINGFACE.serving(config), name, [1]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("directories")
    return {"llama": write_llama(root / "llama"), "qwen": write_qwen(root / "qwen")}


@pytest.fixture(scope="module")
def serving(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    environ = {"AIFACTORY_ENGINE_SLOTS": "4", "AIFACTORY_ENGINE_MAX_WAITING": "6"}
    triton = TritonProcess(tmp_path_factory.mktemp("serving"), environ=environ)
    try:
        triton.start()
        for name, folder in folders.items():
            put(triton, name, folder)
            with grpcclient.InferenceServerClient(triton.grpc) as client:
                client.load_model(name, headers=control(triton))
        yield triton
    finally:
        triton.kill()


def generate(triton: TritonProcess, model: str = "llama", **body: Any) -> tuple[int, dict[str, Any]]:
    """Triton's generate endpoint: the whole answer over HTTP."""
    asked = {"text_input": PROMPT, "exclude_input_in_output": True, "temperature": 0, **body}
    code, answer = http(f"{triton.url}/v2/models/{model}/generate", asked, seconds=60)
    return code, json.loads(answer)


@pytest.mark.parametrize("model", ["llama", "qwen"])
def test_generates_over_http_what_the_model_says(serving: TritonProcess, folders: dict[str, Path], model: str) -> None:
    expected = reference(folders[model], PROMPT, 30)
    code, answer = generate(serving, model, max_tokens=30)
    assert code == 200, answer
    assert answer["text_output"] == expected
    code, answer = generate(serving, model, max_tokens=30, exclude_input_in_output=False)
    assert answer["text_output"] == PROMPT + expected


def test_streams_over_grpc_piece_by_piece(serving: TritonProcess, folders: dict[str, Path]) -> None:
    wants = {"return_finish_reason": True, "return_num_input_tokens": True, "return_num_output_tokens": True}
    with Stream(serving) as stream:
        results = list(stream.ask(parameters={"temperature": 0, "max_tokens": 30}, stream=True, **wants).results())
    assert "".join(map(texts, results)) == reference(folders["llama"], PROMPT, 30)
    assert len(results) > 5
    reasons = [result.as_numpy("finish_reason")[0].decode() for result in results]
    assert set(reasons[:-1]) == {"None"}
    assert reasons[-1] in ("stop", "length")
    counts = [int(result.as_numpy("num_output_tokens")[0]) for result in results]
    assert sum(counts) == 30 or reasons[-1] == "stop"
    assert results[0].as_numpy("num_input_tokens")[0] == results[-1].as_numpy("num_input_tokens")[0] > 1


def test_streams_over_http_as_server_sent_events(serving: TritonProcess) -> None:
    body = {"text_input": PROMPT, "temperature": 0, "max_tokens": 20, "stream": True}
    code, text = http(f"{serving.url}/v2/models/llama/generate_stream", body)
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert code == 200
    assert "".join(event["text_output"] for event in events) == generate(serving, max_tokens=20)[1]["text_output"]
    assert "finish_reason" not in events[-1]


def test_log_probabilities_have_the_form_of_vllms_back_end(serving: TritonProcess) -> None:
    asked = {"temperature": 0, "max_tokens": 4, "logprobs": 2, "ignore_eos": True}
    with Stream(serving) as stream:
        wants = {"return_logprobs": True, "return_cumulative_logprob": True, "exclude_input_in_output": True}
        (result,) = stream.ask(parameters=asked, **wants).results()
    found = json.loads(result.as_numpy("logprobs")[0])
    assert len(found) == 4
    firsts = [next(iter(token.values())) for token in found]
    assert all(one["rank"] == 1 and one["logprob"] <= 0 and isinstance(one["decoded_token"], str) for one in firsts)
    assert all(len(token) == 2 for token in found)
    total = sum(one["logprob"] for one in firsts)
    assert result.as_numpy("cumulative_logprob")[0] == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"max_tokens": 0}, "max_tokens must be a whole number from 1"),
        ({"top_q": 0.5}, "top_q is not known"),
        ({"aifactory_probe": "x"}, "aifactory_probe is not known"),
        ({"text_input": "0" * 300}, "tokens, this model reads 255 at most"),
        ({"sampling_parameters": "[]"}, "sampling_parameters must be a JSON object"),
    ],
)
def test_a_bad_request_is_an_error_that_says_why(serving: TritonProcess, body: dict[str, Any], words: str) -> None:
    code, answer = generate(serving, **body)
    assert code == 400
    assert words in answer["error"]


def test_what_finds_no_place_waits_or_is_refused_as_unavailable(serving: TritonProcess) -> None:
    """Four slots and six places to wait for sixteen at once."""
    streams = [Stream(serving) for _ in range(16)]
    for number, stream in enumerate(streams):
        stream.ask(parameters={"seed": number, "max_tokens": 200, "ignore_eos": True}, stream=True)
    served, refused = 0, []
    for stream in streams:
        with stream:
            try:
                list(stream.results())
                served += 1
            except InferenceServerException as error:
                refused.append(error)
    assert served >= 7
    assert refused
    assert all("waiting already; ask again later" in error.message() for error in refused)


def test_a_client_that_goes_away_frees_its_place(serving: TritonProcess) -> None:
    def running() -> float:
        return serving.metric("aifactory_requests_running", model="qwen")

    streams = [Stream(serving, "qwen") for _ in range(3)]
    for stream in streams:
        stream.ask(parameters={"max_tokens": 240, "ignore_eos": True}, stream=True)
        next(stream.results())
    for stream in streams:
        stream.cancel()
    wait_for("nobody is computed for", lambda: running() == 0, 5)
    assert generate(serving, "qwen", max_tokens=2)[0] == 200


def test_a_time_limit_of_the_request_is_kept(serving: TritonProcess) -> None:
    with Stream(serving) as stream, pytest.raises(InferenceServerException, match="no answer within"):
        list(stream.ask(parameters={"max_tokens": 240, "ignore_eos": True}, timeout=10_000).results())


def test_tokens_and_latencies_are_counted(serving: TritonProcess) -> None:
    names = ("prompt_tokens_total", "generated_tokens_total", "time_to_first_token_seconds_count")
    names = (*names, "inter_token_latency_seconds_count")

    def counted() -> list[float]:
        return [serving.metric(f"aifactory_{name}", model="qwen", version="1") for name in names]

    def settled() -> list[float] | None:
        first = counted()
        time.sleep(0.6)  # longer than numbers are gathered for
        return first if counted() == first else None

    before = wait_for("earlier requests are counted", settled)
    assert before is not None
    _, answer = generate(
        serving, "qwen", max_tokens=9, ignore_eos=True, return_num_input_tokens=True, return_num_output_tokens=True
    )
    moved = [answer["num_input_tokens"], answer["num_output_tokens"], 1, 8]
    wanted = [then + more for then, more in zip(before, moved, strict=True)]
    wait_for("the numbers have moved", lambda: counted() == wanted, 10, lambda: f"{before} {counted()} {wanted}")
    assert moved[1] == 9


def test_what_was_read_before_and_what_there_is_to_do_is_told(serving: TritonProcess) -> None:
    def told(name: str) -> float:
        return serving.metric(f"aifactory_{name}", model="llama", version="1")

    prompt = "0123456789 + - * / = the quick brown fox " * 4
    before = told("cached_prompt_tokens_total")
    for _ in range(2):
        assert generate(serving, text_input=prompt, max_tokens=1)[0] == 200
    wait_for("the second time was cheaper", lambda: told("cached_prompt_tokens_total") >= before + 32, 10)
    streams = [Stream(serving) for _ in range(6)]
    for stream in streams:
        stream.ask(parameters={"max_tokens": 200, "ignore_eos": True}, stream=True)
    wait_for("four run and two wait", lambda: (told("requests_running"), told("requests_waiting")) == (4, 2), 10)
    for stream in streams:
        stream.cancel()
    wait_for("nobody is computed for", lambda: (told("requests_running"), told("requests_waiting")) == (0, 0), 10)


@pytest.mark.parametrize(
    ("name", "least", "most"), [("time_to_first_token", 0.001, 160), ("inter_token_latency", 0.001, 2.5)]
)
def test_latencies_have_buckets_for_the_shortest_and_the_longest(
    serving: TritonProcess, name: str, least: float, most: float
) -> None:
    page = http(f"http://127.0.0.1:{serving.metrics_port}/metrics")[1]
    found = re.findall(rf'aifactory_{name}_seconds_bucket{{model="llama",version="1",le="([0-9.e-]+)"}}', page)
    bounds = [float(bound) for bound in found]
    assert (bounds[0], bounds[-1]) == (least, most)
    # A quantile read from them is wrong by a factor of 2.5 at most, but for the very shortest.
    assert all(after / before <= 2.5 for before, after in pairwise(bounds) if before >= 0.005)


def test_the_agents_question_is_answered_and_not_counted(serving: TritonProcess) -> None:
    def counted() -> tuple[float, float]:
        names = ("aifactory_generated_tokens_total", "aifactory_probe_requests_total")
        generated, probes = (serving.metric(name, model="llama", version="1") for name in names)
        return generated, probes

    generated, probes = counted()
    probe = HUGGINGFACE.serving({"architectures": ["LlamaForCausalLM"]}).probe
    inputs = {name: value for name, value in probe.items() if name != "text_input"}
    with Stream(serving) as stream:
        sign = {PROBE_PARAMETER: probe_sign(serving.repository)}
        (result,) = stream.ask(str(probe["text_input"], "ascii"), plain=sign, **inputs).results()
    assert texts(result)
    wait_for("it is counted as a probe", lambda: counted() == (generated, probes + 1), 10)


def test_a_directory_that_is_no_model_fails_to_load_with_its_reason(
    serving: TritonProcess, folders: dict[str, Path]
) -> None:
    put(serving, "broken", folders["llama"])
    weights = serving.repository / "models/broken/1/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    client = grpcclient.InferenceServerClient(serving.grpc)
    with client, pytest.raises(InferenceServerException, match=r"(?i)safetensor|header|incomplete"):
        client.load_model("broken", headers=control(serving))


def test_an_unload_lets_a_running_answer_finish(serving: TritonProcess, folders: dict[str, Path]) -> None:
    """Stays last: the model is gone afterwards."""
    client = grpcclient.InferenceServerClient(serving.grpc)
    with client, Stream(serving) as stream:
        results = stream.ask(
            parameters={"max_tokens": 200, "ignore_eos": True}, stream=True, return_finish_reason=True
        ).results()
        next(results)
        unloading = threading.Thread(target=lambda: client.unload_model("llama", headers=control(serving)))
        unloading.start()
        rest = list(results)
        assert rest[-1].as_numpy("finish_reason")[0] == b"length"
        unloading.join()

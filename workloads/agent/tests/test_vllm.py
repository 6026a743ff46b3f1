"""The engine `vllm`: what its back end is given, and the agent and the OpenAI door with it behind a real Triton."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import AgentProcess, TritonProcess, http, wait_for
from pod import Pod
from samples import write_model, write_safetensors

from aifactory_agent.artifacts.stores import Mounts
from aifactory_agent.artifacts.transfer import publish
from aifactory_agent.serve.tritonconfig import identity, render
from aifactory_agent.serve.vllm import files
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import HUGGINGFACE
from aifactory_contract.names import GENERATED_TOKENS, PROBE_REQUESTS
from aifactory_contract.server import ANY, Server
from aifactory_contract.uri import ArtifactUri

GOLDEN = Path(__file__).parent / "golden"
TESTING = Path(__file__).parents[1] / "testing"
LLAMA = {"architectures": ["LlamaForCausalLM"], "num_attention_heads": 32}
FOLDER = Path("/repository/models/llama/3")
Published = Callable[..., dict[str, Any]]


def on(gpus: int, **settings: str) -> Server:
    return Server(frozenset({"vllm"}), gpus, settings)


def arguments(server: Server, **config: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files(FOLDER, {**LLAMA, **config}, server)["model.json"])
    return found


def write_adapter(model: Path, name: str, rank: int = 8) -> None:
    folder = model / "adapters" / name
    folder.mkdir(parents=True)
    write_safetensors(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "bias": "none"}))


def test_both_files_are_the_golden_ones() -> None:
    settings = {
        "AIFACTORY_ENGINE_SLOTS": "128",
        "AIFACTORY_ENGINE_CONTEXT": "8192",
        "AIFACTORY_ENGINE_CACHE_BYTES": "8000000000",
        "AIFACTORY_ENGINE_SECONDS": "60",
        "AIFACTORY_VLLM_DTYPE": "bfloat16",
        "AIFACTORY_VLLM_QUANTIZATION": "fp8",
        "AIFACTORY_VLLM_KV_CACHE_DTYPE": "fp8_e5m2",
        "AIFACTORY_VLLM_GPU_MEMORY_UTILIZATION": "0.8",
        "AIFACTORY_VLLM_ENABLE_PREFIX_CACHING": "False",
        "AIFACTORY_VLLM_ENFORCE_EAGER": "true",
        "AIFACTORY_VLLM_MAX_NUM_BATCHED_TOKENS": "4096",
        "AIFACTORY_VLLM_TENSOR_PARALLEL_SIZE": "2",
    }
    texts = {
        "vllm-config.pbtxt": render(HUGGINGFACE.serving(LLAMA, server=ANY), "llama", [3]),
        "vllm-model.json": files(FOLDER, LLAMA, on(4))["model.json"],
        "vllm-model-settings.json": files(FOLDER, LLAMA, on(4, **settings))["model.json"],
    }
    for name, text in texts.items():
        if os.environ.get("AIFACTORY_UPDATE_GOLDENS"):
            (GOLDEN / name).write_text(text)
        assert text == (GOLDEN / name).read_text(), name


def test_adapters_are_told_where_they_are(tmp_path: Path) -> None:
    for name, rank in (("sql", 20), ("chat", 8)):
        write_adapter(tmp_path, name, rank)
    made = {name: json.loads(text) for name, text in files(tmp_path, LLAMA, on(1)).items()}
    assert made["model.json"] == {
        "model": str(tmp_path),
        "tensor_parallel_size": 1,
        "enable_lora": True,
        "max_lora_rank": 32,
        "max_loras": 2,
    }
    assert made["multi_lora.json"] == {name: str(tmp_path / "adapters" / name) for name in ("chat", "sql")}


def test_another_engine_is_another_configuration() -> None:
    assert identity(HUGGINGFACE.serving(LLAMA, server=ANY)) != identity(HUGGINGFACE.serving(LLAMA))


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (on(1, AIFACTORY_VLLM_TRUST_REMOTE_CODE="true"), "AIFACTORY_VLLM_TRUST_REMOTE_CODE is no setting; there are: "),
        (on(1, AIFACTORY_ENGINE_SLOTS="many"), "AIFACTORY_ENGINE_SLOTS: 'many' is not a whole number above 0"),
        (on(1, AIFACTORY_ENGINE_CONTEXT="0"), "'0' is not a whole number"),
        (on(1, AIFACTORY_VLLM_GPU_MEMORY_UTILIZATION="90"), "'90' is not a number above 0 and up to 1"),
        (on(1, AIFACTORY_VLLM_GPU_MEMORY_UTILIZATION="nan"), "'nan' is not a number"),
        (on(1, AIFACTORY_VLLM_ENFORCE_EAGER="1"), "'1' is not true or false"),
        (on(1, AIFACTORY_VLLM_DTYPE="b float"), "'b float' is not one word"),
        (on(2, AIFACTORY_VLLM_TENSOR_PARALLEL_SIZE="4"), "SIZE is 4, and the server of this pod sees 2 GPUs"),
        (
            on(3),
            "32 attention heads, which can not be shared by 3 GPUs; give the pod as many as one of these: 1, 2, 4, 8",
        ),
    ],
)
def test_a_wrong_setting_is_told_before_the_load(server: Server, words: str) -> None:
    with pytest.raises(FactoryError) as caught:
        arguments(server)
    assert words in caught.value.message
    assert caught.value.reason is Reason.UNSERVABLE


def test_gpus_that_the_model_can_not_share_may_be_left_idle() -> None:
    assert arguments(on(3, AIFACTORY_VLLM_TENSOR_PARALLEL_SIZE="2"))["tensor_parallel_size"] == 2
    assert arguments(on(4), num_attention_heads="many")["tensor_parallel_size"] == 4, "vLLM will say it"


@pytest.fixture
def vllm(tmp_path: Path) -> Iterator[TritonProcess]:
    """A Triton that says it has vLLM and two GPUs, not started."""
    folder = tmp_path / "vllm"
    folder.mkdir()
    shutil.copy(TESTING / "vllm_backend.py", folder / "model.py")
    shutil.copy(TESTING / "text_backend.py", folder)
    settings = {"AIFACTORY_BACKENDS": "vllm", "AIFACTORY_ENGINE_SLOTS": "32"}
    process = TritonProcess(tmp_path, environ=settings, gpus=2, vllm_backend=folder)
    yield process
    process.kill()


@pytest.fixture
def beside(vllm: TritonProcess, claims: Path) -> Iterator[AgentProcess]:
    process = AgentProcess(vllm, claims)
    yield process
    process.kill()


def generate(triton: TritonProcess, many: int) -> dict[str, Any]:
    body = {"text_input": "a b", "sampling_parameters": json.dumps({"max_tokens": many}), "stream": False}
    code, text = http(f"{triton.url}/v2/models/llama/generate", body)
    assert code == 200, text
    answer: dict[str, Any] = json.loads(text)
    return answer


def test_the_agent_brings_a_model_up_in_vllm(vllm: TritonProcess, beside: AgentProcess, published: Published) -> None:
    beside.want(published("llama", 1, num_attention_heads=8))
    beside.start()
    folder = vllm.repository / "models/llama/1"
    wait_for(
        "the files are there", (folder / "config.json").is_file, 20, beside.tail
    )  # before the server has said a word
    vllm.start()
    beside.wait_ready()
    assert json.loads((folder / "model.json").read_text()) == {
        "model": str(folder),
        "tensor_parallel_size": 2,
        "max_num_seqs": 32,
    }
    assert generate(vllm, 5)["text_output"] == "w0 w1 w2 w3 w4 "
    labels = {"model": "llama", "version": "1"}

    def told(*names: str) -> list[float]:
        return [vllm.metric(name, **labels) for name in names]

    # By the names of all engines, without the agent's question, which vLLM's own counters have.
    mine = (GENERATED_TOKENS, "aifactory_prompt_tokens_total")
    latencies = ("aifactory_time_to_first_token_seconds_count", "aifactory_inter_token_latency_seconds_count")
    wait_for("the client's tokens are told", lambda: told(*mine, *latencies) == [5, 2, 1, 4], 10)
    assert told("aifactory_requests_running", "aifactory_requests_waiting") == [1, 2]
    (cached,) = told("aifactory_cached_prompt_tokens_total")
    assert cached >= 1
    before = vllm.metric(PROBE_REQUESTS, **labels)
    wait_for("the agent asks again", lambda: vllm.metric(PROBE_REQUESTS, **labels) > before >= 1, 20)
    wait_for("vLLM counts it", lambda: told("vllm:generation_tokens_total") == [5 + vllm.metric(PROBE_REQUESTS)], 10)
    assert told(*mine, *latencies) == [5, 2, 1, 4]
    page = http(f"http://127.0.0.1:{vllm.metrics_port}/metrics")[1]
    assert 'aifactory_time_to_first_token_seconds_bucket{model="llama",version="1",le="20"} 1' in page


def test_what_the_artifact_has_under_the_name_of_vllms_arguments_is_not_taken(
    vllm: TritonProcess, beside: AgentProcess, claims: Path, tmp_path: Path
) -> None:
    source = write_model(tmp_path / "source")
    (source / "model.json").write_text(json.dumps({"model": "elsewhere", "trust_remote_code": True}))
    artifact = publish(source, ArtifactUri.parse("pvc://models"), "llama", Mounts(claims))
    assert artifact.files == 4
    vllm.start()
    facts = {"uri": artifact.uri, "digest": artifact.digest, "format": artifact.format}
    beside.want({"name": "llama", "version": 1, **facts})
    beside.start()
    beside.wait_ready()
    assert "trust_remote_code" not in (vllm.repository / "models/llama/1/model.json").read_text()


def test_a_second_version_has_no_room_beside_one_in_vllm(
    vllm: TritonProcess, beside: AgentProcess, published: Published
) -> None:
    vllm.start()
    beside.want(published("llama", 1))
    beside.start()
    beside.wait_ready()
    beside.want(published("llama", 2), revision="s")
    failed = beside.wait_state("llama", 2, "Failed")
    assert failed["reason"] == "NoRoom"
    assert failed["message"].startswith("no room in memory: vLLM takes the GPUs' memory for one version of llama")
    assert generate(vllm, 1)["model_version"] == "1"
    assert beside.get("/readyz")[0] == 200


def test_a_wish_that_the_pods_server_can_not_fulfil_is_told(
    vllm: TritonProcess, beside: AgentProcess, published: Published
) -> None:
    vllm.start()
    beside.want({**published("llama", 1), "engine": "transformers"})
    beside.start()
    failed = beside.wait_state("llama", 1, "Failed")
    assert failed["reason"] == "Unservable"
    assert failed["message"].startswith("the server of this pod has no back end transformers (it has vllm): give")
    beside.want({**published("llama", 1), "engine": "vllm"}, revision="s")
    beside.wait_ready("s")


def test_without_a_gpu_vllm_is_refused_in_words(
    vllm: TritonProcess, beside: AgentProcess, published: Published
) -> None:
    vllm.gpus = 0
    vllm.start()
    beside.want(published("llama", 1))
    beside.start()
    failed = beside.wait_state("llama", 1, "Failed")
    assert failed["reason"] == "Unservable"
    assert failed["message"].startswith("engine vllm computes on GPUs, and the server of this pod sees none: write")


@contextmanager
def opened_door(vllm: TritonProcess, beside: AgentProcess, entry: dict[str, Any]) -> Iterator[Pod]:
    """The whole pod, from a Triton that is not started."""
    vllm.repository.mkdir()
    door = Pod(vllm.repository)
    door.triton.port = vllm.grpc_port
    vllm.start()
    beside.want(entry)
    beside.start()
    beside.wait_ready()
    try:
        door.start()
        wait_for("the model is offered", lambda: "llama" in door.listed(), 30, door.tail)
        yield door
    finally:
        door.end()


def test_the_openai_door_knows_what_fits(vllm: TritonProcess, beside: AgentProcess, published: Published) -> None:
    vllm.environ["AIFACTORY_ENGINE_CONTEXT"] = "20"
    with opened_door(vllm, beside, published("llama", 1, max_position_embeddings=8192)) as door:
        code, answer = door.post("/v1/completions", {"model": "llama", "prompt": "abc", "max_tokens": 2})
        assert (code, answer["choices"][0]["text"], answer["usage"]["completion_tokens"]) == (200, "w0 w1 ", 2)
        code, answer = door.post("/v1/completions", {"model": "llama", "prompt": "abc" * 10, "max_tokens": 2})
        assert code == 400
        assert "maximum context length is 20 tokens; the prompt has 30" in answer["error"]["message"]


def published_with_adapters(root: Path, claims: Path) -> dict[str, Any]:
    source = write_model(root / "source")
    write_adapter(source, "sql")
    (source / "adapters/sql/training_args.bin").write_bytes(b"\x80\x04pickle")
    artifact = publish(source, ArtifactUri.parse("pvc://models"), "llama", Mounts(claims))
    assert list(artifact.left_out) == ["adapters/sql/training_args.bin"]
    facts = {"uri": artifact.uri, "digest": artifact.digest, "format": artifact.format}
    return {"name": "llama", "version": 1, **facts}


def test_an_adapter_is_called_by_its_name(
    vllm: TritonProcess, beside: AgentProcess, claims: Path, tmp_path: Path
) -> None:
    with opened_door(vllm, beside, published_with_adapters(tmp_path, claims)) as door:
        assert door.listed() == ["llama", "llama:sql", "llama@1", "llama@1:sql"]
        asked = vllm.repository / "models/llama/1/asked-adapter"
        for name, told in (("llama:sql", "llama@1:sql"), ("llama", "llama@1"), ("llama@1:sql", "llama@1:sql")):
            asked.unlink(missing_ok=True)
            code, answer = door.post("/v1/completions", {"model": name, "prompt": "abc", "max_tokens": 1})
            assert (code, answer.get("model")) == (200, told), answer
            assert asked.exists() == name.endswith(":sql")
        code, answer = door.post("/v1/completions", {"model": "llama:other", "prompt": "abc"})
        assert code == 404
        assert answer["error"]["message"].endswith("does not exist; this pod serves llama@1, llama@1:sql")
        card = json.loads(door.get("/v1/models/llama:sql")[1])
        assert (card["id"], card["root"], card["parent"]) == ("llama:sql", "llama@1:sql", "llama@1")


def test_adapters_need_vllm(triton: TritonProcess, agent: AgentProcess, claims: Path, tmp_path: Path) -> None:
    triton.start()
    agent.want(published_with_adapters(tmp_path, claims))
    agent.start()
    failed = agent.wait_state("llama", 1, "Failed")
    assert failed["reason"] == "Unservable"
    assert failed["message"].startswith(
        "llama version 1 has LoRA adapters (sql), which only engine vllm serves, not bytes"
    )

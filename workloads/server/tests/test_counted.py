"""Which requests count as failed: the operator compares versions by that."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from harness import AgentProcess, TritonProcess, http, wait_for

from aifactory_agent.artifacts.stores import Mounts
from aifactory_agent.artifacts.transfer import publish
from aifactory_contract.names import FAILED_REQUESTS
from aifactory_contract.uri import ArtifactUri
from aifactory_trainer.export import export_torch

from .test_triton import generate


class Lookup(torch.nn.Module):
    """Fails for numbers above nine, which no look at it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(10, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids)


def test_a_program_that_fails_is_counted(triton: TritonProcess, agent: AgentProcess, tmp_path: Path) -> None:
    before = agent.desired.read_text()
    example = {"ids": torch.zeros(2, 1, dtype=torch.int64)}
    folder = export_torch(Lookup(), example, max_batch_size=8, output=tmp_path / "lookup")
    artifact = publish(folder, ArtifactUri.parse("pvc://models"), "lookup", Mounts(agent.claims))
    entry = {"name": "lookup", "version": 1, "uri": artifact.uri, "digest": artifact.digest, "format": artifact.format}
    agent.want(*json.loads(before)["models"], entry, revision="lookup")
    try:
        agent.wait_state("lookup", 1, "Ready")
        codes = []
        for ids in [1] * 7 + [50] * 5:
            body = {"inputs": [{"name": "ids", "shape": [1, 1], "datatype": "INT64", "data": [ids]}]}
            codes.append(http(f"{triton.url}/v2/models/lookup/infer", body, seconds=20)[0])
        assert codes == [200] * 7 + [500] * 5
        wait_for("it is counted", lambda: triton.metric(FAILED_REQUESTS, model="lookup") == 5, 20)
        assert triton.metric("nv_inference_request_success", model="lookup") >= 12, "Triton takes them for successes"
    finally:
        agent.write(before)
    agent.wait_ready()


def test_what_a_client_does_wrong_is_no_failure(triton: TritonProcess) -> None:
    before = triton.metric(FAILED_REQUESTS, model="gpt", version="2")
    assert generate(triton, max_tokens=-1)[0] == 400
    assert generate(triton, max_tokens=3)[0] == 200
    assert triton.metric(FAILED_REQUESTS, model="gpt", version="2") == before

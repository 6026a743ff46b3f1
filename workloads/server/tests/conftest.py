"""Models written by the trainer's own export helpers, and a Triton that serves them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import AgentProcess, TritonProcess

from aifactory_agent.artifacts.stores import Mounts
from aifactory_agent.artifacts.transfer import publish
from aifactory_contract.uri import ArtifactUri
from aifactory_trainer.export import export_huggingface, export_torch
from aifactory_trainer.model import GPT, GPTConfig

torch.set_num_threads(1)  # small models; several workers share the machine

SHAPE = GPTConfig(context=64, layers=2, heads=2, embedding=32)
DEVICES = [
    torch.device("cpu"),
    pytest.param(
        torch.device("cuda", 0),
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")],
    ),
]
"""For parametrize: what is to hold on each of them."""


def random_model(seed: int = 0, config: GPTConfig = SHAPE) -> GPT:
    """An untrained model whose every weight matters: a fresh one has zeros, and nothing could be compared."""
    torch.manual_seed(seed)
    model = GPT(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model.eval()


@pytest.fixture(scope="session")
def gpt() -> GPT:
    return random_model()


@pytest.fixture(scope="session")
def gpt_folder(gpt: GPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as the trainer exports it."""
    return export_huggingface(gpt, output=tmp_path_factory.mktemp("gpt") / "output")


class Score(torch.nn.Module):
    """One number for each row: an output without dimensions but the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=1)


class TwoHeads(torch.nn.Module):
    """Two inputs of different types, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scaled = self.layer(x) * self.scale
        return scaled, scaled.sum(dim=1, keepdim=True) + index


@pytest.fixture(scope="session")
def program() -> TwoHeads:
    torch.manual_seed(1)
    return TwoHeads().eval()


@pytest.fixture(scope="session")
def program_folder(program: TwoHeads, tmp_path_factory: pytest.TempPathFactory) -> Path:
    examples = {"x": torch.randn(2, 4), "index": torch.zeros(2, 1, dtype=torch.int64)}
    target = tmp_path_factory.mktemp("program") / "output"
    return export_torch(program, examples, outputs=("y", "total"), max_batch_size=8, output=target)


@pytest.fixture(scope="session")
def serving(
    gpt_folder: Path, program_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TritonProcess, AgentProcess]]:
    """Triton as the image starts it, with the models `gpt` (versions 1 and 2) and `program`."""
    root = tmp_path_factory.mktemp("serving")
    (root / "claims/models").mkdir(parents=True)
    triton = TritonProcess(root, environ={"AIFACTORY_CAUSAL_LM_SLOTS": "4", "AIFACTORY_CAUSAL_LM_MAX_WAITING": "6"})
    agent = AgentProcess(triton, root / "claims")
    other = export_huggingface(random_model(7), output=root / "other")

    def entry(name: str, version: int, folder: Path) -> dict[str, Any]:
        artifact = publish(folder, ArtifactUri.parse("pvc://models"), name, Mounts(root / "claims"))
        model = {"name": name, "version": version, "uri": artifact.uri}
        return {**model, "digest": artifact.digest, "format": artifact.format, "secret": None}

    try:
        triton.start()
        score = export_torch(
            Score(), {"x": torch.randn(2, 4)}, outputs=("score",), max_batch_size=8, output=root / "score"
        )
        gpts = [entry("gpt", 1, other), entry("gpt", 2, gpt_folder)]
        agent.want(*gpts, entry("program", 1, program_folder), entry("score", 1, score))
        agent.start()
        agent.wait_ready(seconds=90)
        yield triton, agent
    finally:
        agent.kill()
        triton.kill()


@pytest.fixture
def triton(serving: tuple[TritonProcess, AgentProcess]) -> TritonProcess:
    return serving[0]


@pytest.fixture
def agent(serving: tuple[TritonProcess, AgentProcess]) -> AgentProcess:
    return serving[1]

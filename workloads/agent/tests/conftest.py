"""Artifacts on disk, and a Triton with an agent beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import AgentProcess, TritonProcess
from samples import write_model

from aifactory_agent.artifacts.stores import Mounts
from aifactory_agent.artifacts.transfer import publish
from aifactory_contract.uri import ArtifactUri

CLAIM = "models"


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    """A directory with one mounted claim, `models`."""
    (tmp_path / "claims" / CLAIM).mkdir(parents=True)
    return tmp_path / "claims"


@pytest.fixture
def published(tmp_path: Path, claims: Path) -> Callable[..., dict[str, Any]]:
    """Publish a model made for the test; gives its entry for desired.json."""

    def make(name: str, version: int, **config: Any) -> dict[str, Any]:
        source = write_model(tmp_path / "sources" / f"{name}-{version}", tag=f"{name} {version}", **config)
        artifact = publish(source, ArtifactUri.parse(f"pvc://{CLAIM}"), name, Mounts(claims))
        return {
            "name": name,
            "version": version,
            "uri": artifact.uri,
            "digest": artifact.digest,
            "format": artifact.format,
            "secret": None,
        }

    return make


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[TritonProcess]:
    """A Triton, not started."""
    process = TritonProcess(tmp_path, light=True)
    yield process
    process.kill()


@pytest.fixture
def agent(triton: TritonProcess, claims: Path) -> Iterator[AgentProcess]:
    """An agent beside it, not started."""
    process = AgentProcess(triton, claims)
    yield process
    process.kill()

"""Artifacts on disk, and a Triton with an agent beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import AgentProcess, TritonProcess
from samples import write_model
from sourcetools import Opened
from webserver import Certificates, WebServer, certificates, serving

from aifactory_agent.artifacts import reading, web
from aifactory_agent.artifacts.store import Source
from aifactory_agent.artifacts.stores import Mounts, open_source
from aifactory_agent.artifacts.transfer import publish
from aifactory_contract.uri import ArtifactUri

CLAIM = "models"


@pytest.fixture(autouse=True)
def loopback(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers of tests are on this machine, where no artifact comes from otherwise."""
    monkeypatch.setattr(web, "_FIRST_WAIT_SECONDS", 0.01)
    if request.node.get_closest_marker("without_loopback") is None:
        original = web.is_forbidden
        monkeypatch.setattr(web, "is_forbidden", lambda address: address != "127.0.0.1" and original(address))


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


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(tls: Certificates) -> Iterator[WebServer]:
    """A web server with TLS."""
    with serving(WebServer(), tls) as running:
        yield running


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("reading", "https", "hub"):
        monkeypatch.setattr(f"aifactory_agent.artifacts.{module}.PIECE", 1000)
    monkeypatch.setattr(reading, "WINDOW", 5000)


@pytest.fixture
def opened(tmp_path: Path, tls: Certificates) -> Opened:
    """Open a source with a secret of these keys, and the CA of the tests' servers."""

    def make(uri: str, **keys: str) -> Source:
        folder = tmp_path / "secrets" / "mine"
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.iterdir():
            left.unlink()
        for key, value in {"ca.crt": tls.authority.read_text(), **keys}.items():
            (folder / key.replace("dockerconfigjson", ".dockerconfigjson")).write_text(value)
        return open_source(ArtifactUri.parse(uri), Mounts(secrets=tmp_path / "secrets"), "mine")

    return make


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A huggingface artifact, not published."""
    return write_model(tmp_path / "model")

"""What lies on the volume that agent and Triton share."""

from __future__ import annotations

import threading
from pathlib import Path

from samples import write_triton

from aifactory_agent.artifacts.stores import Mounts, open_source
from aifactory_agent.artifacts.transfer import publish
from aifactory_agent.serve.repository import Repository
from aifactory_contract.desired import ModelKey, ModelSpec
from aifactory_contract.uri import ArtifactUri


def test_a_triton_directory_lies_where_triton_looks_and_is_found_by_an_agent_that_comes_later(tmp_path: Path) -> None:
    (tmp_path / "claims/models").mkdir(parents=True)
    mounts, folder = Mounts(tmp_path / "claims"), write_triton(tmp_path / "model")
    (folder / "1").rename(folder / "3")  # whatever number it has, the version is another
    artifact = publish(folder, ArtifactUri.parse("pvc://models"), "rows", mounts)
    uri = ArtifactUri.parse(artifact.uri)
    spec = ModelSpec(ModelKey("rows", 7), uri, artifact.digest, artifact.format)
    repository = Repository(tmp_path / "repository")
    repository.prepare()
    there = repository.add(spec, open_source(uri, mounts, None), threading.Event(), lambda _: None)
    model = tmp_path / "repository/models/rows"
    assert (model / "7/model.onnx").read_bytes() == (folder / "3/model.onnx").read_bytes()

    later = Repository(tmp_path / "repository")
    later.prepare()
    assert later.present() == {spec.key: there}
    later.configure("rows", [7], spec)
    text = (model / "config.pbtxt").read_text()
    assert text.startswith('name: "rows"\nbackend: "onnxruntime"\nmax_batch_size: 8\nversion_policy { specific')
    assert text.count("backend") == 1

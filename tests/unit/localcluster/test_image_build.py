"""Building from a Containerfile: layers, configuration, what changes when a file changes, and what is swept."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from localcluster.console import CannotRun
from localcluster.imagebuild import store as oci
from localcluster.imagebuild.base import Base
from localcluster.imagebuild.build import Builder
from localcluster.imagebuild.context import Context
from localcluster.imagebuild.layers import Entry, Layer, write_layer
from localcluster.imagebuild.store import Descriptor, Store

CONTAINERFILE = """
ARG BASE=python:3.11-slim
FROM ${BASE}
COPY app.lock /opt/app/app.lock
COPY src /opt/app/src
ENV PATH=/opt/app:${PATH} MODE=test
LABEL title="an app"
WORKDIR /srv/here
COPY README.md .
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["python3", "-m", "app"]
CMD ["--help"]
"""


class Repository:
    """A small repository and a store with a base layer that has /opt."""

    def __init__(self, root: Path) -> None:
        self.root = root / "repository"
        self.store = Store(root / "images")
        base = self.store.add_layer(lambda output: write_layer([Entry("opt")], output))
        self.base = Base(base, frozenset({"opt"}))
        self.write("Containerfile", CONTAINERFILE)
        self.write("app.lock", "x==1 --hash=sha256:00\n")
        self.write("src/app.py", "print(1)\n")
        self.write("src/deep/er.py", "print(2)\n")
        self.write("src/__pycache__/app.pyc", "byte code")
        self.write("README.md", "read me\n")
        self.write(".dockerignore", "# comment\n**/__pycache__\n**/*.pyc\nsrc/secret\n")

    def write(self, name: str, content: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def build(self) -> Descriptor:
        builder = Builder(self.store, Context(self.root), self.base)
        return builder.build("Containerfile")

    def config(self, manifest: Descriptor) -> dict[str, Any]:
        digest = json.loads(self.store.read(manifest.digest))["config"]["digest"]
        content: dict[str, Any] = json.loads(self.store.read(digest))
        return content

    def names(self, layer: Layer) -> list[str]:
        with tarfile.open(fileobj=io.BytesIO(self.store.read(layer.digest))) as archive:
            return archive.getnames()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_layers_hold_what_was_copied_and_the_directories_that_were_missing(repository: Repository) -> None:
    layers = repository.store.layers_of(repository.build())
    assert layers[0] == repository.base.layer
    assert [repository.names(layer) for layer in layers[1:]] == [
        ["opt/app", "opt/app/app.lock"],
        ["opt/app/src", "opt/app/src/app.py", "opt/app/src/deep", "opt/app/src/deep/er.py"],
        ["srv", "srv/here"],
        ["srv/here/README.md"],
    ]


def test_configuration(repository: Repository) -> None:
    manifest = repository.build()
    content = repository.config(manifest)
    assert content["rootfs"]["diff_ids"] == [layer.digest for layer in repository.store.layers_of(manifest)]
    assert content["config"] == {
        "Env": [
            "PATH=/opt/app:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
            "MODE=test",
        ],
        "Labels": {"title": "an app"},
        "WorkingDir": "/srv/here",
        "User": "65532:65532",
        "ExposedPorts": {"8080/tcp": {}},
        "Entrypoint": ["python3", "-m", "app"],
        "Cmd": ["--help"],
    }


def test_a_change_makes_one_new_layer_and_undoing_it_the_old_image(repository: Repository) -> None:
    first = repository.build()
    assert repository.build() == first
    repository.write("src/app.py", "print(3)\n")
    changed = repository.build()
    before, after = repository.store.layers_of(first), repository.store.layers_of(changed)
    assert [index for index in range(len(before)) if before[index] != after[index]] == [2]
    repository.write("src/app.py", "print(1)\n")
    assert repository.build() == first


def test_an_ignored_file_changes_nothing(repository: Repository) -> None:
    first = repository.build()
    repository.write("src/deep/other.pyc", "byte code")
    repository.write("src/secret", "not for the image")
    assert repository.build() == first


@pytest.mark.parametrize(
    ("instruction", "says"),
    [
        ("COPY absent /x", "Containerfile:4: COPY source 'absent' does not exist"),
        ("RUN pip install --no-cache-dir --require-hashes -r /x.lock", "Containerfile:4: /x.lock is not in the image"),
        ("COPY links /x", "Containerfile:4: 'links/a' is a symbolic link"),
        ("COPY README.md /opt", "Containerfile:4: /opt is a directory in the image: end the target with /"),
    ],
)
def test_what_cannot_be_built_is_named(repository: Repository, instruction: str, says: str) -> None:
    repository.write("links/b", "b")
    (repository.root / "links/a").symlink_to("b")
    repository.write("Containerfile", f"\nARG BASE=x\nFROM ${{BASE}}\n{instruction}\n")
    with pytest.raises(CannotRun) as refused:
        repository.build()
    assert says in str(refused.value)


def test_an_ignore_pattern_that_would_be_read_differently_elsewhere_is_refused(repository: Repository) -> None:
    repository.write(".dockerignore", "src\n*.pyc\n")
    with pytest.raises(CannotRun, match=r"\.dockerignore:2: .*'\*\.pyc' is not supported"):
        repository.build()


def test_sweep_keeps_what_images_use_and_removes_the_rest(repository: Repository) -> None:
    store = repository.store
    old = repository.build()
    store.publish({"docker.io/aifactory/app:1": old})
    store.remember_layer("base-1", repository.base.layer, {})
    lost = store.add_layer(lambda output: write_layer([Entry("lost")], output))
    store.remember_layer("pip-lost", lost, {})
    (store.root / "tmp" / "left-by-a-killed-run").mkdir()

    repository.write("src/app.py", "print(4)\n")
    new = repository.build()
    store.publish({"docker.io/aifactory/app:2": new})
    store.sweep()

    assert store.images() == {"docker.io/aifactory/app:2": new}
    assert all(store.blob(layer.digest).exists() for layer in store.layers_of(new))
    assert not store.blob(old.digest).exists()
    assert store.known_layer("base-1") == (repository.base.layer, {})
    assert store.known_layer("pip-lost") is None
    assert not list((store.root / "tmp").iterdir())


def test_the_store_is_an_image_layout_that_other_tools_read(repository: Repository) -> None:
    manifest = repository.build()
    repository.store.publish({"docker.io/aifactory/app:1.2": manifest})
    index = json.loads((repository.store.root / "index.json").read_text())
    assert json.loads((repository.store.root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert index["manifests"] == [
        {
            "mediaType": oci.MANIFEST,
            "digest": manifest.digest,
            "size": manifest.size,
            "annotations": {
                "io.containerd.image.name": "docker.io/aifactory/app:1.2",
                "org.opencontainers.image.ref.name": "docker.io/aifactory/app:1.2",
            },
        }
    ]


def test_making_a_layer_again_keeps_its_file(repository: Repository) -> None:
    blob = repository.store.blob(repository.base.layer.digest)
    inode = blob.stat().st_ino
    assert repository.store.add_layer(lambda output: write_layer([Entry("opt")], output)) == repository.base.layer
    assert blob.stat().st_ino == inode
    assert not list((repository.store.root / "tmp").iterdir())


def test_a_write_that_fails_leaves_no_blob(repository: Repository) -> None:
    def fail(output: Any) -> Layer:
        output.write(b"half")
        raise OSError("disk full")

    before = set((repository.store.root / "blobs/sha256").iterdir())
    with pytest.raises(OSError, match="disk full"):
        repository.store.add_layer(fail)
    assert set((repository.store.root / "blobs/sha256").iterdir()) == before
    assert not list((repository.store.root / "tmp").iterdir())


def test_no_room_is_said_before_the_work(repository: Repository) -> None:
    with pytest.raises(CannotRun, match=r"the layer needs 1000000000\.0 GB .*AIFACTORY_CACHE"):
        repository.store.require_space(10**18, "the layer")

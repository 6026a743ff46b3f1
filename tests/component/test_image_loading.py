"""Loading images into a real containerd of the test's own: what is moved, what is kept, what heals."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from localcluster import parts
from localcluster.console import CannotRun
from localcluster.imagebuild.base import Base
from localcluster.imagebuild.build import Builder
from localcluster.imagebuild.containerd import Containerd, Loaded, Present
from localcluster.imagebuild.context import Context
from localcluster.imagebuild.layers import Entry, file_entry, write_layer
from localcluster.imagebuild.store import Descriptor, Store
from tests.support.waiting import wait_for

NAME = "docker.io/aifactory/app:1"
CONFIG = """
version = 3
root = "{root}/root"
state = "{root}/state"
[grpc]
  address = "{root}/containerd.sock"
[ttrpc]
  address = "{root}/containerd.sock.ttrpc"
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containerd unpacks images as root")


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a containerd that has nothing."""
    root = tmp_path_factory.mktemp("containerd")
    config = root / "config.toml"
    config.write_text(CONFIG.format(root=root))
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([parts.binary("containerd"), "--config", config], stdout=log, stderr=log)
    try:
        ctr = [str(parts.binary("ctr")), "--address", str(root / "containerd.sock"), "version"]
        answers = lambda: subprocess.run(ctr, capture_output=True).returncode == 0  # noqa: E731
        wait_for("containerd to answer", answers, bool, seconds=30)
        yield root / "containerd.sock"
    finally:
        process.terminate()
        process.wait(timeout=30)


@dataclass
class Workshop:
    """A repository with one image on a base that is large enough to be linked, and a containerd to load it into."""

    root: Path
    store: Store
    base: Base
    containerd: Containerd
    socket: Path

    def build(self, content: str) -> Descriptor:
        (self.root / "app.py").write_text(content)
        (self.root / "Containerfile").write_text("ARG BASE=x\nFROM ${BASE}\nCOPY app.py /opt/app.py\n")
        return Builder(self.store, Context(self.root), self.base).build("Containerfile")

    def load(self, content: str) -> Loaded:
        return self.containerd.load(self.store, {NAME: self.build(content)})

    def ctr(self, *arguments: str, file: Path | None = None) -> str:
        command = [str(parts.binary("ctr")), "--address", str(self.socket), "--namespace", "k8s.io", *arguments]
        with (file or Path(os.devnull)).open("rb") as stdin:
            return subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=True).stdout

    def blob_in_containerd(self) -> Path:
        directory = self.socket.parent / "root/io.containerd.content.v1.content/blobs/sha256"
        return directory / self.base.layer.digest.removeprefix("sha256:")


@pytest.fixture
def workshop(tmp_path: Path, socket: Path) -> Iterator[Workshop]:
    store = Store(tmp_path / "images")
    data = tmp_path / "data"
    data.write_bytes(os.urandom(9 << 20))
    entries = [Entry("opt"), file_entry("opt/data", data)]
    layer = store.add_layer(lambda output: write_layer(entries, output))
    base = Base(layer, frozenset({"opt"}))
    found = Workshop(tmp_path, store, base, Containerd(parts.binary("ctr"), socket), socket)
    yield found
    left = found.ctr("images", "ls", "--quiet").split()
    if left:
        found.ctr("images", "rm", "--sync", *left)


def test_a_large_layer_is_linked_not_copied_and_survives_garbage_collection(workshop: Workshop) -> None:
    assert workshop.load("1") == Loaded(new=(NAME,), replaced=())
    blob = workshop.blob_in_containerd()
    assert blob.stat().st_ino == workshop.store.blob(workshop.base.layer.digest).stat().st_ino
    assert "gc.root" not in workshop.ctr("content", "ls")

    # Removing another image synchronously is how containerd is made to collect at once.
    workshop.ctr("images", "tag", NAME, "docker.io/aifactory/other:1")
    workshop.ctr("images", "rm", "--sync", "docker.io/aifactory/other:1")
    assert workshop.containerd.images()[NAME] == Present(workshop.build("1").digest, usable=True)
    assert blob.exists()


def test_nothing_is_done_twice(workshop: Workshop) -> None:
    workshop.load("1")
    assert workshop.load("1") == Loaded((), ())


def test_a_change_replaces_the_image_and_lets_the_old_one_go(workshop: Workshop) -> None:
    workshop.load("1")
    old = workshop.build("1")
    assert workshop.load("2") == Loaded(new=(), replaced=(NAME,))
    held = {image.digest for image in workshop.containerd.images().values()}
    assert old.digest not in held
    assert workshop.build("2").digest in held


def test_what_a_killed_load_left_behind_is_used_and_let_go(workshop: Workshop) -> None:
    """Killed after the link and after the hold: the layer is there, nothing refers to it, and it is held."""
    digest = workshop.base.layer.digest
    blob = workshop.blob_in_containerd()
    blob.parent.mkdir(parents=True, exist_ok=True)
    os.link(workshop.store.blob(digest), blob)
    size = str(blob.stat().st_size)
    workshop.ctr("content", "ingest", "--expected-digest", digest, "--expected-size", size, "x", file=blob)
    workshop.ctr("content", "label", digest, "containerd.io/gc.root=loading")

    assert workshop.load("1") == Loaded(new=(NAME,), replaced=())
    assert "gc.root" not in workshop.ctr("content", "ls")


def test_without_links_the_bytes_are_sent(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    assert workshop.load("1") == Loaded(new=(NAME,), replaced=())
    ours = workshop.store.blob(workshop.base.layer.digest)
    theirs = workshop.blob_in_containerd()
    assert theirs.stat().st_ino != ours.stat().st_ino
    assert theirs.read_bytes() == ours.read_bytes()


def test_an_image_that_is_there_but_not_unpacked_is_loaded_again(workshop: Workshop) -> None:
    workshop.load("1")
    manifest = workshop.build("1")
    rows = [line.split() for line in workshop.ctr("snapshots", "ls").splitlines()[1:]]
    parents = {row[1] for row in rows if len(row) == 3}
    for top in {row[0] for row in rows} - parents:
        workshop.ctr("snapshots", "rm", top)
    assert workshop.containerd.images()[NAME] == Present(manifest.digest, usable=False)
    assert workshop.load("1") == Loaded(new=(), replaced=(NAME,))
    assert workshop.containerd.images()[NAME].usable


def test_no_room_to_unpack_is_said_before_the_work(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs_result((4096, 4096, 1000, 10, 10, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(CannotRun, match=r"0\.0 GB are free in .*AIFACTORY_CACHE"):
        workshop.load("1")


def test_what_containerd_says_reaches_the_person(workshop: Workshop, tmp_path: Path) -> None:
    nobody = Containerd(parts.binary("ctr"), tmp_path / "no.sock")
    with pytest.raises(CannotRun, match=r"containerd refused 'ctr images check': .*no\.sock"):
        nobody.load(workshop.store, {NAME: workshop.build("1")})

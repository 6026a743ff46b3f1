"""Layers: the same content gives the same bytes, whatever the file system says about it."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

from localcluster.imagebuild.layers import EPOCH, Entry, Layer, file_entry, tree_entries, write_layer


def written(entries: list[Entry]) -> tuple[Layer, bytes]:
    output = io.BytesIO()
    return write_layer(entries, output), output.getvalue()


def make_tree(root: Path, names: list[str], mode: int, time: int) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
        path.chmod(mode)
        os.utime(path, (time, time))
    (root / "link").symlink_to("a/one")


def test_bytes_depend_on_content_alone(tmp_path: Path) -> None:
    make_tree(tmp_path / "x", ["a/one", "b/two"], 0o600, 1)
    make_tree(tmp_path / "y", ["b/two", "a/one"], 0o664, 2_000_000_000)
    first = written(tree_entries(tmp_path / "x", "opt"))
    second = written(list(reversed(tree_entries(tmp_path / "y", "opt"))))
    assert first == second


def test_digest_and_size_are_those_of_the_bytes(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(9 << 20))  # more than one chunk
    layer, content = written([file_entry("large", large)])
    assert layer == Layer(f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))


def test_entries_have_plain_modes_fixed_times_and_owners(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    data = tmp_path / "data"
    data.write_text("x" * 10)
    long = "d/" + "n" * 150
    entries = [file_entry("bin/script", script), file_entry(long, data, (7, 8)), Entry("bin"), Entry("l", link="bin")]
    _, content = written(entries)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = {member.name: member for member in archive}
        assert archive.extractfile(long).read() == b"x" * 10  # type: ignore[union-attr]
    assert list(found) == sorted(found)
    assert {name: (oct(each.mode), each.uid, each.gid) for name, each in found.items()} == {
        "bin": ("0o755", 0, 0),
        "bin/script": ("0o755", 0, 0),
        long: ("0o644", 7, 8),
        "l": ("0o777", 0, 0),
    }
    assert {each.mtime for each in found.values()} == {EPOCH}
    assert found["l"].linkname == "bin"

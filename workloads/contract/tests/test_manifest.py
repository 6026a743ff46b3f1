"""Digests: what they depend on, what they do not, and what may not be in an artifact."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from child import as_anybody
from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import FileEntry, Manifest, check_digest, check_path, of_directory

names = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/\\"), min_size=1, max_size=8
)
folders = names.filter(lambda name: name not in (".", "..", ".aifactory"))
trees = st.dictionaries(
    st.lists(folders, min_size=1, max_size=2).map("/".join), st.binary(max_size=64), min_size=1, max_size=5
).filter(lambda tree: not any(other.startswith(path + "/") for path in tree for other in tree))


def write(root: Path, tree: dict[str, bytes]) -> None:
    for path, content in tree.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


@settings(max_examples=60, deadline=None)
@given(trees)
def test_is_the_digest_of_the_sorted_lines(tree: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), tree)
        found = of_directory(Path(folder))
    ordered = sorted(tree.items(), key=lambda item: item[0].encode())
    lines = [f"{path} {hashlib.sha256(content).hexdigest()} {len(content)}\n".encode() for path, content in ordered]
    assert found.digest == "sha256:" + hashlib.sha256(b"".join(lines)).hexdigest()
    assert found.size == sum(map(len, tree.values()))


@settings(max_examples=60, deadline=None)
@given(trees, st.data())
def test_changes_with_any_byte_and_any_name(tree: dict[str, bytes], data: st.DataObject) -> None:
    entries = [FileEntry(path, hashlib.sha256(content).hexdigest(), len(content)) for path, content in tree.items()]
    whole = Manifest.of(entries).digest
    assert Manifest.of(reversed(entries)).digest == whole
    victim = data.draw(st.sampled_from(entries))
    rest = [entry for entry in entries if entry != victim]
    other_bytes = FileEntry(victim.path, hashlib.sha256(tree[victim.path] + b"!").hexdigest(), victim.size + 1)
    assert Manifest.of([*rest, other_bytes]).digest != whole
    assert Manifest.of([*rest, FileEntry(victim.path + "x", victim.sha256, victim.size)]).digest != whole


def test_times_and_bookkeeping_do_not_matter(tmp_path: Path) -> None:
    write(tmp_path / "one", {"a": b"1", "b/c": b"2"})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    os.utime(tmp_path / "two/a", (1, 1))
    write(tmp_path / "two", {".aifactory/notes": b"x"})
    assert of_directory(tmp_path / "one").digest == of_directory(tmp_path / "two").digest


def test_a_known_digest(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": b"{}", "model.safetensors": b"abc"})
    assert (
        of_directory(tmp_path).digest
        == "sha256:"
        + hashlib.sha256(
            b"config.json 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a 2\n"
            b"model.safetensors ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad 3\n"
        ).hexdigest()
    )


def test_links_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"1"})
    (tmp_path / "b").symlink_to("/etc/hostname")
    with pytest.raises(FactoryError, match="b is a link") as caught:
        of_directory(tmp_path)
    assert caught.value.reason is Reason.INVALID_ARTIFACT


@pytest.mark.parametrize(
    "path", ["", ".", "/etc/x", "../x", "a/../b", "a//b", "./a", "a/", "a\nb 00 1", "a\\b", "x" * 2000]
)
def test_unsafe_paths_are_refused(path: str) -> None:
    with pytest.raises(FactoryError, match="unsafe path"):
        check_path(path)


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "a" * 64, "sha256:" + "a" * 64 + "\n"]
)
def test_what_is_no_digest_is_refused(digest: str) -> None:
    with pytest.raises(FactoryError, match="not a digest"):
        check_digest(digest)


def test_an_empty_or_missing_directory_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FactoryError) as caught:
        of_directory(tmp_path)
    assert caught.value.reason is Reason.INVALID_ARTIFACT
    with pytest.raises(FactoryError) as caught:
        of_directory(tmp_path / "missing")
    assert caught.value.reason is Reason.SOURCE_NOT_FOUND


@pytest.fixture
def seen_by_all() -> Iterator[Path]:
    """A directory that everybody may look into; pytest's own are for one user."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("secret", ["docs", "docs/deeper", "config.json", ""])
def test_what_may_not_be_read_is_an_error_and_never_left_out(seen_by_all: Path, secret: str) -> None:
    root = seen_by_all / "output"
    write(root, {"config.json": b"{}", "docs/deeper/page.md": b"x"})
    (root / secret).chmod(0)
    try:
        with as_anybody(), pytest.raises(FactoryError, match=r"may not be read .*chmod -R a\+rX") as caught:
            of_directory(root)
    finally:
        (root / secret).chmod(0o755)
    assert caught.value.reason is Reason.ACCESS_DENIED
    assert str(root / secret) in caught.value.message


def test_bookkeeping_may_be_private(seen_by_all: Path) -> None:
    write(seen_by_all, {"config.json": b"{}", ".aifactory/lock": b"x"})
    (seen_by_all / ".aifactory").chmod(0)
    with as_anybody():
        assert [entry.path for entry in of_directory(seen_by_all).files] == ["config.json"]
    (seen_by_all / ".aifactory").chmod(0o755)


def test_a_disk_that_fails_while_reading_is_told_from_a_damaged_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"config.json": b"{}"})

    def fail(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("os.scandir", fail)
    with pytest.raises(FactoryError, match="Stale file handle") as caught:
        of_directory(tmp_path)
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert caught.value.transient

"""The same text in the same order everywhere, and nothing held out is ever trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from aifactory_trainer import corpus
from aifactory_trainer.program import BadInputError


def test_the_standard_library_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIFACTORY_INPUTS", raising=False)
    text = corpus.load(corpus.find_source(None))
    assert sum(map(len, text.train)) > 3_000_000
    assert sum(map(len, text.held_out)) > 100_000
    assert text == corpus.load(corpus.find_source(None))
    assert not set(text.train) & set(text.held_out)


def test_an_input_named_corpus_comes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIFACTORY_INPUTS", str(tmp_path))
    assert corpus.find_source(None) != tmp_path / "corpus"
    (tmp_path / "corpus").mkdir()
    assert corpus.find_source(None) == tmp_path / "corpus"
    assert corpus.find_source(str(tmp_path)) == tmp_path


def test_the_split_is_by_path_and_ordered(tmp_path: Path) -> None:
    for number in range(200):
        path = tmp_path / f"{number % 7}" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"file {number}")
    text = corpus.load(tmp_path)
    assert len(text.train) + len(text.held_out) == 200
    assert 1 <= len(text.held_out) <= 30
    (tmp_path / "new.txt").write_text("another file changes no other file's part")
    assert set(corpus.load(tmp_path).held_out) >= set(text.held_out)


def test_a_mounted_config_map_is_read_once(tmp_path: Path) -> None:
    """As a kubelet makes it. Read twice, half of the held-out files would be trained on under their other name."""
    version, data = tmp_path / "..2026_01_02_03_04_05.123456789", tmp_path / "..data"
    version.mkdir()
    data.symlink_to(version.name)
    for number in range(100):
        (version / f"{number}.txt").write_text(f"file {number}")
        (tmp_path / f"{number}.txt").symlink_to(f"..data/{number}.txt")
    text = corpus.load(tmp_path)
    assert len(text.train) + len(text.held_out) == 100
    assert not set(text.train) & set(text.held_out)
    renamed = version.rename(tmp_path / "..2026_09_09_09_09_09.987654321")
    data.unlink()
    data.symlink_to(renamed.name)
    assert corpus.load(tmp_path) == text, "the next version of it has the same split"


def test_a_file_under_two_names_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for number in range(50):
        (tmp_path / f"{number}.txt").write_text(f"file {number}")
        (tmp_path / "b" / f"{number}.link").symlink_to(tmp_path / f"{number}.txt")
        (tmp_path / "b" / f"{number}.hard").hardlink_to(tmp_path / f"{number}.txt")
    text = corpus.load(tmp_path)
    assert len(text.train) + len(text.held_out) == 50


def test_few_files_hold_out_the_last(tmp_path: Path) -> None:
    names = [name for name in ("a", "b", "c", "d") if not corpus.is_held_out(name)][:2]
    for name in names:
        (tmp_path / name).write_text(name)
    assert corpus.load(tmp_path).held_out == (names[-1].encode(),)


@pytest.mark.parametrize("source", [".", "text"])
def test_one_file_is_split_at_its_end(tmp_path: Path, source: str) -> None:
    """Also as an input, which is a directory."""
    (tmp_path / "text").write_bytes(bytes(range(200)))
    text = corpus.load(tmp_path / source)
    assert text.train == (bytes(range(190)),)
    assert text.held_out == (bytes(range(190, 200)),)


@pytest.mark.parametrize("files", [{}, {"only": "one"}, {"empty": "", "none": ""}])
def test_too_little_text_says_so(tmp_path: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="not enough text"):
        corpus.load(tmp_path)


def test_a_path_that_does_not_exist_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        BadInputError, match=r"^--data .*absent: there is no such file or directory, and no input of this"
    ):
        corpus.find_source(str(tmp_path / "absent"))

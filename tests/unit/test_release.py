"""What a release is made of: one version everywhere, and notes that a user can read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import release.__main__ as release


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files that name the version."""
    for name in release.VERSIONED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(release.ROOT / name, tmp_path / name)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    return tmp_path


def test_all_files_name_one_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(-[\w.]+)?", release.the_version())


def test_every_project_of_ours_is_among_them() -> None:
    projects = {path.relative_to(release.ROOT).as_posix() for path in release.ROOT.glob("workloads/*/pyproject.toml")}
    named = {path for path in projects if re.search(r"^version = ", (release.ROOT / path).read_text(), re.MULTILINE)}
    assert named <= release.VERSIONED.keys()
    charts = {path.relative_to(release.ROOT).as_posix() for path in release.ROOT.glob("charts/*/Chart.yaml")}
    assert charts <= release.VERSIONED.keys()


def test_a_version_is_written_everywhere_and_nothing_else_is_touched(tree: Path) -> None:
    before = {name: (tree / name).read_text() for name in release.VERSIONED}
    old = release.the_version()
    release.set_version("7.8.9-rc.1")
    assert release.the_version() == "7.8.9-rc.1"
    for name, text in before.items():
        changed = [
            (one, other)
            for one, other in zip(text.splitlines(), (tree / name).read_text().splitlines(), strict=True)
            if one != other
        ]
        assert changed, name
        assert all(one.replace(old, "7.8.9-rc.1") == other for one, other in changed), name


def test_files_that_differ_are_named(tree: Path) -> None:
    path = tree / "charts/aifactory/Chart.yaml"
    path.write_text(path.read_text().replace("appVersion: ", "appVersion: 9"))
    with pytest.raises(SystemExit, match=r"charts/aifactory/Chart\.yaml: .*9.*make release-version VERSION="):
        release.the_version()


@pytest.mark.parametrize("text", ["", "1.2", "v1.2.3", "01.2.3", "1.2.3+x", "1.2.3 "])
def test_what_is_no_version_is_refused(tree: Path, text: str) -> None:
    with pytest.raises(SystemExit, match="is no version: write three numbers"):
        release.set_version(text)


def test_notes_have_what_a_user_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "tag": "v0.2.0\nv0.1.0",
        "log": "Pools go to zero\nTests: a flaky one\nFormat\nPools go to zero\nTesting a model is documented",
    }
    asked = []

    def git(*arguments: str) -> str:
        asked.append(arguments)
        return said[arguments[0]]

    monkeypatch.setattr(release, "git", git)
    assert release.notes("0.2.0", None).splitlines() == [
        "# AI factory 0.2.0",
        "",
        "Changes since v0.1.0.",
        "",
        "- Pools go to zero",
        "- Testing a model is documented",
    ]
    assert asked[-1][-1] == "v0.1.0..HEAD"
    said["tag"] = ""
    assert "there was no release before" in release.notes("0.2.0", None)
    assert asked[-1][-1] == "HEAD"
    assert "Changes since v0.0.9." in release.notes("0.2.0", "v0.0.9")


def test_each_image_has_its_lock_files() -> None:
    """Those that its Containerfile installs."""
    for image, locks in release.LOCKS.items():
        folder = "operator" if image == "operator" else f"workloads/{image}"
        text = (release.ROOT / folder / "Containerfile").read_text()
        assert tuple(re.findall(r"^COPY (\S+\.lock) ", text, re.MULTILINE)) == locks, image

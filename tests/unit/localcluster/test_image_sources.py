"""Every image holds all of our code that it runs: the packages that its sources import are copied into it too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from localcluster.console import CannotRun
from localcluster.imagebuild import containerfile
from localcluster.imagebuild.base import ENVIRONMENT
from localcluster.imagebuild.cli import CONTAINERFILES, ROOT, version_of
from localcluster.imagebuild.context import Context

IMPORT = re.compile(r"^\s*(?:from|import) (aifactory\w*)", re.MULTILINE)


def sources(image: str) -> dict[str, Path]:
    """Python files of ours in an image, by their path below the directory on its PYTHONPATH."""
    file = CONTAINERFILES[image]
    context, found = Context(ROOT), {}
    for instruction in containerfile.parse(ROOT / file, file, environment=ENVIRONMENT):
        if isinstance(instruction, containerfile.Copy):
            for selected in context.select(instruction, "/"):
                if selected.target.startswith("opt/aifactory/") and selected.target.endswith(".py"):
                    found[selected.target.removeprefix("opt/aifactory/")] = selected.source
    return found


@pytest.mark.parametrize("image", CONTAINERFILES)
def test_what_is_imported_is_in_the_image(image: str) -> None:
    files = sources(image)
    packages = {path.partition("/")[0] for path in files}
    imported = {name for source in files.values() for name in IMPORT.findall(source.read_text())}
    assert imported <= packages
    assert {f"{package}/__init__.py" for package in packages} <= set(files)


def test_the_tag_is_the_version_that_a_checkout_says_it_has(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "7.8.9"\n')
    assert version_of(tmp_path) == "7.8.9"


def test_a_source_that_is_no_checkout_is_told(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="no checkout of this project"):
        version_of(tmp_path)

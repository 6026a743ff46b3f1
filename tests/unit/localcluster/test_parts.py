"""What is built, and what a build is keyed by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from localcluster import controlcommands, parts
from localcluster.console import CannotRun
from localcluster.paths import SOURCES
from localcluster.toolchain import GO_MINIMUM


def test_every_module_is_a_part_with_its_checksums() -> None:
    modules = {path.parent.name for path in (SOURCES / "parts").glob("*/go.mod")}
    assert modules == {part.name for part in parts.PARTS}
    assert all((part.module / "go.sum").exists() for part in parts.PARTS)


def test_program_names_are_unique() -> None:
    names = [name for part in parts.PARTS for name in part.binaries]
    assert len(names) == len(set(names))


def test_kubernetes_and_its_libraries_have_the_version_they_announce() -> None:
    text = (parts.part("kubernetes").module / "go.mod").read_text()
    library = parts.KUBERNETES_VERSION.replace("v1.", "v0.", 1)
    assert f"k8s.io/kubernetes {parts.KUBERNETES_VERSION} " in text
    replaced = [line.split()[-1] for line in text.splitlines() if "=>" in line]
    assert replaced
    assert set(replaced) == {library}


def test_the_compiler_we_ask_for_builds_every_module() -> None:
    for part in parts.PARTS:
        text = (part.module / "go.mod").read_text()
        wanted = next(line.split()[1] for line in text.splitlines() if line.startswith("go "))
        fits = tuple(int(number) for number in wanted.split(".")) <= GO_MINIMUM
        assert fits if part.toolchain == "local" else "\ntoolchain go" in text, part.name


def test_the_key_follows_sources_and_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "SOURCES", tmp_path)
    part = parts.Part("tool", {"tool": "."})
    part.module.mkdir(parents=True)
    (part.module / "go.mod").write_text("module tool\n")
    key = parts.key(part)
    assert parts.key(part) == key
    assert parts.key(replace(part, tags=("no_aufs",))) != key
    (part.module / "go.sum").write_text("something\n")
    assert parts.key(part) != key


def test_an_unknown_program_is_answered_with_the_known_ones() -> None:
    with pytest.raises(CannotRun, match=r"no program named 'kubctl' is built here; there are: .*kubectl"):
        parts.part_of("kubctl")


def test_no_control_plane_listens_on_every_address() -> None:
    with pytest.raises(ValueError, match=r"every address: 0\.0\.0\.0"):
        controlcommands.Endpoint("0.0.0.0", 6443)

"""What `make plugin` packs is the one file, and runs by itself with a Python that has nothing else."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import tomllib
from pathlib import Path

import yaml

import aifactory
from plugin import kubectl_aifactory, package

ROOT = Path(__file__).parents[3]
STANDARD = {
    "argparse",
    "collections",
    "datetime",
    "hmac",
    "http",
    "json",
    "os",
    "re",
    "secrets",
    "signal",
    "subprocess",
    "sys",
    "textwrap",
    "threading",
    "time",
    "urllib",
}


def test_the_archive_is_what_the_manifest_says_and_always_the_same() -> None:
    packed = package.archive()
    assert packed == package.archive()
    text = package.manifest("https://files.example.com", "a.tar.gz", hashlib.sha256(packed).hexdigest())
    found = yaml.safe_load(text)
    (platform,) = found["spec"]["platforms"]
    assert platform["uri"] == "https://files.example.com/a.tar.gz"
    assert re.fullmatch(r"[0-9a-f]{64}", platform["sha256"])
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        entries = {entry.name: entry.mode for entry in tar}
        plugin = tar.extractfile(platform["bin"])
        assert plugin is not None
        assert plugin.read() == (ROOT / "plugin/kubectl_aifactory.py").read_bytes()
    assert entries == {"kubectl-aifactory": 0o755, "LICENSE": 0o644}
    assert {entry["from"] for entry in platform["files"]} == set(entries)
    assert found["metadata"]["name"] == "aifactory"


def test_versions_are_one() -> None:
    assert package.version() == kubectl_aifactory.__version__ == aifactory.__version__


def test_only_the_standard_library_is_imported() -> None:
    text = (ROOT / "plugin/kubectl_aifactory.py").read_text()
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE))
    assert imported <= {*STANDARD, "__future__", "typing", "zipfile"}, imported


def test_both_programs_of_the_wheel_are_there() -> None:
    project = tomllib.loads((ROOT / "plugin/pyproject.toml").read_text())["project"]
    for target in project["scripts"].values():
        module, _, name = target.partition(":")
        assert module == "kubectl_aifactory"
        assert callable(getattr(kubectl_aifactory, name))
    assert project["dependencies"] == []

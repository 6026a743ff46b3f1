"""The release before: a commit of this repository, with its chart and its images.

`COMMIT` is the first with all that this suite upgrades: pools with a gateway, models in Hugging Face's form, versions
that were tried. AIFACTORY_UPGRADE_FROM names another one, or the tag of a release. Its images have names of their own,
so that both are in the cluster.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.kubectl import ROOT, command

COMMIT = "7b3465988782d730ffcf97b3eb0d25853b67ca05"
REGISTRY = "aifactory-previous"


@dataclass(frozen=True)
class Previous:
    """A checkout whose images the local cluster has."""

    path: Path

    @property
    def chart(self) -> str:
        return str(self.path / "charts/aifactory")


def unpack(into: Path, commit: str = "") -> Previous:
    """The files of the commit. Raises AssertionError if this clone has not got it."""
    commit = commit or os.environ.get("AIFACTORY_UPGRADE_FROM") or COMMIT
    archive = into / "previous.tar"
    made = subprocess.run(["git", "archive", f"--output={archive}", commit], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, f"{made.stderr.strip()} (in a shallow clone: git fetch --unshallow)"
    found = Previous(into / "previous")
    with tarfile.open(archive) as tar:
        tar.extractall(found.path, filter="data")
    return found


def load_images(previous: Previous) -> None:
    """Build its images and bring them to the local cluster."""
    images = [sys.executable, "localcluster/images.py", "load"]
    command([*images, f"--source={previous.path}", f"--prefix={REGISTRY}"])

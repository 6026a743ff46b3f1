"""Lists every image that an installation pulls, one a line (`make images-list`), for a cluster without a way out.

What is listed is what Helm renders from the given values: the images of the pods, and those that the operator is told
to start. Which image trains, and which serves where a pool names one, is said in TrainingJobs and InferencePools: give
their files, and theirs are listed too. With --digests each image's registry is asked, with the logins of this user, and
an image is listed as it is pulled whatever becomes of its tag: `name:tag@sha256:...`.

    python3 charts/images.py [--values values.yaml] [--set key=value] [--digests] [job.yaml ...]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts/aifactory"


def images_of(node: Any) -> Iterator[str]:
    """Every image that a manifest names: in a container, or in an option like --agent-image."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("containers", "initContainers") and isinstance(value, list):  # a CRD has fields of these names
                yield from (str(entry["image"]) for entry in value if entry.get("image"))
            yield from images_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from images_of(value)
    elif isinstance(node, str) and (found := re.fullmatch(r"--[a-z]+-image=(\S+)", node)):
        yield found[1]


def render(helm: str, given: Sequence[str]) -> str:
    """The manifests of a release. Raises SystemExit with Helm's words."""
    command = [helm, "template", "aifactory", str(CHART), *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return done.stdout


@cache
def find(program: str) -> str:
    """The user's, else one that is built here, once."""
    if found := shutil.which(program):
        return found
    command = [sys.executable, str(ROOT / "localcluster/cluster.py"), "bin", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]


def pinned(images: Sequence[str]) -> list[str]:
    """Each with the digest that its registry gives for its tag now.

    Raises:
        SystemExit: for one or more it gives none; every one is named, with the registry's words.
    """
    found, failed = [], []
    for image in images:
        if "@" in image:
            found.append(image)
            continue
        done = subprocess.run([find("crane"), "digest", image], capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(f"{image}: {(done.stderr.strip().splitlines() or ['no words'])[-1].removeprefix('Error: ')}")
        else:
            found.append(f"{image}@{done.stdout.strip()}")
    if failed:
        head = "no digest for what a registry does not have; push it, name another by the chart's values, or log in:"
        raise SystemExit("\n  ".join([head, *failed]))
    return found


def main() -> int:
    """Print them, sorted."""
    parser = argparse.ArgumentParser(prog="images.py", description="Lists every image that an installation pulls.")
    parser.add_argument("--values", action="append", default=[], help="a file of the chart's values")
    parser.add_argument("--set", action="append", default=[], help="one of them, as helm takes it")
    parser.add_argument("--digests", action="store_true", help="with the digest of each, as its registry gives it")
    parser.add_argument("manifests", nargs="*", type=Path, help="files of TrainingJobs and InferencePools")
    found = parser.parse_args()
    given = [f"--values={path}" for path in found.values] + [f"--set={text}" for text in found.set]
    texts = [render(find("helm"), given), *(path.read_text() for path in found.manifests)]
    images = sorted({image for text in texts for document in yaml.safe_load_all(text) for image in images_of(document)})
    print("\n".join(pinned(images) if found.digests else images))
    if not found.manifests:
        print("Images of TrainingJobs are not among them: give the files of yours too.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

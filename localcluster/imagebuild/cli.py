"""The command line: `build` makes what changed, `load` also brings it to the local cluster.

The images, in the order in which they are built. Where each comes from is a Containerfile that users build as well.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from localcluster import paths
from localcluster.console import CannotRun, say
from localcluster.imagebuild import base
from localcluster.imagebuild.build import Builder
from localcluster.imagebuild.context import Context
from localcluster.imagebuild.deliver import deliver, require_cluster
from localcluster.imagebuild.store import Descriptor, Store

ROOT = Path(__file__).resolve().parents[2]
CONTAINERFILES = {
    "operator": "operator/Containerfile",
    "agent": "workloads/agent/Containerfile",
    "trainer": "workloads/trainer/Containerfile",
    "server": "workloads/server/Containerfile",
    "gateway": "workloads/gateway/Containerfile",
}
PREFIX = "aifactory"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    names = options.image or list(CONTAINERFILES)
    try:
        if options.command == "load":
            require_cluster()
        store = Store(paths.cache_dir() / "images")
        with store.lock():
            built = build(store, names, options.source.resolve(), f"docker.io/{options.prefix}")
            if options.command == "load":
                deliver(store, built)
    except CannotRun as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def build(store: Store, names: Sequence[str], source: Path, repository: str) -> dict[str, Descriptor]:
    """Build the named images of a checkout; returns their manifests by full image name."""
    before = store.images()
    builder = Builder(store, Context(source), base.ensure(store))
    built = {}
    for name in names:
        full = f"{repository}/{name}:{version_of(source)}"
        built[full] = builder.build(CONTAINERFILES[name])
        if built[full] != before.get(full):
            say(f"built {full}")
    store.publish(built)
    store.sweep()
    return built


def version_of(source: Path) -> str:
    """The version that a checkout says it has: its images' tag. Raises CannotRun where it is none of ours."""
    try:
        with (source / "pyproject.toml").open("rb") as file:
            return str(tomllib.load(file)["project"]["version"])
    except (FileNotFoundError, NotADirectoryError, KeyError):
        raise CannotRun(f"--source: {source} is no checkout of this project") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="images.py", description="Build the project's images from their Containerfiles."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in (
        ("build", "build what changed, into an OCI image layout below the cache directory"),
        ("load", "build what changed and load what the local cluster lacks; Deployments that use it are restarted"),
    ):
        sub = commands.add_parser(command, help=text, description=text)
        known = ", ".join(CONTAINERFILES)
        sub.add_argument("image", nargs="*", type=_image, help=f"one or more of {known}; left out: all")
        sub.add_argument("--source", type=Path, default=ROOT, help="another checkout than this one, of another commit")
        sub.add_argument("--prefix", default=PREFIX, help=f"before the images' names; left out: {PREFIX}")
    return parser


def _image(name: str) -> str:
    if name not in CONTAINERFILES:
        raise argparse.ArgumentTypeError(f"there is no image '{name}', only {', '.join(CONTAINERFILES)}")
    return name

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
REPOSITORY = "docker.io/aifactory"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    names = options.image or list(CONTAINERFILES)
    try:
        if options.command == "load":
            require_cluster()
        store = Store(paths.cache_dir() / "images")
        with store.lock():
            built = build(store, names)
            if options.command == "load":
                deliver(store, built)
    except CannotRun as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def build(store: Store, names: Sequence[str]) -> dict[str, Descriptor]:
    """Build the named images; returns their manifests by full image name."""
    before = store.images()
    builder = Builder(store, Context(ROOT), base.ensure(store))
    built = {}
    for name in names:
        full = image_name(name)
        built[full] = builder.build(CONTAINERFILES[name])
        if built[full] != before.get(full):
            say(f"built {full}")
    store.publish(built)
    store.sweep()
    return built


def image_name(name: str) -> str:
    """The name in containerd; its tag is the project's version."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    return f"{REPOSITORY}/{name}:{version}"


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
    return parser


def _image(name: str) -> str:
    if name not in CONTAINERFILES:
        raise argparse.ArgumentTypeError(f"there is no image '{name}', only {', '.join(CONTAINERFILES)}")
    return name

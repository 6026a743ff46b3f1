"""Commands of the local cluster: parse, call, print. No decisions here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from localcluster import parts
from localcluster.console import CannotRun


def main(arguments: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except CannotRun as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cluster.py", description="A real one-node Kubernetes on this machine, for development and tests."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="build the programs of the cluster that are not built yet")
    build.add_argument("part", nargs="*", help="only these parts (default: what the cluster runs)")
    build.set_defaults(run=_build)
    binary = commands.add_parser("bin", help="print the path of a built program (kubectl, helm, kwok, ...)")
    binary.add_argument("name")
    binary.set_defaults(run=_bin)
    return parser


def _build(options: argparse.Namespace) -> int:
    for name in options.part or parts.CLUSTER_PARTS:
        parts.ensure(name)
    return 0


def _bin(options: argparse.Namespace) -> int:
    print(parts.binary(options.name))
    return 0

"""Commands of the local cluster: parse, call, print. No decisions here."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from localcluster import parts, paths, status
from localcluster.bootstrap import Cluster
from localcluster.console import CannotRun


def main(arguments: Sequence[str]) -> int:
    try:
        if arguments[:1] == ["kubectl"]:
            _kubectl(arguments[1:])
        options = _parser().parse_args(arguments)
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
    up = commands.add_parser("up", help="start the cluster, or heal it; returns at once if all is well")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="stop everything; images, volumes and objects are kept for the next start")
    down.add_argument("--purge", action="store_true", help="remove those too (not the programs that were built)")
    down.set_defaults(run=_down)
    table = commands.add_parser("status", help="what runs, and how the node is")
    table.set_defaults(run=_status)
    logs = commands.add_parser("logs", help="the last lines of the logs")
    logs.add_argument("component", nargs="?", help="of one program only, e.g. kubelet")
    logs.add_argument("-n", "--lines", type=int, default=0, help="how many (default: 10 of each, 200 of one)")
    logs.set_defaults(run=_logs)
    kubeconfig = commands.add_parser("kubeconfig", help="print the path of the kubeconfig, nothing else")
    kubeconfig.set_defaults(run=_kubeconfig)
    commands.add_parser("kubectl", help="run kubectl against the local cluster, with the arguments that follow")
    build = commands.add_parser("build", help="build the programs of the cluster that are not built yet")
    build.add_argument("part", nargs="*", help="only these parts (default: what the cluster runs)")
    build.set_defaults(run=_build)
    binary = commands.add_parser("bin", help="print the path of a built program (kubectl, helm, kwok, ...)")
    binary.add_argument("name")
    binary.set_defaults(run=_bin)
    return parser


def _up(_: argparse.Namespace) -> int:
    Cluster().up()
    return 0


def _down(options: argparse.Namespace) -> int:
    Cluster().down(options.purge)
    return 0


def _status(_: argparse.Namespace) -> int:
    report = status.report(Cluster())
    print(report.text)
    return 0 if report.healthy else 1


def _logs(options: argparse.Namespace) -> int:
    print(status.logs(Cluster(), options.component, options.lines))
    return 0


def _kubeconfig(_: argparse.Namespace) -> int:
    if not paths.kubeconfig().exists():
        raise CannotRun("the local cluster was never started here: make cluster")
    print(paths.kubeconfig())
    return 0


def _kubectl(arguments: Sequence[str]) -> NoReturn:
    """Its options are its own: not parsed here."""
    program = str(parts.binary("kubectl"))
    os.execv(program, [program, "--kubeconfig", str(paths.kubeconfig()), *arguments])


def _build(options: argparse.Namespace) -> int:
    for name in options.part or parts.CLUSTER_PARTS:
        parts.ensure(name)
    return 0


def _bin(options: argparse.Namespace) -> int:
    print(parts.binary(options.name))
    return 0

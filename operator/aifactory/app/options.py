"""Command-line options, each documented once: the help text is the reference.

Beside those of the process there are those of the domains: every field of their settings is one.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from aifactory.engine.domain import Domain
from aifactory.kube.events import Regarding
from aifactory.kube.informer import SILENCE_SECONDS
from aifactory.kube.resources import PODS, Key


@dataclass(frozen=True, slots=True)
class Options:
    """How one operator process runs."""

    identity: str
    address: str
    namespace: str | None = None
    workers: int = 128
    release: str = "aifactory"
    lease_namespace: str = "kube-system"
    lease_seconds: float = 15.0
    leader_elect: bool = True
    http_port: int = 8080
    progress_port: int = 8082
    log_level: str = "INFO"
    silence_seconds: float = SILENCE_SECONDS
    """A watch that says nothing for this long is taken for dead."""
    pod: Regarding | None = None
    """The pod that this process runs in, when it does in one."""
    domains: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the domains by the names of their fields; what is left out has its default."""

    @property
    def endpoint(self) -> str:
        """host:port at which pods reach this process, an IPv6 address in brackets."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.progress_port}"

    def settings_of(self, kind: type[Domain[Any, Any]]) -> Any:
        """What the installation says about one domain."""
        wanted = {entry.name for entry in fields(kind.settings_class)}
        return kind.settings_class(**{name: value for name, value in self.domains.items() if name in wanted})


def parse(kinds: Sequence[type[Domain[Any, Any]]], arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; exits with 2 and a message on a mistake.

    Args:
        kinds: the domains whose settings are options too.
        arguments: the command line, by default the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="aifactory-operator",
        description="Reconciles TrainingJob, ModelVersion and InferencePool objects.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    of_domains = {entry.name: entry for kind in kinds for entry in fields(kind.settings_class)}
    for name, entry in of_domains.items():
        read = entry.metadata["parse"]
        kind, default = (_told(read), "") if read is not None else (type(entry.default), entry.default)
        add(f"--{name.replace('_', '-')}", type=kind, default=default, help=entry.metadata["help"])
    add("--namespace", help="watch one namespace; left out: all namespaces")
    add("--workers", type=int, default=128, help="reconciles at the same time, per kind")
    add("--release", default="aifactory", help="which installation this is: two never act on the same namespace")
    add("--lease-namespace", default="kube-system", help="namespace of the Leases, the same for all releases")
    add("--lease-seconds", type=float, default=15.0, help="how long a silent leader keeps its lease")
    add(
        "--leader-elect",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="without it no other operator may run against the cluster",
    )
    add("--http-port", type=int, default=8080, help="port of /healthz, /readyz and /metrics")
    add("--progress-port", type=int, default=8082, help="port of the progress endpoint")
    add("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"], help="how much is logged")
    # Below a minute, the time between two bookmarks, healthy watches are renewed as well: for tests of dead ones.
    add("--silence-seconds", type=float, default=SILENCE_SECONDS, help=argparse.SUPPRESS)
    found = vars(parser.parse_args(arguments))
    if found["workers"] < 1:
        parser.error("--workers must be at least 1")
    if found["lease_seconds"] < 3:
        parser.error("--lease-seconds must be at least 3: renewals need time")
    settings = {name: found.pop(name) for name in of_domains}
    return Options(
        identity=os.environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}",
        address=os.environ.get("POD_IP") or _own_address(),
        pod=_own_pod(),
        domains=settings,
        **found,
    )


def _told(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Have a mistake told in its own words: of a ValueError argparse says only that there was one."""

    def checked(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def _own_pod() -> Regarding | None:
    """As the chart tells it by the downward API."""
    name, namespace, uid = (os.environ.get(f"POD_{part}", "") for part in ("NAME", "NAMESPACE", "UID"))
    return Regarding(PODS, Key(namespace, name), uid) if uid else None


def _own_address() -> str:
    """The address from which this host reaches other networks; no packet is sent. The targets are reserved for that."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1"

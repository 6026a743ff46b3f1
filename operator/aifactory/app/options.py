"""Command-line options, each documented once: the help text is the reference."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from aifactory import __version__
from aifactory.kube.informer import SILENCE_SECONDS

DEFAULT_REGISTRY = "aifactory"


@dataclass(frozen=True, slots=True)
class Options:
    """How one operator process runs."""

    agent_image: str
    server_image: str
    progress_url: str
    namespace: str | None
    workers: int
    model_claim_size: str
    model_claim_storage_class: str | None
    lease_namespace: str
    lease_seconds: float
    leader_elect: bool
    identity: str
    address: str
    http_port: int
    progress_port: int
    log_level: str
    silence_seconds: float = SILENCE_SECONDS
    """A watch that says nothing for this long is taken for dead."""


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; exits with 2 and a message on a mistake."""
    parser = argparse.ArgumentParser(
        prog="aifactory-operator",
        description="Reconciles TrainingJob, ModelVersion and InferencePool objects.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--agent-image", default=f"{DEFAULT_REGISTRY}/agent:{__version__}", help="image that publishes, checks, loads")
    add("--server-image", default=f"{DEFAULT_REGISTRY}/server:{__version__}", help="image with Triton")
    add("--progress-url", help="address of this operator as pods reach it; left out: this host and --progress-port")
    add("--namespace", help="watch one namespace; left out: all namespaces")
    add("--workers", type=int, default=128, help="reconciles at the same time, per kind")
    add("--model-claim-size", default="10Gi", help="size of a namespace's model claim when we make it")
    add("--model-claim-storage-class", help="storage class of that claim; left out: the cluster's default")
    add("--lease-namespace", default="default", help="namespace of the leader's Lease")
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
    found = parser.parse_args(arguments)
    if found.workers < 1:
        parser.error("--workers must be at least 1")
    if found.lease_seconds < 3:
        parser.error("--lease-seconds must be at least 3: renewals need time")
    address = os.environ.get("POD_IP") or _own_address()
    return Options(
        agent_image=found.agent_image,
        server_image=found.server_image,
        progress_url=(found.progress_url or f"http://{address}:{found.progress_port}").rstrip("/"),
        namespace=found.namespace,
        workers=found.workers,
        model_claim_size=found.model_claim_size,
        model_claim_storage_class=found.model_claim_storage_class,
        lease_namespace=found.lease_namespace,
        lease_seconds=found.lease_seconds,
        leader_elect=found.leader_elect,
        identity=os.environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}",
        address=address,
        http_port=found.http_port,
        progress_port=found.progress_port,
        log_level=found.log_level,
        silence_seconds=found.silence_seconds,
    )


def _own_address() -> str:
    """The address from which this host reaches other networks; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"

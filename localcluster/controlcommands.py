"""Command lines of a Kubernetes control plane: shared by the local cluster and by the throw-away ones of tests.

Pure: paths and addresses in, programs out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localcluster import files, parts
from localcluster.pki import Authority, Identity
from localcluster.processes import Program

# Gang scheduling of pods, native in this version of Kubernetes but still behind a gate.
GANG_GATE = "--feature-gates=GenericWorkload=true"
GANG_API = "--runtime-config=scheduling.k8s.io/v1beta1=true"
SERVICE_RANGE = "10.96.0.0/16"


@dataclass(frozen=True)
class Endpoint:
    """Where an API server listens. Never the unspecified address: nobody else on the network is to reach it."""

    address: str
    port: int

    def __post_init__(self) -> None:
        if self.address in ("0.0.0.0", "::"):
            raise ValueError(f"an API server must not listen on every address: {self.address}")

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"


def etcd(directory: Path) -> Program:
    """On sockets in a directory that only we can enter: no port, no password, and no other user of the machine."""
    command = (
        str(parts.binary("etcd")),
        f"--data-dir={directory}/data",
        f"--listen-client-urls={etcd_socket(directory)}",
        f"--listen-peer-urls=unix://{directory}/peer.sock",
        # It insists on announcing a host and a port; a lone member is never asked for them.
        "--advertise-client-urls=http://localhost:2379",
        # What a development cluster loses in a power cut is not worth a disk flush for each write.
        "--unsafe-no-fsync",
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=5m",
        "--quota-backend-bytes=4294967296",
        "--log-level=warn",
    )
    return Program("etcd", command)


def etcd_socket(directory: Path) -> str:
    return f"unix://{directory}/client.sock"


def apiserver(endpoint: Endpoint, etcd_url: str, authority: Authority, hosts: tuple[str, ...], *extra: str) -> Program:
    """Flags in ``extra`` are what differs between clusters."""
    server = authority.issue("apiserver", "kube-apiserver", hosts=hosts)
    private, public = authority.service_account_keys()
    command = (
        str(parts.binary("kube-apiserver")),
        f"--etcd-servers={etcd_url}",
        f"--bind-address={endpoint.address}",
        f"--secure-port={endpoint.port}",
        f"--tls-cert-file={server.certificate}",
        f"--tls-private-key-file={server.key}",
        f"--client-ca-file={authority.certificate}",
        f"--service-account-key-file={public}",
        f"--service-account-signing-key-file={private}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        GANG_GATE,
        GANG_API,
        *extra,
    )
    return Program("kube-apiserver", command)


def controller_manager(kubeconfig: Path, authority: Authority, *extra: str) -> Program:
    private, _ = authority.service_account_keys()
    command = (
        str(parts.binary("kube-controller-manager")),
        f"--kubeconfig={kubeconfig}",
        f"--root-ca-file={authority.certificate}",
        f"--service-account-private-key-file={private}",
        f"--cluster-signing-cert-file={authority.certificate}",
        f"--cluster-signing-key-file={authority.key}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        GANG_GATE,  # lets a deleted PodGroup go once its pods are gone
        *extra,
    )
    return Program("kube-controller-manager", command)


def scheduler(config: Path, *extra: str) -> Program:
    command = (str(parts.binary("kube-scheduler")), f"--config={config}", GANG_GATE, "--bind-address=127.0.0.1", *extra)
    return Program("kube-scheduler", command, files=(config,))


def scheduler_config(path: Path, kubeconfig: Path, requests_per_second: int = 200) -> Path:
    """The client's own limit would otherwise be what a benchmark measures."""
    return files.write(
        path,
        "apiVersion: kubescheduler.config.k8s.io/v1\n"
        "kind: KubeSchedulerConfiguration\n"
        "leaderElection: {leaderElect: false}\n"
        f"clientConnection: {{kubeconfig: {kubeconfig}, qps: {requests_per_second}, burst: {requests_per_second}}}\n",
    )


def administrator(authority: Authority) -> Identity:
    return authority.issue("admin", "aifactory-local-admin", groups=("system:masters",))

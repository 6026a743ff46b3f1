"""Names, addresses and paths of the local cluster: the one place that decides them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localcluster.controlcommands import Endpoint

NODE = "local"
# One address of its own on the loopback interface: reachable from this machine and its pods, and the same after a
# restart of the machine, whatever networks it is in.
HOST_ADDRESS = "10.245.0.1"
POD_RANGE = "10.244.0.0/16"
POD_SUBNET = "10.244.0.0/24"
DNS_ADDRESS = "10.96.0.10"
KUBERNETES_ADDRESS = "10.96.0.1"
API = Endpoint(HOST_ADDRESS, 6443)
CGROUP = "aifactory"
FAKE_GPUS = 8

# (address, port, program) of everything that listens. None is reachable from outside this machine.
LISTENERS = (
    (HOST_ADDRESS, 6443, "kube-apiserver"),
    (HOST_ADDRESS, 10250, "kubelet"),
    ("127.0.0.1", 10248, "kubelet"),
    ("127.0.0.1", 10249, "kube-proxy"),
    ("127.0.0.1", 10256, "kube-proxy"),
    ("127.0.0.1", 10257, "kube-controller-manager"),
    ("127.0.0.1", 10259, "kube-scheduler"),
)


@dataclass(frozen=True)
class Layout:
    """Where one cluster keeps its state.

    Everything is under ``root``; nothing there is needed but etcd's data and images.
    """

    root: Path

    @property
    def etcd(self) -> Path:
        return self.root / "etcd"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def cni(self) -> Path:
        return self.root / "cni"

    @property
    def kubelet(self) -> Path:
        return self.root / "kubelet"

    @property
    def pod_logs(self) -> Path:
        return self.root / "pod-logs"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def containerd_root(self) -> Path:
        """Images and what containerd knows of containers: survives everything."""
        return self.root / "containerd" / "root"

    @property
    def containerd_state(self) -> Path:
        """What belongs to running containers only: worthless once they are gone."""
        return self.root / "containerd" / "state"

    @property
    def containerd_socket(self) -> Path:
        return self.root / "containerd" / "containerd.sock"

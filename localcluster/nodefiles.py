"""Configuration files of the programs that make this machine a node. Pure: layout in, text out."""

from __future__ import annotations

import json
from pathlib import Path

from localcluster.layout import CGROUP, DNS_ADDRESS, HOST_ADDRESS, NODE, POD_RANGE, POD_SUBNET, Layout
from localcluster.pki import Identity

CNI_PLUGINS = "/usr/lib/cni"
NETWORK = "aifactory"


def containerd(layout: Layout, sandbox_image: str) -> str:
    """Every path under our own directory, so that it disturbs no other containerd and leaves nothing elsewhere."""
    state = layout.containerd_state
    return f"""\
version = 3
root = "{layout.containerd_root}"
state = "{state}"
[grpc]
  address = "{layout.containerd_socket}"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.internal.v1.opt"]
  path = "{layout.root}/containerd/opt"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{sandbox_image}"
[plugins."io.containerd.cri.v1.runtime"]
  # As root in a container or sandbox of somebody else's, lowering the score is forbidden: do not insist.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{state}/runc"
  [plugins."io.containerd.cri.v1.runtime".cni]
    use_internal_loopback = true
    bin_dirs = ["{CNI_PLUGINS}"]
    conf_dir = "{layout.cni}/conf"
"""


def cni(layout: Layout) -> str:
    """A routed link for each pod (ptp), no bridge: replies always pass the host, so Services need no bridge filter."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_SUBNET}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(layout.cni / "addresses"),
    }
    network = {"type": "ptp", "ipMasq": False, "ipam": ipam}
    return json.dumps({"cniVersion": "1.0.0", "name": NETWORK, "plugins": [network]}, indent=1)


def kubelet(layout: Layout, authority: Path, server: Identity, resolv_conf: Path) -> str:
    """No image is ever removed and no pod evicted for disk: images here cannot be pulled again.

    What volumes hold is counted every ten seconds, not every minute: a pod that fills its own is evicted soon.
    """
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": HOST_ADDRESS,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(server.certificate),
            "tlsPrivateKeyFile": str(server.key),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            # Protects NodePorts on loopback addresses, where we have none; it would outlive the cluster.
            "makeIPTablesUtilChains": False,
            "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
            "podLogsDir": str(layout.pod_logs),
            "clusterDomain": "cluster.local",
            "clusterDNS": [DNS_ADDRESS],
            "resolvConf": str(resolv_conf),
            "volumeStatsAggPeriod": "10s",
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
            },
        },
        indent=1,
    )


def kube_proxy(kubeconfig: Path) -> str:
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "mode": "iptables",
            "clusterCIDR": POD_RANGE,
            "hostnameOverride": NODE,
            "conntrack": {"maxPerCore": 0, "min": 0},
            "metricsBindAddress": "127.0.0.1:10249",
            "healthzBindAddress": "127.0.0.1:10256",
            "nodePortAddresses": [f"{HOST_ADDRESS}/32"],
        },
        indent=1,
    )


def resolv_conf() -> str:
    """No name server: a pod without cluster DNS asks nobody, instead of whoever this machine asks."""
    return "# The pods of the local cluster know no names outside it.\noptions timeout:1 attempts:1\n"

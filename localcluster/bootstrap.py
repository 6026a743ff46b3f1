"""Bring the cluster up from whatever state it is in, and take it down.

``up`` is level-triggered: it compares what runs with what should, and does only what is missing, so that a first
start, a second call, a call after every process was killed and one after a restart of the machine are the same code.
It never trusts what a dead kubelet wrote. Images, etcd's data and volumes outlive everything but ``down --purge``.
"""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path

from localcluster import (
    addons,
    checks,
    controlcommands,
    debian,
    files,
    network,
    node,
    nodefiles,
    parts,
    processes,
    remains,
)
from localcluster.addons import Images
from localcluster.api import Api
from localcluster.console import CannotRun, say, warn
from localcluster.layout import API, HOST_ADDRESS, KUBERNETES_ADDRESS, NODE, POD_RANGE, Layout
from localcluster.locks import exclusive
from localcluster.paths import state_dir
from localcluster.pki import Authority
from localcluster.processes import Program, Supervisor

# In the order of their start; stopped in the opposite one.
NAMES = (
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "volume-provisioner",
)
_SERVER_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
_SERVER_HOSTS = (*_SERVER_NAMES, "kubernetes.default.svc.cluster.local", KUBERNETES_ADDRESS, HOST_ADDRESS)


class Cluster:
    """The local cluster of this machine."""

    def __init__(self) -> None:
        self.layout = Layout(state_dir())
        self.supervisor = Supervisor(self.layout.root)
        self._authority = Authority(self.layout.pki)
        self._lock = self.layout.root.with_name(".cluster.lock")

    # Up

    def up(self) -> None:
        """Returns when the node is Ready, has its GPUs, and names resolve. Raises CannotRun."""
        checks.machine(self.layout)
        with exclusive(self._lock, "the local cluster"):
            self._prepare()
            programs = self._programs()
            if self._is_healthy(programs):
                say("the cluster is up")
                return
            say("bringing the cluster up")
            self._clear_remains()
            network.ensure()
            remains.make_cgroup()
            processes.raise_open_file_limit()
            self._start_control_plane(programs)
            self._start_node(programs)
            say("the cluster is up")

    def _prepare(self) -> None:
        """Everything that must exist before a program can be described: packages, binaries, certificates, files."""
        debian.ensure_packages(debian.CLUSTER_PACKAGES)
        for name in parts.CLUSTER_PARTS:
            parts.ensure(name)
        for directory in (self.layout.root, self.layout.etcd, self.layout.config, self.layout.kubelet):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (
            self.layout.cni / "conf",
            self.layout.pod_logs,
            self.layout.containerd_root,
            self.layout.volumes,
        ):
            directory.mkdir(parents=True, exist_ok=True)
        self.layout.root.chmod(0o700)  # runtimes reach into it for their containers, so only root needs to
        self._authority.ensure()
        self._authority.kubeconfig(self.layout.kubeconfig, API.url, controlcommands.administrator(self._authority))

    def _programs(self) -> dict[str, Program]:
        """What should run, by name, in the order of NAMES."""
        etcd = controlcommands.etcd(self.layout.etcd)
        client = self._authority.issue("apiserver-kubelet-client", "kube-apiserver", groups=("system:masters",))
        apiserver = controlcommands.apiserver(
            *(API, controlcommands.etcd_socket(self.layout.etcd), self._authority, _SERVER_HOSTS),
            f"--advertise-address={HOST_ADDRESS}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--kubelet-certificate-authority={self._authority.certificate}",
            f"--kubelet-client-certificate={client.certificate}",
            f"--kubelet-client-key={client.key}",
            "--kubelet-preferred-address-types=InternalIP",
        )
        manager = controlcommands.controller_manager(
            *(self._kubeconfig("system:kube-controller-manager"), self._authority),
            f"--cluster-cidr={POD_RANGE}",
            "--allocate-node-cidrs=true",
        )
        scheduler = controlcommands.scheduler(
            controlcommands.scheduler_config(self._file("scheduler.yaml"), self._kubeconfig("system:kube-scheduler"))
        )
        found = (
            etcd,
            self._containerd(),
            apiserver,
            manager,
            scheduler,
            self._kubelet(),
            self._proxy(),
            self._volumes(),
        )
        return {program.name: program for program in found}

    def _containerd(self) -> Program:
        config = self._file("containerd.toml", nodefiles.containerd(self.layout, addons.image_name("pause")))
        network_list = files.write(self.layout.cni / "conf" / "10-aifactory.conflist", nodefiles.cni(self.layout))
        binary = parts.binary("containerd")
        search = f"{binary.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        command = (str(binary), "--config", str(config))
        return Program("containerd", command, {"PATH": search}, files=(config, network_list))

    def _kubelet(self) -> Program:
        server = self._authority.issue("kubelet-server", f"system:node:{NODE}", hosts=(HOST_ADDRESS, NODE))
        resolv_conf = self._file("resolv.conf", nodefiles.resolv_conf())
        text = nodefiles.kubelet(self.layout, self._authority.certificate, server, resolv_conf)
        config = self._file("kubelet.json", text)
        command = (
            str(parts.binary("kubelet")),
            f"--config={config}",
            f"--kubeconfig={self._kubeconfig(f'system:node:{NODE}', 'system:nodes')}",
            f"--root-dir={self.layout.kubelet}",
            f"--cert-dir={self.layout.kubelet}/pki",
            f"--hostname-override={NODE}",
            f"--node-ip={HOST_ADDRESS}",
        )
        return Program("kubelet", command, files=(config,))

    def _proxy(self) -> Program:
        config = self._file("kube-proxy.json", nodefiles.kube_proxy(self._kubeconfig("system:kube-proxy")))
        return Program("kube-proxy", (str(parts.binary("kube-proxy")), f"--config={config}"), files=(config,))

    def _volumes(self) -> Program:
        kubeconfig = self._kubeconfig("localcluster:volume-provisioner")
        command = (str(parts.binary("volume-provisioner")), f"-kubeconfig={kubeconfig}", f"-root={self.layout.volumes}")
        return Program("volume-provisioner", command)

    def _kubeconfig(self, user: str, *groups: str) -> Path:
        name = user.replace(":", "-")
        identity = self._authority.issue(name, user, groups)
        return self._authority.kubeconfig(self._file(f"{name}.kubeconfig"), API.url, identity)

    def _file(self, name: str, text: str | None = None) -> Path:
        path = self.layout.config / name
        return path if text is None else files.write(path, text)

    def api(self) -> Api:
        """The API server, as its administrator. The cluster must have been started once."""
        return Api(API.url, self._authority.certificate, controlcommands.administrator(self._authority))

    def _is_healthy(self, programs: dict[str, Program]) -> bool:
        if not all(self.supervisor.runs(program) for program in programs.values()):
            return False
        api = self.api()
        found = node.get(api)
        return node.is_ready(found) and node.has_gpus(found) and api.is_ready() and addons.names_resolve()

    def _clear_remains(self) -> None:
        """End processes of ours that no pid file tells of, and what dead containers left."""
        known = {record.pid for name in NAMES if (record := self.supervisor.record(name)) is not None}
        strays = {pid: ticks for pid, ticks in self.supervisor.orphans().items() if pid not in known}
        shims = remains.shims(strays)
        processes.end({pid: ticks for pid, ticks in strays.items() if pid not in shims}, grace=3)
        # Before anything else is touched: with another cache directory, another cluster may run here.
        checks.ports({name for name in NAMES if self.supervisor.record(name) is not None})
        if self.supervisor.record("containerd") is None and not shims:
            remains.clear(self.layout)
        checks.kernel()

    def _start(self, program: Program) -> None:
        if self.supervisor.start(program):
            say(f"started {program.name}")

    def _start_control_plane(self, programs: dict[str, Program]) -> None:
        self._start(programs["containerd"])  # takes a moment, and needs nobody
        self._start_etcd(programs["etcd"])
        self._start(programs["kube-apiserver"])
        self.supervisor.wait("containerd", "ready", self._containerd_answers, 30)
        Images(self.layout.containerd_socket).ensure("pause", "coredns")
        self.supervisor.wait("kube-apiserver", "ready", self.api().is_ready, 90)

    def _start_etcd(self, program: Program) -> None:
        """Start it; once more on an empty directory if it cannot live with its data, as after a power cut."""
        self._start(program)
        socket = Path(controlcommands.etcd_socket(self.layout.etcd).removeprefix("unix://"))
        # It listens before it has read its data, and may yet die of them.
        healthy = partial(processes.answers, socket, b"GET /health HTTP/1.0\r\n\r\n", b'"health":"true"')
        try:
            self.supervisor.wait("etcd", "ready", healthy, 30)
        except CannotRun:
            if not (self.layout.etcd / "data").exists() or self.supervisor.record("etcd") is not None:
                raise
            kept = self.layout.etcd / f"data.broken-{int(time.time())}"
            warn(f"etcd cannot read its data (see {self.supervisor.log('etcd')}): kept in {kept}; the cluster is empty")
            (self.layout.etcd / "data").rename(kept)
            self._start(program)
            self.supervisor.wait("etcd", "ready", healthy, 30)

    def _containerd_answers(self) -> bool:
        return processes.answers(self.layout.containerd_socket)

    def _start_node(self, programs: dict[str, Program]) -> None:
        api = self.api()
        if not self.supervisor.runs(programs["kubelet"]):
            self.supervisor.stop("kubelet")
            node.forget_readiness(api)
        for name in NAMES[3:]:
            self._start(programs[name])
        addons.apply(self.layout.kubeconfig)
        self.supervisor.wait("kubelet", "Ready", lambda: node.is_ready(node.get(api)), 90)
        say("the node is Ready")
        node.add_gpus(api)
        self.supervisor.wait("kubelet", "reporting its GPUs", lambda: node.has_gpus(node.get(api)), 30)
        self.supervisor.wait("kubelet", "running CoreDNS", addons.names_resolve, 90)

    # Down

    def down(self, purge: bool = False) -> None:
        """End everything and remove every trace but files; with ``purge``, its files too (not the programs)."""
        checks.rights()
        with exclusive(self._lock, "the local cluster"):
            for name in reversed(NAMES):
                # The API server would wait for its clients, which are gone.
                self.supervisor.stop(name, grace=5, kill=name == "kube-apiserver")
            processes.end(self.supervisor.orphans(), grace=3)
            checks.ports(alive=set())  # else they are another cluster's, and so are the pods and the network
            remains.clear(self.layout)
            kubernetes = parts.part("kubernetes")
            network.remove(parts.directory(kubernetes) / "kube-proxy" if parts.is_built(kubernetes) else None)
            remains.remove_cgroup()
            if purge:
                shutil.rmtree(self.layout.root, ignore_errors=True)
            say("the cluster is down" + (", and its data is gone" if purge else ""))

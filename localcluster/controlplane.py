"""A throw-away control plane for tests and benchmarks: real etcd and kube-apiserver, no node, up in a few seconds.

Everything lives in one temporary directory and on loopback ports that were free; several can run side by side and
beside the local cluster. The kernel ends its processes with the thread that started it. Without ``controllers``
nothing creates service accounts or collects garbage, and pods need no service account.

By hand: ``python3 -m localcluster.controlplane --controllers --scheduler --kwok`` from the root of the checkout.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from localcluster import controlcommands as commands
from localcluster import parts
from localcluster.api import Api
from localcluster.paths import SOURCES, cache_dir
from localcluster.pki import Authority, Identity
from localcluster.processes import Program, Supervisor

AUDIT_POLICY = SOURCES / "manifests" / "audit-policy.yaml"
_HOSTS = ("localhost", "127.0.0.1", "kubernetes.default.svc")


class ControlPlane:
    """One control plane. ``start`` returns when the API server is ready; ``stop`` leaves nothing behind.

    Options: ``controllers``, ``scheduler`` and ``kwok`` start kube-controller-manager, kube-scheduler and fake nodes'
    kubelet; ``audit_policy`` (e.g. AUDIT_POLICY) writes an audit log to ``audit_log``; ``requests_per_second`` is the
    client limit of the controllers and the scheduler; ``extra_flags`` go to the API server.
    """

    def __init__(
        self,
        *,
        controllers: bool = False,
        scheduler: bool = False,
        kwok: bool = False,
        audit_policy: Path | None = None,
        requests_per_second: int = 1000,
        extra_flags: Sequence[str] = (),
    ) -> None:
        # The names of its sockets must stay short.
        place = tempfile.gettempdir() if len(tempfile.gettempdir()) < 60 else cache_dir()
        self.directory = Path(tempfile.mkdtemp(prefix="aifactory-cp-", dir=place))
        self.audit_log = self.directory / "audit.log"
        self.kubeconfig = self.directory / "kubeconfig"
        self.endpoint = commands.Endpoint("127.0.0.1", _free_port())
        self._authority = Authority(self.directory / "pki")
        self.supervisor = Supervisor(self.directory, die_with_caller=True)
        self._wanted = {"controllers": controllers, "scheduler": scheduler, "kwok": kwok}
        self._audit_policy = audit_policy
        self._rate = requests_per_second
        self._flags = tuple(extra_flags)
        self._api: Api | None = None

    def __enter__(self) -> ControlPlane:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return self.endpoint.url

    def start(self) -> None:
        """Start what was asked for, and wait for the API server.

        Raises CannotRun with the log's end if it does not come.
        """
        try:
            self._authority.ensure()
            (self.directory / "etcd").mkdir(mode=0o700, exist_ok=True)
            self.supervisor.start(commands.etcd(self.directory / "etcd"))
            admin = commands.administrator(self._authority)
            self._authority.kubeconfig(self.kubeconfig, self.url, admin)
            self._api = Api(self.url, self._authority.certificate, admin)
            self.start_apiserver()
            for program in self._clients():
                self.supervisor.start(program)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process and remove the directory."""
        for name in ("kwok", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            self.supervisor.stop(name, kill=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start_apiserver(self, seconds: float = 60) -> None:
        """Start the API server on its port and its data, and wait until it is ready."""
        assert self._api is not None, "start() comes first"
        self.supervisor.start(self._apiserver())
        self.supervisor.wait("kube-apiserver", "ready", self._api.is_ready, seconds)

    def stop_apiserver(self, kill: bool = False) -> None:
        """Take the API server away, keeping the data: in order, or with ``kill`` as a crash does."""
        self.supervisor.stop("kube-apiserver", kill=kill)

    def restart_apiserver(self, kill: bool = False) -> None:
        self.stop_apiserver(kill)
        self.start_apiserver()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Signal one of the processes: SIGSTOP and SIGCONT make an API server that hangs."""
        self.supervisor.signal(name, number)

    def pid(self, name: str) -> int:
        """The process id of a component that runs ('kube-apiserver', 'etcd', ...). Raises KeyError if it does not."""
        record = self.supervisor.record(name)
        if record is None:
            raise KeyError(name)
        return record.pid

    def log(self, name: str) -> Path:
        return self.supervisor.log(name)

    def identity(self, user: str, groups: Sequence[str] = ()) -> Path:
        """The kubeconfig of any user, e.g. of one that has only an operator's rights."""
        name = user.replace(":", "-").replace("/", "-")
        certificate = self._authority.issue(name, user, groups)
        return self._authority.kubeconfig(self.directory / f"{name}.kubeconfig", self.url, certificate)

    def server_certificate(self, name: str) -> Identity:
        """A certificate for a server of one's own on loopback, such as one of admission webhooks."""
        return self._authority.issue(name, name, hosts=("127.0.0.1",))

    def _apiserver(self) -> Program:
        flags = [
            "--authorization-mode=RBAC",
            # There is no network for it to publish an address in, and it refuses to publish a loopback one.
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--shutdown-delay-duration=0s",
        ]
        if not self._wanted["controllers"]:
            flags.append("--disable-admission-plugins=ServiceAccount")
        if self._audit_policy is not None:
            flags += [f"--audit-policy-file={self._audit_policy}", f"--audit-log-path={self.audit_log}"]
        url = commands.etcd_socket(self.directory / "etcd")
        return commands.apiserver(self.endpoint, url, self._authority, _HOSTS, *flags, *self._flags)

    def _clients(self) -> list[Program]:
        found = []
        rate = (f"--kube-api-qps={self._rate}", f"--kube-api-burst={self._rate}")
        if self._wanted["controllers"]:
            kubeconfig = self.identity("system:kube-controller-manager")
            found.append(commands.controller_manager(kubeconfig, self._authority, "--secure-port=0", *rate))
        if self._wanted["scheduler"]:
            kubeconfig = self.identity("system:kube-scheduler")
            config = commands.scheduler_config(self.directory / "scheduler.yaml", kubeconfig, self._rate)
            found.append(commands.scheduler(config, "--secure-port=0"))
        if self._wanted["kwok"]:
            stages = SOURCES / "manifests" / "kwok.yaml"
            command = (str(parts.binary("kwok")), f"--kubeconfig={self.kubeconfig}", f"--config={stages}", "--v=WARN")
            found.append(Program("kwok", command, files=(stages,)))
        return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a control plane without nodes until interrupted.")
    for option in ("controllers", "scheduler", "kwok"):
        parser.add_argument(f"--{option}", action="store_true")
    options = parser.parse_args()
    # SIGTERM ends it as Ctrl-C does: by way of stop().
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ControlPlane(**vars(options)) as plane:
            print(plane.kubeconfig, flush=True)
            signal.pause()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()

"""The control plane of the benchmark: real etcd, API server, controllers and scheduler, fake nodes, an audit log.

What it changes against `localcluster.controlplane`, and why: our own audit policy and kwok stages; no controller that
watches over nodes' heartbeats, because fake nodes have none and 8,000 pods would be marked not ready after a minute.
Every measured side gets a fresh one, so that none inherits the other's objects.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml

from localcluster import parts
from localcluster.controlplane import ControlPlane
from localcluster.processes import Program
from tests.bench.client import Client, each

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAMESPACE = "bench"
SYSTEM = "aifactory-system"
CLAIM = "shared"
NODES = 100
COMPONENTS = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler", "kwok")


class BenchPlane(ControlPlane):
    """A control plane with everything but the operator.

    Options: ``audit_policy``, what is written down; ``flags`` of the controllers; ``as_shipped`` leaves the client
    limits of controllers and scheduler as Kubernetes has them.
    """

    def __init__(
        self,
        *,
        audit_policy: Path = HERE / "audit-policy.yaml",
        flags: tuple[str, ...] = (),
        as_shipped: bool = False,
    ) -> None:
        super().__init__(
            controllers=True,
            scheduler=True,
            kwok=True,
            audit_policy=audit_policy,
            # One file however much is written: the log is read while it grows.
            extra_flags=("--audit-log-maxsize=16384",),
        )
        self._controller_flags, self._as_shipped = flags, as_shipped

    def _clients(self) -> list[Program]:
        return [self._adapted(program) for program in super()._clients()]

    def _adapted(self, program: Program) -> Program:
        if program.name == "kube-controller-manager":
            flags = ("--controllers=*,-node-lifecycle-controller", *self._controller_flags)
            limits = ("--kube-api-qps=", "--kube-api-burst=") if self._as_shipped else ()
            kept = (argument for argument in program.command if not argument.startswith(limits))
            return dataclasses.replace(program, command=(*kept, *flags))
        if program.name == "kube-scheduler" and self._as_shipped:
            (config,) = program.files
            config.write_text(re.sub(r", qps: \d+, burst: \d+", "", config.read_text()))
        if program.name == "kwok":
            command = tuple(
                f"--config={HERE / 'kwok.yaml'}" if argument.startswith("--config=") else argument
                for argument in program.command
            )
            return dataclasses.replace(program, command=command)
        return program

    def service_account(self, name: str) -> Path:
        """The kubeconfig of an identity that API Priority and Fairness takes for a service account's."""
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}")
        return self.identity(f"system:serviceaccount:{SYSTEM}:{name}", groups)

    def pids(self) -> dict[str, int]:
        return {name: self.pid(name) for name in COMPONENTS}


async def furnish(plane: BenchPlane) -> None:
    """CRDs, the chart's RBAC, a namespace with a bound claim, and nodes that are Ready."""
    async with Client(plane.kubeconfig, "aifactory-bench-setup") as admin:
        for name in (NAMESPACE, SYSTEM):
            await admin.create("/api/v1/namespaces", {"metadata": {"name": name}})
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            body = yaml.safe_load(path.read_text())
            await admin.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
        for body in await asyncio.to_thread(chart_rbac):
            await admin.create(_rbac_path(body), body)
        # Whoever plays the user or the limit may do everything, as a service account.
        await admin.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", _ALL_RIGHTS)
        await _claim(admin)
        await each(range(NODES), lambda index: _node(admin, f"node-{index:03d}"))
        await until(lambda: _ready(admin), "CRDs served, claim bound, service account made, nodes ready")


def chart_rbac() -> list[Any]:
    """What the chart lets the operator do: measuring with more would hide a missing right."""
    command = [str(parts.binary("helm")), "template", "aifactory", str(ROOT / "charts" / "aifactory")]
    command += ["--namespace", SYSTEM, "--show-only", "templates/rbac.yaml"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [body for body in yaml.safe_load_all(text) if body]


_ALL_RIGHTS = {
    "metadata": {"name": "bench"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": SYSTEM} for name in ("user", "limit")],
}


def _rbac_path(body: Any) -> str:
    base = "/apis/rbac.authorization.k8s.io/v1"
    namespace = body["metadata"].get("namespace")
    plural = f"{body['kind'].lower()}s"
    return f"{base}/namespaces/{namespace}/{plural}" if namespace else f"{base}/{plural}"


async def _claim(admin: Client) -> None:
    """A claim of the user's own, shared by all jobs, as teams have it."""
    capacity, modes = {"storage": "1Ti"}, ["ReadWriteMany"]
    spec: Any = {"capacity": capacity, "accessModes": modes, "storageClassName": "", "hostPath": {"path": "/nowhere"}}
    await admin.create("/api/v1/persistentvolumes", {"metadata": {"name": CLAIM}, "spec": spec})
    spec = {"accessModes": modes, "storageClassName": "", "volumeName": CLAIM, "resources": {"requests": capacity}}
    body = {"metadata": {"name": CLAIM}, "spec": spec}
    await admin.create(f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims", body)


async def _node(admin: Client, name: str) -> None:
    await admin.create("/api/v1/nodes", {"metadata": {"name": name}})
    # New nodes are tainted until the controller that we left out says they are ready.
    await admin.merge(f"/api/v1/nodes/{name}", {"spec": {"taints": None}})


async def _ready(admin: Client) -> str:
    """Empty when everything is in place, else what is missing."""
    for plural in ("trainingjobs", "modelversions", "inferencepools"):
        try:
            await admin.get(f"/apis/aifactory.dev/v1alpha1/{plural}?limit=1")
        except Exception as error:
            return str(error)
    claim = await admin.get(f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/{CLAIM}")
    if claim.get("status", {}).get("phase") != "Bound":
        return "the claim is not bound"
    accounts = await admin.get(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts")
    if not accounts["items"]:
        return "no service account"
    nodes = (await admin.get("/api/v1/nodes"))["items"]
    ready = sum(1 for node in nodes if "pods" in node["status"].get("allocatable", {}))
    return "" if ready == NODES else f"{ready} of {NODES} nodes are ready"


async def until(check: Any, what: str, seconds: float = 60.0, every: float = 0.1) -> None:
    """Wait until `check` answers with an empty string. Raises TimeoutError with its last words."""
    deadline = time.monotonic() + seconds
    while words := await check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}; last seen: {words}")
        await asyncio.sleep(every)

"""JobSet's and Kubeflow Trainer's controllers as processes: built from their modules, with CRDs and webhooks of these.

As in a cluster, what they default and check goes through their admission webhooks. As with ours there is one replica,
which waits for no lease. They may do everything.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from localcluster import parts, toolchain
from tests.bench.client import Client
from tests.bench.plane import SYSTEM, BenchPlane, until
from tests.bench.processes import Process, free_port

Json = dict[str, Any]

MODULES: Final = {"jobset": "sigs.k8s.io/jobset", "trainer": "github.com/kubeflow/trainer/v2"}
AGENTS: Final = {"jobset": "jobset", "trainer": "trainer-controller-manager"}
_HOOKS: Final = {
    "jobset": "config/components/webhook/manifests.yaml",
    "trainer": "manifests/base/webhook/manifests.yaml",
}
_CRDS: Final = {"jobset": "config/components/crd/bases", "trainer": "manifests/base/crds"}
_OF_A_JOBSET: Final = {"matchExpressions": [{"key": "jobset.sigs.k8s.io/jobset-name", "operator": "Exists"}]}
RAISED: Final = 1000
"""Requests a second."""
WORKERS: Final = 50


def version(name: str) -> str:
    """The module's version."""
    return str(_module(name)["Version"])


def _module(name: str) -> Json:
    go, folder = str(toolchain.ensure_go()), str(parts.part(name).module)
    told = subprocess.run(
        [go, "-C", folder, "mod", "download", "-json", MODULES[name]], capture_output=True, text=True, check=True
    )
    return dict(json.loads(told.stdout))


def _documents(name: str, path: str) -> Iterable[Json]:
    """What lies in a file or folder of the module."""
    found = Path(_module(name)["Dir"]) / path
    files = [found] if found.is_file() else sorted(found.glob("*.yaml"))
    for file in files:
        yield from (body for body in yaml.safe_load_all(file.read_text()) if body)


class Controller(Process):
    """One of them on a control plane."""

    def __init__(self, name: str, plane: BenchPlane, *, raised: bool) -> None:
        self.webhook_port, self._health_port = free_port(), free_port()
        folder = plane.directory / name
        certificates = folder / "k8s-webhook-server/serving-certs"
        certificates.mkdir(parents=True)
        served = plane.server_certificate(name)
        (certificates / "tls.crt").write_bytes(served.certificate.read_bytes())
        (certificates / "tls.key").write_bytes(served.key.read_bytes())
        config = folder / "config.yaml"
        config.write_text(json.dumps(self._config(name, certificates, raised=raised)))
        program = str(parts.binary(AGENTS[name]))
        # Both look for their certificates below the directory for temporary files.
        environment = {"KUBECONFIG": str(plane.service_account(name)), "TMPDIR": str(folder)}
        super().__init__(name, [program, f"--config={config}"], plane.directory / f"{name}.log", environment)

    def _config(self, name: str, certificates: Path, *, raised: bool) -> Json:
        found: Json = {
            "kind": "Configuration",
            "health": {"healthProbeBindAddress": f"127.0.0.1:{self._health_port}"},
            "metrics": {"bindAddress": "0"},
            "leaderElection": {"leaderElect": False},
            "webhook": {"port": self.webhook_port, "host": "127.0.0.1"},
        }
        if raised:
            found["clientConnection"] = {"qps": RAISED, "burst": RAISED}
        if name == "jobset":
            found["webhook"]["certDir"] = str(certificates)
            return {
                **found,
                "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
                "internalCertManagement": {"enable": False},
            }
        if raised:
            kinds = ("TrainJob", "TrainingRuntime", "ClusterTrainingRuntime")
            found["controller"] = {"groupKindConcurrency": {f"{kind}.trainer.kubeflow.org": WORKERS for kind in kinds}}
        return {**found, "apiVersion": "config.trainer.kubeflow.org/v1alpha1", "certManagement": {"enable": False}}

    async def answers(self, path: str) -> str:
        """Empty once it does."""
        self.check()
        url = f"http://127.0.0.1:{self._health_port}/{path}"
        try:
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return "" if answer.status == 200 else f"{path}: {answer.status}"
        except aiohttp.ClientError as error:
            return str(error)


@contextmanager
def running(name: str, plane: BenchPlane, *, raised: bool) -> Iterator[Controller]:
    """A controller, until the end."""
    process = Controller(name, plane, raised=raised)
    try:
        yield process
    finally:
        process.stop(kill=True)


async def install(name: str, plane: BenchPlane, admin: Client) -> None:
    """What it needs before it starts: rights and CRDs."""
    await admin.create(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        {
            "metadata": {"name": f"bench-{name}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": SYSTEM}],
        },
    )
    for body in _documents(name, _CRDS[name]):
        if body["kind"] == "CustomResourceDefinition":
            path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            await admin.create(path, body)
            await until(partial(_established, admin, f"{path}/{body['metadata']['name']}"), f"CRDs of {name}")


async def lead_to(process: Controller, plane: BenchPlane, admin: Client) -> None:
    """Once it is ready the API server asks its webhooks."""
    name = process.name
    await until(lambda: process.answers("readyz"), f"{name} is ready")
    for body in _documents(name, _HOOKS[name]):
        plural = f"{body['kind'].lower()}s"
        await admin.create(f"/apis/admissionregistration.k8s.io/v1/{plural}", hooks(name, body, process, plane))


async def _established(admin: Client, path: str) -> str:
    conditions = (await admin.get(path)).get("status", {}).get("conditions")
    told = {each["type"]: each["status"] for each in conditions or ()}  # null before the first one
    return "" if told.get("Established") == "True" else str(told)


def hooks(name: str, body: Json, process: Controller, plane: BenchPlane) -> Json:
    """A configuration of webhooks of the module's, led to the process; their pods' are for pods of JobSets only."""
    config = yaml.safe_load(plane.kubeconfig.read_text())
    authority = config["clusters"][0]["cluster"]["certificate-authority-data"]
    found = {**body, "metadata": {"name": f"{name}-{body['metadata']['name']}"}, "webhooks": []}
    for hook in body["webhooks"]:
        url = f"https://127.0.0.1:{process.webhook_port}{hook['clientConfig']['service']['path']}"
        mine = {**hook, "clientConfig": {"url": url, "caBundle": authority}}
        if any("pods" in rule["resources"] for rule in hook["rules"]):
            mine["objectSelector"] = _OF_A_JOBSET
        found["webhooks"].append(mine)
    return found

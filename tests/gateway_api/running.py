"""Envoy Gateway in the local cluster, by its own Helm chart, and a Gateway that is its.

Its program is built here, from the module that its chart and the Gateway API's CRDs come with; Envoy is the one in our
own image. Its Gateways are Services of the type ClusterIP, for the local cluster has no load balancers.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

import yaml

from localcluster import addons, parts, paths, toolchain
from tests.support.kubectl import Json, Kubectl, command
from tests.support.waiting import wait_for

NAMESPACE, GATEWAYS, CLASS = "envoy-gateway-system", "gateways", "eg"
MODULE, PROGRAM = "github.com/envoyproxy/gateway", "envoy-gateway"
ENVOY = "aifactory/gateway:0.1.0"
OPEN, SHUT = {"namespaces": {"from": "All"}}, {"namespaces": {"from": "Same"}}

SHUTDOWN = {"drainTimeout": "10s", "minDrainDuration": "2s"}
"""Of its proxies, which else take a minute to go."""


def sources() -> Path:
    """Its own files, as they are in the module that the program is built from."""
    go, module = str(toolchain.ensure_go()), str(parts.part(PROGRAM).module)
    return Path(json.loads(command([go, "-C", module, "mod", "download", "-json", MODULE], GOTOOLCHAIN="auto"))["Dir"])


def gateway(name: str = "public", *, allowed: Json | None = None) -> Json:
    """A Gateway with a listener for HTTP."""
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": allowed or OPEN}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": GATEWAYS},
        "spec": {"gatewayClassName": CLASS, "listeners": [listener]},
    }


def gateway_class() -> list[Json]:
    """The class of our Gateways, and how their proxies are made."""
    kind = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyProxy"}
    proxies = {
        "type": "Kubernetes",
        "kubernetes": {
            "envoyService": {"type": "ClusterIP"},
            "envoyDeployment": {
                "container": {"image": ENVOY, "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}}
            },
        },
    }
    ref = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": CLASS, "namespace": NAMESPACE}
    return [
        {
            **kind,
            "metadata": {"name": CLASS, "namespace": NAMESPACE},
            "spec": {"provider": proxies, "shutdown": SHUTDOWN},
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "GatewayClass",
            "metadata": {"name": CLASS},
            "spec": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller", "parametersRef": ref},
        },
    ]


@contextmanager
def installed(home: Path, kubectl: Kubectl, helm: Callable[..., str]) -> Iterator[Kubectl]:
    """Envoy Gateway, and the namespace for Gateways; afterwards nothing of them is left, the CRDs neither."""
    addons.Images(paths.containerd_socket()).ensure(PROGRAM, directory="/usr/local/bin")
    image = addons.image_name(PROGRAM)
    chart = home / "chart"
    shutil.copytree(sources() / "charts/gateway-helm", chart)
    for path in [chart, *chart.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)  # the module cache is read-only
    template = (chart / "values.tmpl.yaml").read_text()
    (chart / "values.yaml").write_text(
        Template(template).substitute(GatewayImage=image, GatewayImagePullPolicy="IfNotPresent")
    )
    provider = {"type": "Kubernetes", "kubernetes": {"shutdownManager": {"image": image}}}
    values = {"config": {"envoyGateway": {"provider": provider}}}
    (home / "values.yaml").write_text(yaml.safe_dump(values))
    remove(kubectl, helm, chart)  # what a run that was killed has left
    try:
        arguments = (PROGRAM, str(chart), "-n", NAMESPACE, "--create-namespace", "-f", str(home / "values.yaml"))
        helm("install", *arguments, "--wait", "--timeout=180s")
        kubectl.run("create", "namespace", GATEWAYS)
        kubectl.apply(*gateway_class())
        yield kubectl.within(GATEWAYS)
    except BaseException:
        for what in (("get", "pods,jobs,gateways", "-A", "-o", "wide"), ("logs", "-n", NAMESPACE, f"deploy/{PROGRAM}")):
            print(kubectl.run(*what, check=False).out[-6000:], file=sys.stderr)
        raise
    finally:
        remove(kubectl, helm, chart)


def remove(kubectl: Kubectl, helm: Callable[..., str], chart: Path) -> None:
    """All of it. Gateways first, while their controller can take their proxies away."""
    if kubectl.run("get", "namespace", GATEWAYS, check=False).code == 0:
        kubectl.run(
            "delete", "gateways.gateway.networking.k8s.io", "-n", GATEWAYS, "--all", "--timeout=60s", check=False
        )
        kubectl.run("delete", "namespace", GATEWAYS, "--timeout=180s", timeout=200)
    kubectl.run("delete", "gatewayclasses.gateway.networking.k8s.io", CLASS, "--timeout=60s", check=False)
    helm("uninstall", PROGRAM, "-n", NAMESPACE, "--ignore-not-found", "--wait")
    kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=240s", timeout=260)
    crds = [crd["metadata"]["name"] for crd in kubectl.list("crd")]
    ours = [name for name in crds if name.endswith((".gateway.networking.k8s.io", ".gateway.envoyproxy.io"))]
    if ours:
        kubectl.run("delete", "crd", *ours, "--timeout=120s", timeout=150)
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        kubectl.run("delete", kind, "safe-upgrades.gateway.networking.k8s.io", "--ignore-not-found")


def address(gateways: Kubectl, name: str = "public") -> str:
    """Where a Gateway listens; waits until it is there."""
    found = wait_for(
        f"Gateway {name} to have an address",
        lambda: gateways.get("gateways.gateway.networking.k8s.io", name).get("status", {}).get("addresses"),
        bool,
        seconds=120,
    )
    return str(found[0]["value"])

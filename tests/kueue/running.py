"""Kueue in the cluster, from its own manifests and a program built from the same module.

What is changed of them: the image, and the user that Kueue's own image names; no admission webhooks for kinds that are
not Kueue's, and no API of its own beside the API server, for the cluster is shared with other suites, whose pods must
not depend on Kueue.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from localcluster import addons, parts, paths, toolchain
from tests.support.kubectl import Json, Kubectl, binary, command
from tests.support.waiting import wait_for

NAMESPACE = "kueue-system"
GROUP = "kueue.x-k8s.io"
DEPLOYMENT = "deployment/kueue-controller-manager"
WEBHOOKS = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")


def sources() -> Path:
    """Kueue's own files, as they are in the module that the program is built from."""
    go, module = str(toolchain.ensure_go()), str(parts.part("kueue").module)
    return Path(json.loads(command([go, "-C", module, "mod", "download", "-json", "sigs.k8s.io/kueue"]))["Dir"])


def manifests(home: Path) -> list[Json]:
    """The default installation, changed as said above."""
    shutil.copytree(sources() / "config", home / "config", copy_function=shutil.copy)
    built = command([binary("kustomize"), "build", str(home / "config/default")])
    found = [each for each in yaml.safe_load_all(built) if each and each["kind"] != "APIService"]
    for each in found:
        if each["kind"] == "Deployment":
            pod = each["spec"]["template"]["spec"]
            pod["securityContext"] = {**pod.get("securityContext", {}), "runAsUser": 65532}
            (manager,) = pod["containers"]
            manager |= {"image": addons.image_name("kueue"), "imagePullPolicy": "Never", "command": ["/kueue"]}
        elif each["kind"] == "ConfigMap" and "controller_manager_config.yaml" in each.get("data", {}):
            settings = yaml.safe_load(each["data"]["controller_manager_config.yaml"])
            settings["integrations"] = {"frameworks": ["batch/job"]}
            settings["featureGates"] = {"VisibilityOnDemand": False}
            settings["waitForPodsReady"] = {"timeout": "5m"}
            each["data"]["controller_manager_config.yaml"] = yaml.safe_dump(settings)
        elif each["kind"].endswith("WebhookConfiguration"):
            each["webhooks"] = [hook for hook in each["webhooks"] if hook["rules"][0]["apiGroups"] == [GROUP]]
            assert each["webhooks"]
    return found


@contextmanager
def installed(home: Path, kubectl: Kubectl) -> Iterator[Kubectl]:
    """Kueue, running; afterwards nothing of it is left."""
    found = manifests(home)
    file = home / "kueue.yaml"
    file.write_text(yaml.safe_dump_all(found))
    addons.Images(paths.containerd_socket()).ensure("kueue")
    remove(kubectl, file)  # what a run that was killed has left
    try:
        kubectl.run("apply", "--server-side", "-f", str(file))
        within = kubectl.within(NAMESPACE)
        within.run("rollout", "status", DEPLOYMENT, "--timeout=180s", timeout=200)
        probe = {"apiVersion": f"{GROUP}/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "probe"}}
        wait_for(
            "Kueue's webhooks to answer",
            lambda: kubectl.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(probe), check=False),
            lambda told: told.code == 0,
            seconds=90,
        )
        yield within
    finally:
        remove(kubectl, file)


def remove(kubectl: Kubectl, file: Path) -> None:
    """All of Kueue, and what its kinds hold; the operator lets go of a job's Workload when its CRD goes."""
    for kind in ("clusterqueues", "resourceflavors", "workloads", "topologies", "cohorts"):
        # Who would take the finalizers away may be gone.
        named = kubectl.run("get", f"{kind}.{GROUP}", "-A", "-o", "json", check=False)
        for one in json.loads(named.out)["items"] if named.code == 0 else ():
            where = ["-n", one["metadata"]["namespace"]] if "namespace" in one["metadata"] else []
            target = [*where, f"{kind}.{GROUP}", one["metadata"]["name"]]
            for hooks in WEBHOOKS:
                kubectl.run("delete", hooks, "-l", "app.kubernetes.io/name=kueue", "--ignore-not-found")
            kubectl.run("delete", *target, "--ignore-not-found", "--wait=false")
            kubectl.run("patch", *target, "--type=merge", "-p", '{"metadata":{"finalizers":null}}', check=False)
    kubectl.run("delete", "-f", str(file), "--ignore-not-found", "--timeout=120s", timeout=150)

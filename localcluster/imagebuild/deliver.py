"""Brings built images to the local cluster, and restarts the Deployments that run an older one of the same name.

An image's tag is the project's version and does not change with its content, so Kubernetes would go on running the old
content. Only Deployments that people made are restarted: pods of training jobs and inference pools belong to the
operator, and get the new content when they are made next.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Mapping, Sequence

from localcluster import parts, paths
from localcluster.console import CannotRun, say, warn
from localcluster.imagebuild.containerd import Containerd
from localcluster.imagebuild.store import Descriptor, Store

# Kubernetes' manifests leave out the registry that this name stands for.
_DEFAULT_REGISTRY = "docker.io/"


def deliver(store: Store, images: Mapping[str, Descriptor]) -> None:
    """Load what the local cluster lacks."""
    loaded = Containerd(parts.binary("ctr"), paths.containerd_socket()).load(store, images)
    for name in (*loaded.new, *loaded.replaced):
        say(f"loaded {name}")
    if loaded.replaced:
        _restart_deployments(loaded.replaced)


def require_cluster() -> None:
    """Raises CannotRun when no local cluster is running, so that nobody waits for a build before hearing of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(paths.containerd_socket()))
        except OSError:
            raise CannotRun("the local cluster is not running: start it with 'make cluster'") from None


def _restart_deployments(images: Sequence[str]) -> None:
    kubectl = [str(parts.binary("kubectl")), "--kubeconfig", str(paths.kubeconfig()), "--request-timeout=10s"]
    listed = subprocess.run([*kubectl, "get", "deployments", "-A", "-o", "json"], capture_output=True, text=True)
    if listed.returncode:
        warn(f"Deployments with a changed image were not restarted: {listed.stderr.strip()}")
        return
    for namespace, name in deployments_using(images, listed.stdout):
        restart = [*kubectl, "rollout", "restart", "--namespace", namespace, f"deployment/{name}"]
        result = subprocess.run(restart, capture_output=True, text=True)
        if result.returncode:
            warn(f"Deployment {namespace}/{name} was not restarted: {result.stderr.strip()}")
        else:
            say(f"restarted Deployment {namespace}/{name}")


def deployments_using(images: Sequence[str], deployments: str) -> list[tuple[str, str]]:
    """(namespace, name) of those in kubectl's list that run one of the ``images`` and that no controller made."""
    written = {form for image in images for form in (image, image.removeprefix(_DEFAULT_REGISTRY))}
    found = []
    for item in json.loads(deployments)["items"]:
        if any(owner.get("controller") for owner in item["metadata"].get("ownerReferences", [])):
            continue
        pod = item["spec"]["template"]["spec"]
        containers = [*pod["containers"], *pod.get("initContainers", [])]
        if any(container["image"] in written for container in containers):
            found.append((item["metadata"]["namespace"], item["metadata"]["name"]))
    return found

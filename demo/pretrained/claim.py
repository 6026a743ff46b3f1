"""Files from here on a claim of a cluster, by a pod that unpacks what it is sent."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

from demo.tools import DemoError, Kube

POD = "model-copy"
POD_SECONDS = 120
_MOUNT = "/claim"

_UNPACK = """
import os, pathlib, shutil, sys, tarfile
folder = pathlib.Path(sys.argv[1], sys.argv[2])
new = folder.with_name(f".incoming-{folder.name}")
shutil.rmtree(new, ignore_errors=True)
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
    archive.extractall(new)
os.sync()
new.rename(folder)
"""
"""It appears whole or not at all, so that nobody verifies a half."""


def put(kube: Kube, folder: Path, *, claim: str, name: str, image: str) -> bool:
    """Copy a directory to `name` on a claim, which is made if it is missing; False if it was there already.

    Raises:
        DemoError: the cluster refused something, with its words.
    """
    kube.run("apply", "-f", "-", stdin=json.dumps(_claim(claim)))
    kube.run("delete", "pod", POD, "--ignore-not-found")
    kube.run("apply", "-f", "-", stdin=json.dumps(_pod(claim, image)))
    try:
        kube.run("wait", "--for=condition=Ready", f"pod/{POD}", f"--timeout={POD_SECONDS}s")
        if kube.run("exec", POD, "--", "python3", "-c", _IS_THERE, _MOUNT, name).strip() == "True":
            return False
        _send(kube, folder, name)
        return True
    finally:
        kube.run("delete", "pod", POD, "--wait=false")


_IS_THERE = "import os, sys; print(os.path.isdir(os.path.join(*sys.argv[1:])))"


def _send(kube: Kube, folder: Path, name: str) -> None:
    command = kube.command("exec", "-i", POD, "--", "python3", "-c", _UNPACK, _MOUNT, name)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        with process.stdin, tarfile.open(fileobj=process.stdin, mode="w|") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, arcname=path.name)
    except BrokenPipeError:
        pass  # what it says is the better message
    said = process.stderr.read().decode(errors="replace").strip()
    if process.wait() != 0:
        raise DemoError(f"the files could not be copied: {said}")


def _claim(name: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


def _pod(claim: str, image: str) -> dict[str, object]:
    container = {
        "name": "copy",
        "image": image,
        "command": ["python3", "-c", "import time; time.sleep(3600)"],
        "volumeMounts": [{"name": "claim", "mountPath": _MOUNT}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }

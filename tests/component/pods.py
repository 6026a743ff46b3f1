"""The kubelet's part, played by hand: a test says what becomes of a pod."""

from __future__ import annotations

import json
from typing import Any

from tests.support.kubectl import Kubectl

Json = dict[str, Any]
STARTED = "2026-01-01T00:00:00Z"


def set_status(kubectl: Kubectl, pod: str, status: Json) -> None:
    """Write a pod's status as its kubelet would."""
    kubectl.run("patch", "pod", pod, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def run(kubectl: Kubectl, pod: str, container: str = "trainer") -> None:
    """The pod runs."""
    state = {"running": {"startedAt": STARTED}}
    set_status(kubectl, pod, {"phase": "Running", "containerStatuses": [_container(container, state, ready=True)]})


def serve(kubectl: Kubectl, pod: str, address: str = "") -> None:
    """The pod runs and answers its readiness probe; its agent is asked at that address."""
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": STARTED}
    state = {"running": {"startedAt": STARTED}}
    status = {"phase": "Running", "conditions": [ready], "containerStatuses": [_container("triton", state, ready=True)]}
    if address:
        status |= {"podIP": address, "podIPs": [{"ip": address}]}
    set_status(kubectl, pod, status)


def end(kubectl: Kubectl, pod: str, code: int, message: str = "", container: str = "trainer", reason: str = "") -> None:
    """The pod's container ends with a code and words."""
    terminated = {"exitCode": code, "message": message, "finishedAt": STARTED, "startedAt": STARTED}
    terminated["reason"] = reason or ("Completed" if code == 0 else "Error")
    phase = "Succeeded" if code == 0 else "Failed"
    set_status(kubectl, pod, {"phase": phase, "containerStatuses": [_container(container, {"terminated": terminated})]})


def _container(name: str, state: Json, *, ready: bool = False) -> Json:
    return {"name": name, "image": "x", "imageID": "", "ready": ready, "restartCount": 0, "state": state}

"""The Node object of this machine: is it Ready, and the GPUs it pretends to have."""

from __future__ import annotations

import time

from localcluster.api import Api, Json
from localcluster.console import CannotRun
from localcluster.layout import FAKE_GPUS, NODE

GPU = "nvidia.com/gpu"
_PATH = f"/api/v1/nodes/{NODE}"


def get(api: Api) -> Json:
    """The node; empty if there is none yet, or no API server."""
    return api.get(_PATH) or {}


def is_ready(found: Json) -> bool:
    conditions = found.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def forget_readiness(api: Api) -> None:
    """Take back what a kubelet that was killed said last, which is Ready.

    For when none runs; the next one says it anew.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    condition = {
        "type": "Ready",
        "status": "Unknown",
        "reason": "KubeletStopped",
        "message": "the local cluster is being started",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    if is_ready(get(api)):
        _patch(api, {"status": {"conditions": [condition]}}, "application/strategic-merge-patch+json")


def has_gpus(found: Json) -> bool:
    status = found.get("status", {})
    return all(status.get(kind, {}).get(GPU) == str(FAKE_GPUS) for kind in ("capacity", "allocatable"))


def add_gpus(api: Api) -> None:
    """Tell the scheduler of GPUs that do not exist: pods that ask for them are counted for real, and get none.

    A kubelet forgets them when it starts, before it says that it is Ready: this is for after that.
    """
    _patch(api, {"status": {"capacity": {GPU: str(FAKE_GPUS)}}}, "application/strategic-merge-patch+json")


def _patch(api: Api, patch: Json, content: str) -> None:
    status, body = api.request("PATCH", f"{_PATH}/status", patch, content)
    if status != 200:
        raise CannotRun(f"the API server refused a change of the node: {body.decode(errors='replace')}")

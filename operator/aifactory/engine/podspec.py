"""Building pod specs that pass Pod Security `restricted`, whatever the user's template leaves out.

What a template sets is kept; only what is missing is filled in. No template is ever changed in place.
Rules: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

Json = dict[str, Any]


def restricted_pod(spec: Mapping[str, Any], uid: int) -> Json:
    """A copy of a pod spec with the security settings that `restricted` asks for filled in.

    Args:
        spec: a PodSpec.
        uid: user, group and file system group of the containers where the template names none.
    """
    result: Json = _copied(dict(spec))
    context = result.setdefault("securityContext", {})
    context.setdefault("runAsNonRoot", True)
    context.setdefault("runAsUser", uid)
    context.setdefault("runAsGroup", uid)
    context.setdefault("fsGroup", uid)
    # Else the kubelet goes through every file of a volume at each start.
    context.setdefault("fsGroupChangePolicy", "OnRootMismatch")
    context.setdefault("seccompProfile", {"type": "RuntimeDefault"})
    for container in (*result.get("containers", ()), *result.get("initContainers", ())):
        own = container.setdefault("securityContext", {})
        if not own.get("privileged"):  # which implies it, and the API server refuses the two together
            own.setdefault("allowPrivilegeEscalation", False)
        own.setdefault("capabilities", {"drop": ["ALL"]})
    if not result.get("serviceAccountName"):
        result.setdefault("automountServiceAccountToken", False)
    result.setdefault("enableServiceLinks", False)
    return result


def _copied(value: Any) -> Any:
    """A copy of JSON; `copy.deepcopy` takes four times as long, and a pod is made of nothing else."""
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def merge_named(base: Iterable[Mapping[str, Any]], extra: Iterable[Mapping[str, Any]], key: str = "name") -> list[Json]:
    """Both lists, an entry of `extra` replacing the one of `base` with the same key."""
    extras = {entry[key]: dict(entry) for entry in extra}
    merged = [extras.pop(entry[key], dict(entry)) for entry in base]
    return [*merged, *extras.values()]


def merge_mounts(
    theirs: Iterable[Mapping[str, Any]], ours: Iterable[Mapping[str, Any]], free: Collection[str]
) -> list[Json]:
    """Both lists. At the same path ours counts, but at a path that is `free`, where the user's volume does."""
    theirs = list(theirs)
    taken = {mount["mountPath"].rstrip("/") for mount in theirs}
    needed = [mount for mount in ours if mount["mountPath"] not in taken or mount["mountPath"] not in free]
    return merge_named(theirs, needed, key="mountPath")


def owner_reference(api_version: str, kind: str, name: str, uid: str) -> Json:
    """A controller reference. Not blocking: a foreground deletion must not need our finalizer permission."""
    return {"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": True}


def memory_volume(name: str, size: str | None = None) -> Json:
    """An emptyDir in memory, as `/dev/shm` needs it."""
    volume: Json = {"medium": "Memory"}
    if size is not None:
        volume["sizeLimit"] = size
    return {"name": name, "emptyDir": volume}

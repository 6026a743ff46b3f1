"""Who has to look when something changes: store listeners that add keys to a queue.

Listeners hang on stores, not on watches: an answer to a write, a watch event and a list wake in the same way, and the
echo of what is known already wakes nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from aifactory.kube.objects import Metadata
from aifactory.kube.queue import WorkQueue
from aifactory.kube.resources import Key
from aifactory.kube.store import Change, Listener


def wake_owner(queue: WorkQueue[Key], kind: str, group: str) -> Listener[Any]:
    """A listener for a store of children: wakes the object of `kind` in API group `group` that controls the child.

    Children must have `Metadata`. If the controller changed, the old and the new one are woken.
    """

    def listener(change: Change[Any]) -> None:
        old, new = change.old, change.new
        if old is not None and new is not None and old.metadata.owner_references == new.metadata.owner_references:
            old = None
        for obj in (old, new):
            if obj is not None and (key := _owner(obj.metadata, kind, group)) is not None:
                queue.add(key, background=change.background)

    return listener


def wake_by(
    queue: WorkQueue[Key], keys: Callable[[Any], Iterable[Key]], *, view: Callable[[Any], Any] | None = None
) -> Listener[Any]:
    """A listener that wakes the keys `keys` finds for the object as it was and as it is.

    With `view`, what those who are woken see of an object, a change that does not show in it wakes nobody.
    """

    def listener(change: Change[Any]) -> None:
        old, new = change.old, change.new
        if view is not None and old is not None and new is not None and view(old) == view(new):
            return
        for obj in (old, new):
            if obj is not None:
                for key in keys(obj):
                    queue.add(key, background=change.background)

    return listener


def _owner(metadata: Metadata, kind: str, group: str) -> Key | None:
    owner = metadata.controller
    if owner is None or owner.kind != kind or owner.api_version.partition("/")[0] != group:
        return None
    return Key(metadata.namespace, owner.name)

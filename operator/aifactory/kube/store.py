"""What we know about the objects of one resource: a cache that only moves forward.

Three sources feed a store: a watch (in order), lists (a moment's truth, maybe an old moment), and the answers to our
own writes (often ahead of the watch). They overlap, repeat and overtake each other, so each fact is taken in only if
it is newer than what is known. Resource versions of one resource compare as numbers (Kubernetes 1.35, KEP-5504).

What always holds:
- An object never goes back to an older resource version.
- A UID that was deleted does not come back with a version from before its deletion, whatever arrives late.
- An answer to a write that the watch has already passed changes nothing: the store already knows what came of it.
- What a watch has reported as deleted comes back by a watch or a list only, never by an answer: it may only have left
  the selector, and then nothing would tell what becomes of it.
- Every change, whichever source it came from, is told to every subscriber exactly once, after it was taken in. The
  echo of a write that arrives by the watch is no change any more, nor is what the stored view does not show. Wake-ups
  hang on this: a source that changes the store can not forget to wake somebody.

A long list is taken in piece by piece: its objects with `put_listed`, then `advance` to its version, so that from then
on a late answer to an older write can not bring back what the list did not contain, and then what is `missing` goes.
Between the pieces the store holds newer views beside older ones, as it does between two events of a watch.

A store does no I/O and knows nothing about who reads it. It must be used from one thread (the event loop's).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aifactory.kube.objects import KubeObject, Struct, same_but_version
from aifactory.kube.resources import Key

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=KubeObject)

MAX_TOMBSTONES = 50_000
"""Deletions remembered. A late event is late by seconds; this is minutes at the highest rate we can delete."""

Index = Callable[[T], Iterable[Hashable]]
"""The values under which an object is found in an index."""


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """One object as it was and as it is; `old` is None for a new object, `new` is None for a deleted one.

    If a name was taken over by a new incarnation without our seeing the deletion, both are told: first the deletion.
    """

    old: T | None
    new: T | None
    background: bool = False
    """It came with the first list: nothing happened just now, so it need not be looked at before what did."""
    origin: str = ""
    """The controller whose own status write this was: it has drawn its conclusions already, others have not."""

    @property
    def object(self) -> T:
        """The newest view of the object."""
        found = self.new if self.new is not None else self.old
        assert found is not None
        return found


Listener = Callable[[Change[T]], None]


def version_number(resource_version: str) -> int:
    """A resource version as a number; one that is missing or opaque counts as the oldest."""
    return int(resource_version) if resource_version.isdecimal() else 0


class Store(Generic[T]):
    """Objects of one resource by (namespace, name), with secondary indexes.

    Args:
        decode: turns the JSON of one object into what is stored, for answers to our writes.
        indexes: name of each index and the function that says where an object is found in it.
    """

    def __init__(
        self, decode: Callable[[bytes], T] | None = None, *, indexes: Mapping[str, Index[T]] | None = None
    ) -> None:
        self._decode = decode
        self._objects: dict[Key, T] = {}
        self._indexes: dict[str, tuple[Index[T], dict[Hashable, dict[Key, T]]]] = {
            name: (function, {}) for name, function in (indexes or {}).items()
        }
        self._tombstones: OrderedDict[str, int] = OrderedDict()
        self._listeners: list[Listener[T]] = []
        self._seen = 0

    # --- Reading ---

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, namespace: str, name: str) -> T | None:
        """The object of that name."""
        return self._objects.get(Key(namespace, name))

    def by(self, index: str, value: Hashable) -> list[T]:
        """The objects found under a value of an index, in no particular order."""
        found = self._indexes[index][1].get(value)
        return list(found.values()) if found else []

    def all(self) -> list[T]:
        """Every object."""
        return list(self._objects.values())

    def keys(self) -> list[Key]:
        """The key of every object."""
        return list(self._objects)

    def groups(self, index: str) -> Iterator[tuple[Hashable, Collection[T]]]:
        """Every value of an index with the objects found under it. The store must not change meanwhile."""
        for value, found in self._indexes[index][1].items():
            yield value, found.values()

    def subscribe(self, listener: Listener[T]) -> None:
        """Call `listener` after every change from now on. It must be quick and must not write to the store."""
        self._listeners.append(listener)

    # --- Sources ---

    def put(self, obj: T, *, background: bool = False, origin: str = "") -> bool:
        """Take in an object as a watch or a list reported it; returns whether that was news.

        A new version in which nothing changed that the struct shows (a heartbeat, an annotation) is kept, but not told.
        `background` and `origin` are passed on to subscribers, see `Change`.
        """
        metadata = obj.metadata
        version = version_number(metadata.resource_version)
        if version <= self._tombstones.get(metadata.uid, -1):
            return False
        key = Key(metadata.namespace, metadata.name)
        old = self._objects.get(key)
        if old is not None:
            known = old.metadata
            if version <= version_number(known.resource_version):
                return False
            if known.uid != metadata.uid:
                self._bury(known.uid, version)
                self._remove(key, old)
                self._tell(Change(old, None, background))
                old = None
        self._insert(key, old, obj)
        if old is not None and isinstance(obj, Struct) and same_but_version(old, obj):
            return False
        self._tell(Change(old, obj, background, origin))
        return True

    def put_response(self, raw: bytes, *, origin: str = "") -> bool:
        """Take in the answer to a write of ours, unless the watch has passed it; returns whether it was news."""
        assert self._decode is not None, "a store that takes in responses needs a decoder"
        return self.apply_response(self._decode(raw), origin=origin)

    def put_unwatched(self, raw: bytes) -> None:
        """Take in an object that was read and that no watch need show, however old it is; the next list drops it again.

        What is known to be deleted, or known in a newer version, stays so.
        """
        assert self._decode is not None, "a store that takes in responses needs a decoder"
        self.put(self._decode(raw))

    def apply_response(self, obj: T, *, origin: str = "") -> bool:
        """As `put_response`, for an object that is already decoded."""
        metadata = obj.metadata
        if version_number(metadata.resource_version) <= self._seen or metadata.uid in self._tombstones:
            return False
        return self.put(obj, origin=origin)

    def delete(self, key: Key, uid: str, resource_version: str) -> bool:
        """An incarnation was deleted at a version; returns whether it was known. A newer one of the same name stays."""
        self._bury(uid, version_number(resource_version))
        old = self._objects.get(key)
        if old is None or old.metadata.uid != uid:
            return False
        self._remove(key, old)
        self._tell(Change(old, None))
        return True

    def remove(self, obj: T) -> bool:
        """As `delete`, for the object as the DELETED event of a watch carries it."""
        metadata = obj.metadata
        return self.delete(Key(metadata.namespace, metadata.name), metadata.uid, metadata.resource_version)

    def replace(self, objects: Iterable[T], resource_version: str, *, background: bool = False) -> None:
        """Take in a complete list, read at `resource_version`.

        What is known and not listed is deleted, unless it is newer than the list.
        """
        listed: set[str] = set()
        for obj in objects:
            self.put_listed(obj, listed, background=background)
        self.advance(resource_version)
        self.retain(listed, resource_version)

    def put_listed(self, obj: T, listed: set[str], *, background: bool) -> None:
        """Take in one object of a list and note its UID in `listed`, as the string that is kept anyway."""
        self.put(obj, background=background)
        metadata = obj.metadata
        known = self._objects.get(Key(metadata.namespace, metadata.name))
        listed.add(known.metadata.uid if known is not None and known.metadata.uid == metadata.uid else metadata.uid)

    def retain(self, uids: Iterable[str], resource_version: str) -> int:
        """Drop what a list read at `resource_version` did not contain; returns how many objects that were."""
        missing = self.missing(uids if isinstance(uids, (set, frozenset)) else set(uids), resource_version)
        for key, uid in missing:
            self.delete(key, uid, resource_version)
        return len(missing)

    def missing(self, uids: Set[str], resource_version: str) -> list[tuple[Key, str]]:
        """Key and UID of what is known and was not in a list read at `resource_version`, newer objects aside."""
        horizon = version_number(resource_version)
        return [
            (key, obj.metadata.uid)
            for key, obj in self._objects.items()
            if obj.metadata.uid not in uids and version_number(obj.metadata.resource_version) <= horizon
        ]

    def advance(self, resource_version: str) -> None:
        """Everything up to this version has been taken in (an ordered watch or a list got this far)."""
        self._seen = max(self._seen, version_number(resource_version))

    # --- Inside ---

    def _insert(self, key: Key, old: T | None, new: T) -> None:
        self._objects[key] = new
        for function, table in self._indexes.values():
            values = set(function(new))
            if old is not None:
                for value in function(old):
                    if value not in values:
                        self._unlink(table, value, key)
            for value in values:
                table.setdefault(value, {})[key] = new

    def _remove(self, key: Key, old: T) -> None:
        del self._objects[key]
        for function, table in self._indexes.values():
            for value in function(old):
                self._unlink(table, value, key)

    @staticmethod
    def _unlink(table: dict[Hashable, dict[Key, T]], value: Hashable, key: Key) -> None:
        entries = table.get(value)
        if entries is None:
            return
        entries.pop(key, None)
        if not entries:
            del table[value]

    def _bury(self, uid: str, version: int) -> None:
        if not uid:
            return
        self._tombstones[uid] = max(version, self._tombstones.get(uid, -1))
        if len(self._tombstones) > MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)

    def _tell(self, change: Change[T]) -> None:
        for listener in self._listeners:
            try:
                listener(change)
            except Exception:
                # One listener's mistake must not cost the others their wake-up.
                logger.exception("a listener failed on %s", change.object.metadata.name)


def by_controller(obj: Any) -> Iterable[Hashable]:
    """Index: namespace of the object and UID of the owner that manages it. For objects with `Metadata`.

    An owner and what it owns lie in one namespace: a reference across namespaces means nothing.
    https://kubernetes.io/docs/concepts/overview/working-with-objects/owners-dependents/
    """
    owner = obj.metadata.controller
    return ((obj.metadata.namespace, owner.uid),) if owner is not None else ()

"""What the process knows about the cluster: one store for each resource that a domain declares.

Domains read here and nowhere else. What always holds: a child is found by the namespace and UID of its owner, so
nothing in another namespace, and nothing that an earlier object of the same name has left, can pass for one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from aifactory.api.base import CustomResource
from aifactory.engine import custom
from aifactory.engine.custom import Stored, resource_of
from aifactory.engine.domain import Child, Domain, Index, Watch
from aifactory.kube.objects import Metadata, Pod, decoder
from aifactory.kube.podstate import NO_TROUBLE, Trouble
from aifactory.kube.resources import Key, Resource
from aifactory.kube.store import Change, Store, by_controller

T = TypeVar("T")
C = TypeVar("C", bound=CustomResource)
Wake = Callable[..., None]
"""`WorkQueue.add`: a key, and `background`."""

MAX_OWNERS = 4
"""Longest way from a child to the object it belongs to: pod, ReplicaSet, Deployment, our object."""


class Declaration(Exception):
    """Two domains say different things about one resource."""


class Cluster:
    """Stores, as the domains declare them.

    Args:
        domains: one of each kind.
        served: the optional resources that the API server serves.
        namespace: the one that is looked at; None: all of them.
    """

    def __init__(
        self, domains: Sequence[Domain[Any, Any]], served: Collection[Resource] = (), namespace: str | None = None
    ) -> None:
        self.domains = tuple(domains)
        self._namespace = namespace
        self._served = frozenset(served)
        self.children = {
            child.resource: child
            for child in declared_children(domains)
            if not child.optional or child.resource in self._served
        }
        indexes = _declared_indexes(domains)
        self._custom: dict[Resource, Store[Stored[Any]]] = {
            domain.resource: Store(
                custom.decoder(domain.model),
                indexes={name: _of_model(index) for name, index in indexes.get(domain.resource, {}).items()},
            )
            for domain in domains
        }
        self._objects: dict[Resource, Store[Any]] = {
            resource: Store(decoder(child.type), indexes={"controller": by_controller, **child.indexes})
            for resource, child in self.children.items()
        }
        self.explain: Callable[[Pod], Trouble] = lambda _: NO_TROUBLE
        """What the kubelet's Events say about a pod that does not start (`engine.podevents`)."""
        self.eviction: Callable[[Pod], Trouble | None] = lambda _: NO_TROUBLE
        """Whether they say that a pod that has ended was evicted; None until it is known."""
        self._by_kind = {(resource.group, resource.kind): resource for resource in self.stores}

    @property
    def stores(self) -> Mapping[Resource, Store[Any]]:
        """Every store."""
        return {**self._custom, **self._objects}

    # --- What domains read ---

    def serves(self, child: Child[Any]) -> bool:
        """Whether the API server serves it."""
        return child.resource in self._objects

    def reads(self, child: Child[Any], namespace: str) -> bool:
        """Whether it is known which of them there are in a namespace."""
        return self.serves(child) and self._namespace in (None, namespace)

    def get(self, child: Child[T], namespace: str, name: str) -> T | None:
        """The object of that name, whoever owns it."""
        store = self._objects.get(child.resource)
        return cast("T | None", store.get(namespace, name)) if store is not None else None

    def owned(self, child: Child[T], namespace: str, uid: str) -> list[T]:
        """The objects in the namespace that the object with this UID controls."""
        store = self._objects.get(child.resource)
        return cast("list[T]", store.by("controller", (namespace, uid))) if store is not None else []

    def having(self, child: Child[T], index: str, value: Hashable) -> list[T]:
        """The objects that an index of the child has under a value, whoever owns them."""
        store = self._objects.get(child.resource)
        return cast("list[T]", store.by(index, value)) if store is not None else []

    def find(self, index: Index[C], value: Hashable) -> list[C]:
        """The custom resources that an index has under a value; those that can not be read are left out."""
        store = self._custom.get(resource_of(index.model))
        found = store.by(index.name, value) if store is not None else []
        return [stored.model for stored in found if stored.model is not None]

    # --- What the engine reads ---

    def stored(self, resource: Resource) -> Store[Stored[Any]]:
        """The store of a domain's own kind."""
        return self._custom[resource]

    def objects(self, child: Child[Any]) -> Store[Any]:
        """The store of a kind of children; it must be served."""
        return self._objects[child.resource]

    def owner(self, metadata: Metadata) -> tuple[Resource, Key] | None:
        """The object of ours that something belongs to, over as many controllers as stand between them."""
        for _ in range(MAX_OWNERS):
            reference = metadata.controller
            if reference is None:
                return None
            resource = self._by_kind.get((reference.api_version.rpartition("/")[0], reference.kind))
            if resource in self._custom:
                return resource, Key(metadata.namespace, reference.name)
            parent = self._objects[resource].get(metadata.namespace, reference.name) if resource is not None else None
            if parent is None or parent.metadata.uid != reference.uid:
                return None
            metadata = parent.metadata
        return None

    # --- Who has to look when something changes ---

    def connect(
        self, wake: Mapping[Resource, Wake], later: Mapping[Resource, Callable[[Key], None]] | None = None
    ) -> None:
        """From now on every change in a store wakes the keys it concerns, by `wake` of their domain's resource.

        A child that is on its way and stays so wakes its owner by `later`, if that is given.

        Listeners hang on stores, not on watches: an answer to a write, a watch event and a list wake in the same way,
        and the echo of what is known already wakes nobody.
        """
        for resource, store in self._objects.items():
            store.subscribe(self._wake_owner(wake, later or {}, self.children[resource]))
        for domain in self.domains:
            for watch in domain.watches():
                self._custom[resource_of(watch.model)].subscribe(self._wake_watching(watch, wake[domain.resource]))
            self._custom[domain.resource].subscribe(_forget(domain))

    def _wake_owner(
        self, wake: Mapping[Resource, Wake], later: Mapping[Resource, Callable[[Key], None]], child: Child[Any]
    ) -> Callable[[Change[Any]], None]:
        def on_its_way(old: Any, new: Any) -> bool:
            if child.halfway is None or new is None:
                return False
            return child.halfway(new) and (old is None or child.halfway(old))

        def listener(change: Change[Any]) -> None:
            old, new = change.old, change.new
            if child.concerns is not None:
                for metadata in child.concerns(change.object, self):
                    if (owner := self.owner(metadata)) is not None:
                        wake[owner[0]](owner[1], background=change.background)
            if old is not None and new is not None and old.metadata.owner_references == new.metadata.owner_references:
                old = None
            for obj in (old, new):
                if obj is None or (owner := self.owner(obj.metadata)) is None:
                    continue
                if not change.background and owner[0] in later and on_its_way(change.old, new):
                    later[owner[0]](owner[1])
                else:
                    wake[owner[0]](owner[1], background=change.background)

        return listener

    def _wake_watching(self, watch: Watch[Any], wake: Wake) -> Callable[[Change[Stored[Any]]], None]:
        def listener(change: Change[Stored[Any]]) -> None:
            models = [stored.model for stored in (change.old, change.new) if stored is not None]
            views = [None if model is None or watch.view is None else watch.view(model) for model in models]
            if watch.view is not None and len(models) == 2 and views[0] == views[1]:
                return
            for model in models:
                if model is not None:
                    for key in watch.keys(model, self):
                        wake(key, background=change.background)

        return listener


def declared_children(domains: Iterable[Domain[Any, Any] | type[Domain[Any, Any]]]) -> list[Child[Any]]:
    """What the domains own, each resource once, with what all of them do with it.

    Raises:
        Declaration: two domains look at a resource through different windows.
    """
    found: dict[Resource, Child[Any]] = {}
    for child in (child for domain in domains for child in domain.children):
        known = found.get(child.resource, child)
        if known.type is not child.type:
            raise Declaration(f"{child.resource} is declared as {known.type.__name__} and as {child.type.__name__}")
        if known.selector != child.selector:
            raise Declaration(f"{child.resource} is declared with labels {known.selector} and {child.selector}")
        found[child.resource] = replace(
            known,
            verbs=tuple(dict.fromkeys((*known.verbs, *child.verbs))),
            writes_status=known.writes_status or child.writes_status,
            optional=known.optional and child.optional,
            indexes={**known.indexes, **child.indexes},
            concerns=known.concerns or child.concerns,
            halfway=known.halfway or child.halfway,
        )
    return list(found.values())


def _declared_indexes(domains: Iterable[Domain[Any, Any]]) -> dict[Resource, dict[str, Index[Any]]]:
    found: dict[Resource, dict[str, Index[Any]]] = {}
    for index in (index for domain in domains for index in domain.indexes()):
        known = found.setdefault(resource_of(index.model), {}).setdefault(index.name, index)
        if known.values != index.values:
            raise Declaration(f"index {index.name} of {index.model.__name__} is declared twice")
    return found


def _of_model(index: Index[Any]) -> Callable[[Stored[Any]], Iterable[Hashable]]:
    return lambda stored: () if stored.model is None else index.values(stored.model)


def _forget(domain: Domain[Any, Any]) -> Callable[[Change[Stored[Any]]], None]:
    def listener(change: Change[Stored[Any]]) -> None:
        if change.new is None:
            domain.gone(change.object.metadata.uid)

    return listener

"""The fields of Kubernetes objects that this operator reads, and no others.

Each struct is a window onto an object: what it does not name is skipped while decoding, which makes a watch event cost
microseconds and a cached pod one kilobyte. Nothing here is ever sent to the API server (that is what plain dictionaries
are for), so a field that is missing here can not be lost there.

All structs are frozen. `gc=False` is safe because nothing in them can form a cycle; it keeps ten thousand pods out of
the garbage collector's sight. What many objects say in the same words (labels, owners, conditions, images) is kept
once, see `sharing`. Times are aware `datetime`s in UTC.
Shapes: https://kubernetes.io/docs/reference/kubernetes-api/
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar
from zlib import crc32

import msgspec

from aifactory.api.names import FIELD_MANAGER
from aifactory.kube.resources import Key
from aifactory.kube.sharing import shared, shared_labels, shared_text

T = TypeVar("T")

_set = msgspec.structs.force_setattr


class Struct(msgspec.Struct, frozen=True, gc=False, rename="camel", kw_only=True):
    """Base of all windows: camelCase outside, snake_case inside."""


class OwnerReference(Struct, frozen=True, gc=False):
    kind: str
    name: str
    uid: str
    api_version: str = ""
    controller: bool = False


class Metadata(Struct, frozen=True, gc=False):
    """`metadata` without annotations and managed fields, which are half of a stored object and never looked at."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()
    deletion_timestamp: datetime | None = None

    def __post_init__(self) -> None:
        _set(self, "namespace", shared_text(self.namespace))
        if self.labels:
            _set(self, "labels", shared_labels(self.labels))
        if self.owner_references:
            _set(self, "owner_references", shared(self.owner_references))

    @property
    def key(self) -> Key:
        return Key(self.namespace, self.name)

    @property
    def controller(self) -> OwnerReference | None:
        """The owner that manages this object; an object has at most one."""
        for owner in self.owner_references:
            if owner.controller:
                return owner
        return None


class AnnotatedMetadata(Metadata, frozen=True, gc=False):
    """`metadata` of kinds whose annotations are read."""

    annotations: dict[str, str] = {}


class ManagedFields(Struct, frozen=True, gc=False):
    """Who has set which fields, as server-side apply keeps it."""

    manager: str = ""
    subresource: str = ""
    time: str = ""
    fields_v1: msgspec.Raw = msgspec.field(default=msgspec.Raw(b""), name="fieldsV1")

    @property
    def meddles(self) -> bool:
        """Somebody else has set something in the object's spec or data; `kubectl scale` counts, a status does not."""
        if self.manager == FIELD_MANAGER or self.subresource not in ("", "scale"):
            return False
        fields = bytes(self.fields_v1)
        return b'"f:spec"' in fields or b'"f:data"' in fields


class AppliedMetadata(AnnotatedMetadata, frozen=True, gc=False):
    """`metadata` of children that are kept as we want them; see `engine.apply`."""

    managed_fields: tuple[ManagedFields, ...] = ()
    edits: str = ""
    """Stands for what others have set in spec or data; computed from `managed_fields`, which are not kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.managed_fields:
            return
        digest = 0
        for entry in self.managed_fields:
            if entry.meddles:
                digest = crc32(b"%s %s %s" % (entry.manager.encode(), entry.time.encode(), entry.fields_v1), digest)
        _set(self, "managed_fields", ())
        _set(self, "edits", f"{digest:08x}" if digest else "")


class HasIdentity(Protocol):
    """The part of `metadata` a store needs; pydantic models with these attributes fit as well as the structs here."""

    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def resource_version(self) -> str: ...


class KubeObject(Protocol):
    """Anything a store can hold."""

    @property
    def metadata(self) -> HasIdentity: ...


class Condition(Struct, frozen=True, gc=False):
    """A condition of a pod or pod group."""

    type: str
    status: str = "Unknown"
    reason: str = ""
    message: str = ""


C = TypeVar("C", bound=Condition)


def condition(conditions: tuple[C, ...], type_: str) -> C | None:
    """The condition of that type, if it is there."""
    for entry in conditions:
        if entry.type == type_:
            return entry
    return None


class Waiting(Struct, frozen=True, gc=False):
    reason: str = ""
    message: str = ""


class Running(Struct, frozen=True, gc=False):
    """That it is there is all that counts."""


class Terminated(Struct, frozen=True, gc=False):
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    finished_at: datetime | None = None


class ContainerState(Struct, frozen=True, gc=False):
    """At most one of the three is set."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Struct, frozen=True, gc=False):
    name: str
    image: str = ""
    image_id: str = msgspec.field(default="", name="imageID")
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    """How it ended before it was started again."""
    restart_count: int = 0
    ready: bool = False


class PodSpec(Struct, frozen=True, gc=False):
    node_name: str = ""

    def __post_init__(self) -> None:
        _set(self, "node_name", shared_text(self.node_name))


READY, SCHEDULED, DISRUPTED = "Ready", "PodScheduled", "DisruptionTarget"
POD_CONDITIONS = frozenset({READY, SCHEDULED, DISRUPTED})


class PodStatus(Struct, frozen=True, gc=False):
    """Of the conditions only those that are read are kept: the others change often, and mean nothing to us."""

    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()

    def __post_init__(self) -> None:
        _set(self, "phase", shared_text(self.phase))
        if self.conditions:
            kept = tuple(entry for entry in self.conditions if entry.type in POD_CONDITIONS)
            _set(self, "conditions", shared(kept, _talkative(kept)))
        if self.container_statuses:
            _set(self, "container_statuses", shared(self.container_statuses, _ended(self.container_statuses)))
        if self.init_container_statuses:
            ended = _ended(self.init_container_statuses)
            _set(self, "init_container_statuses", shared(self.init_container_statuses, ended))


def _talkative(conditions: tuple[Condition, ...]) -> bool:
    """Somebody's words are in it, which are seldom the same twice."""
    return any(entry.message for entry in conditions)


def _ended(containers: tuple[ContainerStatus, ...]) -> bool:
    """A container has ended, now or before, or waits: when and why is its own."""
    return any(entry.state.running is None or entry.last_state.terminated is not None for entry in containers)


class Pod(Struct, frozen=True, gc=False):
    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class NodeStatus(Struct, frozen=True, gc=False):
    """Of the conditions only Ready is kept; the kubelet's heartbeat does not show in it."""

    conditions: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        kept = tuple(entry for entry in self.conditions if entry.type == READY)
        _set(self, "conditions", shared(kept, _talkative(kept)))


DEVICE_MEMORY = ".memory"
"""How labels end that NVIDIA's feature discovery puts on nodes: `nvidia.com/gpu.memory`, in MiB. Before it is the name
of the resource. Source: https://github.com/NVIDIA/k8s-device-plugin/blob/main/docs/gpu-feature-discovery/README.md"""
_NO_LABELS: dict[str, str] = {}


class NodeMetadata(Struct, frozen=True, gc=False):
    """`metadata` of a node. Of its labels, of which each has dozens that are its own, those are kept that say how much
    memory its devices have."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()

    def __post_init__(self) -> None:
        if self.labels:
            kept = {name: value for name, value in self.labels.items() if name.endswith(DEVICE_MEMORY)}
            _set(self, "labels", kept or _NO_LABELS)

    @property
    def controller(self) -> OwnerReference | None:
        """Nobody's."""
        return None


class Node(Struct, frozen=True, gc=False):
    """A machine: whether it is there and answers."""

    metadata: NodeMetadata
    status: NodeStatus = NodeStatus()


class Service(Struct, frozen=True, gc=False):
    metadata: AppliedMetadata


class ConfigMap(Struct, frozen=True, gc=False):
    """Without its data: it is written, never read."""

    metadata: AppliedMetadata


class DisruptionBudget(Struct, frozen=True, gc=False):
    """A PodDisruptionBudget, which is written, never read."""

    metadata: AppliedMetadata


class NetworkPolicy(Struct, frozen=True, gc=False):
    """Who may reach pods; it is written, never read."""

    metadata: AppliedMetadata


READ_WRITE_MANY = "ReadWriteMany"


class ClaimSpec(Struct, frozen=True, gc=False):
    access_modes: tuple[str, ...] = ()


class Claim(Struct, frozen=True, gc=False):
    """A PersistentVolumeClaim."""

    metadata: Metadata
    spec: ClaimSpec = ClaimSpec()


class DeploymentSpec(Struct, frozen=True, gc=False):
    replicas: int = 1


REPLICA_FAILURE, PROGRESSING = "ReplicaFailure", "Progressing"


class DeploymentStatus(Struct, frozen=True, gc=False):
    """Of the conditions only those are kept that say that no pods can be made: the others tell what we count."""

    replicas: int = 0
    ready_replicas: int = 0
    conditions: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        if self.conditions:
            _set(self, "conditions", tuple(entry for entry in self.conditions if _is_refusal(entry)))


def _is_refusal(entry: Condition) -> bool:
    """Pods, or the ReplicaSet that makes them, were refused; source: kubernetes pkg/controller/deployment."""
    if entry.type == REPLICA_FAILURE:
        return entry.status == "True"
    return entry.type == PROGRESSING and entry.status == "False" and entry.reason == "ReplicaSetCreateError"


class Deployment(Struct, frozen=True, gc=False):
    metadata: AppliedMetadata
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


class ReplicaSet(Struct, frozen=True, gc=False):
    """What stands between a Deployment and its pods."""

    metadata: Metadata


class Gang(Struct, frozen=True, gc=False):
    min_count: int = 0


class SchedulingPolicy(Struct, frozen=True, gc=False):
    gang: Gang = Gang()


class PodGroupSpec(Struct, frozen=True, gc=False):
    scheduling_policy: SchedulingPolicy = SchedulingPolicy()


class PodGroupStatus(Struct, frozen=True, gc=False):
    conditions: tuple[Condition, ...] = ()


class PodGroup(Struct, frozen=True, gc=False):
    """A gang of scheduling.k8s.io."""

    metadata: Metadata
    spec: PodGroupSpec = PodGroupSpec()
    status: PodGroupStatus = PodGroupStatus()


class WorkloadCondition(Condition, frozen=True, gc=False):
    """A whole `metav1.Condition`: such a list is written back with some of its entries changed."""

    last_transition_time: str = ""
    observed_generation: int = 0


class PodSetAssignment(Struct, frozen=True, gc=False):
    """Where pods of a set may run."""

    name: str = ""
    flavors: dict[str, str] = {}
    """By resource."""
    topology_assignment: dict[str, Any] | None = None
    """That there is one is all that counts."""


class Admission(Struct, frozen=True, gc=False):
    cluster_queue: str = ""
    pod_set_assignments: tuple[PodSetAssignment, ...] | None = ()


class PodSetUpdate(Struct, frozen=True, gc=False):
    """What an admission check wants pods of a set to have."""

    name: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()


class AdmissionCheck(Struct, frozen=True, gc=False):
    pod_set_updates: tuple[PodSetUpdate, ...] = ()


class WorkloadSpec(Struct, frozen=True, gc=False):
    queue_name: str = ""
    active: bool = True


class WorkloadStatus(Struct, frozen=True, gc=False):
    conditions: tuple[WorkloadCondition, ...] = ()
    admission: Admission | None = None
    admission_checks: tuple[AdmissionCheck, ...] = ()


class WorkloadMetadata(Metadata, frozen=True, gc=False):
    """`metadata` of a Workload, of which it counts how long it has waited."""

    creation_timestamp: datetime = datetime.min.replace(tzinfo=UTC)


class Workload(Struct, frozen=True, gc=False):
    """What stands for pods in a queue of Kueue's (kueue.x-k8s.io)."""

    metadata: WorkloadMetadata
    spec: WorkloadSpec = WorkloadSpec()
    status: WorkloadStatus = WorkloadStatus()


class FlavorSpec(Struct, frozen=True, gc=False):
    node_labels: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()


class ResourceFlavor(Struct, frozen=True, gc=False):
    """A sort of machines, as Kueue tells them apart."""

    metadata: Metadata
    spec: FlavorSpec = FlavorSpec()


class WorkloadPriorityClass(Struct, frozen=True, gc=False):
    metadata: Metadata
    value: int = 0


class GatewayCondition(Condition, frozen=True, gc=False):
    """A condition by which a controller of the Gateway API tells what it has looked at."""

    observed_generation: int = 0


class ParentReference(Struct, frozen=True, gc=False):
    """What a route hangs on; without a namespace it is in the route's own."""

    name: str
    namespace: str = ""
    section_name: str = ""
    kind: str = "Gateway"


class BackendReference(Struct, frozen=True, gc=False):
    name: str = ""
    weight: int = 1


class RouteRule(Struct, frozen=True, gc=False):
    backend_refs: tuple[BackendReference, ...] = ()


class RouteSpec(Struct, frozen=True, gc=False):
    parent_refs: tuple[ParentReference, ...] = ()
    rules: tuple[RouteRule, ...] = ()


class RouteParent(Struct, frozen=True, gc=False):
    parent_ref: ParentReference
    conditions: tuple[GatewayCondition, ...] = ()


class RouteStatus(Struct, frozen=True, gc=False):
    parents: tuple[RouteParent, ...] = ()


class Route(Struct, frozen=True, gc=False):
    """An HTTPRoute or a GRPCRoute: where it leads, and what the controllers of its parents say."""

    metadata: AppliedMetadata
    spec: RouteSpec = RouteSpec()
    status: RouteStatus = RouteStatus()


class Listener(Struct, frozen=True, gc=False):
    name: str
    port: int = 0
    protocol: str = ""
    hostname: str = ""


class GatewaySpec(Struct, frozen=True, gc=False):
    gateway_class_name: str = ""
    listeners: tuple[Listener, ...] = ()


class GatewayAddress(Struct, frozen=True, gc=False):
    value: str = ""


class GatewayStatus(Struct, frozen=True, gc=False):
    addresses: tuple[GatewayAddress, ...] = ()
    conditions: tuple[GatewayCondition, ...] = ()


class Gateway(Struct, frozen=True, gc=False):
    """A Gateway of gateway.networking.k8s.io, which users make."""

    metadata: Metadata
    spec: GatewaySpec = GatewaySpec()
    status: GatewayStatus = GatewayStatus()


class PartialObject(Struct, frozen=True, gc=False):
    """Any object, metadata only."""

    metadata: Metadata


def same_but_version(old: Any, new: Any) -> bool:
    """Whether two views of one object, both structs of this module, differ in nothing but their resource version."""
    for name in new.__struct_fields__:
        before, after = getattr(old, name), getattr(new, name)
        if name == "metadata":
            before = msgspec.structs.replace(before, resource_version=after.resource_version)
        if before != after:
            return False
    return True


# --- What surrounds objects on the wire -------------------------------------------------------------------------------


class ListMetadata(Struct, frozen=True, gc=False):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class ObjectList(Struct, Generic[T], frozen=True, gc=False):
    """One page of a list."""

    metadata: ListMetadata = ListMetadata()
    items: tuple[T, ...] | None = ()
    """None is how Go writes an empty list."""


class ServedResource(Struct, frozen=True, gc=False):
    name: str
    """Its plural, or `plural/subresource`."""


class ResourceList(Struct, frozen=True, gc=False):
    """What is served of one version of an API group."""

    resources: tuple[ServedResource, ...] = ()


class WatchEvent(Struct, Generic[T], frozen=True, gc=False):
    """One line of a watch; `type` is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: T


class StatusCause(Struct, frozen=True, gc=False):
    reason: str = ""
    message: str = ""
    field: str = ""


class StatusDetails(Struct, frozen=True, gc=False):
    name: str = ""
    kind: str = ""
    uid: str = ""
    retry_after_seconds: int = 0
    causes: tuple[StatusCause, ...] | None = ()


class Status(Struct, frozen=True, gc=False):
    """A `metav1.Status`: how the API server words a failure, and the answer to some deletes."""

    kind: str = ""
    status: str = ""
    message: str = ""
    reason: str = ""
    code: int = 0
    details: StatusDetails | None = None


def decoder(type_: type[T]) -> Callable[[bytes], T]:
    """A function that decodes JSON into a struct; raises `msgspec.ValidationError` or `msgspec.DecodeError`."""
    return msgspec.json.Decoder(type_).decode

"""Condition types and reasons, each with the one sentence that `docs/reasons.md` is generated from.

A reason is part of the contract: scripts match on it. Messages beside a reason are for people and name the object and
the next action.
"""

from __future__ import annotations

from enum import StrEnum


class ConditionType(StrEnum):
    """Types of `status.conditions`; Ready, Reconciling and Stalled follow kstatus."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    INPUTS_READY = "InputsReady"
    CHECKED = "Checked"
    ADMITTED = "Admitted"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"
    VERIFIED = "Verified"
    VALIDATED = "Validated"
    IN_USE = "InUse"
    AVAILABLE = "Available"
    ANALYSIS_INCONCLUSIVE = "AnalysisInconclusive"
    DEGRADED = "Degraded"


class Reason(StrEnum):
    """Why a condition has its status."""

    def __new__(cls, value: str, sentence: str) -> Reason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    sentence: str

    # TrainingJob
    PROBING_STORE = "ProbingStore", "It is found out whether the model store takes a result, before a pod trains."
    PROBE_FAILED = (
        "ProbeFailed",
        "The pod that tries out the model store failed without an answer; another one is made.",
    )
    PREPARING_INPUTS = "PreparingInputs", "Inputs are being fetched; no pod that trains is made before they are there."
    INPUTS_PREPARED = "InputsPrepared", "Every input is there, with the digest that status.inputs says."
    INPUT_FAILED = "InputFailed", "The pod that fetches an input failed without an answer; another one is made."
    CHECKING = (
        "Checking",
        "The program looks at its options and inputs in a pod without a GPU; no pod that trains is made before.",
    )
    CHECK_PASSED = "CheckPassed", "The program has found nothing in the way of training, before a pod asked for a GPU."
    CHECK_FAILED = (
        "CheckFailed",
        "The program has found that it could not train with its options and inputs, before a pod asked for a GPU; its "
        "words are in the message.",
    )
    CHECK_SKIPPED = (
        "CheckSkipped",
        "The program did not get to an answer where it has no GPU; its pods are made all the same.",
    )
    CREATING_PODS = "CreatingPods", "The pods of the current attempt are being created."
    WAITING_FOR_PODS = "WaitingForPods", "Pods exist but are not all running yet."
    ALL_NODES_READY = "AllNodesReady", "Every pod of the current attempt is running."
    SIDE_CONTAINER_FAILED = (
        "SideContainerFailed",
        "Every trainer runs, and a container beside one has ended badly; the message names it, and training goes on.",
    )
    UNSCHEDULABLE = "Unschedulable", "The scheduler finds no place for the pods; its own words are in the message."
    PODS_SCHEDULED = "PodsScheduled", "Every pod has a node."
    BACK_OFF = "BackOff", "The next attempt waits for the failure policy's backoff."
    STOPPING_PODS = (
        "StoppingPods",
        "Pods of an earlier attempt, or of a job that is suspended or being deleted, are ending.",
    )
    APPLICATION_ERROR = "ApplicationError", "The training program exited with an error; its last words are the message."
    OUT_OF_MEMORY = "OutOfMemory", "The kernel ended the trainer because it used more memory than its limit."
    ABORTED_AT_END = (
        "AbortedAtEnd",
        "The program had done its last step and was aborted on its way out; it is started again to publish its result.",
    )
    OUT_OF_DISK = (
        "OutOfDisk",
        "A pod used more local disk than its own limits (emptyDir sizeLimit, ephemeral-storage) allow: it was evicted.",
    )
    DISRUPTION = "Disruption", "A pod was evicted, preempted, drained or deleted by somebody else; it does not count."
    NODE_REFUSED = (
        "NodeRefused",
        "The node of a pod did not admit it (OutOfcpu, UnexpectedAdmissionError ...); no program "
        "ran, so it does not count and is tried again with growing waits.",
    )
    NODE_LOST = (
        "NodeLost",
        "A pod should have ended and its node has not confirmed that it has; the message says what a person can do.",
    )
    DEADLINE_EXCEEDED = (
        "DeadlineExceeded",
        "A pod ran longer than its template's activeDeadlineSeconds allow.",
    )
    CONTAINER_CANNOT_START = (
        "ContainerCannotStart",
        "The program is not in the image or can not be executed; no restart mends that.",
    )
    INIT_CONTAINER_FAILED = (
        "InitContainerFailed",
        "An init container of a pod failed, so its trainer was never started.",
    )
    RESIZED = "Resized", "spec.nodes.count changed, so the job restarts with the new number of pods."
    TEMPLATE_CHANGED = "TemplateChanged", "The pod settings changed, so the job restarts with them."
    RESUMED = "Resumed", "The job was suspended and runs again."
    QUEUED = "Queued", "The job waits in a queue of Kueue's for quota; Kueue's own words are in the message."
    PREEMPTED = (
        "Preempted",
        "Kueue has given the job's quota to another; its pods end with their grace period, and it waits for quota "
        "again.",
    )
    EVICTED = (
        "Evicted",
        "Kueue has taken the job's quota back (a queue was stopped, pods came up too late ...); its own words are in "
        "the message.",
    )
    NOT_ADMISSIBLE = (
        "NotAdmissible",
        "As things are Kueue can never admit the job (no such queue, more than all quota, no matching flavor ...).",
    )
    DEACTIVATED = "Deactivated", "The job's Workload is not active, so Kueue does not admit it; a person has to."
    KUEUE_MISSING = "KueueMissing", "The job names a queue of Kueue's, and the operator sees no Kueue that admits it."
    ADMITTED = "Admitted", "Kueue has admitted the job; the message says to which ClusterQueue and flavors."
    SUSPENDED = "Suspended", "spec.suspend is true and no pod is left."
    NOT_SUSPENDED = "NotSuspended", "spec.suspend is not set."
    MAX_RESTARTS_EXCEEDED = "MaxRestartsExceeded", "The failure policy allows no further restart within its window."
    NO_PROGRESS = "NoProgress", "The job was restarted as often as it may be without a later checkpoint between."
    NO_RESTART_REQUESTED = "NoRestartRequested", "The trainer exited with code 93, which asks for no restart."
    IMAGE_PULL_FAILED = "ImagePullFailed", "A node cannot pull the image; the runtime's own words are in the message."
    CONTAINER_CONFIG_ERROR = "ContainerConfigError", "A container cannot be created from its settings."
    VOLUME_NOT_MOUNTED = (
        "VolumeNotMounted",
        "A volume, Secret or claim of a pod can not be mounted; the kubelet's own words are in the message.",
    )
    POD_NOT_SET_UP = (
        "PodNotSetUp",
        "A node can not set up a pod (runtime, network, devices); the kubelet's own words are in the message.",
    )
    POD_REJECTED = "PodRejected", "The API server refused an object of ours; its own words are in the message."
    QUOTA_EXCEEDED = (
        "QuotaExceeded",
        "The namespace's ResourceQuota leaves no room; the server's words are the message.",
    )
    DEPENDENCY_MISSING = (
        "DependencyMissing",
        "A PriorityClass or ServiceAccount that a pod names, or the WorkloadPriorityClass of a job, does not exist.",
    )
    POD_SECURITY_VIOLATED = (
        "PodSecurityViolated",
        "The pods break the Pod Security level of the namespace; what they break is in the message.",
    )
    CLAIM_NOT_BOUND = "ClaimNotBound", "Pods wait for a PersistentVolumeClaim that is missing or has no volume yet."
    CRASH_LOOP_BACK_OFF = (
        "CrashLoopBackOff",
        "A container that is restarted in its pod ends again and again; the message names it and how it ended.",
    )
    NAME_CONFLICT = "NameConflict", "An object with a name we need belongs to somebody else; the message names both."
    PUBLISHING = "Publishing", "All pods succeeded and the result is being published."
    FORMAT_MISMATCH = "FormatMismatch", "The result is of another format than output.model.format says; it waits."
    PUBLISHER_FAILED = "PublisherFailed", "The pod that publishes failed without an answer; another one is made."
    SUCCEEDED = "Succeeded", "All pods succeeded and the result, if any, is registered as a ModelVersion."
    INVALID_SPEC = (
        "InvalidSpec",
        "The stored object does not fit this operator's API; the message names the field. What was asked for before "
        "goes on; what is asked for now is not there, so Ready is False. Available, Running and Verified say what was "
        "true when the object could be read last.",
    )
    FAILURE_LASTS = (
        "FailureLasts",
        "What the object needs has failed for a while and is tried again every minute; the failure is in the message. "
        "What was Ready before still is.",
    )

    # ModelVersion
    VERIFYING = "Verifying", "The artifact is being fetched and its digest computed."
    VERIFIED = "Verified", "The artifact is complete and has the expected digest."
    VALIDATED = "Validated", "The version was loaded into a Triton of its own and has answered as it must."
    VALIDATION_FAILED = (
        "ValidationFailed",
        "Triton could not load the version, or it answered wrongly; Triton's or the checker's own words are in the "
        "message. No pool gets it.",
    )
    VALIDATION_SKIPPED = (
        "ValidationSkipped",
        "The version was not tried before it became Ready, because that is switched off or it can not run there; the "
        "message says which.",
    )
    DIGEST_MISMATCH = "DigestMismatch", "The files do not have the digest that they should have."
    SOURCE_NOT_FOUND = "SourceNotFound", "There is nothing at the URI."
    INVALID_ARTIFACT = (
        "InvalidArtifact",
        "The artifact misses files its format needs, or holds files that run code; or a line of an input is not what "
        "its format asks for.",
    )
    UNSERVABLE = "Unservable", "No engine, or not the one that spec.runtime.engine names, can serve such a model."
    ACCESS_DENIED = "AccessDenied", "The store refused the credentials."
    STORE_UNAVAILABLE = "StoreUnavailable", "The store does not answer; it is asked again."
    STORE_FULL = "StoreFull", "There is no space left in the store."
    VERIFIER_FAILED = "VerifierFailed", "The pod that checks the artifact failed without an answer."
    USED_BY_POOLS = "UsedByPools", "At least one InferencePool serves the version or is about to."
    NOT_USED = "NotUsed", "No InferencePool serves the version."

    # InferencePool
    WAITING_FOR_MODEL = (
        "WaitingForModel",
        "No ModelVersion that fits what the spec names is Ready; the message names it.",
    )
    MODEL_NOT_READY = "ModelNotReady", "The pinned ModelVersion exists and is not Ready; the message says why."
    STARTING = "Starting", "Serving pods are starting and loading the model."
    SERVING = "Serving", "The wanted version is loaded on every pod and the Service routes to it."
    SCALED_TO_ZERO = (
        "ScaledToZero",
        "spec.replicas is 0, or nobody asks a pool of autoscaling.minReplicas 0: no pod, on purpose.",
    )
    ROLLING_OUT = "RollingOut", "A new version comes up beside the one that takes the traffic."
    ROLLOUT_DEADLINE_EXCEEDED = (
        "RolloutDeadlineExceeded",
        "The new version made no progress for spec.rollout.progressDeadlineSeconds and was taken back.",
    )
    WAITING_FOR_PROMOTION = (
        "WaitingForPromotion",
        "A Canary or Shadow has come to a step that waits for somebody; who gets what requests stays as it is.",
    )
    ROLLOUT_PAUSED = "RolloutPaused", "Somebody has paused the Canary or Shadow; who gets what requests stays as it is."
    ANALYZING = "Analyzing", "Two versions are compared, in a Canary or Shadow; who gets what requests stays as it is."
    ANALYSIS_INCONCLUSIVE = (
        "AnalysisInconclusive",
        "The time of an analysis is over, and there were too few requests to tell; it waits for more.",
    )
    ANALYSIS_FAILED = (
        "AnalysisFailed",
        "The new version broke a bound of rollout.analysis; metric, both values and the bound are in the message.",
    )
    ROLLOUT_ABORTED = "RolloutAborted", "Somebody has had the new version taken back."
    ROLLED_OUT = "RolledOut", "The wanted version takes all traffic."
    SCALED = "Scaled", "spec.autoscaling has chosen another number of pods; the message says by what."
    MODEL_TOO_LARGE = (
        "ModelTooLarge",
        "The version is larger than the memory that its pods may use: none is made; both sizes are in the message.",
    )
    HOT_SWAP_IMPOSSIBLE = (
        "HotSwapImpossible",
        "spec.rollout.strategy is HotSwap, and the pods have no room for the version beside the one they serve.",
    )
    MODEL_LOAD_FAILED = "ModelLoadFailed", "Triton could not load the version; its own words are in the message."
    PODS_NOT_READY = "PodsNotReady", "Fewer pods are ready than wanted."
    GATEWAY_NOT_READY = (
        "GatewayNotReady",
        "The version is loaded on every pod, and the gateway that leads to them is not in place yet or not whole.",
    )
    GATEWAY_API_MISSING = (
        "GatewayApiMissing",
        "spec.gateway.mode is GatewayAPI, and the cluster does not serve the routes that it takes.",
    )
    GATEWAY_NOT_FOUND = (
        "GatewayNotFound",
        "There is no Gateway, or no listener of it, of the name that spec.gateway.parentRefs says.",
    )
    ROUTE_NOT_ACCEPTED = (
        "RouteNotAccepted",
        "A Gateway does not take the pool's route; the words of its controller are in the message.",
    )


_NAMES = {str(reason): reason.name for reason in Reason}


def sentence(reason: str) -> str:
    """The documented sentence of a reason; raises KeyError for a reason that is not documented."""
    return reason_called(reason).sentence


def reason_called(text: str) -> Reason:
    """The reason of that name; raises KeyError for one that is not documented."""
    return Reason[_NAMES[text]]

"""Prometheus metrics of the layers `kube` and `engine`, under the names Go controllers use for the same things.

Dashboards made for controller-runtime and client-go work unchanged. No metric is labelled by object: a cluster with
many jobs must not become a Prometheus with many series.
Names: https://book.kubebuilder.io/reference/metrics-reference
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LONG_SECONDS: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)

REQUESTS: Final = Counter(
    "rest_client_requests_total", "HTTP requests to the API server, by verb and status code.", ["verb", "code"]
)
REQUEST_SECONDS: Final = Histogram(
    "rest_client_request_duration_seconds", "Time to an answer of the API server.", ["verb"], buckets=_SECONDS
)
REQUEST_RETRIES: Final = Counter(
    "rest_client_request_retries_total", "Requests sent again after a passing failure.", ["verb"]
)

QUEUE_DEPTH: Final = Gauge("workqueue_depth", "Keys waiting to be worked on.", ["name"])
QUEUE_ADDS: Final = Counter("workqueue_adds_total", "Keys added, those that were queued already aside.", ["name"])
QUEUE_RETRIES: Final = Counter("workqueue_retries_total", "Keys added again after a failure.", ["name"])
QUEUE_SECONDS: Final = Histogram(
    "workqueue_queue_duration_seconds", "Time a key waited in the queue.", ["name"], buckets=_LONG_SECONDS
)
WORK_SECONDS: Final = Histogram(
    "workqueue_work_duration_seconds", "Time a key was worked on.", ["name"], buckets=_LONG_SECONDS
)

RECONCILES: Final = Counter(
    "controller_runtime_reconcile_total",
    "Reconciles by result: success, requeue, requeue_after, error.",
    ["controller", "result"],
)
RECONCILE_ERRORS: Final = Counter(
    "controller_runtime_reconcile_errors_total", "Reconciles that failed and are tried again.", ["controller"]
)
RECONCILE_SECONDS: Final = Histogram(
    "controller_runtime_reconcile_time_seconds", "Length of a reconcile.", ["controller"], buckets=_SECONDS
)
ACTIVE_WORKERS: Final = Gauge("controller_runtime_active_workers", "Workers in a reconcile now.", ["controller"])
MAX_WORKERS: Final = Gauge(
    "controller_runtime_max_concurrent_reconciles", "Workers a controller may have.", ["controller"]
)
REFUSED_WRITES: Final = Counter(
    "aifactory_refused_writes_total", "Writes the API server refused for good, by its reason.", ["controller", "reason"]
)
STATUS_WRITES_DELAYED: Final = Counter(
    "aifactory_status_writes_delayed_total",
    "Status differences held back to be written with later ones.",
    ["controller"],
)

INFORMER_OBJECTS: Final = Gauge("informer_objects", "Objects in an informer's store.", ["resource"])
INFORMER_EVENTS: Final = Counter("informer_events_total", "Watch events by type.", ["resource", "type"])
INFORMER_LISTS: Final = Counter(
    "informer_lists_total", "Complete lists, by what made them necessary.", ["resource", "cause"]
)
INFORMER_ERRORS: Final = Counter(
    "informer_errors_total", "Failed lists and watches, by kind of failure.", ["resource", "error"]
)
INFORMER_STALLS: Final = Counter("informer_stalls_total", "Watches given up because nothing came.", ["resource"])
INFORMER_UNDECODABLE: Final = Counter(
    "informer_undecodable_objects_total", "Objects skipped because they do not have the expected shape.", ["resource"]
)

LEADER: Final = Gauge("leader_election_master_status", "1 while this process leads.", ["name"])

WAITS_FOR_RELEASE: Final = Gauge(
    "aifactory_waits_for_release", "1 while this process does not act because another release does.", ["name"]
)

EVENTS_SENT: Final = Counter(
    "aifactory_events_total", "Kubernetes Events by fate: sent, duplicate, dropped, failed.", ["fate"]
)

LOOP_LAG: Final = Histogram(
    "aifactory_event_loop_lag_seconds", "How late the event loop runs a timer.", buckets=_SECONDS
)

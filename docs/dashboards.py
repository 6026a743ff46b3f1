"""Grafana dashboards, as the chart ships them: what is to be seen of the factory, of a pool and of the operator.

A panel is a title, what it shows and its queries; places on the screen follow from the order. `make generate` writes
them to charts/aifactory/monitoring/dashboards. Every query is run against a real Prometheus by tests/monitoring.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF_POOL = 'namespace=~"$namespace",name=~"$pool"'
OF_PODS = 'aifactory_dev_pool_name=~"$pool"'
"""Of what serving pods tell themselves: a label that Prometheus gives them (docs/metrics.md)."""

OF_OPERATOR = "and on (instance) aifactory_event_loop_lag_seconds_count"
"""Every process has metrics of this name, and only the operator has that one."""


@dataclass(frozen=True)
class Panel:
    """One picture."""

    title: str
    queries: dict[str, str]
    """By their legends."""
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    words: str = ""
    height: int = field(default=7)


@dataclass(frozen=True)
class Dashboard:
    """Rows of panels, by their titles."""

    uid: str
    title: str
    rows: dict[str, list[Panel]]
    variables: tuple[str, ...] = ()


def stat(title: str, query: str, unit: str = "short", words: str = "") -> Panel:
    """One number."""
    return Panel(title, {"": query}, kind="stat", unit=unit, width=4, height=4, words=words)


def objects(kind: str) -> Panel:
    """Objects of a kind by phase."""
    return Panel(f"{kind}s", {"{{phase}}": f'sum by (phase) (aifactory_objects{{kind="{kind}"}})'})


def cost_per_hour(kind: str) -> str:
    """What the GPUs of all jobs or pools cost an hour."""
    return f"sum(aifactory_{kind}_gpus * on (namespace, name) aifactory_{kind}_gpu_hour_price)"


BY_NAME = "{{namespace}}/{{name}}"
BY_MODEL = BY_NAME + " {{model}}"
FACTORY = Dashboard(
    "aifactory-factory",
    "AI factory",
    {
        "At a glance": [
            stat("Tokens/s served", "sum(aifactory_pool_tokens_per_second)"),
            stat("Requests/s", "sum(aifactory_pool_requests_per_second)"),
            stat("Jobs that run", "sum(aifactory_job_running)"),
            stat("GPUs held", "sum({__name__=~'aifactory_(job|pool)_gpus'})"),
            stat(
                "Goodput of training",
                "1 - sum(aifactory_job_lost_gpu_seconds_total) / sum(aifactory_job_gpu_seconds_total)",
                "percentunit",
                "The part of the GPU seconds of jobs under way that was not lost to starts and restarts.",
            ),
            stat("Waiting for a person", "count(aifactory_object_stalled) or vector(0)"),
        ],
        "Data": [
            Panel("Inputs of jobs under way", {"{{phase}}": "sum by (phase) (aifactory_job_inputs)"}),
            Panel("Bytes that are there", {BY_NAME: "aifactory_job_input_bytes"}, unit="bytes"),
            Panel(
                "Waiting for a person",
                {"": "aifactory_object_stalled"},
                kind="table",
                words="The reason leads to docs/reasons.md; kubectl aifactory status says what to do.",
            ),
        ],
        "Training": [
            objects("TrainingJob"),
            Panel("Progress", {BY_NAME: "aifactory_job_progress_ratio"}, unit="percentunit"),
            Panel("Loss", {BY_NAME: "aifactory_job_loss"}),
            Panel("Tokens/s", {BY_NAME: "aifactory_job_tokens_per_second"}),
            Panel("Restarts", {BY_NAME: "aifactory_job_restarts_total"}),
            Panel(
                "GPU seconds lost, of all",
                {BY_NAME: "aifactory_job_lost_gpu_seconds_total / aifactory_job_gpu_seconds_total"},
                unit="percentunit",
            ),
        ],
        "Versions": [
            objects("ModelVersion"),
            Panel("Version served", {BY_NAME: "aifactory_pool_version", BY_MODEL: "aifactory_pool_model_version"}),
            Panel("Last change of versions", {"": "aifactory_pool_rollout"}, kind="table"),
            Panel(
                "Models that share a pool",
                {"": "aifactory_pool_model_state"},
                kind="table",
                words="One that is Failed or Refused keeps what it served before, and the others go on.",
            ),
        ],
        "Serving": [
            objects("InferencePool"),
            Panel("Tokens/s", {BY_NAME: "aifactory_pool_tokens_per_second"}),
            Panel("Requests/s", {BY_NAME: "aifactory_pool_requests_per_second"}),
            Panel(
                "Pods ready, of those wanted",
                {BY_NAME: "aifactory_pool_replicas_ready / (aifactory_pool_replicas_wanted > 0)"},
                unit="percentunit",
            ),
        ],
        "Cost": [
            Panel("$/Mtok", {BY_NAME: "aifactory_pool_cost_per_million_tokens"}, unit="currencyUSD"),
            Panel(
                "Cost per hour of the GPUs held",
                {"pools": cost_per_hour("pool"), "jobs": cost_per_hour("job")},
                unit="currencyUSD",
            ),
            Panel(
                "Tokens/s for each GPU",
                {BY_NAME: "aifactory_pool_tokens_per_second / (aifactory_pool_gpus > 0)"},
            ),
            Panel(
                "Idle GPUs",
                {BY_NAME: "rate(aifactory_pool_idle_gpu_seconds_total[$__rate_interval])"},
                words="GPUs of pools from which nobody had an answer.",
            ),
            Panel(
                "Cost of idle GPU seconds so far",
                {
                    BY_NAME: "aifactory_pool_idle_gpu_seconds_total / 3600"
                    " * on (namespace, name) aifactory_pool_gpu_hour_price"
                },
                unit="currencyUSD",
            ),
            Panel(
                "GPU seconds of the last change beyond the pool's own",
                {BY_NAME: "aifactory_pool_surge_gpu_seconds"},
                unit="s",
            ),
        ],
    },
)


def quantile(of: float, metric: str, by: str, more: str = "") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({of}, sum by (le{by}) (rate({metric}_bucket{more}[$__rate_interval])))"


POOL = Dashboard(
    "aifactory-pool",
    "AI factory: a pool",
    {
        "As the operator sees it": [
            stat("Version", f"aifactory_pool_version{{{OF_POOL}}}"),
            stat("Pods ready", f"aifactory_pool_replicas_ready{{{OF_POOL}}}"),
            stat("Pods wanted", f"aifactory_pool_replicas_wanted{{{OF_POOL}}}"),
            stat("Available", f"aifactory_pool_available{{{OF_POOL}}}"),
            stat("GPUs", f"aifactory_pool_gpus{{{OF_POOL}}}"),
            stat("$/Mtok", f"aifactory_pool_cost_per_million_tokens{{{OF_POOL}}}", "currencyUSD"),
            Panel("Tokens/s", {BY_NAME: f"aifactory_pool_tokens_per_second{{{OF_POOL}}}"}),
            Panel("Requests/s", {BY_NAME: f"aifactory_pool_requests_per_second{{{OF_POOL}}}"}),
            Panel(
                "GPU seconds a second",
                {
                    "all": f"sum(rate(aifactory_pool_gpu_seconds_total{{{OF_POOL}}}[$__rate_interval]))",
                    "idle": f"sum(rate(aifactory_pool_idle_gpu_seconds_total{{{OF_POOL}}}[$__rate_interval]))",
                },
            ),
        ],
        "Several models in its pods": [
            Panel("State of each", {"": f"aifactory_pool_model_state{{{OF_POOL}}}"}, kind="table"),
            Panel("Version of each", {"{{model}}": f"aifactory_pool_model_version{{{OF_POOL}}}"}),
            Panel("Pods ready", {"{{model}}": f"aifactory_pool_model_replicas_ready{{{OF_POOL}}}"}),
            Panel("Requests/s", {"{{model}}": f"aifactory_pool_model_requests_per_second{{{OF_POOL}}}"}),
            Panel("Tokens/s", {"{{model}}": f"aifactory_pool_model_tokens_per_second{{{OF_POOL}}}"}),
            Panel(
                "Memory, as measured",
                {"{{model}}": f"aifactory_pool_model_memory_bytes{{{OF_POOL}}}"},
                unit="bytes",
                words="What each version took when it was tried. Triton takes more while many ask at a time.",
            ),
        ],
        "As its pods see it": [
            Panel(
                "Requests answered",
                {
                    "{{model}} {{version}}": "sum by (model, version) "
                    f"(rate(nv_inference_request_success{{{OF_PODS}}}[$__rate_interval]))"
                },
                unit="reqps",
            ),
            Panel(
                "Requests failed",
                {
                    "{{model}} {{version}}, {{reason}}": "sum by (model, version, reason) "
                    f"(rate(nv_inference_request_failure{{{OF_PODS}}}[$__rate_interval]))"
                },
                unit="reqps",
            ),
            Panel(
                "Tokens",
                {
                    "generated": f"sum(rate(aifactory_generated_tokens_total{{{OF_PODS}}}[$__rate_interval]))",
                    "of prompts": f"sum(rate(aifactory_prompt_tokens_total{{{OF_PODS}}}[$__rate_interval]))",
                },
            ),
            Panel(
                "Time of a request in Triton, mean",
                {
                    "{{model}} {{version}}": "sum by (model, version) "
                    f"(rate(nv_inference_request_duration_us{{{OF_PODS}}}[$__rate_interval])) / 1e6 "
                    f"/ sum by (model, version) (rate(nv_inference_request_success{{{OF_PODS}}}[$__rate_interval]))"
                },
                unit="s",
            ),
            Panel("Waiting in Triton", {"": f"sum(nv_inference_pending_request_count{{{OF_PODS}}})"}),
            Panel(
                "Versions in the pods",
                {
                    "{{model}} {{version}} {{state}}": "sum by (model, version, state) "
                    f"(aifactory_agent_model_state{{{OF_PODS}}} == 1)"
                },
            ),
            Panel(
                "Seconds to load",
                {"{{model}} {{version}}": f"max by (model, version) (aifactory_agent_load_seconds{{{OF_PODS}}})"},
            ),
        ],
    },
    variables=("namespace", "pool"),
)

OPERATOR = Dashboard(
    "aifactory-operator",
    "AI factory: the operator",
    {
        "At a glance": [
            stat("Leads", 'sum(leader_election_master_status{name=~"(.+[.])?aifactory[.]dev"})'),
            stat("Behind", "sum(aifactory_objects_behind)", words="Objects whose status is older than their spec."),
            stat("Without figures", "sum(aifactory_objects_without_metrics)"),
            stat("Waits for another release", "max(aifactory_waits_for_release)"),
            stat("Memory", f"max(process_resident_memory_bytes {OF_OPERATOR})", "bytes"),
            stat("CPU", f"sum(rate(process_cpu_seconds_total[$__rate_interval]) {OF_OPERATOR})", "percentunit"),
        ],
        "Reconciling": [
            Panel("Keys that wait", {"{{name}}": "sum by (name) (workqueue_depth)"}),
            Panel(
                "Reconciles",
                {
                    "{{controller}} {{result}}": "sum by (controller, result) "
                    "(rate(controller_runtime_reconcile_total[$__rate_interval]))"
                },
                unit="ops",
            ),
            Panel(
                "Failures",
                {
                    "{{controller}}": "sum by (controller) "
                    "(rate(controller_runtime_reconcile_errors_total[$__rate_interval]))"
                },
                unit="ops",
            ),
            Panel(
                "Length of a reconcile, 99 of 100",
                {"{{controller}}": quantile(0.99, "controller_runtime_reconcile_time_seconds", ", controller")},
                unit="s",
            ),
            Panel(
                "Wait in the queue, 99 of 100",
                {"{{name}}": quantile(0.99, "workqueue_queue_duration_seconds", ", name")},
                unit="s",
            ),
            Panel(
                "Lateness of the event loop, 99 of 100",
                {"": quantile(0.99, "aifactory_event_loop_lag_seconds", "")},
                unit="s",
            ),
        ],
        "The API server": [
            Panel(
                "Requests",
                {"{{verb}} {{code}}": "sum by (verb, code) (rate(rest_client_requests_total[$__rate_interval]))"},
                unit="reqps",
            ),
            Panel(
                "Time to an answer, 99 of 100",
                {"{{verb}}": quantile(0.99, "rest_client_request_duration_seconds", ", verb")},
                unit="s",
            ),
            Panel(
                "Events of watches",
                {"{{resource}}": "sum by (resource) (rate(informer_events_total[$__rate_interval]))"},
                unit="ops",
            ),
            Panel("Objects known", {"{{resource}}": "sum by (resource) (informer_objects)"}),
        ],
    },
)
DASHBOARDS = (FACTORY, POOL, OPERATOR)


def rendered() -> dict[str, str]:
    """Each dashboard's JSON by the name of its file."""
    return {
        f"{each.uid.removeprefix('aifactory-')}.json": json.dumps(_dashboard(each), indent=1) + "\n"
        for each in DASHBOARDS
    }


def queries(dashboard: Dashboard) -> list[tuple[str, str]]:
    """Every query with the title of its panel."""
    return [
        (panel.title, query) for row in dashboard.rows.values() for panel in row for query in panel.queries.values()
    ]


def _dashboard(dashboard: Dashboard) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in dashboard.rows.items():
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": [], **_place(0, top, WIDTH, 1)})
        top, left, lowest = top + 1, 0, 0
        for panel in row:
            if left + panel.width > WIDTH:
                top, left, lowest = top + lowest, 0, 0
            panels.append(_panel(panel) | _place(left, top, panel.width, panel.height))
            left, lowest = left + panel.width, max(lowest, panel.height)
        top += lowest
    for number, found in enumerate(panels, 1):
        found["id"] = number
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["aifactory"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables(dashboard)},
        "panels": panels,
    }


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"type": "datasource", "name": "datasource", "query": "prometheus"}]
    where = {"namespace": "", "pool": '{namespace=~"$namespace"}'}
    label = {"namespace": "namespace", "pool": "name"}
    for name in dashboard.variables:
        query = f"label_values(aifactory_pool_replicas_wanted{where[name]}, {label[name]})"
        found.append({"type": "query", "name": name, "datasource": SOURCE, "query": query, "refresh": 2, "sort": 1})
    return found


def _panel(panel: Panel) -> dict[str, Any]:
    table = panel.kind == "table"
    targets = [
        {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": query, "legendFormat": legend or "__auto"}
        | ({"instant": True, "format": "table"} if table else {})
        for number, (legend, query) in enumerate(panel.queries.items())
    ]
    hidden = {"Time": True, "Value": True, "__name__": True, "instance": True, "job": True}
    tidy = {"id": "organize", "options": {"excludeByName": hidden}}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.words,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    } | ({"transformations": [tidy]} if table else {})


def _place(left: int, top: int, width: int, height: int) -> dict[str, Any]:
    return {"gridPos": {"x": left, "y": top, "w": width, "h": height}}

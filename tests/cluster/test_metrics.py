"""What operator, agent, engines and gateway tell at their metrics pages is what docs/metrics.md says, with a price on.

AIFACTORY_RECORD=tests/monitoring/recorded keeps two looks at each page for the test of the dashboards.
"""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

from aifactory.api import names
from tests.cluster import objects
from tests.cluster.traffic import Traffic
from tests.support.exposition import documented, fetch, types, value
from tests.support.kubectl import Kubectl
from tests.support.waiting import wait_for

PRICE = {"cost": {"gpuHourPrice": "3.60"}}
GPU = {"spec": {"containers": [{"name": "triton", "resources": {"limits": {"nvidia.com/gpu": 1}}}]}}
OPERATOR_PORT = 8080


def addresses(within: Kubectl, selector: str) -> list[str]:
    pods = within.list("pods", selector)
    return [pod["status"]["podIP"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def look(operator: Kubectl, within: Kubectl) -> dict[str, str]:
    """Every page, by who tells it."""
    (leader,) = addresses(operator, "app.kubernetes.io/name=aifactory-operator")
    *_, serving = addresses(within, "aifactory.dev/pool-name=priced,aifactory.dev/role=serve")
    (proxy,) = addresses(within, "aifactory.dev/pool-name=priced,aifactory.dev/role=gateway")
    ports = {"operator": OPERATOR_PORT, "agent": names.AGENT_PORT, "triton": names.TRITON_METRICS_PORT}
    ports["gateway"] = names.GATEWAY_STATUS_PORT
    where = {"operator": leader, "agent": serving, "triton": serving, "gateway": proxy}
    return {who: fetch(where[who], port) for who, port in ports.items()}


def share_pods(trained: Kubectl) -> None:
    """Pool `shared` serves two models from one pod, both asked."""
    other = objects.copy_version(trained.get("mver", "tiny-v1"), 1, model="other")
    other["metadata"]["name"] = "other-v1"
    pool = objects.pool("shared", "tiny")
    pool["spec"]["models"] = [{"name": "tiny", "version": 1}, {"name": "other", "version": 1}]
    trained.apply(other, pool)


def test_what_is_told_is_what_the_page_says(trained: Kubectl, operator: Kubectl) -> None:
    gateway = {"gateway": {"mode": "Envoy", "replicas": 1}, "rollout": {"strategy": "Surge"}}
    trained.apply(
        objects.pool("priced", "tiny", version=1, template=GPU, drain={"preStopSeconds": 2}, **gateway, **PRICE)
    )
    job = objects.training_job("steady", steps=20_000, nodes=1)
    job["spec"] |= {"inputs": [{"name": "base", "modelVersion": "tiny-v1"}], **PRICE}
    trained.apply(job)
    trained.wait_condition("ipool", "priced", "Ready")
    traffic = Traffic(trained, "priced", "tiny")
    trained.wait(
        "tjob", "steady", "to report", lambda f: f["status"].get("progress", {}).get("tokensPerSecond"), seconds=240
    )
    share_pods(trained)
    trained.wait_condition("ipool", "shared", "Ready", seconds=240)
    both = [Traffic(trained, "shared", model, name=f"traffic-{model}") for model in ("tiny", "other")]
    trained.wait(
        "ipool",
        "shared",
        "to tell what each model answers",
        lambda f: len(f["status"].get("throughput", {}).get("models", ())) == 2,
    )
    pool = trained.wait(
        "ipool",
        "priced",
        "to tell what tokens cost",
        lambda f: "costPerMillionTokens" in f["status"].get("throughput", {}),
    )
    figures = pool["status"]["throughput"]
    exact = Decimal(1000) / Decimal(figures["tokensPerSecond"])  # a tenth of a cent a second, by a million
    assert abs(Decimal(figures["costPerMillionTokens"]) - exact) <= exact / 200
    assert figures["tokensPerSecondPerGPU"] is not None
    (row,) = trained.run("get", "ipool", "priced", "-o", "wide", "--no-headers").out.splitlines()
    assert figures["costPerMillionTokens"] in row.split()

    first = look(operator, trained)
    assert types(first["operator"]) == documented("Objects", "Operator")
    assert types(first["agent"]) == documented("Agent")
    engines = types(first["triton"], "aifactory_")
    assert engines.items() <= documented("Engines").items()
    assert "aifactory_generated_tokens_total" in engines
    assert value(first["gateway"], "envoy_cluster_upstream_rq_completed", envoy_cluster_name="pods-http")
    page, this = first["operator"], {"namespace": str(trained.namespace)}
    assert value(page, "aifactory_pool_gpus", name="priced", **this) == 1
    assert value(page, "aifactory_pool_cost_per_million_tokens", name="priced", **this)
    assert value(page, "aifactory_job_gpus", name="steady", **this) == 1
    assert value(page, "aifactory_job_inputs", name="steady", phase="Ready", **this) == 1
    assert value(page, "aifactory_pool_gpu_seconds_total", name="priced", **this)
    for model in ("tiny", "other"):
        assert value(page, "aifactory_pool_model_replicas_ready", name="shared", model=model, **this) == 1
        assert value(page, "aifactory_pool_model_memory_bytes", name="shared", model=model, **this)
        assert value(page, "aifactory_pool_model_tokens_per_second", name="shared", model=model, **this) is not None

    def counted(pages: dict[str, str]) -> bool:
        """Requests were answered since the first look."""
        return (value(pages["triton"], "nv_inference_count") or 0) > (value(first["triton"], "nv_inference_count") or 0)

    later = wait_for("requests to be counted", lambda: look(operator, trained), counted, seconds=30)

    # Something happens before the second look: a version whose files are not there, and another one that is rolled out.
    good = trained.get("mver", "tiny-v1")
    lost = objects.copy_version(good, 9, source={"uri": "pvc://aifactory-models/nowhere"})
    trained.apply(objects.copy_version(good, 2), lost)
    trained.run("patch", "ipool", "priced", "--type=merge", "-p", '{"spec":{"models":[{"name":"tiny","version":2}]}}')
    trained.wait_condition("mver", "tiny-v9", "Stalled")
    trained.wait("ipool", "priced", "to serve version 2", lambda f: f["status"]["version"] == "2")

    def grown(pages: dict[str, str]) -> bool:
        """What has happened is told."""
        surge = value(pages["operator"], "aifactory_pool_surge_gpu_seconds", name="priced", **this)
        stalled = value(pages["operator"], "aifactory_object_stalled", name="tiny-v9", **this)
        return bool(surge and stalled)

    second = wait_for("the pages to move on", lambda: look(operator, trained), grown, seconds=30)
    second |= {"triton": later["triton"]}  # of the same pod
    if folder := os.environ.get("AIFACTORY_RECORD"):
        for number, pages in enumerate((first, second), 1):
            for who, text in pages.items():
                Path(folder, f"{who}-{number}.txt").write_text(text)
    assert [each.stop()["failed"] for each in (traffic, *both)] == [0, 0, 0]

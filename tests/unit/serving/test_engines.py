"""The engine that a pool wishes for: what pods are told, and what is said where it can not be."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from aifactory.api.reasons import Reason
from aifactory.serving import assignment, shape
from aifactory.serving.engines import unfit
from aifactory.serving.state import Settings
from tests.unit.serving.builders import conditions, message, pool, serving, version

GPU = {"limits": {"nvidia.com/gpu": 2}}


def template(resources: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    triton = {"name": "triton", **({"resources": resources} if resources else {})}
    return {"spec": {"containers": [triton], **spec}}


def desired(owner: Any) -> dict[str, Any]:
    document = json.loads(assignment.config(owner, version(1), "r")["data"]["desired.json"])
    model: dict[str, Any] = document["models"][0]
    return model


def test_pods_are_told_the_engine_that_the_pool_insists_on() -> None:
    assert desired(pool(runtime={"engine": "vllm"}))["engine"] == "vllm"
    for spec in ({}, {"runtime": {}}, {"runtime": {"engine": "auto"}}):
        assert "engine" not in desired(pool(**spec))


def test_another_engine_means_other_pods_and_auto_is_what_there_was() -> None:
    def revision(**spec: Any) -> str:
        return shape.revision_of(pool(**spec), version(1), "image")

    assert revision(runtime={"engine": "auto"}) == revision()
    assert len({revision(), revision(runtime={"engine": "vllm"}), revision(runtime={"engine": "transformers"})}) == 3


@pytest.mark.parametrize(
    "spec",
    [
        {"template": template(GPU)},
        {"template": template({"requests": {"nvidia.com/mig-1g.10gb": 1}})},
        {"template": template({"claims": [{"name": "gpu"}]})},
        {"template": template(runtimeClassName="nvidia")},
    ],
)
def test_gpus_come_in_many_ways(spec: dict[str, Any]) -> None:
    assert unfit(pool(runtime={"engine": "vllm"}, **spec), version(1)) is None


@pytest.mark.parametrize("spec", [{}, {"template": template()}, {"template": template({"limits": {"cpu": 4}})}])
def test_vllm_without_gpus_is_told_before_there_are_pods(spec: dict[str, Any]) -> None:
    found = unfit(pool(runtime={"engine": "vllm"}, **spec), version(1))
    assert found is not None
    assert found.reason is Reason.UNSERVABLE
    assert found.message == (
        "spec.runtime.engine is vllm, which computes on GPUs, and container triton asks for none: write nvidia.com/gpu "
        "under its resources.limits in spec.template, or leave spec.runtime.engine out"
    )
    assert unfit(pool(runtime={"engine": "transformers"}, **spec), version(1)) is None


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_programs_have_no_engine(engine: str) -> None:
    owner, program = pool(runtime={"engine": engine}, template=template(GPU)), version(1, format="torch-export")
    found = unfit(owner, program)
    assert found is not None
    assert found.message == (
        f"spec.runtime.engine is {engine}, which serves language models, and tiny-v1 is of format torch-export: leave "
        "spec.runtime.engine out"
    )
    assert unfit(pool(runtime={"engine": "auto"}), program) is None


def test_what_is_served_goes_on_beside_a_wrong_wish() -> None:
    world = serving(1, replicas=2)
    world.edit(runtime={"engine": "vllm"})
    world.settle()
    assert world.ready() == 2
    assert conditions(world.status)["Stalled"] == ("True", "Unservable")
    assert "which computes on GPUs" in message(world.status)
    world.edit(runtime=None)
    world.settle()
    assert conditions(world.status)["Ready"] == ("True", "Serving")


def test_the_hub_that_pods_are_told_is_looked_at_as_everywhere() -> None:
    (option,) = [field for field in fields(Settings) if field.name == "hub_endpoint"]
    assert option.metadata["parse"](" https://hub.example.com/ ") == "https://hub.example.com"

"""Several models that are loaded when they are asked for: what pods are told, what is refused, what the status says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from aifactory.api import names
from aifactory.serving import envoy, gateway, network, route
from aifactory.serving.network import Network
from tests.unit.serving.builders import conditions, message
from tests.unit.serving.test_several import BERT, GPT, Several, limited, several

MEBIBYTE = 1024**2
LOADED = 1_795_000_000


class OnDemand(Several):
    """Pods that have loaded what came first, as far as there is room."""

    def work(self, pod: Any) -> None:
        super().work(pod)
        (desired,) = [self.desired[name] for name, view in self.configs.items() if view.revision == pod.revision]
        room, resident = desired["onDemand"]["memoryBytes"], []
        for model in desired["models"]:
            if model.get("traffic") != "warm" and model["memoryBytes"] <= room:
                room -= model["memoryBytes"]
                resident.append(model["name"])
        loaded = tuple((name, LOADED + place) for place, (name, _) in enumerate(pod.report.answers))
        pod.report = replace(pod.report, resident=tuple(resident), loaded=loaded)


def on_demand(memory: str = "264Mi", **spec: Any) -> OnDemand:
    """Room for two models of 100 MiB beside Triton."""
    world = OnDemand(several(template=limited(memory), **{"loading": {"mode": "OnDemand"}, **spec}).pool)
    for model in ("gpt", "bert", "t5"):
        world.give(model, 1, format="huggingface", memory_bytes=100 * MEBIBYTE)
    return world


T5 = {"name": "t5", "track": "Latest"}
THREE = {"models": [GPT, BERT, T5]}


def test_more_models_than_fit_are_all_served_and_told_is_what_is_loaded() -> None:
    world = on_demand(**THREE)
    world.go()
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    assert world.states() == dict.fromkeys(("gpt", "bert", "t5"), ("Serving", 1))
    told = {each.name: (each.ready_replicas, each.resident_replicas) for each in world.status.models or ()}
    assert told == {"bert": (2, 2), "gpt": (2, 2), "t5": (2, 0)}
    assert world.model("t5").last_load_time == datetime.fromtimestamp(LOADED + 2, UTC)
    assert world.status.url == "http://chat.ns.svc:9000/v1"
    before = world.status.models
    for pod in world.live():
        pod.report = None
    world.step()
    assert world.status.models == before, "an operator that has asked nobody yet says nothing else"


def test_the_agents_are_told_how_much_room_there_is_and_what_each_takes() -> None:
    world = on_demand(loading={"mode": "OnDemand", "holdSeconds": 7, "maxHeldRequests": 3})
    world.go()
    (desired,) = world.desired.values()
    assert desired["onDemand"] == {"memoryBytes": 200 * MEBIBYTE, "holdSeconds": 7, "maxHeldRequests": 3}
    assert [each["memoryBytes"] for each in desired["models"]] == [100 * MEBIBYTE] * 2
    world.give("gpt", 2, format="huggingface", memory_bytes=90 * MEBIBYTE)
    world.go()
    (desired,) = world.desired.values()
    taken = {(each["name"], each["version"], each.get("traffic")): each["memoryBytes"] for each in desired["models"]}
    assert taken == {
        ("bert", 1, None): 100 * MEBIBYTE,
        ("gpt", 2, None): 90 * MEBIBYTE,
        ("gpt", 1, "warm"): 100 * MEBIBYTE,
    }


def test_eager_pools_are_told_nothing_of_it() -> None:
    world = several(template=limited("1Gi"), loading={"mode": "Eager"})
    world.give("gpt", 1)
    world.give("bert", 1)
    world.go()
    (desired,) = world.desired.values()
    assert "onDemand" not in desired
    assert world.model("gpt").resident_replicas is None


def test_a_version_swaps_in_where_there_is_room_for_both_though_not_beside_the_others() -> None:
    world = on_demand(**THREE)
    world.go()
    before = {pod.name for pod in world.live()}
    world.give("gpt", 2, format="huggingface", memory_bytes=100 * MEBIBYTE)
    world.go()
    assert world.states()["gpt"] == ("Serving", 2)
    assert {pod.name for pod in world.live()} == before
    world.give("gpt", 3, format="huggingface", memory_bytes=101 * MEBIBYTE)
    world.go()
    assert world.states()["gpt"] == ("Serving", 3)
    assert not {pod.name for pod in world.live()} & before
    assert world.status.rollout is not None
    assert world.status.rollout.strategy == "Surge"
    assert "gpt-v2 and gpt-v3 took 201MiB when they were tried" in (world.status.rollout.strategy_reason or "")


def test_one_that_has_no_room_even_alone_is_refused_with_numbers() -> None:
    world = on_demand(**THREE)
    world.give("t5", 2, format="huggingface", memory_bytes=300 * MEBIBYTE)
    world.go()
    assert world.states()["t5"] == ("Refused", None)
    assert world.model("t5").message == (
        "ModelVersion t5-v2 does not fit: it takes 300MiB of memory, beside it Triton 64MiB, 364MiB together, and "
        "resources.limits.memory of container triton in spec.template is 264Mi; raise it, or give t5 a pool of its own"
    )
    assert world.states()["gpt"] == ("Serving", 1)


@pytest.mark.parametrize(
    ("template", "version", "words"),
    [
        (limited("264Mi"), {"format": "torch-export"}, "gpt-v2 is of format torch-export, which is asked by Triton's"),
        ({"spec": {"containers": [{"name": "triton"}]}}, {}, "it has no resources.limits.memory"),
        (
            {
                "spec": {
                    "containers": [{"name": "triton", "resources": {"limits": {"memory": "1Gi", "nvidia.com/gpu": 1}}}]
                }
            },
            {},
            "it may have GPUs, and what models take of these is not measured",
        ),
    ],
)
def test_what_can_not_be_loaded_on_demand_is_refused(
    template: dict[str, Any], version: dict[str, Any], words: str
) -> None:
    world = on_demand()
    world.pool = several(template=template, loading={"mode": "OnDemand"}).pool
    world.give("gpt", 2, **{"format": "huggingface", **version})
    world.go()
    assert world.model("gpt").state == "Refused"
    assert world.model("gpt").reason == "Unservable"
    assert words in (world.model("gpt").message or message(world.status))


def test_the_mode_is_part_of_what_pods_are() -> None:
    world = on_demand()
    world.go()
    (before,) = world.deployments
    world.pool = several(template=limited("264Mi"), loading={"mode": "Eager"}).pool
    world.pool = world.pool.model_copy(update={"status": world.status})
    world.desired.clear()
    changed = network.policies(world.pool, Network(), openai=True, proxies=False, direct=True, triton=False)
    ports = [each["port"] for each in changed[0]["spec"]["ingress"][0]["ports"]]
    assert ports == [names.OPENAI_PORT]
    assert before


def test_clients_are_led_to_the_openai_port_alone() -> None:
    world = on_demand(gateway={"mode": "Envoy"})
    world.go()
    observed = world.observed()
    leads = gateway.routes(observed)
    files = envoy.files(leads)
    assert '"/v2/health/live"' in files["clusters.json"], "no model is loaded all the time"
    assert "/v2/models/" not in files["clusters.json"]
    spec = {"mode": "GatewayAPI", "parentRefs": [{"name": "public"}]}
    routed = on_demand(gateway=spec)
    (http,) = route.bodies(replace(observed, pool=routed.pool)).values()
    assert [rule["matches"][0]["path"]["value"] for rule in http["spec"]["rules"]] == ["/v1"]

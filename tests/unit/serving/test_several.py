"""Several models in a pool: each changes by itself, one at a time; what fails or has no room leaves others alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from aifactory.api.inferencepool import ModelStatus
from aifactory.api.reasons import ConditionType
from aifactory.engine.plan import Create
from aifactory.serving.shape import revision_of
from aifactory.serving.state import Report, VersionView, title
from tests.unit.serving.builders import World, conditions, message, pool, version
from tests.unit.serving.test_gateway import pinned

GPT, BERT = {"name": "gpt", "track": "Latest"}, {"name": "bert", "track": "Latest"}
GIBIBYTE = 1024**3


def limited(memory: str) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "triton", "resources": {"limits": {"memory": memory}}}]}}


class Several(World):
    """Pods of which each answers from what it was told, unless something of it does not load."""

    broken: tuple[str, ...] = ()
    """Versions that do not load."""
    words: str = "LoadFailed: no such layer"
    """Why they do not."""

    def give(self, model: str, number: int, **changes: Any) -> VersionView:
        """A ModelVersion of a model comes."""
        made = {
            "name": f"{model}-v{number}",
            "model": model,
            "uri": f"pvc://aifactory-models/{model}/{number}",
            "digest": f"sha256:{model}{number}",
            "format": "torch-export",
            "size_bytes": 1000,
            "memory_bytes": 1000,
        }
        view = version(number, **{**made, **changes})
        self.versions[len(self.versions) + 1000] = view
        return view

    def go(self) -> None:
        """All that can happen happens."""
        for _ in range(60):
            before = self.observed()
            self.step()
            for pod in self.live():
                self.work(pod)
            self.bury()
            if self.observed() == before:
                return
        raise AssertionError(f"no end: {self.status}")

    def work(self, pod: Any) -> None:
        """The agent of a pod does what it is told."""
        (desired,) = [self.desired[name] for name, view in self.configs.items() if view.revision == pod.revision] or [
            None
        ]
        if desired is None:
            return
        live = [model for model in desired["models"] if model.get("traffic") != "warm"]
        failed = tuple(
            (model["name"], self.words) for model in live if f"{model['name']}-v{model['version']}" in self.broken
        )
        before = dict(pod.report.answers) if pod.report is not None else {}
        answers = {model["name"]: model["version"] for model in live if model["name"] not in dict(failed)}
        answers = {name: answers.get(name, before.get(name)) for name in {model["name"] for model in live}}
        there = {name: number for name, number in answers.items() if number is not None}
        pod.ready = pod.ready or not failed
        pod.trouble = {} if pod.ready or not failed else {"load_error": failed[0][1]}
        pod.report = Report(
            desired["revision"],
            ready=not failed,
            version=next(iter(there.values()), None),
            error="; ".join(words for _, words in failed),
            load_seconds=1.5,
            answers=tuple(sorted(there.items())) if len(live) > 1 else (),
            failed=failed if len(live) > 1 else (),
        )

    def model(self, name: str) -> ModelStatus:
        return next(each for each in self.status.models or () if each.name == name)

    def states(self) -> dict[str, tuple[str, int | None]]:
        return {each.name: (each.state, each.version) for each in self.status.models or ()}

    def told(self) -> list[tuple[str, int, str]]:
        """What the only set of pods is told."""
        (desired,) = self.desired.values()
        return [(each["name"], each["version"], each.get("traffic", "live")) for each in desired["models"]]


def several(**spec: Any) -> Several:
    return Several(pool(**{"models": [GPT, BERT], **spec}))


def both(**spec: Any) -> Several:
    """A pool that serves version 1 of both."""
    world = several(**spec)
    world.give("gpt", 1)
    world.give("bert", 1)
    world.go()
    return world


def test_each_comes_up_in_the_same_pods() -> None:
    world = both()
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    assert message(world.status) == "bert-v1 + gpt-v1 is loaded on 2 of 2 pods"
    assert world.status.version == "bert@1, gpt@1"
    assert world.status.traffic == "2 pods of bert-v1 + gpt-v1 answer"
    assert world.states() == {"gpt": ("Serving", 1), "bert": ("Serving", 1)}
    assert [each.ready_replicas for each in world.status.models or ()] == [2, 2]
    assert world.model("gpt").memory == "0.977KiB"
    assert len(world.deployments) == 1
    assert [found.model_version for found in world.status.resolved] == ["bert-v1", "gpt-v1"]
    assert world.status.url == "http://chat.ns.svc:8000"


def test_the_first_one_serves_before_the_second_is_there() -> None:
    world = several()
    world.give("gpt", 1)
    world.go()
    assert world.states() == {"gpt": ("Serving", 1), "bert": ("Waiting", None)}
    assert conditions(world.status)["Available"] == ("True", "Serving")
    assert conditions(world.status)["Reconciling"] == ("True", "WaitingForModel")
    assert "waiting for a ModelVersion of bert: none exists" in message(world.status)
    before = {pod.name for pod in world.live()}
    world.give("bert", 1)
    world.go()
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    assert {pod.name for pod in world.live()} == before, "the pods that run take it up"


def test_a_new_version_of_one_is_swapped_in_and_the_other_stays_as_it_is() -> None:
    world = both()
    before = {pod.name for pod in world.live()}
    world.give("bert", 2)
    world.go()
    assert world.states() == {"gpt": ("Serving", 1), "bert": ("Serving", 2)}
    assert world.status.rollout is not None
    assert (world.status.rollout.strategy, world.status.rollout.model) == ("HotSwap", "bert")
    assert world.told() == [("bert", 2, "live"), ("gpt", 1, "live"), ("bert", 1, "warm")]
    assert {pod.name for pod in world.live()} == before
    assert "RolledOut: bert-v2 takes all requests for bert" in world.events


def test_two_that_come_together_change_one_after_the_other() -> None:
    world = both()
    world.give("bert", 2)
    world.give("gpt", 2)
    world.step()
    assert world.states() == {"gpt": ("Changing", 1), "bert": ("Waiting", 1)}
    assert world.model("bert").message == "version 2 is next: one model changes at a time"
    world.go()
    assert world.states() == {"gpt": ("Serving", 2), "bert": ("Serving", 2)}


def test_one_that_does_not_load_is_taken_back_and_the_other_goes_on() -> None:
    world = both()
    world.broken = ("gpt-v2",)
    world.give("gpt", 2)
    world.give("bert", 2)
    world.go()
    assert world.states() == {"gpt": ("Failed", 1), "bert": ("Serving", 2)}
    assert conditions(world.status)["Stalled"] == ("True", "ModelLoadFailed")
    assert conditions(world.status)["Degraded"][0] == "True"
    assert conditions(world.status)["Available"][0] == "True"
    assert "model gpt: gpt-v2 was taken back, it does not load" in message(world.status)
    assert world.told() == [("bert", 2, "live"), ("gpt", 1, "live"), ("bert", 1, "warm")]
    failed = world.model("gpt").failed
    assert failed is not None
    assert (failed.model_version, failed.attempts, failed.retry_time) == ("gpt-v2", 1, None)

    world.broken = ()
    world.give("gpt", 3)
    world.go()
    assert world.states()["gpt"] == ("Serving", 3)
    assert conditions(world.status)["Ready"][0] == "True"


def test_it_is_tried_again_on_request() -> None:
    world = both()
    world.broken = ("gpt-v2",)
    world.give("gpt", 2)
    world.go()
    assert world.states()["gpt"] == ("Failed", 1)
    world.broken = ()
    world.pool.metadata.annotations["aifactory.dev/retry"] = "please"
    world.go()
    assert world.states()["gpt"] == ("Serving", 2)
    assert world.status.retried == "please"


def test_the_first_one_that_does_not_load_keeps_no_other_away() -> None:
    world = several()
    world.broken = ("gpt-v1",)
    world.give("gpt", 1)
    world.give("bert", 1)
    world.go()
    assert world.states() == {"gpt": ("Failed", None), "bert": ("Serving", 1)}
    assert conditions(world.status)["Available"][0] == "True"
    assert conditions(world.status)["Stalled"] == ("True", "ModelLoadFailed")


def test_without_room_beside_the_others_it_is_refused_with_numbers() -> None:
    world = several(template=limited("1Gi"))
    world.give("gpt", 1, memory_bytes=600 * 1024**2)
    world.give("bert", 1, memory_bytes=500 * 1024**2)
    world.go()
    assert world.states() == {"gpt": ("Serving", 1), "bert": ("Refused", None)}
    assert world.model("bert").reason == "ModelTooLarge"
    assert world.model("bert").message == (
        "ModelVersion bert-v1 does not fit: it takes 500MiB of memory, beside it gpt-v1 600MiB and Triton 64MiB, "
        "1.14GiB together, and resources.limits.memory of container triton in spec.template is 1Gi; raise it, or give "
        "bert a pool of its own"
    )
    assert conditions(world.status)["Stalled"] == ("True", "ModelTooLarge")
    assert conditions(world.status)["Available"][0] == "True"
    world.edit(template=limited("2Gi"))
    world.go()
    assert world.states() == {"gpt": ("Serving", 1), "bert": ("Serving", 1)}


def test_what_is_served_is_not_stopped_for_one_that_stands_before_it() -> None:
    world = several(template=limited("1Gi"))
    world.give("bert", 1, memory_bytes=600 * 1024**2)
    world.go()
    world.give("gpt", 1, memory_bytes=600 * 1024**2)
    world.go()
    assert world.states() == {"gpt": ("Refused", None), "bert": ("Serving", 1)}


def test_where_both_versions_have_no_room_new_pods_take_over() -> None:
    world = several(template=limited("2Gi"))
    world.give("gpt", 1, memory_bytes=GIBIBYTE)
    world.give("bert", 1, memory_bytes=GIBIBYTE // 2)
    world.go()
    world.give("gpt", 2, memory_bytes=GIBIBYTE)
    world.go()
    assert world.states() == {"gpt": ("Serving", 2), "bert": ("Serving", 1)}
    assert world.status.rollout is not None
    assert world.status.rollout.strategy == "Surge"
    assert "bert-v1, gpt-v1 and gpt-v2 took 2.5GiB when they were tried" in (world.status.rollout.strategy_reason or "")


def test_hotswap_insisted_on_without_room_refuses_that_model_alone() -> None:
    world = several(template=limited("2Gi"), rollout={"strategy": "HotSwap"})
    world.give("gpt", 1, memory_bytes=GIBIBYTE)
    world.give("bert", 1, memory_bytes=GIBIBYTE // 2)
    world.go()
    world.give("gpt", 2, memory_bytes=GIBIBYTE)
    world.give("bert", 2, memory_bytes=1000)
    world.go()
    assert world.states() == {"gpt": ("Refused", 1), "bert": ("Serving", 2)}
    assert world.model("gpt").reason == "HotSwapImpossible"


def test_a_model_that_is_taken_out_of_the_pool_goes() -> None:
    world = several(models=[GPT, BERT, {"name": "t5", "version": 1}])
    for name in ("gpt", "bert", "t5"):
        world.give(name, 1)
    world.go()
    assert len(world.states()) == 3
    world.edit(models=[GPT, BERT])
    world.go()
    assert world.states() == {"gpt": ("Serving", 1), "bert": ("Serving", 1)}
    assert world.told() == [("bert", 1, "live"), ("gpt", 1, "live")]
    assert len(world.deployments) == 1


def test_one_that_goes_is_there_until_the_proxies_ask_for_another() -> None:
    world = several(gateway={"mode": "Envoy"}, models=[GPT, BERT, {"name": "t5", "version": 1}])
    for name in ("gpt", "bert", "t5"):
        world.give(name, 1)
    world.go()
    world.proxies(2)
    world.go()
    assert pinned(world).keys() == {"gpt@1", "bert@1", "t5@1"}
    assert checked(world) == "/v2/models/gpt/ready"
    world.edit(models=[BERT, {"name": "t5", "version": 1}])
    world.step()
    assert checked(world) == "/v2/models/bert/ready"
    assert ("gpt", 1, "live") in world.told()
    world.go()
    assert world.told() == [("bert", 1, "live"), ("t5", 1, "live")]
    assert {pod.told for pod in world.gateway.pods} != {""}


def checked(world: Several) -> str:
    """What proxies ask pods."""
    clusters = json.loads(world.files["clusters.json"])["resources"]
    (path,) = {each["health_checks"][0]["http_health_check"]["path"] for each in clusters}
    return str(path)


def test_from_one_model_to_two_and_back_by_new_pods() -> None:
    world = several(models=[GPT])
    world.give("gpt", 1)
    world.give("bert", 1)
    world.go()
    assert world.status.models is None
    world.edit(models=[GPT, BERT])
    world.go()
    assert world.states() == {"gpt": ("Serving", 1), "bert": ("Serving", 1)}
    world.edit(models=[GPT])
    world.go()
    assert (world.status.models, world.status.version) == (None, "1")
    assert conditions(world.status)["Ready"][0] == "True"


def test_to_other_models_altogether() -> None:
    world = several(models=[GPT])
    for name in ("gpt", "bert", "t5"):
        world.give(name, 1)
    world.go()
    world.edit(models=[BERT, {"name": "t5", "version": 1}])
    world.go()
    assert world.states() == {"bert": ("Serving", 1), "t5": ("Serving", 1)}
    assert conditions(world.status)["Ready"][0] == "True"
    assert len(world.deployments) == 1


def test_a_version_that_is_served_and_gone_makes_room_for_another_one() -> None:
    world = both()
    world.versions = {key: view for key, view in world.versions.items() if view.name != "bert-v1"}
    world.give("bert", 2)
    world.go()
    assert world.states() == {"gpt": ("Serving", 1), "bert": ("Serving", 2)}


def test_another_claim_is_mounted_beside_the_first() -> None:
    world = several()
    world.give("gpt", 1)
    world.give("bert", 1, uri="pvc://berts/1", secret="store")
    decision = world.settle()
    assert not decision.writes
    made = Several(pool(wish=None, models=[GPT, BERT]), versions=world.versions)
    bodies = [write.body for write in made.step().writes if isinstance(write, Create)]
    (deployment,) = (body for body in bodies if body["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    claims = [each["persistentVolumeClaim"]["claimName"] for each in spec["volumes"] if "persistentVolumeClaim" in each]
    assert claims == ["aifactory-models", "berts"], "what is to come is mounted from the beginning"
    names = [each["name"] for each in spec["volumes"] if each.keys() & {"persistentVolumeClaim", "secret"}]
    assert names == ["aifactory-models", "aifactory-models-1", "aifactory-secret"]


def test_a_version_that_is_served_and_gone_is_told_and_nothing_is_stopped() -> None:
    world = both()
    world.versions = {key: view for key, view in world.versions.items() if view.name != "bert-v1"}
    world.go()
    assert conditions(world.status)["Available"][0] == "True"
    assert "bert-v1 is served and gone" in message(world.status, ConditionType.RECONCILING)
    assert world.told() == [("bert", 1, "live"), ("gpt", 1, "live")]


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_wish_that_is_taken_back_at_any_time(steps: int) -> None:
    world = both(models=[{"name": "gpt", "version": 1}, {"name": "bert", "version": 1}])
    world.give("bert", 2)
    world.edit(models=[{"name": "gpt", "version": 1}, {"name": "bert", "version": 2}])
    for _ in range(steps):
        world.step()
    world.edit(models=[{"name": "gpt", "version": 1}, {"name": "bert", "version": 1}])
    world.go()
    assert world.states() == {"gpt": ("Serving", 1), "bert": ("Serving", 1)}
    assert conditions(world.status)["Ready"][0] == "True"


def test_of_versions_together_each_is_told_as_it_is_alone() -> None:
    gpt, bert, t5 = (version(1, name=f"{name}-v1", model=name) for name in ("gpt", "bert", "t5"))
    bundle = replace(gpt, beside=(bert,), coming=(t5,))
    assert bundle.all == (bert, gpt)
    assert bundle.held == (bert, gpt, t5)
    assert bundle.title == "bert-v1 + gpt-v1"
    assert title(["gpt-v2", "bert-v1"]) == "bert-v1 + gpt-v2"
    assert several().observed().served(None) is None


@pytest.mark.parametrize(
    ("report", "errors", "versions"),
    [
        (Report(error="no", version=3), ("no", "no"), (3, 3)),
        (Report(error="no", version=3, failed=(("gpt", "no gpt"),)), ("no gpt", ""), (None, None)),
        (Report(error="no", version=3, answers=(("gpt", 2),)), ("", ""), (2, None)),
    ],
)
def test_what_an_agent_says_of_each_model(report: Report, errors: Any, versions: Any) -> None:
    """An agent that says nothing of each has one model to bring up."""
    assert (report.error_of("gpt"), report.error_of("bert")) == errors
    assert (report.version_of("gpt"), report.version_of("bert")) == versions


def held(**changes: Any) -> VersionView:
    """A language model and another one from different places, with different Secrets, and one that is to come."""
    places = {"gpt": "hf://org/gpt", "bert": "pvc://berts/1", "t5": "s3://store/t5", "vit": "s3://store/vit"}
    formats = {"gpt": "huggingface", "bert": "torch-export", "t5": "torch-export", "vit": "torch-export"}
    views = {
        name: version(1, name=f"{name}-v1", model=name, uri=uri, format=formats[name], secret=f"of-{name}")
        for name, uri in places.items()
    }
    made = {"beside": (views["gpt"], views["t5"]), "coming": (views["vit"],)}
    return replace(views["bert"], **{**made, **changes})


def test_pods_of_several_models_are_found_again_under_the_names_that_earlier_releases_gave_them() -> None:
    """Another name for the same would change over every pool of every installation."""
    owner = pool(models=[GPT, BERT], runtime={"engine": "transformers"})
    assert revision_of(owner, held(), "aifactory/server:1") == "v2-c94c4b3d-ab326a40"
    assert revision_of(owner, held(beside=()), "aifactory/server:1") == "v2-28c913d3-fad2a770"

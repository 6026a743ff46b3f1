"""Two models in the same pods: one is swapped there and back, the other loses no request and is never touched; what has
no room beside them is refused with numbers, and they go on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster import objects
from tests.cluster.traffic import Traffic
from tests.support.kubectl import Kubectl, condition
from tests.support.waiting import wait_for

Json = dict[str, Any]
SERVER_BYTES = 64 * 1024 * 1024


@pytest.fixture
def pool(trained: Kubectl) -> Kubectl:
    """Pool `shared` serves tiny and other, the same artifact; there are two versions of other, and a third model."""
    good = trained.get("mver", "tiny-v1")
    made = []
    for model, number in (("other", 1), ("other", 2), ("third", 1)):
        copied = objects.copy_version(good, number, model=model)
        copied["metadata"]["name"] = f"{model}-v{number}"
        trained.apply(copied)
        made.append(copied["metadata"]["name"])
    for name in made:
        trained.wait_condition("mver", name, "Ready", seconds=120)
    # Far more than was measured at the trials, where one asks at a time.
    taken = max(trained.get("mver", name)["status"]["memoryBytes"] for name in ("tiny-v1", *made))
    limit = {"name": "triton", "resources": {"limits": {"memory": str(8 * taken + SERVER_BYTES)}}}
    made_pool = objects.pool("shared", "tiny", replicas=2, template={"spec": {"containers": [limit]}})
    made_pool["spec"]["models"] = [{"name": "tiny", "version": 1}, {"name": "other", "version": 1}]
    trained.apply(made_pool)
    trained.wait_condition("ipool", "shared", "Ready", seconds=240)
    return trained


def wish(pool: Kubectl, **versions: int) -> None:
    models = [{"name": name, "version": number} for name, number in versions.items()]
    pool.run("patch", "ipool", "shared", "--type=merge", "-p", json.dumps({"spec": {"models": models}}))


def states(found: Json) -> dict[str, tuple[str, int | None]]:
    return {each["name"]: (each["state"], each.get("version")) for each in found["status"].get("models", ())}


def until(pool: Kubectl, what: str, **expected: tuple[str, int | None]) -> Json:
    return pool.wait(
        "ipool",
        "shared",
        what,
        lambda found: (
            states(found) == expected and found["status"]["observedGeneration"] == found["metadata"]["generation"]
        ),
        seconds=180,
    )


def pods(pool: Kubectl) -> set[str]:
    found = (pod["metadata"] for pod in pool.list("pods", "aifactory.dev/pool-name=shared"))
    return {meta["uid"] for meta in found if "deletionTimestamp" not in meta}


def test_one_is_swapped_and_the_other_loses_nothing(pool: Kubectl) -> None:
    found = pool.get("ipool", "shared")
    assert states(found) == {"tiny": ("Serving", 1), "other": ("Serving", 1)}
    assert found["status"]["version"] == "other@1, tiny@1"
    assert [each["readyReplicas"] for each in found["status"]["models"]] == [2, 2]
    assert all(each["memoryBytes"] > 0 for each in found["status"]["models"])
    before = pods(pool)
    kept = Traffic(pool, "shared", "tiny", every_way=True, name="traffic-kept")
    changing = Traffic(pool, "shared", "other", every_way=True, name="traffic-changing")
    kept.wait_for_every_way()
    changing.wait_for_every_way()
    for number in (2, 1, 2):
        wish(pool, tiny=1, other=number)
        found = until(pool, f"to serve version {number}", tiny=("Serving", 1), other=("Serving", number))
        assert (found["status"]["rollout"]["strategy"], found["status"]["rollout"]["model"]) == ("HotSwap", "other")
        kept.wait_for_more(5)
        changing.wait_for_more(5)
    wish(pool, tiny=1, other=1)
    until(pool, "to go back", tiny=("Serving", 1), other=("Serving", 1))
    assert pods(pool) == before

    wish(pool, tiny=1, other=1, third=1)
    until(pool, "to take up another model", tiny=("Serving", 1), other=("Serving", 1), third=("Serving", 1))
    assert pods(pool) == before
    summaries = [kept.stop(), changing.stop()]
    print({name: summary["done"] for name, summary in zip(("tiny", "other"), summaries, strict=True)})
    assert [summary["failed"] for summary in summaries] == [0, 0], [each["failures"] for each in summaries]
    answered = [{version for counts in each["done"].values() for version in counts} for each in summaries]  # type: ignore[attr-defined]
    assert answered == [{"1"}, {"1", "2"}]


def test_one_without_room_is_refused_and_the_others_go_on(pool: Kubectl) -> None:
    limit = {"name": "triton", "resources": {"limits": {"memory": str(room(pool, "tiny-v1", "other-v1") + 2**20)}}}
    template = {"template": {"spec": {"containers": [limit]}}}
    first = pods(pool)
    pool.run("patch", "ipool", "shared", "--type=merge", "-p", json.dumps({"spec": template}))
    wait_for("other pods", lambda: pods(pool), lambda seen: len(seen) == 2 and not seen & first, seconds=240)
    pool.wait_condition("ipool", "shared", "Ready", seconds=240)
    traffic = Traffic(pool, "shared", "tiny", every_way=True, name="traffic-kept")
    traffic.wait_for_every_way()
    before = pods(pool)
    wish(pool, tiny=1, other=1, third=1)
    found = until(pool, "to refuse it", tiny=("Serving", 1), other=("Serving", 1), third=("Refused", None))
    said = next(each["message"] for each in found["status"]["models"] if each["name"] == "third")
    print(said)
    assert said.startswith("ModelVersion third-v1 does not fit: it takes ")
    found = pool.wait_condition("ipool", "shared", "Stalled")
    assert condition(found, "Stalled")["reason"] == "ModelTooLarge"
    assert condition(found, "Available")["status"] == "True"
    traffic.wait_for_more(5)
    summary = traffic.stop()
    assert summary["failed"] == 0, summary
    assert pods(pool) == before


def room(pool: Kubectl, *versions: str) -> int:
    return sum(int(pool.get("mver", name)["status"]["memoryBytes"]) for name in versions) + SERVER_BYTES

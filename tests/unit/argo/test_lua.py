"""Argo CD's view of our kinds: the Lua says of the operator's own statuses what a person would.

The files under `argo/resource_customizations` have the layout of Argo CD's own repository, with its tests: statuses in
`testdata`, what becomes of them in `health_test.yaml` and `action_test.yaml`. To accept a change:
AIFACTORY_UPDATE_GOLDENS=1 pytest tests/unit/argo, then read the difference.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from aifactory.api.reasons import Reason
from plugin import kubectl_aifactory as plugin
from tests.support import lua
from tests.unit.plugin import factory
from tests.unit.plugin.factory import Json, of_job, pool
from tests.unit.serving.test_analysis import comparing, count, measured
from tests.unit.serving.test_status import canary, drafted, rolling, serving
from tests.unit.serving.test_steps import ask
from tests.unit.training.builders import job, observe

ROOT = Path(__file__).parents[3]
CUSTOMIZATIONS = ROOT / "argo/resource_customizations/aifactory.dev"
GOLDEN = Path(__file__).parent / "golden" / "situations.txt"
UPDATE = bool(os.environ.get("AIFACTORY_UPDATE_GOLDENS"))


def paused() -> Json:
    world = canary({"weight": 30}, {"pauseSeconds": 600})
    ask(world, "pause")
    return pool(world)


def failed_and_stays() -> Json:
    world = comparing(autoRollback=False)
    world.wait(15)
    count(world, measured(0, 200))
    return pool(world)


def aborted() -> Json:
    world = rolling()
    ask(world, "abort")
    return pool(world)


def rejected() -> Json:
    world = serving()
    status = drafted(world, lambda draft: draft.refused(Reason.POD_REJECTED, "Deployment chat-x: no"))
    return factory.stored(world.pool, status)


def at_the_api_server(obj: Json) -> Json:
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": "4711"}}


FOUND = {
    **factory.situations(),
    "job: is being deleted, and held": of_job(observe(job(deleting=True))),
    "pool: a canary is paused": paused(),
    "pool: a canary has failed its comparison and stays": failed_and_stays(),
    "pool: somebody took a version back": aborted(),
    "pool: an object of its is refused": rejected(),
}
SITUATIONS = {name: at_the_api_server(obj) for name, obj in FOUND.items()}
UPSTREAM = {
    "TrainingJob": {
        "progressing_inputs": "job: its input is fetched",
        "progressing_running": "job: all run",
        "progressing_restarting": "job: one ran out of memory",
        "progressing_publishing": "job: its publisher copies",
        "suspended": "job: suspended after it ran",
        "degraded_image": "job: no image",
        "degraded_store": "job: its publisher failed",
        "degraded_check": "job: its check says no",
        "degraded_failed": "job: no restart is left",
        "healthy": "job: its version is there",
    },
    "ModelVersion": {
        "progressing": "version: is read",
        "degraded": "version: DigestMismatch",
        "healthy": "version: is good",
    },
    "InferencePool": {
        "progressing_waiting": "pool: waits for a version that does not exist",
        "progressing_starting": "pool: starts",
        "progressing_rollout": "pool: rolls out",
        "progressing_analysis": "pool: a canary compares",
        "suspended_promotion": "pool: a canary waits for somebody",
        "suspended_paused": "pool: a canary is paused",
        "degraded_crash": "pool: starts, a container crashes",
        "degraded_taken_back": "pool: a canary has failed its comparison",
        "degraded_stays": "pool: a canary has failed its comparison and stays",
        "healthy": "pool: serves",
    },
}
"""What goes into the layout of upstream: one of each that is told apart."""
ACTIONS = {
    "TrainingJob": {"suspend": "progressing_running", "resume": "suspended", "retry": "degraded_store"},
    "ModelVersion": {"retry": "degraded"},
    "InferencePool": {
        "promote": "suspended_promotion",
        "pause": "progressing_analysis",
        "resume": "suspended_paused",
        "abort": "progressing_rollout",
        "retry": "degraded_taken_back",
    },
}
"""Every action, and an object for which it is offered."""


def health(obj: Json) -> dict[str, str]:
    return dict(lua.run(CUSTOMIZATIONS / obj["kind"] / "health.lua", obj))


def actions(obj: Json) -> dict[str, Any]:
    return dict(lua.run(CUSTOMIZATIONS / obj["kind"] / "actions/discovery.lua", obj))


def offered(obj: Json) -> set[str]:
    return {name for name, action in actions(obj).items() if not action["disabled"]}


def after(action: str, obj: Json) -> Json:
    return dict(as_before(lua.run(CUSTOMIZATIONS / obj["kind"] / "actions" / action / "action.lua", obj), obj))


def as_before(value: Any, before: Any) -> Any:
    """What Lua can not tell from it is as it was: null and what is left out, an empty list and an empty map."""
    if value == {} and before == []:
        return before
    if isinstance(value, dict) and isinstance(before, dict):
        nothing = {key: None for key, found in before.items() if found is None and key not in value}
        return {key: as_before(found, before.get(key)) for key, found in {**value, **nothing}.items()}
    if isinstance(value, list) and isinstance(before, list):
        return [as_before(*pair) for pair in zip(value, before, strict=True)]
    return value


def condition(obj: Json, type_: str) -> Json:
    return next((found for found in obj["status"]["conditions"] if found["type"] == type_), {})


def true(obj: Json, type_: str) -> bool:
    return bool(condition(obj, type_).get("status") == "True")


def test_every_situation_is_told_as_the_golden_file_says() -> None:
    told = ""
    for name, obj in SITUATIONS.items():
        found = health(obj)
        told += f"{name}: {found['status']}\n    {found['message']}\n"
        told += f"    offers {', '.join(sorted(offered(obj)))}\n" if offered(obj) else ""
    if UPDATE:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(told)
    assert told == GOLDEN.read_text()


def told_as(status: str) -> set[str]:
    return {name for name, obj in SITUATIONS.items() if health(obj)["status"] == status}


def test_degraded_is_what_needs_a_person() -> None:
    stays = {"pool: a canary has failed its comparison and stays"}
    assert told_as("Degraded") == {name for name, obj in SITUATIONS.items() if true(obj, "Stalled")} | stays


def test_healthy_is_a_job_that_is_complete_and_all_else_that_is_ready() -> None:
    well = {"TrainingJob": "Complete", "ModelVersion": "Ready", "InferencePool": "Ready"}
    assert told_as("Healthy") == {name for name, obj in SITUATIONS.items() if true(obj, well[obj["kind"]])}


def test_a_message_carries_the_cause() -> None:
    for name, obj in SITUATIONS.items():
        if obj["status"]["observedGeneration"] == obj["metadata"]["generation"]:
            reason, _, words = health(obj)["message"].partition(": ")
            assert reason in set(Reason), name
            assert words in {"", *(found["message"] for found in obj["status"]["conditions"])}, name


def test_what_nobody_has_looked_at_yet_is_progressing() -> None:
    wanted = {"status": "Progressing", "message": "Waiting for the operator to see this generation"}
    for name, obj in SITUATIONS.items():
        edited = {**obj, "metadata": {**obj["metadata"], "generation": obj["metadata"]["generation"] + 1}}
        made = {key: found for key, found in obj.items() if key != "status"}
        assert health(edited) == health({**made, "status": {}}) == health(made) == wanted, name
        assert offered(made) <= {"suspend", "resume"}, name


def test_a_job_of_another_controller_waits_for_that_one() -> None:
    made = factory.stored(job(managedBy="kueue.x-k8s.io/multikueue"))
    assert health(made)["message"] == "Waiting for kueue.x-k8s.io/multikueue to see this generation"


def test_a_failure_that_lasts_keeps_others_waiting_except_for_a_job_that_is_complete() -> None:
    """The operator leaves Ready as it was, and says Reconciling beside it."""
    lasts = {"type": "Reconciling", "status": "True", "reason": "FailureLasts", "message": "it fails"}
    for name, then in (("pool: serves", "Progressing"), ("job: its version is there", "Healthy")):
        obj = copy.deepcopy(SITUATIONS[name])
        kept = [found for found in obj["status"]["conditions"] if found["type"] != "Reconciling"]
        obj["status"]["conditions"] = [*kept, lasts]
        assert health(obj)["status"] == then


def test_every_phase_is_among_the_situations() -> None:
    seen = {(obj["kind"], obj["status"].get("phase")) for obj in SITUATIONS.values()}
    known = {(kind, phase) for kind, phases in plugin.PHASES.items() for phase in phases}
    assert known <= seen


def test_retry_is_offered_where_the_plugin_advises_it() -> None:
    """But for a pool's first version: its pods go on trying by themselves, and nothing was taken back."""
    for name, obj in SITUATIONS.items():
        if name.startswith("pool: starts, "):
            continue
        state = plugin.judge(obj, factory.LATER)
        advised = plugin.commands(obj, state.reason, "")
        if state.mark == "stuck" and any(" retry " in command or "/retry=" in command for command in advised):
            assert "retry" in offered(obj), f"{name}: {state.reason}"


def test_actions_do_what_they_say() -> None:
    waiting = SITUATIONS["pool: a canary waits for somebody"]
    assert offered(waiting) == {"promote", "pause", "abort"}
    for action in ("promote", "pause", "abort", "resume", "retry"):
        changed = after(action, waiting)
        assert changed["metadata"].pop("annotations") == {f"aifactory.dev/{action}": "4711"}
        assert changed["metadata"] == waiting["metadata"]
    asked = {**waiting, "metadata": {**waiting["metadata"], "annotations": {"team": "a", "aifactory.dev/pause": "1"}}}
    told = after("pause", asked)["metadata"]["annotations"]
    assert told == {"team": "a", "aifactory.dev/pause": "4711"}, "what else stands there stays"


def test_a_job_is_suspended_and_resumed() -> None:
    runs = SITUATIONS["job: all run"]
    assert offered(runs) == {"suspend"}
    suspended = after("suspend", runs)
    assert suspended["spec"]["suspend"] is True
    assert offered(suspended) == {"resume"}
    assert after("resume", suspended)["spec"]["suspend"] is False


def upstream_files(kind: str) -> dict[Path, str]:
    """The statuses as they are in the repository of Argo CD, and what its own tests compare them with."""
    home = CUSTOMIZATIONS / kind
    objects = {name: SITUATIONS[situation] for name, situation in UPSTREAM[kind].items()}
    files: dict[Path, Any] = {home / f"testdata/{name}.yaml": obj for name, obj in objects.items()}
    healths = [{"healthStatus": health(obj), "inputPath": f"testdata/{name}.yaml"} for name, obj in objects.items()]
    files[home / "health_test.yaml"] = {"tests": healths}
    discovered, changed = [], []
    for action, name in ACTIONS[kind].items():
        source = f"../testdata/{name}.yaml"
        found = [{"name": each, **settings} for each, settings in sorted(actions(objects[name]).items())]
        discovered.append({"inputPath": source, "result": found})
        result = f"testdata/{action}.yaml"
        files[home / "actions" / result] = after(action, objects[name])
        changed.append({"action": action, "inputPath": source, "expectedOutputPath": result})
    files[home / "actions/action_test.yaml"] = {"discoveryTests": discovered, "actionTests": changed}
    return {path: yaml.safe_dump(content, sort_keys=False, width=120) for path, content in files.items()}


@pytest.mark.parametrize("kind", UPSTREAM)
def test_the_layout_of_upstream_has_the_operators_statuses_of_today(kind: str) -> None:
    files = upstream_files(kind)
    there = set((CUSTOMIZATIONS / kind).rglob("*.yaml"))
    if UPDATE:
        for path in there - files.keys():
            path.unlink()
        for path, text in files.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        there = set(files)
    assert {path: path.read_text() for path in there} == files


@pytest.mark.parametrize(("kind", "action"), [(kind, action) for kind in ACTIONS for action in ACTIONS[kind]])
def test_every_action_has_an_object_for_which_it_is_offered(kind: str, action: str) -> None:
    assert action in offered(SITUATIONS[UPSTREAM[kind][ACTIONS[kind][action]]])


def test_what_argo_cd_reads_is_what_was_tested_here() -> None:
    data = yaml.safe_load((ROOT / "charts/aifactory/files/argocd-cm.yaml").read_text())["data"]
    assert len(data) == 2 * len(UPSTREAM)
    for kind in UPSTREAM:
        scripts = CUSTOMIZATIONS / kind
        assert data[f"resource.customizations.health.aifactory.dev_{kind}"] == (scripts / "health.lua").read_text()
        told = yaml.safe_load(data[f"resource.customizations.actions.aifactory.dev_{kind}"])
        assert told["discovery.lua"] == (scripts / "actions/discovery.lua").read_text()
        named = {entry["name"]: entry["action.lua"] for entry in told["definitions"]}
        assert named == {path.parent.name: path.read_text() for path in scripts.glob("actions/*/action.lua")}
        assert named.keys() == ACTIONS[kind].keys() == actions({"kind": kind, "spec": {}}).keys()

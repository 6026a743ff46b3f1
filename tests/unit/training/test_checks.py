"""What a program says is in the way is told before a pod asks for a GPU, once for each spec and its inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from aifactory.api import names
from aifactory.api.reasons import ConditionType
from aifactory.api.trainingjob import Checkpoint, CheckStatus, TrainingJob
from aifactory.engine.taskpods import CheckDefaults, TaskPodDefaults, TaskPods
from aifactory.training import checkers, checks
from aifactory.training.inputs import CLAIM_LOOK_SECONDS
from tests.unit.plans import bodies, created, removed
from tests.unit.training.builders import NOW, SETTINGS, UID, World, conditions, job, message

SFT = ["torchrun", "-m", "aifactory_trainer.sft", "--epochs=3"]
GPUS = {"limits": {"nvidia.com/gpu": 4, "memory": "64Gi"}}
CORPUS = {"name": "chat", "uri": "s3://bucket/chat"}
ONE = f"sha256:{'1' * 64}"
NO = {"message": {"message": "NoRestart: of 40 conversations none is held out", "errorCode": 93}}
"""What `aifactory_trainer` leaves in the termination log; torchrun itself ends with 1."""


def tuned(command: list[str] = SFT, resources: Mapping[str, Any] = GPUS, **spec: Any) -> TrainingJob:
    """A job that fine-tunes on GPUs."""
    return job(nodes=2, container={"command": command, "resources": resources}, **spec)


def checking(owner: TrainingJob | None = None, **changes: Any) -> World:
    """A job whose program is being asked."""
    world = World(owner or tuned(), gangs_served=True, **changes)
    world.settle()
    assert not {**world.pods, **world.gangs}
    assert len(world.checkers) == 1
    return world


def running(owner: TrainingJob | None = None) -> World:
    """A job that has passed, and trains."""
    world = checking(owner)
    world.end_checker()
    world.settle()
    world.run_pods()
    world.settle()
    assert world.status.phase == "Running"
    return world


def entry(world: World) -> CheckStatus:
    assert world.status.check is not None
    return world.status.check


def body_of(world: World) -> dict[str, Any]:
    """The pod that was made last to check."""
    made = [dict(body) for plan in world.log for body in bodies(plan)]
    return [body for body in made if body["metadata"]["labels"].get(names.LABEL_ROLE) == "check"][-1]


def environment(body: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in body["spec"]["containers"][0]["env"]}


# --- Which jobs ---


@pytest.mark.parametrize(
    ("owner", "wanted"),
    [
        (tuned(), True),
        *((tuned(["torchrun", "-m", f"aifactory_trainer.{name}"]), True) for name in ("pretrain", "dpo", "evaluate")),
        (tuned(["torchrun", "-m", "team.train"]), False),
        (tuned(["sh", "-c", "torchrun -m aifactory_trainer.sft"]), False),
        (tuned(resources={"limits": {"memory": "4Gi"}}), False),
        (tuned(resources={}), False),
        (tuned(check="none"), False),
        (tuned(["torchrun", "team.py"], check="always", resources={}), True),
    ],
)
def test_programs_of_ours_are_asked_where_gpus_would_wait(owner: TrainingJob, wanted: bool) -> None:
    assert checks.is_wanted(owner, SETTINGS) is wanted


def template(**spec: Any) -> TrainingJob:
    container = {
        "name": "trainer",
        "image": "trainer:1",
        "args": ["-m", "aifactory_trainer.dpo"],
        **spec.pop("own", {}),
    }
    return job(template={"spec": {"containers": [container], **spec}})


def test_devices_of_claims_are_gpus_and_init_containers_may_make_what_is_looked_for() -> None:
    claims = [{"name": "gpu", "resourceClaimTemplateName": "h100"}]
    assert checks.is_wanted(template(resourceClaims=claims), SETTINGS)
    assert not checks.is_wanted(template(), SETTINGS)
    init = [{"name": "download", "image": "x"}]
    assert not checks.is_wanted(template(own={"resources": GPUS}, initContainers=init), SETTINGS)
    assert checks.is_wanted(template(own={"resources": GPUS}), SETTINGS)


def test_an_installation_can_leave_it_out_but_for_who_asks() -> None:
    off = replace(SETTINGS, task_pods=TaskPods(defaults=TaskPodDefaults(check=CheckDefaults(enabled=False))))
    assert not checks.is_wanted(tuned(), off)
    assert checks.is_wanted(tuned(check="always"), off)


def test_a_question_is_of_the_spec_and_of_what_its_inputs_are_in_whatever_order() -> None:
    other = {"name": "base", "uri": "s3://bucket/base"}

    def asked(wishes: list[dict[str, Any]], digest: str = ONE) -> TrainingJob:
        there = [{**wish, "phase": "Ready", "digest": digest, "claim": "c"} for wish in (CORPUS, other)]
        return tuned(inputs=wishes, status={"inputs": there})

    of = checks.question(asked([CORPUS, other]))
    assert checks.question(asked([other, CORPUS])) == of
    assert checks.question(asked([CORPUS, other], f"sha256:{'2' * 64}")) != of
    assert checks.question(asked([CORPUS])) != of


def test_a_job_whose_inputs_are_not_there_yet_has_not_passed() -> None:
    passed = {"check": {"of": checks.question(tuned()), "phase": "Passed"}}
    assert checks.is_done(tuned(status=passed))
    assert not checks.is_done(tuned(inputs=[CORPUS], status=passed))


def test_a_job_that_is_not_asked_is_not_slowed_and_says_nothing() -> None:
    world = World(tuned(["torchrun", "team.py"]), gangs_served=True)
    world.settle()
    assert len(world.pods) == 2
    assert world.status.check is None
    assert "Checked" not in conditions(world.status)


# --- Before the first pod ---


def test_no_pod_is_made_before_the_program_was_asked() -> None:
    world = World(tuned(), gangs_served=True)
    world.step()
    assert message(world.status) == "the pod that checks options and inputs is being created"
    world.settle()
    assert (world.status.phase, world.status.reason) == ("Pending", "Checking")
    assert conditions(world.status)["Checked"] == ("False", "Checking")
    (name,) = world.checkers
    assert name == f"train-check-{entry(world).of}-0"
    assert entry(world) == CheckStatus(
        of=checks.question(world.job), phase="Checking", pod=name, start_time=NOW, request="1/"
    )
    assert message(world.status, ConditionType.CHECKED) == f"pod {name} checks options and inputs, without a GPU"
    world.wait(7)
    world.end_checker()
    plan = world.step()
    assert (plan.urgent, plan.requeue_after, created(plan), removed(plan)) == (True, 0, [], [])
    words = "the program has found nothing in the way of training"
    passed = {"phase": "Passed", "message": words, "seconds": 7}
    assert entry(world) == CheckStatus(of=entry(world).of, pod=name, start_time=NOW, request="1/", **passed)
    assert len(world.checkers) == 1, "its answer is written down before its pod goes"
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}
    assert not world.checkers
    assert conditions(world.status)["Checked"] == ("True", "CheckPassed")


def test_it_comes_after_the_inputs_which_it_reads() -> None:
    world = World(tuned(inputs=[CORPUS]), gangs_served=True)
    world.settle()
    assert not world.checkers
    world.end_fetcher({"uri": "x", "digest": ONE, "files": 1, "sizeBytes": 10})
    world.settle()
    assert len(world.checkers) == 1
    assert world.log[-1].requeue_after == CLAIM_LOOK_SECONDS, "the inputs have to stay there meanwhile"
    assert conditions(world.status)["InputsReady"] == ("True", "InputsPrepared")
    mount = {
        "name": "aifactory-inputs",
        "mountPath": "/workspace/inputs/chat",
        "subPath": f"inputs/sha256-{'1' * 64}",
        "readOnly": True,
    }
    assert mount in body_of(world)["spec"]["containers"][0]["volumeMounts"]
    world.end_checker()
    world.settle()
    assert len(world.pods) == 2


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (NO, 1, "of 40 conversations none is held out"),
        (
            {"message": {"message": "ArgumentError: unrecognized arguments: --lora-rnak=4", "errorCode": 2}},
            1,
            "--lora-rnak",
        ),
        ("no such column: text", 93, "no such column: text"),
        ("usage: train.py\ntrain.py: error: the following arguments are required: --data", 2, "--data"),
    ],
)
def test_what_the_program_says_waits_for_a_person(said: Any, code: int, words: str) -> None:
    world = checking()
    world.wait(3)
    world.end_checker(said, code)
    world.settle()
    assert (world.status.phase, world.status.reason) == ("Pending", "CheckFailed")
    assert (entry(world).phase, entry(world).seconds) == ("Failed", 3)
    assert conditions(world.status)["Stalled"] == ("True", "CheckFailed")
    assert conditions(world.status)["Checked"] == ("False", "CheckFailed")
    told = message(world.status, ConditionType.STALLED)
    assert told.startswith(f"pod {entry(world).pod}: ")
    assert words in told
    assert "NoRestart" not in told
    assert told.endswith(
        "; correct the spec, which is checked again at once, or what is named, then kubectl annotate trainingjob train "
        "--overwrite aifactory.dev/retry=<anything new>"
    )
    world.wait(86_400)
    world.settle()
    assert not world.pods
    assert len(world.checkers) == 1, "its log is kept, and it is not tried again"


def test_a_spec_that_is_mended_is_checked_again_and_goes_on() -> None:
    world = checking()
    world.end_checker(NO, 1)
    world.settle()
    before = entry(world)
    world.edit(template=tuned([*SFT, "--hold-out-share=0.2"]).spec.template.dump())
    world.settle()
    assert entry(world).of != before.of
    assert list(world.checkers) == [entry(world).pod], "the pod of before is gone"
    world.end_checker()
    world.settle()
    assert len(world.pods) == 2
    assert conditions(world.status)["Stalled"][0] == "False"


def test_what_was_put_right_elsewhere_is_checked_again_on_request() -> None:
    world = checking()
    world.end_checker(NO, 1)
    world.settle()
    world.annotate(names.ANNOTATION_RETRY, "the Secret is right now")
    world.settle()
    assert list(world.checkers) == [f"train-check-{entry(world).of}-1"]
    world.end_checker()
    world.settle()
    assert len(world.pods) == 2


OF_CHART = "(taskPods.defaults.check.{} of the chart)"


@pytest.mark.parametrize(
    ("answer", "code", "changes", "words"),
    [
        (
            "Traceback\nKeyError: 'x'",
            1,
            {},
            "the check ended with exit code 1, which says nothing of the inputs: KeyError: 'x'",
        ),
        (
            "",
            3,
            {},
            "the check ended with exit code 3, which says nothing of the inputs: see: kubectl logs {pod}",
        ),
        (
            "",
            137,
            {"end_reason": "OOMKilled"},
            f"the check used more memory than its limit {OF_CHART.format('resources')}",
        ),
        (
            "",
            None,
            {"end_reason": "DeadlineExceeded", "finished_at": None},
            f"the check took longer than 600 s {OF_CHART.format('activeDeadlineSeconds')}",
        ),
        (
            "",
            137,
            {"end_reason": "DeadlineExceeded"},
            f"the check took longer than 600 s {OF_CHART.format('activeDeadlineSeconds')}",
        ),
    ],
)
def test_a_check_that_comes_to_no_answer_holds_nothing_up(
    answer: str, code: Any, changes: dict[str, Any], words: str
) -> None:
    world = checking()
    (name,) = world.checkers
    world.end_checker(answer, code, **changes)
    world.step()
    assert conditions(world.status)["Stalled"][0] == "False"
    told = f"pod {name}: {words.format(pod=name)}; the pods that train are made without its answer"
    skipped = {"phase": "Skipped", "message": told, "seconds": None if "finished_at" in changes else 0}
    assert entry(world) == CheckStatus(of=entry(world).of, pod=name, start_time=NOW, request="1/", **skipped)
    world.settle()
    assert len(world.pods) == 2
    assert conditions(world.status)["Checked"] == ("Unknown", "CheckSkipped")
    assert not world.checkers
    world.run_pods()
    world.settle()
    assert conditions(world.status)["Ready"] == ("True", "AllNodesReady")


def test_how_long_a_check_took_is_not_told_where_nobody_knows_when_it_began() -> None:
    world = checking()
    unknown = entry(world).model_copy(update={"start_time": None})
    world.job = world.job.model_copy(update={"status": world.status.model_copy(update={"check": unknown})})
    world.end_checker()
    world.step()
    assert (entry(world).phase, entry(world).seconds) == ("Passed", None)


@pytest.mark.parametrize(
    ("code", "changes", "reason", "words"),
    [
        (143, {"disruption": "its node is drained"}, "Disruption", "its node is drained"),
        (137, {"end_reason": "Evicted"}, "Disruption", "it was ended from outside (Evicted): no room"),
        (None, {"end_reason": "OutOfcpu"}, "NodeRefused", "its node refused it (OutOfcpu): no room"),
    ],
)
@pytest.mark.parametrize("finished_at", [NOW, None])
def test_a_check_that_was_interrupted_is_made_again(
    code: Any, changes: dict[str, Any], reason: str, words: str, finished_at: Any
) -> None:
    world = checking()
    world.end_checker("no room", code, finished_at=finished_at, **changes)
    world.settle()
    assert world.status.reason == reason
    assert conditions(world.status)["Stalled"][0] == "False"
    waits = entry(world)
    assert waits.next_time is not None
    assert waits == CheckStatus(
        of=waits.of,
        phase="Waiting",
        message=f"pod {waits.pod}: {words}; it is tried again at {waits.next_time:%Y-%m-%dT%H:%M:%SZ}; "
        "spec.check: none leaves out the check that this pod is for",
        pod=f"train-check-{waits.of}-0",
        start_time=NOW,
        next_time=waits.next_time,
        request="1/",
    )
    world.wait(1)
    world.settle()
    assert entry(world) == waits, "it does not wait from each look anew"
    world.wait(600)
    world.settle()
    assert list(world.checkers) == [f"train-check-{entry(world).of}-1"]
    assert not world.pods


def test_a_pod_that_can_not_start_says_what_leaves_it_out() -> None:
    world = checking()
    (name,) = world.checkers
    waits = {"waiting_reason": "ImagePullBackOff", "waiting_message": "no such image"}
    world.checkers[name] = replace(world.checkers[name], **waits)
    world.settle()
    assert conditions(world.status)["Stalled"] == ("True", "ImagePullFailed")
    assert message(world.status).endswith("; spec.check: none leaves out the check that this pod is for")
    world.edit(check="none")
    world.settle()
    assert (len(world.pods), world.checkers, world.status.check) == (2, {}, None)
    assert "Checked" not in conditions(world.status)


# --- Once ---


def test_another_attempt_is_not_checked_again() -> None:
    world = running(tuned(failurePolicy={"backoff": {"baseSeconds": 0}}))
    world.end("train-0-0", 1)
    world.settle()
    world.bury()
    world.settle()
    assert set(world.pods) >= {"train-0-1", "train-1-1"}
    assert not world.checkers
    assert conditions(world.status)["Checked"] == ("True", "CheckPassed")


def test_nor_is_a_job_that_was_suspended() -> None:
    world = running()
    world.edit(suspend=True)
    world.settle()
    world.bury()
    world.settle()
    assert (world.status.phase, world.pods) == ("Suspended", {})
    world.edit(suspend=False)
    world.settle()
    assert set(world.pods) == {"train-0-1", "train-1-1"}
    assert not world.checkers


def test_pods_that_were_made_before_there_were_checks_run_on() -> None:
    world = running()
    world.job = world.job.model_copy(update={"status": world.status.model_copy(update={"check": None})})
    world.settle()
    assert not world.checkers
    assert conditions(world.status)["Ready"] == ("True", "AllNodesReady")


def test_a_job_that_is_suspended_meanwhile_has_no_pod_and_begins_anew() -> None:
    world = checking()
    world.edit(suspend=True)
    world.settle()
    assert (world.status.phase, world.checkers, world.status.check) == ("Suspended", {}, None)
    assert "Checked" not in conditions(world.status)
    world.edit(suspend=False)
    world.settle()
    assert len(world.checkers) == 1


def test_a_job_that_is_being_deleted_ends_its_pod() -> None:
    world = checking()
    meta = world.job.metadata.model_copy(update={"deletion_timestamp": NOW, "finalizers": ("team/hold",)})
    world.job = world.job.model_copy(update={"metadata": meta})
    world.settle()
    assert not world.checkers


def test_an_operator_that_lost_the_status_checks_again_and_trains() -> None:
    world = checking()
    world.lose_status()
    world.settle()
    world.end_checker()
    world.settle()
    assert len(world.pods) == 2


# --- Beside pods that run ---


def edited() -> World:
    """A job that trains, and whose spec was edited since."""
    world = running()
    world.edit(template=tuned([*SFT, "--lora-rank=4"]).spec.template.dump())
    world.settle()
    return world


def test_pods_run_on_until_an_edit_has_passed() -> None:
    world = edited()
    assert len(world.checkers) == 1
    assert [(pod.running, pod.terminating) for pod in world.pods.values()] == [(True, False)] * 2
    assert conditions(world.status)["Running"][0] == "True"
    assert conditions(world.status)["Reconciling"] == ("True", "Checking")
    assert message(world.status).endswith("; pods of attempt 0 run on as they are until the check has passed")
    world.end_checker()
    world.settle()
    assert [pod.terminating for pod in world.pods.values()] == [True, True]
    world.bury()
    world.settle()
    assert set(world.pods) == {"train-0-1", "train-1-1"}


def test_an_edit_that_would_have_ended_the_job_ends_no_pod() -> None:
    """A checkpoint of another adapter can not be taken up; it was told when the pods were gone."""
    world = edited()
    said = "NoRestart: step-10 can not be taken up, it was written with other model"
    world.end_checker({"message": {"message": said, "errorCode": 93}}, 1)
    world.settle()
    assert conditions(world.status)["Stalled"] == ("True", "CheckFailed")
    assert conditions(world.status)["Running"][0] == "True"
    assert [(pod.running, pod.terminating) for pod in world.pods.values()] == [(True, False)] * 2
    told = message(world.status)
    assert told.startswith("the spec was edited: pod train-check-")
    assert "step-10 can not be taken up" in told

    world.edit(template=tuned().spec.template.dump())
    world.settle()
    assert (world.checkers, world.status.check) == ({}, None)
    assert conditions(world.status)["Ready"] == ("True", "AllNodesReady")


def test_pods_that_fail_beside_a_check_that_failed_hold_no_gpu() -> None:
    world = edited()
    world.end_checker(NO, 1)
    world.settle()
    world.end("train-0-0", 1)
    world.settle()
    world.bury()
    world.settle()
    assert not [pod for pod in world.pods.values() if pod.live]
    assert conditions(world.status)["Stalled"] == ("True", "CheckFailed")


# --- The pod ---


def test_it_is_the_trainer_alone_without_gpus() -> None:
    container = {
        "name": "trainer",
        "image": "trainer:1",
        "command": SFT,
        "env": [{"name": "HF_HOME", "value": "/tmp"}],
        "envFrom": [{"secretRef": {"name": "keys"}}],
        "resources": {**GPUS, "claims": [{"name": "gpu"}]},
        "volumeMounts": [{"name": "templates", "mountPath": "/templates/"}],
        "livenessProbe": {"exec": {"command": ["true"]}},
    }
    spec = {
        "containers": [container, {"name": "logger", "image": "logger:1"}],
        "volumes": [{"name": "templates", "configMap": {"name": "templates"}}],
        "nodeSelector": {"kubernetes.io/arch": "arm64", "gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "runtimeClassName": "nvidia",
        "schedulerName": "kai",
        "hostNetwork": True,
        "serviceAccountName": "reader",
        "automountServiceAccountToken": True,
        "securityContext": {"runAsUser": 1000},
    }
    world = checking(job(nodes=2, template={"spec": spec}))
    body = body_of(world)
    made = body["spec"]
    (only,) = made["containers"]
    assert (only["name"], only["image"], only["command"]) == ("check", "trainer:1", SFT)
    assert only["resources"] == CheckDefaults().resources
    assert only["envFrom"] == container["envFrom"]
    assert {"name": "templates", "mountPath": "/templates"} in only["volumeMounts"]
    assert not {"livenessProbe", "ports", "lifecycle"} & only.keys()
    assert not {"runtimeClassName", "schedulerName", "hostNetwork", "schedulingGroup", "resourceClaims"} & made.keys()
    assert (made["serviceAccountName"], made["securityContext"]["runAsUser"]) == ("reader", 1000)
    assert made["automountServiceAccountToken"] is True
    assert (made["nodeSelector"], made["tolerations"]) == ({"kubernetes.io/arch": "arm64"}, spec["tolerations"])
    assert (made["restartPolicy"], made["activeDeadlineSeconds"]) == ("Never", 600)
    assert body["metadata"]["ownerReferences"][0]["uid"] == UID
    env = environment(body)
    assert env["HF_HOME"] == "/tmp"
    assert (env["PET_NNODES"], env["PET_NPROC_PER_NODE"], env["PET_RDZV_ENDPOINT"]) == ("1", "1", "localhost:0")
    assert "AIFACTORY_PROGRESS_URL" not in env, "it has nothing to report"
    assert json.loads(env["AIFACTORY_CHECK"]) == {"processes": 8, "device": "cuda"}


def test_what_the_program_is_told_of_the_pods_to_come() -> None:
    assert checkers.coming(tuned(), 80 << 30) == {"processes": 8, "device": "cuda", "memoryBytes": 80 << 30}
    assert checkers.coming(tuned(procPerNode=2), None) == {"processes": 4, "device": "cuda"}
    cpus = tuned(resources={"limits": {"memory": "8Gi"}}, procPerNode=2, check="always")
    assert checkers.coming(cpus, None) == {"processes": 4, "device": "cpu", "memoryBytes": 4 << 30}
    for resources in ({}, {"requests": {"memory": "8Gi"}}):
        assert checkers.coming(tuned(resources=resources), None) == {"processes": 2, "device": "cpu"}
    assert checkers.coming(job(), None) == {"processes": 1, "device": "cpu"}
    world = checking(device_memory=80 << 30)
    assert json.loads(environment(body_of(world))["AIFACTORY_CHECK"])["memoryBytes"] == 80 << 30


def test_without_a_launcher_it_is_alone_too() -> None:
    env = environment(body_of(checking(tuned(launcher="none"))))
    assert (env["WORLD_SIZE"], env["NODE_RANK"], env["MASTER_ADDR"]) == ("1", "0", "localhost")
    assert "PET_NNODES" not in env


def test_a_volume_at_the_root_stays_there() -> None:
    volumes = [{"name": "all", "emptyDir": {}}]
    own = {"volumeMounts": [{"name": "all", "mountPath": "/"}], "resources": GPUS}
    (only,) = body_of(checking(template(own=own, volumes=volumes)))["spec"]["containers"]
    assert only["volumeMounts"] == [{"name": "all", "mountPath": "/"}, SCRATCH]


def mounted(world: World) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = body_of(world)["spec"]["containers"][0]["volumeMounts"]
    return [mount for mount in mounts if mount["mountPath"].startswith("/workspace")]


SCRATCH = {"name": "aifactory-scratch", "mountPath": "/workspace"}


def test_a_workspace_of_its_own_and_the_checkpoints_if_there_are_any() -> None:
    world = checking()
    assert mounted(world) == [SCRATCH]
    assert {"name": "aifactory-scratch", "emptyDir": {}} in body_of(world)["spec"]["volumes"]
    seen = {"name": "aifactory-workspace", "mountPath": "/workspace/checkpoints", "subPath": "checkpoints"}
    assert mounted(edited_after_a_checkpoint()) == [SCRATCH, {**seen, "readOnly": True}]


def edited_after_a_checkpoint(**changes: Any) -> World:
    world = running(tuned(**changes.pop("spec", {})))
    saved = Checkpoint(step=10, time=NOW, path="checkpoints/step-10")
    world.job = world.job.model_copy(update={"status": world.status.model_copy(update={"checkpoint": saved})})
    for name, value in changes.items():
        setattr(world, name, value)
    world.edit(nodes={"count": 4})
    world.settle()
    return world


def test_a_claim_that_one_node_mounts_at_a_time_is_left_to_the_pods_that_train() -> None:
    assert mounted(edited_after_a_checkpoint(workspace_shared=False)) == [SCRATCH]


def test_on_a_claim_of_the_users_it_sees_its_jobs_directory_alone() -> None:
    world = edited_after_a_checkpoint(spec={"workspace": {"claimName": "team"}})
    (_, checkpoints) = mounted(world)
    assert checkpoints["subPath"] == f"jobs/{UID}/checkpoints"

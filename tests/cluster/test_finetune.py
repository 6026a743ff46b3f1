"""The second main job on a cluster: a base is tuned by two pods, published as the next version, and rolled out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from demo import finetune, tools
from demo.pretrained import claim
from tests.cluster import objects
from tests.cluster.conftest import namespace
from tests.support.kubectl import ROOT, Kubectl, binary, condition
from tests.support.waiting import wait_for

QUESTION = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def team(cluster: Kubectl, operator: Kubectl, leaving: list[str], kubeconfig: str) -> Iterator[Kubectl]:
    """A namespace that has the inputs of the example."""
    for within in namespace(cluster, f"finetune-{os.getpid()}", leaving):
        finetune.put_inputs(tools.Kube(binary("kubectl"), kubeconfig, within.namespace), objects.AGENT)
        yield within


def answer(team: Kubectl) -> tuple[str, str]:
    """Which version answers, and what."""
    address = team.get("service", "assistant")["spec"]["clusterIP"]
    with openai.OpenAI(base_url=f"http://{address}:9000/v1", api_key="none", timeout=60) as client:
        said = client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=40)
    return said.model, str(said.choices[0].message.content)


def test_a_base_is_tuned_and_rolled_out(team: Kubectl) -> None:
    example = (ROOT / "examples/finetune.yaml").read_text()
    short = example.replace("--epochs=3", "--epochs=0.5")
    assert short != example
    team.apply(short)
    team.wait_condition("ipool", "assistant", "Ready", seconds=240)
    before = answer(team)
    assert before[0] == "smollm2@1"

    job = team.wait_condition("tjob", "brimble", "Complete", seconds=900)
    assert job["status"]["output"]["modelVersion"] == "smollm2-v2"
    assert job["status"]["progress"]["summary"] == "100%"
    assert job["status"]["restarts"]["total"] == 0
    lineage = team.get("mver", "smollm2-v2")["spec"]["lineage"]
    assert lineage["parent"] == "smollm2-v1"
    metrics = {entry["name"]: float(entry["value"]) for entry in lineage["metrics"]}
    assert metrics["heldOutLoss"] < metrics["baseHeldOutLoss"] - 0.1
    assert metrics["conversations"] + metrics["heldOutConversations"] == 140

    team.wait(
        "ipool",
        "assistant",
        "to serve the result",
        lambda found: found["status"]["version"] == "2" and condition(found, "Ready")["status"] == "True",
        seconds=240,
    )
    # After a Surge the pod before answers until the Service has let go of it.
    after = wait_for("an answer of version 2", lambda: answer(team), lambda found: found[0] == "smollm2@2", seconds=30)
    assert after[1] not in ("", before[1])


def test_a_version_is_measured_by_itself(team: Kubectl) -> None:
    """By the job of the trainer's README, which publishes nothing; it says what the lineage says."""
    readme = (ROOT / "workloads/trainer/README.md").read_text()
    (example,) = (block for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "how-good" in block)
    team.apply(example)
    job = team.wait_condition("tjob", "how-good", "Complete", seconds=180)
    figures = {entry["name"]: float(entry["value"]) for entry in job["status"]["progress"]["metrics"]}
    lineage = team.get("mver", "smollm2-v2")["spec"]["lineage"]["metrics"]
    told = {entry["name"]: float(entry["value"]) for entry in lineage}
    assert figures["loss"] == pytest.approx(told["heldOutLoss"], abs=0.002)


def test_a_bad_line_is_named_before_and_after_a_pod_is_made(team: Kubectl, kubeconfig: str, tmp_path: Path) -> None:
    """Of an input that says its format it is found when it is fetched, of another one by the program."""
    good = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n'
    (tmp_path / "chat.jsonl").write_text(good + good.replace('"assistant"', '"bot"'))
    kube = tools.Kube(binary("kubectl"), kubeconfig, team.namespace)
    claim.put(kube, tmp_path, claim=finetune.CLAIM, name="bad", image=objects.AGENT)
    told = "chat.jsonl:2: messages[1] has the role 'bot'; the roles are system, user, assistant"
    for name, form in (("told-before", {"format": "chat"}), ("told-late", {})):
        job = objects.job(name, ["torchrun", "-m", "aifactory_trainer.sft"], gpus=0)
        del job["spec"]["template"]["spec"]["containers"][0]["resources"]
        job["spec"]["inputs"] = [
            {"name": "base", "uri": f"pvc://{finetune.CLAIM}/{finetune.BASE.name}"},
            {"name": "chat", "uri": f"pvc://{finetune.CLAIM}/bad", **form},
        ]
        team.apply(job)

    before = condition(team.wait_condition("tjob", "told-before", "Stalled", seconds=60), "InputsReady")
    assert (before["status"], before["reason"]) == ("False", "InvalidArtifact")
    assert "input chat: " in before["message"]
    assert told in before["message"]
    failed = condition(team.wait_condition("tjob", "told-late", "Failed", seconds=180), "Failed")
    assert failed["reason"] == "NoRestartRequested"
    assert told in failed["message"]
    pods = team.list("pods", "aifactory.dev/job-name=told-before")
    assert {pod["metadata"]["labels"]["aifactory.dev/role"] for pod in pods} == {"input"}

"""Three models in pods that have room for two: whoever asks is answered, and the least recently used one makes room."""

from __future__ import annotations

import json

from tests.cluster import objects
from tests.cluster.traffic import Traffic
from tests.support.kubectl import Kubectl

MODELS = ("tiny", "other", "third")
SERVER_BYTES = 64 * 1024 * 1024
ASK = """
import json, sys, urllib.request
url, kind = f"http://{sys.argv[1]}:9000/v1/completions", {"Content-Type": "application/json"}
for model in sys.argv[2:]:
    body = json.dumps({"model": model, "prompt": "def ", "max_tokens": 8}).encode()
    request = urllib.request.Request(url, body, kind)
    with urllib.request.urlopen(request, timeout=150) as answer: print(json.loads(answer.read())["model"], flush=True)
"""


def test_more_models_than_fit_are_served_by_turns(trained: Kubectl) -> None:
    good = trained.get("mver", "tiny-v1")
    for model in MODELS[1:]:
        copied = objects.copy_version(good, 1, model=model)
        copied["metadata"]["name"] = f"{model}-v1"
        trained.apply(copied)
    taken = [
        trained.wait_condition("mver", f"{model}-v1", "Ready", seconds=120)["status"]["memoryBytes"] for model in MODELS
    ]
    limit = {"name": "triton", "resources": {"limits": {"memory": str(sum(taken) - 2**20 + SERVER_BYTES)}}}
    pool = objects.pool("turns", "tiny", replicas=1, template={"spec": {"containers": [limit]}})
    pool["spec"]["models"] = [{"name": model, "version": 1} for model in MODELS]
    pool["spec"]["loading"] = {"mode": "OnDemand"}
    trained.apply(pool)
    found = trained.wait_condition("ipool", "turns", "Ready", seconds=240)
    assert found["status"]["version"] == "other@1, third@1, tiny@1"
    asked = MODELS * 4
    said = Traffic(trained, "turns", "tiny", program=[ASK, "turns", *asked]).words(seconds=300)
    assert said.split() == [f"{model}@1" for model in asked], said
    found = trained.wait(
        "ipool",
        "turns",
        "to tell what is loaded",
        lambda seen: _resident(seen) == {"tiny": 0, "other": 1, "third": 1},
        seconds=90,
    )
    assert {each["state"] for each in found["status"]["models"]} == {"Serving"}
    print(json.dumps(found["status"]["models"]))


def _resident(found: objects.Json) -> dict[str, int]:
    return {each["name"]: each.get("residentReplicas", 0) for each in found["status"].get("models", ())}

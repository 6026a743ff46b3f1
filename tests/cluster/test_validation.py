"""A version that answers wrongly, or that ends Triton, is never Ready: the pool that follows the model serves on."""

from __future__ import annotations

from tests.cluster import objects
from tests.cluster.test_swap import Claim
from tests.cluster.traffic import Traffic
from tests.support.kubectl import Kubectl, condition

BAD_MODELS = """
import json, pathlib, shutil, struct, torch
good, root = pathlib.Path({good!r}), pathlib.Path("/models")
shutil.copytree(good, root / "nan")
weights = root / "nan/model.safetensors"
raw = bytearray(weights.read_bytes())
begin = 8 + struct.unpack("<Q", raw[:8])[0]
raw[begin:] = struct.pack("<f", float("nan")) * ((len(raw) - begin) // 4)
weights.unlink()
weights.write_bytes(raw)
class Hungry(torch.nn.Module):
    def forward(self, x):
        return x + torch.ones(2**29).sum()
(root / "hungry").mkdir()
torch.export.save(torch.export.export(Hungry(), (torch.zeros(1),)), root / "hungry/model.pt2")
tensor = {{"dataType": "FP32", "dims": [1]}}
config = {{"format": "torch-export", "inputs": [{{"name": "x", **tensor}}], "outputs": [{{"name": "y", **tensor}}]}}
(root / "hungry/config.json").write_text(json.dumps(config))
"""


def test_only_what_loads_and_answers_reaches_a_pool(trained: Kubectl) -> None:
    good = trained.get("mver", "tiny-v1")
    assert condition(good, "Validated")["status"] == "True", condition(good, "Validated")
    assert float(good["status"]["loadSeconds"]) > 0
    assert float(good["status"]["firstTokenSeconds"]) > 0
    assert good["status"]["memoryBytes"] > 2**20, "as the kernel counts it"

    trained.apply(objects.pool("careful", "tiny", replicas=1))
    claim = Claim(trained, objects.TRAINER)
    claim.run(BAD_MODELS.format(good=Claim.path(good["spec"]["source"]["uri"])))
    trained.wait_condition("ipool", "careful", "Ready")
    traffic = Traffic(trained, "careful", "tiny")
    traffic.wait_for_version(1)

    expectation = {"requests": [{"name": "oracle", "prompt": "def ", "expect": {"contains": "forty-two"}}]}
    small = {"resources": {"limits": {"memory": "640Mi"}}}
    bad = {"uri": "pvc://aifactory-models/nan"}, {"uri": "pvc://aifactory-models/hungry"}
    wrong = objects.copy_version(good, 2, validation=expectation)
    nan = objects.copy_version(good, 3, source=bad[0], digest=None)
    killed = objects.copy_version(good, 4, source=bad[1], digest=None, format="torch-export", validation=small)
    trained.apply(wrong, nan, killed)
    words = {}
    for version in (2, 3, 4):
        found = trained.wait_condition("mver", f"tiny-v{version}", "Stalled", seconds=90)
        trained.wait("mver", f"tiny-v{version}", "has its verdict", lambda f: condition(f, "Validated"), seconds=90)
        found = trained.get("mver", f"tiny-v{version}")
        assert condition(found, "Stalled")["reason"] == "ValidationFailed", found["status"]
        assert condition(found, "Ready")["status"] == "False"
        words[version] = condition(found, "Stalled")["message"]
    assert "request oracle: the answer" in words[2]
    assert "finite" in words[3]
    assert "of the 640 MiB that the pod which tries it may use" in words[4]

    trained.apply(objects.copy_version(good, 5))
    traffic.wait_for_version(5)
    summary = traffic.stop()
    assert summary["failed"] == 0, summary
    assert set(summary["done"]) == {"1", "5"}, summary

    claim.close()

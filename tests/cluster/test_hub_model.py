"""A model in ONNX out of a hub of one's own, as its users meet it: examples/onnx-model.yaml."""

from __future__ import annotations

import json
import runpy
import urllib.request
from pathlib import Path
from typing import Any

from tests.cluster import hub
from tests.support.kubectl import ROOT, Kubectl

TOKEN = "hf_of-the-team"


def secret(endpoint: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hub"},
        "stringData": {"HF_ENDPOINT": endpoint, "HF_TOKEN": TOKEN},
    }


def test_a_triton_directory_in_a_hub_is_served(ns: Kubectl, tmp_path: Path) -> None:
    write_triton = runpy.run_path(str(ROOT / "workloads/contract/testing/samples.py"))["write_triton"]
    model = write_triton(tmp_path / "iris")
    files = {str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    (node,) = ns.list("nodes")
    address = next(entry["address"] for entry in node["status"]["addresses"] if entry["type"] == "InternalIP")
    with hub.serving(address, "team/iris", {**files, "photo.png": b"left out"}, TOKEN) as endpoint:
        ns.apply(secret(endpoint), (ROOT / "examples/onnx-model.yaml").read_text())
        ns.wait_condition("ipool", "iris", "Ready", seconds=120)
    found = ns.get("service", "iris")["spec"]["clusterIP"]
    data = [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]
    request = urllib.request.Request(f"http://{found}:8000/v2/models/iris/infer", json.dumps({"inputs": data}).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        assert json.load(response)["outputs"][0]["data"] == [2, 4, 6, 8]

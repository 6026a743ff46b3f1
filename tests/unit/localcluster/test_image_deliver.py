"""Which Deployments are restarted after an image was replaced."""

from __future__ import annotations

import json
from typing import Any

from localcluster.imagebuild.deliver import deployments_using


def deployment(name: str, *images: str, init: tuple[str, ...] = ()) -> dict[str, Any]:
    pod: dict[str, Any] = {"containers": [{"image": image} for image in images]}
    if init:
        pod["initContainers"] = [{"image": image} for image in init]
    return {"metadata": {"namespace": "default", "name": name}, "spec": {"template": {"spec": pod}}}


def test_deployments_with_a_replaced_image_in_any_spelling() -> None:
    items = [
        deployment("short", "aifactory/operator:0.1.0"),
        deployment("full", "other:1", "docker.io/aifactory/operator:0.1.0"),
        deployment("init", "other:1", init=("aifactory/operator:0.1.0",)),
        deployment("other-tag", "aifactory/operator:0.2.0"),
        deployment("other-image", "example.org/aifactory/operator:0.1.0"),
    ]
    items.append(deployment("of-a-pool", "aifactory/operator:0.1.0"))
    items[-1]["metadata"]["ownerReferences"] = [{"kind": "InferencePool", "name": "chat", "controller": True}]
    found = deployments_using(["docker.io/aifactory/operator:0.1.0"], json.dumps({"items": items}))
    assert found == [("default", "short"), ("default", "full"), ("default", "init")]

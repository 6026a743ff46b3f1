"""The models at the edge: lenient in, exact out."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from aifactory.api.inferencepool import InferencePool
from aifactory.api.modelversion import ModelVersion
from aifactory.api.trainingjob import Nodes, TrainingJob

META = {"name": "a", "namespace": "ns", "uid": "u", "managedFields": [{"x": 1}]}
TEMPLATE = {
    "metadata": {"labels": {"a": "b"}},
    "spec": {
        "hostIPC": False,
        "nodeSelector": {"a": "b"},
        "containers": [
            {
                "name": "trainer",
                "tty": True,
                "env": [{"name": "A", "value": ""}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}],
                "resources": {"limits": {"cpu": 1, "memory": "1Gi"}, "claims": [{"name": "c"}]},
                "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "s"}],
                "securityContext": {"capabilities": {"drop": ["ALL"]}},
            }
        ],
        "volumes": [
            {"name": "v", "emptyDir": {}},
            {"name": "w", "projected": {"sources": [{"secret": {"name": "s"}}]}},
        ],
        "securityContext": {"sysctls": []},
    },
}


def test_a_template_comes_out_as_it_went_in() -> None:
    job = TrainingJob.model_validate({"metadata": META, "spec": {"nodes": {"count": 1}, "template": TEMPLATE}})
    assert job.spec.template.dump() == TEMPLATE
    assert job.spec.dump() == {"nodes": {"count": 1}, "template": TEMPLATE}, "what was left out stays out"


def test_each_raw_spec_is_its_own() -> None:
    job = TrainingJob.model_validate({"metadata": META, "spec": {"nodes": {"count": 1}, "template": TEMPLATE}})
    job.spec.template.raw_spec()["nodeSelector"]["a"] = "changed"
    job.spec.template.raw_spec()["containers"][0]["securityContext"]["capabilities"]["drop"].append("x")
    assert job.spec.template.dump() == TEMPLATE


@pytest.mark.parametrize(
    ("model", "spec"),
    [
        (TrainingJob, {"nodes": {"count": 1, "spares": 2}, "template": {}, "ttl": {"successSeconds": 1}}),
        (
            ModelVersion,
            {"model": "m", "version": 1, "source": {"uri": "s3://b/x"}, "format": "huggingface", "stage": "P"},
        ),
        (InferencePool, {"models": [{"name": "m", "track": "Latest", "weight": 1}], "paused": True}),
    ],
)
def test_fields_of_a_newer_operator_do_not_crash_this_one(model: Any, spec: dict[str, Any]) -> None:
    status = {"phase": "X", "futureField": {"a": 1}, "conditions": []}
    parsed = model.model_validate({"metadata": META, "spec": spec, "status": status})
    assert "futureField" not in parsed.status.dump()


@pytest.mark.parametrize("model", [TrainingJob, ModelVersion, InferencePool])
def test_the_status_of_a_new_object_is_empty_and_survives(model: Any) -> None:
    status = type(model.model_fields["status"].default)
    assert status.model_validate(status().dump()) == status()


def test_models_can_not_be_changed() -> None:
    """But for a status, which is built field by field."""
    with pytest.raises(ValidationError):
        Nodes(count=1).count = 2  # type: ignore[misc]


def test_metadata_is_not_part_of_what_we_write() -> None:
    job = TrainingJob.model_validate({"metadata": META, "spec": {"nodes": {"count": 1}, "template": {}}})
    assert "metadata" not in job.dump()

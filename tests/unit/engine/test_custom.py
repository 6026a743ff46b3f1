"""Custom resources are kept as JSON and read when they are planned."""

from __future__ import annotations

from typing import Any

from aifactory.api.modelversion import ModelVersion
from aifactory.engine import custom
from aifactory.kube.resources import Key

SPEC = {"model": "gpt", "version": 1, "source": {"uri": "s3://models/gpt/1"}, "format": "causal-lm"}


def body(version: int = 1, **changes: Any) -> dict[str, Any]:
    metadata = {"name": "gpt-v1", "namespace": "team", "uid": "u", "resourceVersion": str(version), "generation": 3}
    metadata |= {"labels": {"team": "a"}, "managedFields": [{"manager": "kubectl"}]}
    metadata |= {"annotations": {custom.LAST_APPLIED: "{}", "aifactory.dev/allow-delete-in-use": "true"}}
    return {"metadata": metadata, "spec": SPEC, "status": {"phase": "New", "unknown": [1]}, **changes}


def test_what_was_put_in_comes_out() -> None:
    stored = custom.parser(ModelVersion)(body())
    assert stored.subject.key == Key("team", "gpt-v1")
    assert stored.status == {"phase": "New", "unknown": [1]}
    model = stored.model
    assert model is not None
    assert (model.spec.model, model.metadata.generation, model.metadata.labels) == ("gpt", 3, {"team": "a"})
    assert model.metadata.annotations == {"aifactory.dev/allow-delete-in-use": "true"}
    assert stored.error == ""
    assert stored.model is model, "it is read once"


def test_what_only_other_tools_read_is_not_kept() -> None:
    stored = custom.parser(ModelVersion)(body())
    assert b"managedFields" not in stored.body
    assert b"last-applied" not in stored.body


def test_two_versions_of_an_object_are_not_taken_for_each_other() -> None:
    parse = custom.parser(ModelVersion)
    old, new = parse(body(1)), parse(body(2, spec={**SPEC, "version": 2}))
    assert old.model is not None
    assert new.model is not None
    assert (old.model.spec.version, new.model.spec.version) == (1, 2)


def test_what_does_not_fit_is_kept_with_the_reason() -> None:
    for wrong in (body(spec={**SPEC, "version": "x"}), {key: value for key, value in body().items() if key != "spec"}):
        stored = custom.parser(ModelVersion)(wrong)
        assert stored.model is None
        assert stored.error.startswith("spec")
        assert stored.metadata.name == "gpt-v1"
        assert stored.status["phase"] == "New"

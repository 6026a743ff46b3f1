"""The CRDs: structural, small, described, in step with the models, and without a trace in users' objects."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from aifactory.api import crd, names
from aifactory.api.jobrules import RESERVED_ENV_RULE
from tests.unit.api.structural import assert_structural, find, nodes, unknown_fields

ROOT = Path(__file__).resolve().parents[3]
KINDS = pytest.mark.parametrize("definition", crd.KINDS, ids=lambda definition: definition.kind)


@cache
def versions() -> dict[str, dict[str, Any]]:
    return {definition.kind: crd.render(definition)["spec"]["versions"][0] for definition in crd.KINDS}


def version(definition: crd.KindDefinition) -> dict[str, Any]:
    return versions()[definition.kind]


def schema(definition: crd.KindDefinition) -> dict[str, Any]:
    return version(definition)["schema"]["openAPIV3Schema"]


@KINDS
def test_the_file_is_what_the_models_say(definition: crd.KindDefinition) -> None:
    found = (ROOT / "crds" / f"{definition.crd_name}.yaml").read_text()
    assert found == crd.to_yaml(crd.render(definition)), "run: make generate"


def test_there_is_no_other_file() -> None:
    assert {path.name for path in (ROOT / "crds").iterdir()} == {f"{kind.crd_name}.yaml" for kind in crd.KINDS}


@KINDS
def test_the_schema_is_structural(definition: crd.KindDefinition) -> None:
    assert_structural(schema(definition))


@KINDS
def test_the_file_fits_into_an_annotation(definition: crd.KindDefinition) -> None:
    text = crd.to_yaml(crd.render(definition))
    assert len(text.encode()) < 100_000
    assert not re.search(r"[&*]id\d", text), "anchors are for machines"


@KINDS
def test_nothing_is_defaulted(definition: crd.KindDefinition) -> None:
    """But for the number of a pool's replicas: without it there is no scale subresource of the object."""
    found = {path: node["default"] for path, node in nodes(schema(definition)) if "default" in node}
    assert found == ({".spec.replicas": 1} if definition.kind == "InferencePool" else {})


@KINDS
def test_what_can_be_scaled_always_has_the_field_that_is_scaled(definition: crd.KindDefinition) -> None:
    """Else: "the spec replicas field does not exist", for kubectl scale and for an HPA (kubernetes#111781)."""
    if definition.scale is None:
        return
    parent, _, name = definition.scale["specReplicasPath"].rpartition(".")
    above, node = find(schema(definition), parent), find(schema(definition), definition.scale["specReplicasPath"])
    assert above is not None
    assert node is not None
    assert name in above.get("required", ()) or "default" in node


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("tiny", True),
        ("llama-3.1-8b", True),
        ("a", True),
        ("Qwen2.5", False),
        ("org/model", False),
        ("3b", False),
        ("a..b", False),
        ("a.-b", False),
        ("a-", False),
        ("a.", False),
    ],
)
def test_names_of_models(name: str, fits: bool) -> None:
    """`<model>-v1` must be a DNS subdomain: the name of a ModelVersion."""
    rules = [
        rule
        for definition in crd.KINDS
        for _, node in nodes(schema(definition)["properties"]["spec"])
        for rule in node.get("x-kubernetes-validations", ())
        if "messageExpression" in rule
    ]
    assert len(rules) == 3, "TrainingJob's output, ModelVersion, InferencePool"
    for rule in rules:
        (pattern,) = re.findall(r"^self\.matches\('(.*)'\)$", rule["rule"])
        assert bool(re.search(pattern, name)) is fits


def test_a_model_may_have_dots_in_its_name_where_a_service_may_not() -> None:
    patterns = {
        definition.kind: schema(definition)["properties"]["metadata"]["properties"]["name"]["pattern"]
        for definition in crd.KINDS
    }
    assert {kind: bool(re.search(pattern, "llama-3.1-8b-v1")) for kind, pattern in patterns.items()} == {
        "TrainingJob": False,
        "ModelVersion": True,
        "InferencePool": False,
    }


@KINDS
def test_every_field_of_spec_says_what_it_is(definition: crd.KindDefinition) -> None:
    spec = schema(definition)["properties"]["spec"]
    fields = [(path, node) for path, node in nodes(spec, "spec") if not path.endswith(("[]", ".*"))]
    assert len(fields) > 5
    for path, node in fields:
        text = node.get("description", "")
        assert len(text) > 10, f"{path} has no description"
        assert text[0].isupper() or text.split()[0].rstrip(":") in ("s3://bucket/path", "auto", "torchrun"), (
            path,
            text,
        )
        assert text.endswith("."), f"{path}: {text}"


@KINDS
def test_every_string_and_list_of_spec_is_bounded(definition: crd.KindDefinition) -> None:
    """CEL's cost is estimated from these bounds, and an object must fit into etcd."""
    for path, node in nodes(schema(definition)["properties"]["spec"], "spec"):
        if "x-kubernetes-validations" in node and node.get("type") == "string":
            assert "maxLength" in node, path
        if node.get("type") == "array":
            assert "maxItems" in node, path


@KINDS
def test_spec_is_asked_for_and_status_is_not(definition: crd.KindDefinition) -> None:
    assert schema(definition)["required"] == ["spec"]
    assert "required" not in schema(definition)["properties"]["status"]


@KINDS
def test_every_column_shows_a_field_of_the_schema(definition: crd.KindDefinition) -> None:
    columns = version(definition)["additionalPrinterColumns"]
    assert len({column["name"] for column in columns}) == len(columns)
    for column in columns:
        if column["jsonPath"].startswith(".metadata."):
            continue
        node = find(schema(definition), column["jsonPath"])
        assert node is not None, f"{column['name']}: there is no {column['jsonPath']}"
        assert node.get("type") == column["type"], column["name"]


@KINDS
def test_columns_for_every_day_come_first_and_fit_a_terminal(definition: crd.KindDefinition) -> None:
    priorities = [column.get("priority", 0) for column in version(definition)["additionalPrinterColumns"]]
    assert priorities == sorted(priorities)
    assert priorities.count(0) <= 8


@KINDS
def test_the_scale_subresource_reads_integers(definition: crd.KindDefinition) -> None:
    subresources = version(definition)["subresources"]
    assert subresources["status"] == {}
    for key, path in subresources.get("scale", {}).items():
        node = find(schema(definition), path)
        assert node is not None, path
        assert node["type"] == ("string" if key == "labelSelectorPath" else "integer")


@KINDS
def test_selectable_fields_exist(definition: crd.KindDefinition) -> None:
    for selectable in version(definition).get("selectableFields", ()):
        node = find(schema(definition), selectable["jsonPath"])
        assert node is not None
        assert node["type"] in ("string", "integer", "boolean")


@KINDS
def test_names_and_category(definition: crd.KindDefinition) -> None:
    document = crd.render(definition)
    assert document["metadata"]["name"] == f"{definition.plural}.aifactory.dev"
    assert document["spec"]["scope"] == "Namespaced"
    assert document["spec"]["names"]["categories"] == ["aifactory"]
    assert version(definition)["name"] == "v1alpha1"


@KINDS
def test_only_the_name_of_metadata_is_restricted(definition: crd.KindDefinition) -> None:
    metadata = schema(definition)["properties"]["metadata"]
    assert metadata["properties"].keys() == {"name"}
    limit = metadata["properties"]["name"]["maxLength"]
    assert limit + len("-9999") <= 63, "host names and label values"
    assert limit >= 40 + len("-v2147483647"), "a model's longest name with its highest version"


@KINDS
def test_conditions_are_a_map_of_metav1_conditions(definition: crd.KindDefinition) -> None:
    conditions = schema(definition)["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert set(conditions["items"]["properties"]) == {
        "type",
        "status",
        "reason",
        "message",
        "lastTransitionTime",
        "observedGeneration",
    }


@pytest.mark.parametrize("name", names.RESERVED_ENV)
def test_every_variable_of_ours_is_refused_by_the_rule(name: str) -> None:
    assert f"'{name}'" in str(RESERVED_ENV_RULE["rule"])


def test_the_words_of_the_rule_cover_every_variable_of_ours() -> None:
    words = str(RESERVED_ENV_RULE["message"])
    for name in names.RESERVED_ENV:
        assert name in words or f"{name.partition('_')[0]}_*" in words, name


def documents() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for path in sorted((ROOT / "examples").rglob("*.yaml")):
        for number, document in enumerate(yaml.safe_load_all(path.read_text())):
            if document and document.get("apiVersion") == names.API_VERSION:
                found.append((f"{path.name}-{number}", document))
    return found


@pytest.mark.parametrize("document", [document for _, document in documents()], ids=[name for name, _ in documents()])
def test_examples_fit_the_schema(document: dict[str, Any]) -> None:
    definition = next(kind for kind in crd.KINDS if kind.kind == document["kind"])
    rules = schema(definition)
    assert unknown_fields(rules["properties"]["spec"], document["spec"]) == []
    jsonschema.validate(document["spec"], rules["properties"]["spec"])
    definition.model.model_validate({**document, "metadata": {"namespace": "ns", **document["metadata"]}})


def test_there_are_examples() -> None:
    assert {document["kind"] for _, document in documents()} >= {"TrainingJob", "InferencePool"}


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"nodez": 1}, [".nodez"]),
        ({"nodes": {"count": 1, "max": 3}}, [".nodes.max"]),
        ({"template": {"spec": {"anything": [1], "containers": [{"name": "a", "tty": True}]}}}, []),
        ({"template": {"metadata": {"labels": {"a": "b"}, "name": "x"}}}, [".template.metadata.name"]),
    ],
)
def test_only_pod_settings_may_hold_fields_we_do_not_know(value: dict[str, Any], wanted: list[str]) -> None:
    job = next(kind for kind in crd.KINDS if kind.kind == "TrainingJob")
    assert unknown_fields(schema(job)["properties"]["spec"], value) == wanted

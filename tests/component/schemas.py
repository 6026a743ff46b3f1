"""Objects made from our own CRDs: a good one, then changes that the schema suggests.

A change either stays within the schema (another value that it allows), or breaks it on purpose: a field left out, a
value of the wrong type, one beyond a bound, a field that does not exist. Whether the result is valid is for the API
server to say; CEL rules and pods' own rules make that impossible to know here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.cluster import objects
from tests.support.kubectl import ROOT, Json

Schema = dict[str, Any]
Path_ = tuple[str | int, ...]

MOST_NODES = 6
"""Counts above are accepted up to 10,000 and would make this a test of the machine."""

WRONG: list[Any] = [
    None,
    "",
    "x" * 300,
    -1,
    0,
    1 << 40,
    1.5,
    True,
    [],
    {},
    [None],
    {"a": {"b": []}},
    "\x00\u2603 'quoted'",
]
WORDS = st.sampled_from(
    ["a", "x-1", "trainer", "m", "-bad-", "UPPER", "a.b/c", "10Gi", "1", "s3://b/p", "pvc://c/p", "É"]
)


@cache
def spec_schema(plural: str) -> Schema:
    """The schema of a kind's `spec`."""
    found = yaml.safe_load(Path(ROOT / "crds" / f"{plural}.aifactory.dev.yaml").read_text())
    return dict(found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])


SEEDS: dict[str, list[Json]] = {
    "trainingjobs": [
        objects.job("j", ["true"]),
        objects.job("j", ["true"], nodes=2, failurePolicy={"maxRestarts": 1}, launcher="none"),
        objects.job("j", ["true"], output={"model": {"name": "m", "format": "huggingface"}}, workspace={"size": "1Gi"}),
    ],
    "inferencepools": [objects.pool("p", "m"), objects.pool("p", "m", version=1, replicas=2)],
    "modelversions": [
        {
            "apiVersion": "aifactory.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": "m-v1"},
            "spec": {"model": "m", "version": 1, "source": {"uri": "pvc://models/m/1"}, "format": "huggingface"},
        }
    ],
}


@st.composite
def values(draw: st.DrawFn, schema: Schema, depth: int = 0) -> Any:
    """A value that a schema allows, its CEL rules aside."""
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    if schema.get("x-kubernetes-int-or-string"):
        return draw(st.one_of(st.integers(0, 200), WORDS))
    match schema.get("type"):
        case "object":
            return draw(_objects(schema, depth))
        case "array":
            size = min(schema.get("maxItems", 3), 3)
            return draw(st.lists(values(schema["items"], depth + 1), min_size=schema.get("minItems", 0), max_size=size))
        case "string":
            texts = st.one_of(WORDS, st.text(max_size=min(schema.get("maxLength", 40), 40)))
            return draw(st.one_of(texts, st.from_regex(schema["pattern"])) if "pattern" in schema else texts)
        case "integer":
            low, high = schema.get("minimum", -(2**31)), schema.get("maximum", 2**31)
            return draw(st.one_of(st.integers(low, high), st.sampled_from([low, high]), st.integers(1, 5)))
        case "number":
            return draw(st.floats(0, 100, allow_nan=False))
        case "boolean":
            return draw(st.booleans())
    return draw(st.sampled_from(WRONG))


@st.composite
def _objects(draw: st.DrawFn, schema: Schema, depth: int) -> Json:
    found: Json = {}
    for name, inner in schema.get("properties", {}).items():
        if name in schema.get("required", ()) or (depth < 4 and draw(st.integers(0, 3)) == 0):
            found[name] = draw(values(inner, depth + 1))
    if "additionalProperties" in schema:
        found |= draw(st.dictionaries(WORDS, values(schema["additionalProperties"], depth + 1), max_size=2))
    return found


def places(schema: Schema, value: Any, at: Path_ = ()) -> list[tuple[Path_, Schema]]:
    """Every place of a schema that a value has or could have, lists by their elements."""
    found: list[tuple[Path_, Schema]] = []
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            found.append(((*at, name), inner))
            if name in value:
                found += places(inner, value[name], (*at, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            found += places(schema.get("items", {}), item, (*at, number))
    return found


@st.composite
def mutated(draw: st.DrawFn, plural: str, schema: Schema) -> Json:
    """A seed with up to three changes."""
    found = copy.deepcopy(draw(st.sampled_from(SEEDS[plural])))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        path, inner = draw(st.sampled_from(places(schema, found["spec"])))
        change: Callable[[dict[Any, Any], Any], None] = draw(st.sampled_from([_set, _set, _set, _drop, _break, _add]))
        change(_parent(found["spec"], path), (path[-1], inner, draw))
    _spare_the_machine(found)
    return found


def _parent(node: Any, path: Path_) -> Any:
    for part in path[:-1]:
        node = node[part]
    return node


def _set(parent: Any, how: Any) -> None:
    name, schema, draw = how
    parent[name] = draw(values(schema))


def _break(parent: Any, how: Any) -> None:
    parent[how[0]] = how[2](st.sampled_from(WRONG))


def _drop(parent: Any, how: Any) -> None:
    if isinstance(parent, dict):
        parent.pop(how[0], None)


def _add(parent: Any, how: Any) -> None:
    if isinstance(parent, dict):
        parent[how[2](st.sampled_from(["typo", "apiVersion", "x-y", ""]))] = how[2](st.sampled_from(WRONG))


def _spare_the_machine(found: Json) -> None:
    nodes = found["spec"].get("nodes")
    if isinstance(nodes, dict) and type(nodes.get("count")) is int and nodes["count"] <= 10_000:
        nodes["count"] = min(nodes["count"], MOST_NODES)
    replicas = found["spec"].get("replicas")
    if type(replicas) is int and replicas < 1 << 31:
        found["spec"]["replicas"] = min(replicas, MOST_NODES)


@cache
def anything(plural: str) -> st.SearchStrategy[Json]:
    """Objects of a kind: mostly changed seeds, some made from the schema alone."""
    schema = spec_schema(plural)
    seed = SEEDS[plural][0]

    def whole(spec: Json) -> Json:
        found = {**copy.deepcopy(seed), "spec": spec}
        _spare_the_machine(found)
        return found

    return st.one_of(*[mutated(plural, schema)] * 5, values(schema).map(whole))

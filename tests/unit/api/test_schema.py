"""The translation to structural schemas: what has a counterpart is translated, what has none is an error."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from aifactory.api.base import FreeForm, Time
from aifactory.api.schema import SchemaError, structural_schema
from tests.unit.api.structural import assert_structural

Share = Annotated[str | int, WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 64})]


class Inner(BaseModel):
    """An inner thing."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [{"rule": "a", "message": "a"}]})
    a: int


class Empty(BaseModel):
    """Says something by being there."""


def of(annotation: Any, default: Any = ...) -> dict[str, Any]:
    """Schema of a field with this type."""
    model = type(
        "M", (BaseModel,), {"__annotations__": {"f": annotation}, **({} if default is ... else {"f": default})}
    )
    return structural_schema(model)["properties"]["f"]


@pytest.mark.parametrize(
    ("annotation", "wanted"),
    [
        (int, {"type": "integer"}),
        (int | None, {"type": "integer"}),
        (Annotated[int, Field(ge=1, le=3)], {"type": "integer", "minimum": 1, "maximum": 3}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a"] | None, {"type": "string", "enum": ["a"]}),
        (tuple[str, ...], {"type": "array", "items": {"type": "string"}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Share, {"x-kubernetes-int-or-string": True, "maxLength": 64}),
        (Share | None, {"x-kubernetes-int-or-string": True, "maxLength": 64}),
        (FreeForm, {"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
        (Time, {"type": "string", "format": "date-time"}),
        (Empty, {"type": "object", "maxProperties": 0, "description": "Says something by being there."}),
    ],
)
def test_types_are_translated(annotation: Any, wanted: dict[str, Any]) -> None:
    found = of(annotation)
    assert found == wanted
    assert_structural(found)


def test_a_default_stays_in_python() -> None:
    assert "default" not in of(int, 3)
    assert "default" not in of(Inner | None, None)


def test_a_definition_is_inlined_and_its_neighbours_win() -> None:
    beside = Field(
        description="The one.", json_schema_extra={"x-kubernetes-validations": [{"rule": "b", "message": "b"}]}
    )
    found = of(Annotated[Inner, beside])
    assert found["description"] == "The one."
    assert found["properties"] == {"a": {"type": "integer"}}
    assert [rule["rule"] for rule in found["x-kubernetes-validations"]] == ["a", "b"], "rules of both hold"


@pytest.mark.parametrize("annotation", [int | str, Inner | int | None, Any, tuple[int, str]])
def test_what_has_no_counterpart_is_an_error(annotation: Any) -> None:
    with pytest.raises(SchemaError, match=r"M\.f"):
        of(annotation)

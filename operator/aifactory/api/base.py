"""Base classes of all API models, and the status conditions every kind shares.

Models are parsed leniently (`extra="ignore"`): the API server has already validated and pruned what reaches us, and an
object stored by a newer operator must not crash an older one. Serialisation drops what is unset, so that an absent
field stays absent.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

from aifactory.api.rules import rule


def format_time(value: datetime) -> str:
    """RFC 3339 in UTC with whole seconds: the precision of `metav1.Time`."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[
    datetime,
    PlainSerializer(format_time, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A `metav1.Time`."""

Quantity = Annotated[
    int | str,
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "maxLength": 64,
            "x-kubernetes-validations": [
                rule(
                    "type(self) == int ? self > 0 : isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
                    "write a quantity above 0, for example 100Gi",
                )
            ],
        }
    ),
]
"""A Kubernetes quantity such as `10Gi` or `1`."""

ResourceAmount = Annotated[int | float | str, WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})]
"""A quantity of a pod's resources, `0.5` too, which a structural schema can not say; the API server checks it when the
pod is created."""

FreeForm = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
"""An object whose schema belongs to Kubernetes; the API server checks it when the pod is created."""

MODEL_NAME = "^[a-z]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_FITTING_NAME = "self.lowerAscii().replace('/', '-').replace('_', '-').replace(' ', '-')"
_NAME_RULE = "a model name has lower-case letters, digits, - and . and begins with a letter"
ModelName = Annotated[
    str,
    Field(
        max_length=40,
        min_length=1,
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    f"self.matches('{MODEL_NAME}')",
                    f"{_NAME_RULE}, for example llama-3.1-8b",
                    f"'{_NAME_RULE}: ' + ({_FITTING_NAME}.matches('{MODEL_NAME}') ? "
                    f"'write ' + {_FITTING_NAME} + ' instead of ' + self : 'not ' + self)",
                )
            ]
        },
    ),
]
"""A model's name, as in Triton's repository: short enough that `<model>-v<version>` is a valid object name."""
ObjectName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", max_length=253)
]


class Model(BaseModel):
    """A part of an object: camelCase outside, snake_case inside, frozen."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    def dump(self) -> dict[str, Any]:
        """As it stands in JSON, without unset fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Condition(Model):
    """A `metav1.Condition`."""

    type: Annotated[str, Field(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(max_length=1024)]
    message: Annotated[str, Field(max_length=32768)] = ""
    last_transition_time: Time
    observed_generation: Annotated[int, Field(ge=0)]


Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
        max_length=32,
    ),
]


class ObjectMeta(Model):
    """The part of `metadata` that planning reads."""

    name: str
    namespace: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    deletion_timestamp: datetime | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @property
    def leaves_orphans(self) -> bool:
        """It is being deleted with `--cascade=orphan`: what belongs to it is to live on."""
        return self.deletion_timestamp is not None and "orphan" in self.finalizers


class Status(Model):
    """What is true about an object. Under construction its fields are set one by one, so it is not frozen."""

    model_config = ConfigDict(frozen=False)

    observed_generation: int = 0
    reason: str = ""
    """Reason of the condition that explains the object best, for `kubectl get`."""
    conditions: Conditions = ()


class CustomResource(Model):
    """One kind of ours."""

    plural: ClassVar[str]
    """As in its path on the API server."""

    metadata: Annotated[ObjectMeta, Field(exclude=True)]


class SecretRef(Model):
    """A Secret of the same namespace."""

    name: ObjectName
    """Name of the Secret. Keys for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; where the store needs them
    AWS_SESSION_TOKEN (with temporary keys), AWS_ENDPOINT_URL, AWS_REGION, and ca.crt (PEM, of a private CA)."""

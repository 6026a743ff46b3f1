"""ModelVersion: one immutable version of a model, checked and tried before it may be served."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from aifactory.api import leftout
from aifactory.api.base import CustomResource, Model, ModelName, ResourceAmount, SecretRef, Status, Time
from aifactory.api.inputs import MAX_INPUTS, UsedInput
from aifactory.api.rules import account_of_azure, no_parent_paths, rule
from aifactory.api.trainingjob import Metric

MAX_USERS = 256
Tensors = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
"""Values by the names of tensors: lists in lists, as deep as the tensor, which a structural schema can not say."""


class Source(Model):
    """Where the artifact is."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [account_of_azure("source")]})

    uri: Annotated[
        str,
        Field(
            max_length=2048,
            json_schema_extra={
                "x-kubernetes-validations": [
                    rule(
                        "self.matches('^((s3|az|pvc)://[a-z0-9][a-z0-9.-]*/.+|gs://[a-z0-9][a-z0-9._-]*/.+"
                        "|hf://[A-Za-z0-9][^/]*/[A-Za-z0-9].*"
                        "|https://[A-Za-z0-9][A-Za-z0-9.:-]*/([^?#]*/)?|oci://[A-Za-z0-9][A-Za-z0-9.:-]*/[^@]+[:@].+)$')",
                        "source.uri must be s3://bucket/path, gs://bucket/path, az://container/path, pvc://claim/path, "
                        "hf://org/repo@revision, https://host/directory/ (with SHA256SUMS in it), or "
                        "oci://registry/repository with :tag or @sha256:...",
                    ),
                    no_parent_paths("source.uri"),
                ]
            },
        ),
    ]
    """Directory of the artifact: s3://bucket/path, gs://bucket/path (Google Cloud Storage), az://container/path (Azure
    Blob Storage), pvc://claim/path (a claim of the same namespace), hf://org/repo@revision, https://host/directory/
    (with SHA256SUMS in it), or oci://registry/repository with :tag or @sha256:... A revision or tag that moves later is
    noticed by the digest, and is not served."""
    secret_ref: SecretRef | None = None
    """What the source asks for: keys of s3://, gs:// and az://, HF_TOKEN and HF_ENDPOINT of hf://, a login of https://
    and oci://, the certificate of a private CA. The keys are in docs/storage.md."""


class TrainingJobRef(Model):
    """The TrainingJob that made the version."""

    name: str
    """Name of the job."""
    uid: str
    """UID of the job: a later one may have the same name."""


class Lineage(Model):
    """Where the version comes from; written by the TrainingJob that published it."""

    training_job: TrainingJobRef | None = None
    image: Annotated[str, Field(max_length=1024)] | None = None
    """Image of the trainer, by digest where the container runtime reports one."""
    attempt: int | None = None
    """Attempt of the job that ended well."""
    steps: int | None = None
    """Training steps."""
    metrics: Annotated[tuple[Metric, ...], Field(max_length=64)] | None = None
    """Numbers the training program left in the model's config.json."""
    inputs: Annotated[tuple[UsedInput, ...], Field(max_length=MAX_INPUTS)] | None = None
    """What the job read."""
    parent: Annotated[str, Field(max_length=253)] | None = None
    """The ModelVersion that it was made from: the first one among the inputs."""


class Message(Model):
    """One message of a conversation."""

    role: Annotated[str, Field(max_length=32)]
    """As the chat template knows them: system, user, assistant."""
    content: Annotated[str, Field(max_length=4096)]
    """What is said."""


class Expectation(Model):
    """What an answer has to be like, beyond outputs, shapes, types and numbers as the artifact says."""

    contains: Annotated[str, Field(max_length=1024)] | None = None
    """Text that must be in the answer of a language model."""
    outputs: Tensors | None = None
    """Outputs by name, as nested lists, with their batch dimension."""
    tolerance: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(e-?[0-9]+)?$", max_length=16)] | None = None
    """How far a number may be from the expected one, absolutely and relatively; "0.0001" if left out."""


class ValidationRequest(Model):
    """One request that the version must answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "[has(self.prompt), has(self.messages), has(self.inputs)].filter(given, given).size() == 1",
                    "a request has one of prompt (text), messages (a conversation) and inputs (tensors)",
                )
            ]
        }
    )

    name: Annotated[str, Field(max_length=63)] | None = None
    """What messages call it."""
    prompt: Annotated[str, Field(max_length=4096)] | None = None
    """Text for a language or embedding model."""
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=16)] | None = None
    """A conversation, written by the model's chat template."""
    max_tokens: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Tokens of the answer at most; 16 if left out. They are the likeliest ones, the same each time."""
    inputs: Tensors | None = None
    """Inputs by name, as nested lists, with their batch dimension."""
    expect: Expectation | None = None


class ValidationResources(Model):
    """Of the container in which Triton tries the version; what is left out is as the chart says."""

    requests: dict[str, ResourceAmount] | None = None
    """What the scheduler finds a node for."""
    limits: dict[str, ResourceAmount] | None = None
    """What it may use at most; what may need more memory is not tried."""


class Validation(Model):
    """How the version is tried before it may be Ready."""

    enabled: bool | None = None
    """Whether it is: loaded into a Triton of its own and asked. Left out: as the chart says, which is yes."""
    requests: Annotated[tuple[ValidationRequest, ...], Field(max_length=16)] = ()
    """What it is asked; left out: a request made from what the model takes, or a greeting."""
    timeout_seconds: Annotated[int, Field(ge=1, le=86400)] | None = None
    """For load and answers together; 300 if left out."""
    resources: ValidationResources | None = None
    """What Triton gets there, for models that need more than the chart gives, or GPUs."""


class ModelVersionSpec(Model):
    """What the version is. Immutable."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule("self == oldSelf", "spec is immutable: create a ModelVersion with the next version number instead")
            ]
        }
    )

    model: ModelName
    """The model's name: what clients call."""
    version: Annotated[int, Field(ge=1, le=2_147_483_647)]
    """Version number, unique for the model; Triton's version directory."""
    source: Source
    digest: (
        Annotated[
            str,
            Field(
                max_length=71,
                json_schema_extra={
                    "x-kubernetes-validations": [
                        rule(
                            "self.matches('^sha256:[0-9a-f]{64}$')",
                            "digest must be 'sha256:' and 64 hexadecimal digits: the digest of the artifact's manifest",
                        )
                    ]
                },
            ),
        ]
        | None
    ) = None
    """Expected digest of the manifest: `path sha256 size` of every file, sorted. Left out: computed and recorded."""
    format: Literal["huggingface", "torch-export", "triton"]
    """What the artifact is, and so how it is served: `huggingface`, a language model's directory as save_pretrained
    writes it; `torch-export`, a program saved by torch.export.save; `triton`, a Triton model directory, config.pbtxt
    beside a version directory with a model in ONNX or a program saved by torch.export."""
    lineage: Lineage | None = None
    validation: Validation | None = None


class Use(Model):
    """An object that needs this version."""

    kind: str
    name: str


class ModelVersionStatus(Status):
    """What is true about the version."""

    resolved_digest: str = ""
    size_bytes: int | None = None
    size: str = ""
    """Size for `kubectl get`, in binary units."""
    files: int | None = None
    left_out: leftout.Paths | None = None
    """The first files at the source that are no part of the version: neither read nor served; `leftOutFiles` counts
    all. Publishing has left out others before: `status.output` of the TrainingJob tells those."""
    left_out_files: int | None = None
    """Number of files at the source that are no part of the version."""
    memory_bytes: int | None = None
    """Memory that Triton took for it while it was loaded and asked, on a CPU; an engine's cache is small then."""
    load_seconds: str | None = None
    """How long Triton took to load it."""
    first_token_seconds: str | None = None
    """Until a language model's first answer to the first request."""
    used_by: Annotated[tuple[Use, ...], Field(max_length=MAX_USERS)] = ()
    """The first of those that use the version; `inUse` counts all."""
    in_use: int = 0
    """Number of pools that serve the version or are about to."""
    verify_attempt: int = 0
    next_verify_time: Time | None = None
    """After a failure that may pass: the artifact is read again at this time."""
    request: str = ""
    """The annotation aifactory.dev/retry at the last try; a new value has the artifact read again."""


class ModelVersion(CustomResource):
    """One immutable version of a model; it is fetched, checked and tried before a pool may serve it."""

    plural: ClassVar[str] = "modelversions"

    # Names are unique in a namespace, and so are versions of a model by this.
    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.metadata.name.startsWith(self.spec.model + '-v') && "
                    "self.metadata.name.substring(self.spec.model.size() + 2).matches('^[1-9][0-9]{0,9}$') && "
                    "int(self.metadata.name.substring(self.spec.model.size() + 2)) == self.spec.version",
                    "metadata.name must be <spec.model>-v<spec.version>, for example tiny-gpt-v3",
                )
            ]
        }
    )

    spec: ModelVersionSpec
    status: ModelVersionStatus = ModelVersionStatus()


def model_of(version: ModelVersion) -> tuple[tuple[str, str], ...]:
    """Index: namespace and model of a version."""
    return ((version.metadata.namespace, version.spec.model),)

"""What a TrainingJob reads: files that are fetched before its pods are made, and where each of them stands."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from aifactory.api.base import Model, ObjectName, SecretRef, Time
from aifactory.api.rules import account_of_azure, no_parent_paths, rule

MAX_INPUTS = 16

_DIGEST_RULE = rule(
    "self.matches('^sha256:[0-9a-f]{64}$')",
    "inputs: digest must be 'sha256:' and 64 hexadecimal digits: status.inputs of a job that has fetched it shows it",
)


class Input(Model):
    """Files that the job reads at /workspace/inputs/<name>."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "has(self.uri) != has(self.modelVersion)",
                    "inputs: write either uri (where the files are) or modelVersion (the name of a ModelVersion), "
                    "not both",
                ),
                rule(
                    "has(self.uri) || !(has(self.digest) || has(self.secretRef) || has(self.format))",
                    "inputs: digest, secretRef and format are those of a uri; a ModelVersion has its own: leave them "
                    "out",
                ),
                rule(
                    "!has(self.secretRef) || !has(self.uri) || !self.uri.startsWith('pvc://')",
                    "inputs: a claim (pvc://) needs no secretRef: leave it out",
                ),
                account_of_azure("inputs"),
            ]
        }
    )

    name: Annotated[
        str,
        Field(
            max_length=63,
            min_length=1,
            json_schema_extra={
                "x-kubernetes-validations": [
                    rule(
                        "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
                        "inputs: a name has lower-case letters, digits and -, and begins and ends with a letter or "
                        "digit, for example corpus",
                    )
                ]
            },
        ),
    ]
    """Directory below /workspace/inputs; unique in the job."""
    uri: (
        Annotated[
            str,
            Field(
                max_length=2048,
                json_schema_extra={
                    "x-kubernetes-validations": [
                        rule(
                            "self.matches('^((hf|oci|s3|gs|az|pvc)://[^/[:space:]]+/[^[:space:]]+"
                            "|https://[^/@?#[:space:]]+/[^?#[:space:]]+)$')",
                            "inputs: uri must be hf://org/repo@revision, https://host/file (without user, query and "
                            "fragment), oci://host/repo@sha256:..., s3://bucket/path, gs://bucket/path, "
                            "az://container/path or pvc://claim/path",
                        ),
                        no_parent_paths("inputs: uri"),
                    ]
                },
            ),
        ]
        | None
    ) = None
    """Where the files are: hf://org/repo@revision, https://host/file or https://host/directory/ (with SHA256SUMS),
    oci://host/repo with :tag or @sha256:..., s3://bucket/path, gs://bucket/path (Google Cloud Storage),
    az://container/path (Azure Blob Storage) or pvc://claim/path (a claim of the same namespace)."""
    model_version: ObjectName | None = None
    """Name of a ModelVersion of the same namespace; it is waited for until it is Ready. The first of these is the
    parent in the lineage of the version that the job makes."""
    digest: (
        Annotated[str, Field(max_length=71, json_schema_extra={"x-kubernetes-validations": [_DIGEST_RULE]})] | None
    ) = None
    """Digest that the files must have. With it they are fetched once for the namespace. Left out: they are looked for
    again for each job, and the digest that was found holds for all attempts of the job."""
    secret_ref: SecretRef | None = None
    """Credentials for the uri."""
    format: Literal["chat", "preference", "text", "huggingface"] | None = None
    """What the files have to be, which is checked once they are fetched, before any pod of the job is made. The first
    three are data: a .jsonl file has one document a line, a conversation (chat: {"messages": [...]}), a preference
    (preference: {"prompt", "chosen", "rejected"}) or a text (text: {"text": "..."}; other files are texts as they are).
    A line that is no good is named. huggingface is a model as save_pretrained writes it, of which the files are fetched
    that a ModelVersion would have. Left out: nothing is checked here, and the program finds out."""


Inputs = Annotated[
    tuple[Input, ...],
    Field(
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        max_length=MAX_INPUTS,
    ),
]


class InputStatus(Model):
    """One input: where it stands."""

    name: str
    """As in spec."""
    uri: str = ""
    """Where it comes from; for a ModelVersion the source of that."""
    model_version: str = ""
    """The ModelVersion that it is, if it is one."""
    format: str = ""
    """As in spec: what its files are checked to be."""
    phase: str
    """Pending: it has not begun; Fetching; Waiting: something is in the way; Ready."""
    reason: str = ""
    """What is in the way."""
    message: str = ""
    """The same in words."""
    bytes: int | None = None
    """What is there so far."""
    total_bytes: int | None = None
    """All of it, once it is known."""
    percent: int | None = None
    digest: str = ""
    """Digest of its files. It stays for all attempts of the job, as long as the input is not edited."""
    claim: str = ""
    """UID of the claim that it is on."""
    pod: str = ""
    """The pod that fetches it, until it is there; its number says which try it is."""
    next_time: Time | None = None
    """After a failed try: the next one does not begin before this."""
    request: str = ""
    """The generation and the annotation aifactory.dev/retry of the last try; another one has it tried again."""


class UsedInput(Model):
    """An input as pods have it, and as the lineage of a ModelVersion tells it."""

    name: str
    """Name of the input."""
    uri: Annotated[str, Field(max_length=2048)]
    """Where it came from."""
    digest: Annotated[str, Field(max_length=71)]
    """Digest of its files."""
    model_version: Annotated[str, Field(max_length=253)] | None = None
    """The ModelVersion that it was, if it was one."""

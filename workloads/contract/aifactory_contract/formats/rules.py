"""What a format is made of: rules over the files of a directory, by which it is judged before anybody loads it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol

from aifactory_contract.engines import AUTO
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import Manifest, Opener
from aifactory_contract.names import CONFIG
from aifactory_contract.server import Server
from aifactory_contract.signature import Signature
from aifactory_contract.userjson import parse_json

MAX_JSON_BYTES = 4 * 1024 * 1024
"""Of a configuration. A larger one would fill the memory of the pod that checks it."""
_DOCUMENTATION = frozenset({".md", ".txt", ".json", ".jsonl", ".jinja"})
_PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz", ".dill"})


@dataclass(frozen=True)
class Files:
    """The files of an artifact, wherever they are."""

    sizes: Mapping[str, int]
    """Bytes, by path."""
    open: Opener

    @classmethod
    def of(cls, manifest: Manifest, opener: Opener) -> Files:
        """Those of a manifest."""
        return cls({entry.path: entry.size for entry in manifest.files}, opener)

    def json(self, path: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
        """The JSON object in a file. Raises FactoryError (InvalidArtifact) if there is none."""
        found = self.document(path, limit)
        if not isinstance(found, dict):
            raise invalid(f"{path} must be a JSON object")
        return found

    def document(self, path: str, limit: int = MAX_JSON_BYTES) -> Any:
        """The JSON in a file, whatever it is. Raises FactoryError (InvalidArtifact) if there is none."""
        return json_document(path, self.read(path, limit))

    def read(self, path: str, limit: int) -> bytes:
        """The contents of a file. Raises FactoryError (InvalidArtifact) if it has more bytes than the limit."""
        if self.sizes[path] > limit:
            raise invalid(f"{path} has {self.sizes[path]} bytes, more than the {limit} that are read of such a file")
        with self.open(path) as stream:
            return stream.read(limit + 1)


@dataclass(frozen=True)
class Serving:
    """What Triton has to know of a model version."""

    backend: str
    signature: Signature
    decoupled: bool = False
    """Whether a request may have any number of answers."""
    probe: Mapping[str, Any] = field(default_factory=dict)
    """Values of the inputs for the request that confirms a load; the others get zeros, optional ones nothing."""
    places_itself: bool = False
    """The back end finds its GPUs by itself, and is there once; else Triton makes an instance on each GPU."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """For the back end, in config.pbtxt."""
    pbtxt: str = ""
    """The rest of config.pbtxt, after name, back end, batch size and versions; "": it is made of the fields above."""

    @property
    def batched(self) -> bool:
        """Whether every tensor has a batch dimension in front."""
        return self.signature.max_batch_size > 0


class HowServed(Protocol):
    """How an artifact is served, by the contents of `Format.config`."""

    def __call__(self, config: Mapping[str, Any], wish: str = AUTO, server: Server | None = None) -> Serving:
        """See `engines.engine_for`. Raises FactoryError (InvalidArtifact, or Unservable)."""


@dataclass(frozen=True)
class Format:
    """The rules of one format."""

    name: str
    needs: tuple[str, ...]
    """The files of an ordinary artifact, for messages and pages."""
    is_part: Callable[[str], bool]
    """Whether a file of this path belongs to it; of the others only plain documentation may be there."""
    leaves_out: Callable[[str, Collection[str]], str]
    """Why a file of this path, among all these, is left out of the artifact; "" if it is not. See `left_out`."""
    check: Callable[[Files], dict[str, Any]]
    """Whether the files are all there and whole; gives what `config` says. Raises FactoryError (InvalidArtifact)."""
    inspect: Callable[[Files, Mapping[str, Any]], None]
    """Whether what is in them fits together, by the contents of the small ones and `config`. Raises as `check`."""
    serving: HowServed
    config: str = CONFIG
    """The file that says how the model is served."""
    parse: Callable[[bytes], dict[str, Any]] = lambda raw: json_object(CONFIG, raw)
    """The contents of that file, as `serving` takes them. Raises FactoryError (InvalidArtifact)."""
    place: Callable[[str], str] = lambda path: path
    """Where a file of the artifact belongs in the directory from which Triton reads a version."""


def left_out(form: Format, paths: Collection[str]) -> dict[str, str]:
    """What stands beside a model and is no part of it, each path with the reason: it is neither read nor copied, and
    the digest is of the others."""
    found = {path: _hidden(path) or form.leaves_out(path, paths) for path in paths}
    return {path: why for path, why in sorted(found.items()) if why}


def _hidden(path: str) -> str:
    parts = PurePosixPath(path).parts
    if "__pycache__" in parts:
        return "a cache"
    return "hidden" if any(part.startswith(".") for part in parts) else ""


def json_document(path: str, raw: bytes) -> Any:
    """Contents of a JSON file. Raises FactoryError (InvalidArtifact) if it is not JSON."""
    try:
        return parse_json(raw)
    except ValueError as error:
        raise invalid(f"{path} is not JSON: {error}") from error


def json_object(path: str, raw: bytes) -> dict[str, Any]:
    """Contents of a JSON file. Raises FactoryError (InvalidArtifact) if it is not a JSON object."""
    found = json_document(path, raw)
    if not isinstance(found, dict):
        raise invalid(f"{path} must be a JSON object")
    return found


def check_extra(path: str, form: Format, files: Files) -> None:
    """Of a file that is no part of the format. Raises FactoryError (InvalidArtifact) if it is not documentation."""
    pure = PurePosixPath(path)
    suffix, parts = pure.suffix.lower(), ", ".join(form.needs)
    if suffix == ".py":
        raise invalid(f"{path} is Python, and code of a model is never run here; remove it")
    if suffix in _PICKLES or (suffix in _DOCUMENTATION and _looks_pickled(path, files.open)):
        raise invalid(
            f"{path} may be a pickle, which runs code when loaded; save the weights as {form.needs[1]} and remove it"
        )
    if suffix not in _DOCUMENTATION and not pure.name.upper().startswith(("LICENSE", "NOTICE")):
        raise invalid(f"{path} is no part of a {form.name} artifact ({parts}, documentation); remove it")


def _looks_pickled(path: str, opener: Opener) -> bool:
    with opener(path) as stream:
        head = stream.read(4)
    return (len(head) > 1 and head[0] == 0x80 and head[1] <= 5) or head.startswith((b"PK\x03\x04", b"\x93NUM"))


def missing(name: str, files: Files, more: str) -> FactoryError:
    """A file is not there. `more` goes on after a comma."""
    found = ", ".join(sorted(files.sizes)[:5])
    folders = sorted(path.removesuffix(f"/{name}") for path in files.sizes if path.endswith(f"/{name}"))
    hint = f"; there is one in {folders[0]}/: publish that directory, or write its files at the top" if folders else ""
    return invalid(f"{name} is missing (found: {found}), {more}{hint}")


def invalid(what: str) -> FactoryError:
    """The artifact is not what its format asks for, in a sentence that names the file and the way out."""
    return FactoryError(Reason.INVALID_ARTIFACT, what)

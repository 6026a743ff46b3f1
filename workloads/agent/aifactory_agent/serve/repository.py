"""The volume shared with Triton.

    models/<name>/config.pbtxt        one configuration a model
    models/<name>/<version>/...       the artifact's files
    incoming/<random>/                being fetched, not yet checked; Triton never looks here
    checked/<name>/<version>.json     digest and serving configuration of a checked version

A version directory appears by a rename after its digest was checked, and its record is written before that: what is
there is whole and checked, also after a crash at any point. Triton compares modification times, so files of a version
are never changed in place.
"""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Iterable
from pathlib import Path

from aifactory_agent.artifacts.store import Source
from aifactory_agent.artifacts.transfer import fetch
from aifactory_agent.serve.planner import Present
from aifactory_agent.serve.tritonconfig import identity, render
from aifactory_contract.desired import ModelKey, ModelSpec
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.files import write_atomically
from aifactory_contract.formats import CONFIG, format_of, parse_config
from aifactory_contract.formats.rules import Serving


class Repository:
    """Files of models. All methods block; the caller runs them in threads, never two for one model at a time."""

    def __init__(self, root: Path) -> None:
        self._models = root / "models"
        self._incoming = root / "incoming"
        self._checked = root / "checked"

    def prepare(self) -> None:
        """Create the layout; drop what an earlier agent left half done."""
        shutil.rmtree(self._incoming, ignore_errors=True)
        for folder in (self._models, self._incoming, self._checked):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in self._models.glob("*/*"):
            if folder.is_dir() and not self._record(_key(folder)).is_file():
                shutil.rmtree(folder, ignore_errors=True)

    def present(self) -> dict[ModelKey, Present]:
        """The checked versions on the volume."""
        found = {}
        for record in self._checked.glob("*/*.json"):
            if not record.stem.isdecimal():
                continue
            key = ModelKey(record.parent.name, int(record.stem))
            try:
                digest = json.loads(record.read_text())["digest"]
                found[key] = Present(digest, identity(self.how_served(key)))
            except (OSError, ValueError, KeyError, TypeError, FactoryError):
                self.remove(key)  # cut short by a crash, or damaged: it is fetched again
        return found

    def add(self, spec: ModelSpec, source: Source, cancel: threading.Event) -> Present:
        """Fetch a version, check it and put it in place. Raises FactoryError or Cancelled; then nothing is left."""
        incoming = self._incoming / uuid.uuid4().hex
        try:
            incoming.mkdir(parents=True)
            artifact = fetch(source, incoming, spec.digest, spec.format, cancel)
            serving = format_of(spec.format).serving(artifact.config)
            record, folder = self._record(spec.key), self._folder(spec.key)
            facts = {"digest": artifact.digest, "format": spec.format, "uri": str(spec.uri)}
            record.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(record, json.dumps(facts))
            folder.parent.mkdir(parents=True, exist_ok=True)
            incoming.rename(folder)
        except OSError as error:
            raise _full(str(spec.key), error) from error
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return Present(artifact.digest, identity(serving))

    def configure(self, name: str, versions: Iterable[int], leader: ModelSpec | None) -> None:
        """Write the model's config.pbtxt for these versions; without a leader the newest of them is the model."""
        chosen = list(versions)
        key = leader.key if leader else ModelKey(name, max(chosen))
        text = render(self.how_served(key), name, chosen)
        try:
            write_atomically(self._models / name / "config.pbtxt", text)
        except OSError as error:
            raise _full(f"the configuration of {name}", error) from error

    def how_served(self, key: ModelKey) -> Serving:
        """How a checked version is served."""
        return format_of(json.loads(self._record(key).read_text())["format"]).serving(self._config_json(key))

    def remove(self, key: ModelKey) -> None:
        """Delete a version's files, and the model's directory with the last one."""
        shutil.rmtree(self._folder(key), ignore_errors=True)
        self._record(key).unlink(missing_ok=True)
        model = self._models / key.name
        if not any(path.is_dir() for path in model.glob("*")):
            shutil.rmtree(model, ignore_errors=True)

    def _folder(self, key: ModelKey) -> Path:
        return self._models / key.name / str(key.version)

    def _record(self, key: ModelKey) -> Path:
        return self._checked / key.name / f"{key.version}.json"

    def _config_json(self, key: ModelKey) -> dict[str, object]:
        return parse_config((self._folder(key) / CONFIG).read_bytes())


def _key(folder: Path) -> ModelKey:
    return ModelKey(folder.parent.name, int(folder.name) if folder.name.isdecimal() else 0)


def _full(what: str, error: OSError) -> FactoryError:
    message = f"cannot write {what} to the serving pod's volume ({error.strerror or error}); enlarge /repository"
    return FactoryError(Reason.DISK_FULL, message)

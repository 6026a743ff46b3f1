"""The volume shared with Triton.

    models/<name>/config.pbtxt        one configuration a model
    models/<name>/<version>/...       the artifact's files
    incoming/<random>/                being fetched, not yet checked; Triton never looks here
    checked/<name>/<version>.json     what is known of a checked version: digest, format, wished engine
    server.json                       what Triton's container has, in its own words (`aifactory_contract.server`)
    serving.json                      versions that run, by model: another one each time that they change
    bearing.json                      versions by which clients are served, for an agent that was restarted

A version directory appears by a rename after its digest was checked, and its record is written before that: what is
there is whole and checked, also after a crash at any point. Triton compares modification times, so files of a version
are never changed in place. Where vLLM is the engine its own are added, whatever the artifact has under their names.
"""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from aifactory_agent.artifacts.store import Source
from aifactory_agent.artifacts.transfer import fetch
from aifactory_agent.serve import vllm
from aifactory_agent.serve.planner import Present
from aifactory_agent.serve.tritonconfig import identity, render
from aifactory_contract.desired import ModelKey, ModelSpec
from aifactory_contract.engines import AUTO, VLLM
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.files import write_atomically
from aifactory_contract.formats import CONFIG, format_of, parse_config
from aifactory_contract.formats.rules import Serving
from aifactory_contract.names import SERVING
from aifactory_contract.refusals import NO_ROOM
from aifactory_contract.server import read_server

_BEARING = "bearing.json"


class Repository:
    """Files of models. All methods block; the caller runs them in threads, never two for one model at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
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
                facts = self._facts(key)
                self._config_json(key)
                found[key] = Present(facts["digest"], self.identify(key), facts.get("engine", AUTO))
            except (OSError, ValueError, KeyError, TypeError, FactoryError):
                self.remove(key)  # cut short by a crash, or damaged: it is fetched again
        return found

    def add(self, spec: ModelSpec, source: Source, cancel: threading.Event, got: Callable[[int], None]) -> Present:
        """Fetch a version, check it and put it in place. Raises FactoryError or Cancelled; then nothing is left.

        `got` is told the bytes of each piece that has come, by several threads.
        """
        try:
            with self.incoming() as incoming:
                fetch(source, incoming, spec.digest, spec.format, cancel, got)
                self.put(spec, incoming)
        except OSError as error:
            raise _full(str(spec.key), error) from error
        return Present(spec.digest, self.identify(spec.key), spec.engine)

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """A directory for the files of a version; what is left there in the end goes. Raises OSError."""
        folder = self._incoming / uuid.uuid4().hex
        try:
            folder.mkdir(parents=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put(self, spec: ModelSpec, checked: Path) -> None:
        """Put the files of a version in place, which have its digest. Raises OSError."""
        record, folder = self._record(spec.key), self.folder(spec.key)
        facts = {"digest": spec.digest, "format": spec.format, "uri": str(spec.uri), "engine": spec.engine}
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(record, json.dumps(facts))
        folder.parent.mkdir(parents=True, exist_ok=True)
        checked.rename(folder)

    def identify(self, key: ModelKey) -> str:
        """Identity of a checked version's Triton configuration, as the pod's server is; "" if it can not serve it."""
        try:
            return identity(self.how_served(key))
        except (FactoryError, OSError, ValueError, KeyError):  # the load will say it
            return ""

    def configure(self, name: str, versions: Iterable[int], leader: ModelSpec | None) -> None:
        """Write the model's config.pbtxt for these versions; without a leader the newest of them is the model.

        Raises FactoryError: Unservable if the pod's server can not serve it as it is wished, NoRoom, DiskFull.
        """
        chosen = list(versions)
        key = leader.key if leader else ModelKey(name, max(chosen))
        serving = self.how_served(key)
        if serving.backend == VLLM.name and len(chosen) > 1:
            message = f"{NO_ROOM}: vLLM takes the GPUs' memory for one version of {name}, and another one runs"
            raise FactoryError(Reason.NO_ROOM, message)
        text = render(serving, name, chosen)
        try:
            for version in chosen:
                self._write_engine_files(ModelKey(name, version), serving)
            write_atomically(self._models / name / "config.pbtxt", text)
        except OSError as error:
            raise _full(f"the configuration of {name}", error) from error

    def _write_engine_files(self, key: ModelKey, serving: Serving) -> None:
        """What vLLM reads of a version beside its files. Raises FactoryError (Unservable)."""
        folder = self.folder(key)
        if serving.backend != VLLM.name:
            if ranks := vllm.adapter_ranks(folder):
                message = f"{key} has LoRA adapters ({', '.join(ranks)}), which only engine vllm serves, not "
                raise FactoryError(Reason.UNSERVABLE, f"{message}{serving.backend}: give the pool vllm, or merge them")
            return
        for file, text in vllm.files(folder, self._config_json(key), read_server(self._root)).items():
            path = folder / file
            # As it is it keeps its time, or Triton would load a version anew that runs.
            if not path.is_file() or path.stat().st_size != len(text) or path.read_bytes() != text.encode():
                write_atomically(path, text)

    def how_served(self, key: ModelKey) -> Serving:
        """How a checked version is served in this pod. Raises FactoryError (Unservable)."""
        facts, config = self._facts(key), self._config_json(key)
        return format_of(facts["format"]).serving(config, facts.get("engine", AUTO), read_server(self._root))

    def tell_serving(self, serving: Mapping[str, Iterable[int]]) -> None:
        """Note what runs, before anybody is told that it does: who reads models here looks at Triton then."""
        text = json.dumps({name: sorted(versions) for name, versions in sorted(serving.items())})
        try:
            write_atomically(self._root / SERVING, text)
        except OSError as error:
            raise _full("serving.json", error) from error

    def note_bearing(self, versions: Iterable[ModelKey]) -> None:
        """Note by which versions clients are served."""
        text = json.dumps([[key.name, key.version] for key in sorted(versions)])
        try:
            write_atomically(self._root / _BEARING, text)
        except OSError as error:
            raise _full(_BEARING, error) from error

    def bearing(self) -> frozenset[ModelKey]:
        """What was noted; nothing in a pod that is new."""
        try:
            found = json.loads((self._root / _BEARING).read_bytes())
            return frozenset(ModelKey(str(name), int(version)) for name, version in found)
        except (OSError, ValueError, TypeError, RecursionError):
            return frozenset()

    def remove(self, key: ModelKey) -> None:
        """Delete a version's files, and the model's directory with the last one."""
        shutil.rmtree(self.folder(key), ignore_errors=True)
        self._record(key).unlink(missing_ok=True)
        model = self._models / key.name
        if not any(path.is_dir() for path in model.glob("*")):
            shutil.rmtree(model, ignore_errors=True)

    def folder(self, key: ModelKey) -> Path:
        """Where the files of a version are."""
        return self._models / key.name / str(key.version)

    def _record(self, key: ModelKey) -> Path:
        return self._checked / key.name / f"{key.version}.json"

    def _facts(self, key: ModelKey) -> dict[str, str]:
        facts: dict[str, str] = json.loads(self._record(key).read_text())
        return facts

    def _config_json(self, key: ModelKey) -> dict[str, object]:
        return parse_config((self.folder(key) / CONFIG).read_bytes())


def _key(folder: Path) -> ModelKey:
    return ModelKey(folder.parent.name, int(folder.name) if folder.name.isdecimal() else 0)


def _full(what: str, error: OSError) -> FactoryError:
    message = f"cannot write {what} to the serving pod's volume ({error.strerror or error}); enlarge /repository"
    return FactoryError(Reason.DISK_FULL, message)

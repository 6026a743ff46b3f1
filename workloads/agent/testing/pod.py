"""A serving pod without containers: models on a volume, a stand-in for Triton, and the OpenAI door as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import WORKLOADS, free_ports, http, wait_for
from stand_in import StandIn
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

TEMPLATE = """{%- for message in messages -%}
<{{ message.role }}> {{ message.content }}
{% endfor -%}
{%- if add_generation_prompt -%}
<assistant>
{%- endif -%}"""
CONTEXT = 1000


def write_tokenizer(folder: Path, bos: str | None = None) -> None:
    """A tokenizer that counts words; with `bos` it puts that token before every text."""
    vocabulary = {"[UNK]": 0, **({bos: 1} if bos else {})}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    if bos is not None:
        tokenizer.add_special_tokens([bos])
        tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


def write_files(
    models: Path,
    name: str,
    version: int = 1,
    template: str | None = TEMPLATE,
    bos: str | None = None,
    **files: Mapping[str, Any],
) -> Path:
    """One version as the agent puts it on the volume; further files by their names without `.json`."""
    folder = models / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (models / name / "config.pbtxt").write_text(f'name: "{name}"\n')
    tokens = {"chat_template": template} if template else {}
    documents = {
        "config": {"max_position_embeddings": CONTEXT},
        "tokenizer_config": {**tokens, **({"bos_token": bos} if bos else {})},
        **files,
    }
    for stem, document in documents.items():
        (folder / f"{stem}.json").write_text(json.dumps(document))
    write_tokenizer(folder, bos)
    return folder


class Pod:
    """One pod. `triton` is the stand-in."""

    def __init__(self, root: Path) -> None:
        self.repository = root
        self.models = root / "models"
        self.models.mkdir()
        grpc_port, self.port = free_ports(2)
        self.triton = StandIn(grpc_port)
        self.log = root / "door.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write(self, name: str, version: int = 1, **files: Any) -> None:
        """Put a version on the volume."""
        write_files(self.models, name, version, **files)

    def serve(self, name: str, version: int = 1, **files: Any) -> None:
        """Put a version on the volume and load it."""
        self.write(name, version, **files)
        self.triton.models.setdefault(name, []).append(version)

    def start(self, *options: str) -> None:
        """Start the door and wait until it listens."""
        arguments = [sys.executable, "-m", "aifactory_agent", "openai", "--repository", str(self.repository)]
        arguments += ["--triton", f"127.0.0.1:{self.triton.port}", "--port", str(self.port), *options]
        env = {**os.environ, "PYTHONPATH": f"{WORKLOADS / 'agent'}:{WORKLOADS / 'contract'}"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log, env=env)
        wait_for("the door is open", lambda: self.get("/healthz")[0] == 200, 30, self.tail)

    @property
    def pid(self) -> int | None:
        """Of the door's process."""
        return None if self._process is None else self._process.pid

    def listed(self) -> list[str]:
        """Names of the models, as clients see them."""
        return [card["id"] for card in json.loads(self.get("/v1/models")[1])["data"]]

    def get(self, path: str) -> tuple[int, str]:
        return http(self.url + path)

    def post(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        status, text = http(self.url + path, body)
        return status, json.loads(text)

    def end(self) -> int | None:
        """SIGTERM; returns the exit code."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            return self._process.wait(20)
        finally:
            self._process.kill()
            self._process = None

    def cpu_seconds(self) -> float:
        """What the door's process has used."""
        assert self._process is not None
        used = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")

    def tail(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@contextmanager
def running_pod(root: Path, *options: str, **files: Any) -> Iterator[Pod]:
    """A pod that serves `tiny`."""
    pod = Pod(root)
    pod.serve("tiny", **files)
    pod.triton.start()
    try:
        pod.start(*options)
        wait_for("the model is offered", lambda: "tiny" in pod.listed(), 30, pod.tail)
        yield pod
    finally:
        pod.end()
        pod.triton.stop()

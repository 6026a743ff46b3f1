"""From training to tokens through an S3 store: no volume holds the model."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import objects
from tests.support.kubectl import ROOT, Json, Kubectl, binary, condition
from tests.support.waiting import wait_for

ACCESS, SECRET = "factory", "factory-secret"


@dataclass(frozen=True)
class Bucket:
    """A bucket of a real S3 server; its objects are files in `folder`."""

    endpoint: str
    folder: Path

    def secret(self, name: str, key: str = SECRET) -> Json:
        """The Secret by which pods reach it."""
        values = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": key, "AWS_ENDPOINT_URL": self.endpoint}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "stringData": {**values, "AWS_REGION": "us-east-1"},
        }


@pytest.fixture(scope="module")
def bucket(cluster: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """Bucket `models` of a server that listens on the node's address."""
    (node,) = cluster.list("nodes")
    address = next(entry["address"] for entry in node["status"]["addresses"] if entry["type"] == "InternalIP")
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    data = tmp_path_factory.mktemp("s3")
    (data / "models").mkdir()  # the server's back end takes a directory for a bucket
    credentials = ["--access", ACCESS, "--secret", SECRET]
    arguments = [binary("versitygw"), "--port", f"{address}:{port}", "--quiet", *credentials, "posix", str(data)]
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    try:
        wait_for("the S3 server listens", lambda: reachable(address, port), bool, seconds=30)
        yield Bucket(f"http://{address}:{port}", data / "models")
    finally:
        server.terminate()
        server.wait(timeout=30)
        shutil.rmtree(data, ignore_errors=True)


def reachable(address: str, port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


def test_a_model_goes_through_an_object_store(ns: Kubectl, bucket: Bucket) -> None:
    job = objects.training_job("stored", steps=20, nodes=1, output="stored")
    job["spec"]["output"] |= {"store": "s3://models/team", "secretRef": {"name": "s3"}}
    ns.apply(bucket.secret("s3"), job, objects.pool("stored", "stored"))
    found = ns.wait_condition("ipool", "stored", "Ready", seconds=240)
    assert found["status"]["version"] == "1"

    version = ns.get("mver", "stored-v1")
    digest = version["status"]["resolvedDigest"]
    where = f"team/stored/{digest.removeprefix('sha256:')[:16]}"
    assert version["spec"]["source"] == {"uri": f"s3://models/{where}", "secretRef": {"name": "s3"}}
    assert [path for path in (bucket.folder / where).rglob("*.safetensors") if path.stat().st_size], (
        "it is in the bucket"
    )


def test_a_wrong_key_is_named_before_anything_trains_and_a_right_one_heals(ns: Kubectl, bucket: Bucket) -> None:
    job = objects.training_job("locked", steps=5, nodes=1, output="locked")
    job["spec"]["output"] |= {"store": "s3://models/team", "secretRef": {"name": "s3"}}
    ns.apply(bucket.secret("s3", key="not-the-key"), job)
    found = ns.wait_condition("tjob", "locked", "Stalled", seconds=240)
    stalled = condition(found, "Stalled")
    assert stalled["reason"] == "AccessDenied"
    assert stalled["message"].startswith("s3://models/team with Secret s3: pod locked-probe-")
    assert "it is tried again at" in stalled["message"]
    assert not ns.list("pods", "aifactory.dev/role=node"), "no GPU waits for a store"
    ns.apply(bucket.secret("s3"))
    wait_for("the first pod", lambda: ns.list("pods", "aifactory.dev/role=node"), bool, seconds=75)
    ns.wait_condition("tjob", "locked", "Complete", seconds=240)
    ns.wait_condition("mver", "locked-v1", "Ready", seconds=60)


def test_inputs_come_out_of_a_bucket_once_and_go_into_the_lineage(ns: Kubectl, bucket: Bucket) -> None:
    shutil.copytree(ROOT / "operator/aifactory", bucket.folder / "corpus", ignore=shutil.ignore_patterns("__pycache__"))
    corpus = {"name": "corpus", "uri": "s3://models/corpus", "secretRef": {"name": "s3"}}
    job = objects.training_job("reads", steps=20, nodes=1, output="reads")
    job["spec"]["inputs"] = [corpus]
    ns.apply(bucket.secret("s3", key="not-the-key"), job)
    found = ns.wait_condition("tjob", "reads", "Stalled", seconds=120)
    assert condition(found, "InputsReady")["reason"] == "AccessDenied"
    assert "input corpus: s3://models/corpus with Secret s3: " in condition(found, "Stalled")["message"]
    assert not ns.list("pods", "aifactory.dev/role=node"), "no GPU waits for an input"
    ns.apply(bucket.secret("s3"))
    ns.run("annotate", "tjob", "reads", "aifactory.dev/retry=now")  # else it waits, as the job before this one does
    found = ns.wait_condition("tjob", "reads", "InputsReady", seconds=120)
    (there,) = found["status"]["inputs"]
    assert there["percent"] == 100
    ns.wait_condition("tjob", "reads", "Complete", seconds=240)
    lineage = ns.get("mver", "reads-v1")["spec"]["lineage"]
    assert lineage["inputs"] == [{"name": "corpus", "uri": corpus["uri"], "digest": there["digest"]}]

    shutil.rmtree(bucket.folder / "corpus")
    ns.wait_condition("mver", "reads-v1", "Ready", seconds=60)
    program = (
        "import os, pathlib; root = pathlib.Path(os.environ['AIFACTORY_INPUTS'])\n"
        "assert (root / 'corpus/api/inputs.py').read_text(), 'the corpus is cached, though its source is gone'\n"
        "assert list((root / 'base').glob('*.safetensors')), 'the model is there'\n"
        "try: (root / 'corpus/x').touch()\n"
        "except OSError as error: print(error)\n"
        "else: raise SystemExit('inputs can be written to')"
    )
    base = {"name": "base", "modelVersion": "reads-v1"}
    again = objects.python_job("again", program, inputs=[{**corpus, "digest": there["digest"]}, base])
    ns.apply(again)
    ns.wait_condition("tjob", "again", "Complete", seconds=120)

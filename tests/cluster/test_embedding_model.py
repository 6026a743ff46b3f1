"""A pretrained embedding model as its users meet it: examples/embedding-model.yaml, asked with the `openai` package."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from operator import mul

import openai
import pytest

from tests.cluster.conftest import namespace
from tests.support.kubectl import ROOT, Kubectl, command


@pytest.fixture(scope="module")
def client(cluster: Kubectl, operator: Kubectl, leaving: list[str]) -> Iterator[openai.OpenAI]:
    """Of the example, served in a namespace of its own."""
    for within in namespace(cluster, f"embedding-model-{os.getpid()}", leaving):
        command([sys.executable, "-m", "demo.pretrained", "embedding-model", "--namespace", str(within.namespace)])
        within.apply((ROOT / "examples/embedding-model.yaml").read_text())
        within.wait_condition("mver", "minilm-v1", "Ready", seconds=60)
        within.wait_condition("ipool", "minilm", "Ready", seconds=180)
        url = str(within.get("ipool", "minilm")["status"]["url"])
        name, address = f"minilm.{within.namespace}.svc", within.get("service", "minilm")["spec"]["clusterIP"]
        assert url == f"http://{name}:9000/v1"
        # The Service's address: its name is known inside the cluster only.
        with openai.OpenAI(base_url=url.replace(name, address), api_key="none", max_retries=0, timeout=60) as made:
            yield made


def test_texts_of_one_meaning_are_near_each_other(client: openai.OpenAI) -> None:
    texts = ["How old is the universe?", "What is the age of the cosmos?", "My bicycle has a flat tyre."]
    answer = client.embeddings.create(model="minilm", input=texts)
    question, same, other = (one.embedding for one in answer.data)
    assert answer.model == "minilm@1"
    assert len(question) == 384
    assert math.isclose(math.hypot(*question), 1.0, abs_tol=1e-4)
    near, far = (sum(map(mul, question, one)) for one in (same, other))  # all have length 1
    assert near > 0.5
    assert far < 0.3


def test_it_does_not_chat(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"minilm"):
        client.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "hello"}])

"""URIs of artifacts: what is one, what it means, and that it is told back as it was written."""

from __future__ import annotations

import pytest

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.uri import ArtifactUri

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "root", "path", "revision"),
    [
        ("pvc://models/gpt/1", "models", "gpt/1", ""),
        ("s3://bucket", "bucket", "", ""),
        ("hf://org/repo", "org/repo", "", ""),
        ("hf://HuggingFaceTB/SmolLM2-135M@main", "HuggingFaceTB/SmolLM2-135M", "", "main"),
        ("hf://datasets/org/set@v1.0/data/train", "datasets/org/set", "data/train", "v1.0"),
        ("hf://org/repo@refs%2Fpr%2F1", "org/repo", "", "refs/pr/1"),
        ("https://host.example:8443/a/b%20c.txt", "host.example:8443", "a/b%20c.txt", ""),
        ("https://host.example/models/gpt/", "host.example", "models/gpt/", ""),
        ("https://host.example/", "host.example", "", ""),
        ("oci://registry.example/team/gpt:v1", "registry.example/team/gpt", "", "v1"),
        (f"oci://registry.example:5000/gpt@{DIGEST}", "registry.example:5000/gpt", "", DIGEST),
    ],
)
def test_what_is_written_is_told_back(text: str, root: str, path: str, revision: str) -> None:
    uri = ArtifactUri.parse(text)
    assert (uri.root, uri.path, uri.revision) == (root, path, revision)
    assert str(uri) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file:///etc/passwd", "none of pvc://"),
        ("http://host.example/x", "none of pvc://"),
        ("models/gpt", "none of pvc://"),
        ("https://user:secret@host.example/x", "a token belongs into a secret"),
        ("https://host.example/x?token=y", "a token belongs into a secret"),
        ("https://host.example", "https://<host>/<path>"),
        ("https://host.example/a/../b", "unsafe path"),
        ("https://host.example/a/%2e%2e/b", "unsafe path"),
        ("https://host.example/a%0ab", "unsafe path"),
        ("https://host.example//", "no file and no directory"),
        ("hf://repo", "hf://<org>/<repo>"),
        ("hf://org/repo@", "hf://<org>/<repo>"),
        ("hf://../repo@main", "hf://<org>/<repo>"),
        ("hf://org/repo@main/../x", "unsafe path"),
        ("oci://registry.example/gpt", "<tag> or oci://"),
        ("oci://registry.example/gpt@sha256:abc", "<64 hex digits>"),
        ("oci://registry.example/../gpt:v1", "<tag> or oci://"),
        ("s3://bucket/a/../b", "unsafe path"),
    ],
)
def test_what_is_none_is_told_with_the_way_out(text: str, words: str) -> None:
    with pytest.raises(FactoryError, match=words) as caught:
        ArtifactUri.parse(text)
    assert caught.value.reason is Reason.INVALID_ARTIFACT

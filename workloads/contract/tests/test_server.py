"""What the server of a pod says it has, on its way to the agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from aifactory_contract.server import OURS, Server, read_server, write_server


def test_what_is_said_is_what_is_read(tmp_path: Path) -> None:
    environ = {"AIFACTORY_VLLM_DTYPE": "half", "AIFACTORY_ENGINE_SLOTS": "", "AIFACTORY_ADDRESS": "::", "SECRET": "x"}
    write_server(tmp_path, ["vllm"], 2, environ)
    assert read_server(tmp_path) == Server(frozenset({"vllm"}), 2, {"AIFACTORY_VLLM_DTYPE": "half"})


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"backends": 3, "gpus": 1, "settings": {}}'])
def test_a_server_that_says_nothing_is_one_of_our_image(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "server.json").write_text(text)
    assert read_server(tmp_path) == Server(frozenset(OURS), 0, {})

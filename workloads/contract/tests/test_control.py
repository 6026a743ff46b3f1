"""The sign of the agent's probes: the same on both sides, and nothing that a client could send."""

from __future__ import annotations

from pathlib import Path

import pytest

from aifactory_contract.control import control_key, is_probe, probe_sign


def test_agent_and_back_end_agree_on_a_sign_that_is_not_the_key(tmp_path: Path) -> None:
    sign = probe_sign(tmp_path)
    assert probe_sign(tmp_path) == sign
    assert control_key(tmp_path) not in sign
    assert sign != probe_sign(tmp_path / "other pod")
    assert is_probe({"aifactory_probe": sign}, sign)


@pytest.mark.parametrize("given", [True, 1, None, "", "true", ["x"], {"a": 1}, "\ud800", "é" * 64])
def test_whatever_a_client_sends_is_no_probe(tmp_path: Path, given: object) -> None:
    assert not is_probe({"aifactory_probe": given}, probe_sign(tmp_path))
    assert not is_probe({"other": probe_sign(tmp_path)}, probe_sign(tmp_path))

"""The throw-away control plane that component tests and benchmarks stand on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from localcluster import parts
from localcluster.controlplane import AUDIT_POLICY, ControlPlane


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane(audit_policy=AUDIT_POLICY) as found:
        yield found


def _kubectl(plane: ControlPlane, *arguments: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
    kubeconfig = plane.kubeconfig if user is None else plane.identity(user)
    command = [str(parts.binary("kubectl")), "--kubeconfig", str(kubeconfig), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_objects_outlive_a_crash_of_the_api_server(plane: ControlPlane) -> None:
    assert _kubectl(plane, "create", "configmap", "kept", "--from-literal=a=b").returncode == 0
    before = plane.pid("kube-apiserver")
    plane.restart_apiserver(kill=True)
    assert plane.pid("kube-apiserver") != before
    assert _kubectl(plane, "get", "configmap", "kept", "-o", "jsonpath={.data.a}").stdout == "b"


def test_an_identity_has_no_rights_of_its_own(plane: ControlPlane) -> None:
    denied = _kubectl(plane, "get", "configmaps", user="somebody")
    assert 'User "somebody" cannot list resource "configmaps"' in denied.stderr


def test_the_audit_log_tells_writes_by_user_agent_and_no_reads(plane: ControlPlane) -> None:
    _kubectl(plane, "get", "configmaps")
    _kubectl(plane, "create", "configmap", "audited")
    events = [json.loads(line) for line in plane.audit_log.read_text().splitlines()]
    mine = [event for event in events if event["userAgent"].startswith("kubectl/")]
    assert {event["verb"] for event in mine} == {"create"}
    assert "audited" in [event["objectRef"]["name"] for event in mine]


def test_two_run_side_by_side_and_leave_nothing(plane: ControlPlane) -> None:
    with ControlPlane() as other:
        assert other.url != plane.url
        directory, supervisor = other.directory, other.supervisor
        assert len(supervisor.orphans()) == 2
    assert supervisor.orphans() == {}
    assert not directory.exists()

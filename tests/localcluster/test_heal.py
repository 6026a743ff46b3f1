"""`make cluster` on a cluster that runs, and on one whose processes were killed. Stops every pod of the cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster import addons, node, processes, remains
from localcluster.bootstrap import NAMES, Cluster

ROOT = Path(__file__).resolve().parents[2]


def _up() -> float:
    """Seconds that `cluster.py up` took, called as from another clone: from a directory of no meaning."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "localcluster" / "cluster.py"), "up"], cwd="/", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return time.monotonic() - begin


def _pids(cluster: Cluster) -> dict[str, int | None]:
    records = {name: cluster.supervisor.record(name) for name in NAMES}
    return {name: record.pid if record is not None else None for name, record in records.items()}


def _kill(pids: set[int]) -> None:
    found = {pid: ticks for pid in pids if (ticks := processes.start_ticks(pid)) is not None}
    assert found, "nothing to kill: the cluster was not running"
    processes.end(found, kill=True)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Running before and after each test."""
    _up()
    yield Cluster()
    _up()


@pytest.fixture
def note(cluster: Cluster) -> Iterator[str]:
    """The path of an object that must survive."""
    path, name = "/api/v1/namespaces/default/configmaps", "localcluster-heal"
    cluster.api().request("POST", path, {"metadata": {"name": name}, "data": {"kept": "yes"}})
    yield f"{path}/{name}"
    cluster.api().request("DELETE", f"{path}/{name}")


def _is_well(cluster: Cluster, note: str) -> None:
    assert None not in _pids(cluster).values()
    found = node.get(cluster.api())
    assert node.is_ready(found), found.get("status")
    assert node.has_gpus(found), found.get("status")
    assert addons.names_resolve()
    kept = cluster.api().get(note)
    assert kept is not None
    assert kept["data"] == {"kept": "yes"}


def test_a_second_call_touches_nothing(cluster: Cluster, note: str) -> None:
    before = _pids(cluster)
    assert _up() < 10  # measured: 0.5 s on an idle machine
    assert _pids(cluster) == before
    _is_well(cluster, note)


def test_heals_after_everything_was_killed(cluster: Cluster, note: str) -> None:
    _kill(set(cluster.supervisor.orphans()) | remains.container_processes())
    _up()
    _is_well(cluster, note)


def test_heals_when_processes_live_that_no_file_tells_of(cluster: Cluster, note: str) -> None:
    for record in (cluster.layout.root / "run").glob("*.json"):
        record.unlink()
    _up()
    _is_well(cluster, note)


@pytest.mark.parametrize("victims", [("containerd",), ("etcd", "kube-apiserver"), ("kubelet", "kube-proxy")])
def test_heals_when_some_were_killed_and_leaves_the_others(
    cluster: Cluster, note: str, victims: tuple[str, ...]
) -> None:
    before = _pids(cluster)
    _kill({pid for name, pid in before.items() if name in victims and pid is not None})
    _up()
    _is_well(cluster, note)
    after = _pids(cluster)
    # Kubernetes' controllers may end by themselves when their API server goes.
    led_along = {"kube-controller-manager", "kube-scheduler"} if "kube-apiserver" in victims else set()
    assert set(victims) <= {name for name in NAMES if after[name] != before[name]} <= {*victims, *led_along}


def test_a_stranger_with_a_recorded_process_id_is_left_alone(cluster: Cluster, note: str) -> None:
    record = cluster.supervisor.record("kube-scheduler")
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        path = cluster.layout.root / "run" / "kube-scheduler.json"
        path.write_text(path.read_text().replace(f'"pid": {record.pid}', f'"pid": {stranger.pid}'))
        _up()
        assert stranger.poll() is None
        _is_well(cluster, note)
    finally:
        stranger.kill()
        stranger.wait()

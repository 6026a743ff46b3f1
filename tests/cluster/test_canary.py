"""A Canary to its end, and one whose errors are found by comparing, under requests that are counted one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cluster import objects
from tests.cluster.test_operator_killed import kill
from tests.cluster.traffic import Traffic
from tests.support.kubectl import Kubectl, condition
from tests.support.plugin import User

PUBLISH = """
import sys, torch
from aifactory_trainer.export import export_torch
class Lookup(torch.nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.table = torch.nn.Embedding(rows, 2)
    def forward(self, ids):
        return self.table(ids)
export_torch(Lookup(int(sys.argv[1])), {"ids": torch.zeros(2, 1, dtype=torch.int64)})
"""
"""A program that fails when it is asked for more than it has rows, as no check of its own finds."""
ASKED = 20
ASK = """
import http.client, json, os, sys, threading, time
host, model, ids = sys.argv[1], sys.argv[2], int(sys.argv[3])
lock, done, failed = threading.Lock(), {}, []
body = json.dumps({"inputs": [{"name": "ids", "shape": [1, 1], "datatype": "INT64", "data": [ids]}]})
def ask():
    connection = http.client.HTTPConnection(host, 8000, timeout=30)
    connection.request("POST", f"/v2/models/{model}/infer", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    if answer.status == 200: return json.loads(data)["model_version"]
    if b"the program failed" in data: return "failed program"
    raise RuntimeError(f"{answer.status}: {data[:200]}")
def client():
    while not os.path.exists("/tmp/stop"):
        try:
            version = ask()
            with lock: done[version] = done.get(version, 0) + 1
        except Exception as error:
            with lock: failed.append(f"{time.time():.2f} {type(error).__name__}: {error}")
        time.sleep(0.02)
def report():
    while not os.path.exists("/tmp/stop"):
        with lock: print(json.dumps({"done": done, "failed": len(failed), "failures": failed[:5]}), flush=True)
        time.sleep(0.5)
threads = [threading.Thread(target=client) for _ in range(2)] + [threading.Thread(target=report)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
print(json.dumps({"done": done, "failed": len(failed), "failures": failed[:20]}), flush=True)
"""
STEPS = [{"weight": 10}, {"pause": {}}, {"weight": 50}, {"pauseSeconds": 2}, {"weight": 100}]
COMPARING = [{"weight": 10}, {"analyzeSeconds": 60}, {"weight": 100}]
ANALYSIS = {"metrics": [{"name": "errorRate", "max": "0.05"}], "minSamples": 50}
DRAIN = {"preStopSeconds": 2, "timeoutSeconds": 10}


def publish(ns: Kubectl, name: str, rows: int) -> None:
    """A job that writes a model of so many rows."""
    output = {"model": {"name": name, "format": "torch-export"}}
    body = objects.python_job(name, PUBLISH, output=output)
    body["spec"]["template"]["spec"]["containers"][0]["command"] += [str(rows)]
    ns.apply(body)


def roll(ns: Kubectl, version: int, **rollout: Any) -> None:
    body = objects.pool("lookup", "lookup", version=version, replicas=2, drain=DRAIN, rollout=rollout)
    ns.apply(body)


def test_a_canary_goes_on_by_steps_and_one_that_fails_is_found(ns: Kubectl, operator: Kubectl, tmp_path: Path) -> None:
    user = User(ns, tmp_path)
    publish(ns, "lookup", 100)
    publish(ns, "faulty", 10)
    for name in ("lookup", "faulty"):
        ns.wait_condition("mver", f"{name}-v1", "Ready", seconds=120)
    good, faulty = (ns.get("mver", f"{name}-v1") for name in ("lookup", "faulty"))
    ns.apply(objects.copy_version(good, 2))
    bad = objects.copy_version(faulty, 3, model="lookup")
    ns.apply({**bad, "metadata": {"name": "lookup-v3"}})
    roll(ns, 1, strategy="Canary", steps=STEPS)
    ns.wait_condition("ipool", "lookup", "Ready", seconds=120)
    traffic = Traffic(ns, "lookup", "lookup", program=[ASK, "lookup", "lookup", str(ASKED)])
    traffic.wait_for_version(1)

    roll(ns, 2, strategy="Canary", steps=STEPS)
    found = ns.wait(
        "ipool",
        "lookup",
        "to wait for somebody",
        lambda f: condition(f, "Ready")["reason"] == "WaitingForPromotion",
        seconds=60,
    )
    assert (found["status"]["rollout"]["weight"], found["status"]["rollout"]["actualWeight"]) == (10, 33)
    assert found["status"]["version"] == "1"
    traffic.wait_for_version(2)
    kill(operator)
    user.plugin("promote ipool/lookup")
    found = ns.wait(
        "ipool",
        "lookup",
        "to serve version 2",
        lambda f: f["status"]["version"] == "2" and condition(f, "Ready")["status"] == "True",
        seconds=90,
    )
    assert found["status"]["rollout"]["strategy"] == "Canary"
    assert found["status"]["requests"][0]["name"] == "promote"

    roll(ns, 3, strategy="Canary", steps=COMPARING, analysis=ANALYSIS)
    found = ns.wait_condition("ipool", "lookup", "Degraded", seconds=90)
    change = found["status"]["rollout"]
    assert (change["reason"], found["status"]["version"]) == ("AnalysisFailed", "2")
    (finding,) = change["analysis"]
    assert (finding["metric"], finding["outcome"], finding["bound"]) == ("errorRate", "Failed", "0.05")
    assert finding["samples"] >= ANALYSIS["minSamples"]
    assert float(finding["candidate"]) > 0.9
    print(change["message"])
    ns.wait("ipool", "lookup", "to have let it go", lambda f: f["status"]["summary"] == "2/2", seconds=60)
    summary = traffic.stop()
    assert summary["failed"] == 0, summary
    answers: dict[str, int] = summary["done"]  # type: ignore[assignment]
    assert set(answers) == {"1", "2", "failed program"}, summary

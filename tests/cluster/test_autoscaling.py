"""Load that is doubled and halved again, under requests that are counted one by one."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.cluster import objects
from tests.cluster.traffic import Traffic
from tests.support.kubectl import Json, Kubectl

ASK = """
import http.client, json, os, sys, threading, time
host, model = sys.argv[1:]
lock, done, failed = threading.Lock(), {}, []
body = json.dumps({"text_input": "def ", "max_tokens": 200})
def active(): return int(open("/tmp/active").read()) if os.path.exists("/tmp/active") else 2
def ask():
    connection = http.client.HTTPConnection(host, 8000, timeout=60)
    connection.request("POST", f"/v2/models/{model}/generate", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    if answer.status != 200: raise RuntimeError(f"{answer.status}: {data[:200]}")
    return json.loads(data)["model_version"]
def client(number):
    while not os.path.exists("/tmp/stop"):
        if number >= active():
            time.sleep(0.05)
            continue
        try:
            version = ask()
            with lock: done[version] = done.get(version, 0) + 1
        except Exception as error:
            with lock: failed.append(f"{time.time():.2f} {type(error).__name__}: {error}")
def report():
    while not os.path.exists("/tmp/stop"):
        with lock: print(json.dumps({"done": done, "failed": len(failed), "failures": failed[:5]}), flush=True)
        time.sleep(0.5)
threads = [threading.Thread(target=client, args=[number]) for number in range(4)] + [threading.Thread(target=report)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
print(json.dumps({"done": done, "failed": len(failed), "failures": failed[:20]}), flush=True)
"""
"""Two clients, or as many as somebody writes down, each of which asks again as soon as it has its answer."""
DRAIN = {"preStopSeconds": 2, "timeoutSeconds": 10}
SCALING = {
    "maxReplicas": 2,
    "metrics": [{"name": "inFlightRequests", "target": "2.5"}],
    "stabilizationSeconds": 5,
}


def test_load_that_is_doubled_and_halved_settles_without_a_lost_request(trained: Kubectl) -> None:
    pool = objects.pool("elastic", "tiny", version=1, drain=DRAIN, autoscaling=SCALING)
    trained.apply(pool)
    trained.wait_condition("ipool", "elastic", "Ready")
    traffic = Traffic(trained, "elastic", "tiny", program=[ASK, "elastic", "tiny"])
    traffic.wait_for_version(1)

    trained.run("exec", "traffic-elastic", "--", "sh", "-c", "echo 4 > /tmp/active")
    trained.wait("ipool", "elastic", "to have another pod that serves", _has(2))
    trained.run("exec", "traffic-elastic", "--", "sh", "-c", "echo 2 > /tmp/active")
    trained.wait("ipool", "elastic", "to have let it go", _has(1))
    summary = traffic.stop()
    print(json.dumps(summary))
    assert summary["failed"] == 0, summary

    decisions = trained.get("ipool", "elastic")["status"]["scaling"]["decisions"]
    assert [(each["from"], each["to"]) for each in decisions] == [(2, 1), (1, 2)], "and not once more"
    assert {each["metric"] for each in decisions} == {"inFlightRequests"}
    print(decisions)
    refused = trained.run("scale", "ipool/elastic", "--replicas=2", check=False)
    assert "spec.autoscaling decides how many pods there are" in refused.err
    assert "1 of 1-2" in trained.run("get", "ipool", "elastic", "-o", "wide").out


def _has(pods: int) -> Callable[[Json], bool]:
    return lambda found: bool(found["status"]["summary"] == f"{pods}/{pods}")

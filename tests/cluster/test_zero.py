"""A pool without a pod: a hundred requests wait in its gateway, all are answered, and it goes to zero again."""

from __future__ import annotations

import json
import time

from tests.cluster import objects
from tests.cluster.traffic import Traffic
from tests.support.kubectl import Json, Kubectl, condition
from tests.support.waiting import wait_for

SERVING = "aifactory.dev/pool-name=sleeper,aifactory.dev/role=serve"
SCALING = {
    "minReplicas": 0,
    "maxReplicas": 1,
    "idleSeconds": 10,
    "metrics": [{"name": "inFlightRequests", "target": "200"}],
}
GATEWAY = {"mode": "Envoy", "replicas": 1}
ASK = """
import http.client, json, sys, threading, time
host, count, since = sys.argv[1], int(sys.argv[2]), time.time()
body = json.dumps({"model": "tiny", "prompt": "def ", "max_tokens": 4})
lock, done, failures, took = threading.Lock(), {}, [], []
def ask():
    connection = http.client.HTTPConnection(host, 9000, timeout=100)
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200: raise RuntimeError(f"{answer.status}: {data[:300]}")
    return json.loads(data)["model"].partition("@")[2]
def client():
    try: version, error = ask(), ""
    except Exception as problem: version, error = "", f"{type(problem).__name__}: {problem}"
    with lock:
        took.append(time.time() - since)
        failures.extend([error] if error else [])
        done[version] = done.get(version, 0) + 1
        told = {"done": done, "failed": len(failures), "failures": failures[:5], "began": since,
                "first": took[0], "last": took[-1]}
        print(json.dumps(told), flush=True)
threads = [threading.Thread(target=client) for _ in range(count)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
"""
"""So many requests at once, to OpenAI's API."""


def test_to_zero_and_back(trained: Kubectl) -> None:
    drain = {"preStopSeconds": 2, "timeoutSeconds": 5}
    made = objects.pool("sleeper", "tiny", version=1, replicas=0, drain=drain, autoscaling=SCALING, gateway=GATEWAY)
    trained.apply(made)
    trained.wait("ipool", "sleeper", "to begin at zero", _is_at_zero, seconds=60)

    traffic = Traffic(trained, "sleeper", "tiny", program=[ASK, "sleeper", "100"])
    wait_for("a hundred answers", traffic.answered, lambda seen: sum(seen.values()) == 100, seconds=90)
    told = json.loads(trained.run("logs", "traffic-sleeper").out.splitlines()[-1])
    assert (told["done"], told["failed"]) == ({"1": 100}, 0), told
    print(f"first answer after {told['first']:.1f} s, the last one after {told['last']:.1f} s")
    (pod,) = trained.list("pods", SERVING)
    log = trained.run("logs", pod["metadata"]["name"], "-c", "agent").out.splitlines()
    print(
        told["began"],
        *(line for line in log if any(word in line for word in ("started", "loaded", "answers"))),
        sep="\n",
    )

    began = time.monotonic()
    scaling = trained.wait("ipool", "sleeper", "to be at zero again", _is_at_zero, seconds=90)["status"]["scaling"]
    print(f"at zero again after {time.monotonic() - began:.1f} s: {json.dumps(scaling)}")
    assert [each["metric"] for each in scaling["decisions"]] == ["idleSeconds", "heldRequests"], "and not once more"
    assert 0 <= scaling["coldStart"]["startedSeconds"] <= scaling["coldStart"]["readySeconds"] < 60


def _is_at_zero(found: Json) -> bool:
    ready = condition(found, "Ready")
    return (ready.get("status"), ready.get("reason")) == ("True", "ScaledToZero")

"""Pools behind a real Envoy Gateway: what is missing is told, and a Canary splits requests that are counted one by one.

In order: the first test runs while the cluster has no Gateway API.
"""

from __future__ import annotations

import time

from tests.cluster import objects
from tests.cluster.test_canary import publish
from tests.cluster.traffic import Traffic
from tests.gateway_api.running import GATEWAYS, SHUT, address, gateway
from tests.support.kubectl import Json, Kubectl, condition
from tests.support.waiting import wait_for

MODEL, NAME = "lookup", "lookup.example.com"
STEPS = [{"weight": 25}, {"pause": {}}, {"weight": 100}]
REQUESTS, WITHIN = 12_000, 0.01
"""So many are counted at a weight; the share is then within 0.01 of it, but for one run in a hundred."""

ASK = """
import http.client, json, os, sys, threading, time
host, name, model = sys.argv[1:4]
lock, done, failed, last = threading.Lock(), {}, [], {}
body = json.dumps({"inputs": [{"name": "ids", "shape": [1, 1], "datatype": "INT64", "data": [7]}]})
headers = {"Content-Type": "application/json", "Host": name}
def client(kept):
    connection = None
    while not os.path.exists("/tmp/stop"):
        connection = connection or http.client.HTTPConnection(host, 80, timeout=30)
        try:
            connection.request("POST", f"/v2/models/{model}/infer", body, headers)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status != 200: raise RuntimeError(f"{answer.status}: {data[:200]}")
            version = json.loads(data)["model_version"]
            with lock:
                done[version] = done.get(version, 0) + 1
                last[version] = time.time()
            if kept: continue
        except Exception as error:
            with lock: failed.append(f"{time.time():.2f} {type(error).__name__}: {error}")
            time.sleep(0.05)
        connection.close()
        connection = None
def told(): return json.dumps({"done": done, "failed": len(failed), "failures": failed[:20], "last": last})
def report():
    while not os.path.exists("/tmp/stop"):
        with lock: print(told(), flush=True)
        time.sleep(0.5)
threads = [threading.Thread(target=client, args=[number > 0]) for number in range(4)]
threads += [threading.Thread(target=report)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
print(told(), flush=True)
"""
"""Four clients, three of which keep their connections."""

EVERY_DOOR = """
import http.client, json, queue, sys
import numpy, tritonclient.grpc as triton
host, model = sys.argv[1], sys.argv[2]
connection = http.client.HTTPConnection(host, 80, timeout=60)
ask = {"model": model, "prompt": "def ", "max_tokens": 40, "stream": True}
headers = {"Content-Type": "application/json", "Host": "tiny.example.com"}
connection.request("POST", "/v1/completions", json.dumps(ask), headers)
answer = connection.getresponse()
lines = [line[6:].strip() for line in answer if line.startswith(b"data: ")]
assert (answer.status, lines[-1]) == (200, b"[DONE]"), (answer.status, lines[-3:])
print("streamed", len(lines))
connection.request("GET", f"/v2/models/{model}", headers=headers)
answer = connection.getresponse()
print("triton", answer.status, json.loads(answer.read())["name"])
connection.request("GET", "/metrics", headers=headers)
print("else", connection.getresponse().status)
answers = queue.SimpleQueue()
client = triton.InferenceServerClient(f"{host}:80", channel_args=[("grpc.default_authority", "grpc.example.com")])
client.start_stream(lambda result, error: answers.put((result, error)))
values = {"text_input": "def ", "sampling_parameters": json.dumps({"max_tokens": 8})}
inputs = [triton.InferInput(name, [1], "BYTES") for name in values]
for one, value in zip(inputs, values.values()): one.set_data_from_numpy(numpy.array([value.encode()], dtype=object))
client.async_stream_infer(model, inputs)
result, error = answers.get(timeout=60)
print("grpc", error or result.get_response().model_name)
client.stop_stream()
"""


def pool(name: str = NAME, **spec: object) -> Json:
    """A pool of two pods behind Gateway public."""
    behind: Json = {
        "mode": "GatewayAPI",
        "parentRefs": [{"name": "public", "namespace": GATEWAYS}],
        "hostnames": [name],
    }
    body = objects.pool(MODEL, MODEL, **{"version": 1, "replicas": 2, "gateway": behind, **spec})  # type: ignore[arg-type]
    return body


def reason(found: Json) -> str:
    """Why the pool is not Ready, or Serving."""
    return str(condition(found, "Ready").get("reason"))


def test_where_the_cluster_has_no_gateway_api_the_pool_says_so_and_its_service_serves(
    ns: Kubectl, operator: Kubectl
) -> None:
    publish(ns, MODEL, 100)
    ns.wait_condition("mver", f"{MODEL}-v1", "Ready", seconds=180)
    ns.apply(pool())
    found = ns.wait("ipool", MODEL, "to say so", lambda seen: reason(seen) == "GatewayApiMissing", seconds=120)
    assert "install the Gateway API and restart the operator" in condition(found, "Stalled")["message"]
    assert condition(found, "Available")["status"] == "True"
    assert found["status"]["url"] == f"http://{MODEL}.{ns.namespace}.svc:8000"


def test_what_keeps_the_gateway_is_told_and_a_canary_splits_by_weight(ns: Kubectl, gateways: Kubectl) -> None:
    publish(ns, MODEL, 100)
    version = ns.wait_condition("mver", f"{MODEL}-v1", "Ready", seconds=180)
    ns.apply(objects.copy_version(version, 2), pool(rollout={"strategy": "Canary", "steps": STEPS}))
    found = ns.wait("ipool", MODEL, "to miss the Gateway", lambda seen: reason(seen) == "GatewayNotFound", seconds=120)
    print(condition(found, "Stalled")["message"])
    gateways.apply(gateway(allowed=SHUT))
    found = ns.wait("ipool", MODEL, "to be refused", lambda seen: reason(seen) == "RouteNotAccepted", seconds=120)
    print(condition(found, "Stalled")["message"])
    assert f"let routes of namespace {ns.namespace} in" in condition(found, "Stalled")["message"]
    gateways.apply(gateway())
    found = ns.wait_condition("ipool", MODEL, "Ready", seconds=120)
    assert found["status"]["url"] == f"http://{NAME}"

    traffic = Traffic(ns, MODEL, MODEL, program=[ASK, address(gateways), NAME, MODEL])
    traffic.wait_for_version(1)
    ns.run("patch", "ipool", MODEL, "--type=merge", "-p", '{"spec": {"models": [{"name": "lookup", "version": 2}]}}')
    ns.wait("ipool", MODEL, "to wait", lambda seen: reason(seen) == "WaitingForPromotion", seconds=120)
    found = ns.wait(
        "ipool", MODEL, "to have its weight", lambda seen: seen["status"]["rollout"]["actualWeight"] == 25, seconds=30
    )
    print(found["status"]["traffic"])
    before = traffic.answered()
    after = wait_for(
        f"{REQUESTS} answers at weight 25",
        traffic.answered,
        lambda seen: sum(seen.values()) - sum(before.values()) >= REQUESTS,
        seconds=400,
    )
    of_both = {number: after.get(number, 0) - before.get(number, 0) for number in ("1", "2")}
    share = of_both["2"] / sum(of_both.values())
    print(f"at weight 25: {of_both}, share {share:.4f}")
    assert abs(share - 0.25) <= WITHIN, of_both

    began = time.time()
    ns.run("annotate", "ipool", MODEL, "aifactory.dev/abort=now")
    ns.wait_condition("ipool", MODEL, "Degraded", seconds=60)
    ns.wait("ipool", MODEL, "to have let it go", lambda seen: seen["status"]["summary"] == "2/2", seconds=60)
    wait_for("pods of version 1 alone", lambda: deployments(ns), lambda seen: len(seen) == 1, seconds=90)
    gone = traffic.last().get("last", {})["2"]  # type: ignore[call-overload,index]
    print(f"the last answer of version 2 came {float(gone) - began:.2f} s after the abort")
    ns.run("annotate", "ipool", MODEL, "aifactory.dev/retry=now")
    ns.wait("ipool", MODEL, "to wait again", lambda seen: reason(seen) == "WaitingForPromotion", seconds=120)
    ns.run("annotate", "ipool", MODEL, "aifactory.dev/promote=now")
    ns.wait(
        "ipool",
        MODEL,
        "to serve version 2",
        lambda seen: seen["status"]["version"] == "2" and reason(seen) == "Serving",
        seconds=120,
    )
    wait_for("pods of version 2 alone", lambda: deployments(ns), lambda seen: len(seen) == 1, seconds=90)
    summary = traffic.stop()
    print(summary)
    assert summary["failed"] == 0, summary


def deployments(ns: Kubectl) -> list[str]:
    """The pool's sets of pods."""
    return [found["metadata"]["name"] for found in ns.list("deployments")]


def test_every_door_streams_and_a_gateway_that_goes_away(ns: Kubectl, gateways: Kubectl) -> None:
    ns.apply(objects.training_job("tiny", steps=20, nodes=1, output="tiny"))
    ns.wait_condition("mver", "tiny-v1", "Ready", seconds=240)
    gateways.apply(gateway())
    behind = {
        "mode": "GatewayAPI",
        "parentRefs": [{"name": "public", "namespace": GATEWAYS, "sectionName": "http"}],
        "hostnames": ["tiny.example.com"],
        "grpc": {"hostnames": ["grpc.example.com"]},
    }
    ns.apply(objects.pool("tiny", "tiny", gateway=behind))
    found = ns.wait_condition("ipool", "tiny", "Ready", seconds=180)
    assert found["status"]["url"] == "http://tiny.example.com/v1"
    traffic = Traffic(ns, "tiny", "tiny", program=[EVERY_DOOR, address(gateways), "tiny"])
    lines = traffic.words(seconds=90).splitlines()
    print(lines)
    assert int(lines[0].removeprefix("streamed ")) > 3
    assert lines[1:] == ["triton 200 tiny", "else 404", "grpc tiny"]

    gateways.run("delete", "gateways.gateway.networking.k8s.io", "public", "--timeout=60s")
    found = ns.wait("ipool", "tiny", "to miss it", lambda seen: reason(seen) == "GatewayNotFound", seconds=60)
    assert condition(found, "Degraded")["status"] == "True"
    assert found["status"]["url"] == f"http://tiny.{ns.namespace}.svc:9000/v1"
    gateways.apply(gateway())
    ns.wait_condition("ipool", "tiny", "Ready", seconds=120)

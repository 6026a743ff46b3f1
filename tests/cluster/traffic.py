"""Continuous requests to a served model, from inside the cluster, counted one by one.

The client is a pod that asks through the pool's Service with one new connection for each request, as short-lived
clients do; it prints every failure and a summary. It is told to stop by a file, so no request is cut off by its end.
"""

from __future__ import annotations

import json

from tests.cluster import objects
from tests.support.kubectl import Kubectl
from tests.support.waiting import wait_for

Json = dict[str, object]

PROGRAM = """
import http.client, json, os, sys, threading, time
host, model, clients = sys.argv[1], sys.argv[2], int(sys.argv[3])
lock, done, failed = threading.Lock(), {}, []
def ask():
    connection = http.client.HTTPConnection(host, 8000, timeout=30)
    body = json.dumps({"text_input": "def ", "max_tokens": 8})
    connection.request("POST", f"/v2/models/{model}/generate", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {data[:200]}")
    return json.loads(data)["model_version"]
def client():
    while not os.path.exists("/tmp/stop"):
        try:
            version = ask()
            with lock: done[version] = done.get(version, 0) + 1
        except Exception as error:
            with lock: failed.append(f"{time.time():.2f} {type(error).__name__}: {error}")
def report():
    while not os.path.exists("/tmp/stop"):
        with lock: print(json.dumps({"done": done, "failed": len(failed)}), flush=True)
        time.sleep(0.5)
threads = [threading.Thread(target=client) for _ in range(clients)] + [threading.Thread(target=report)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
print(json.dumps({"done": done, "failed": len(failed), "failures": failed[:20]}), flush=True)
"""


class Traffic:
    """Requests that go on until `stop`."""

    def __init__(self, kubectl: Kubectl, pool: str, model: str, clients: int = 2) -> None:
        self._kubectl = kubectl
        self._name = f"traffic-{pool}"
        command = ["python3", "-c", PROGRAM, pool, model, str(clients)]
        container: Json = {
            "name": "traffic",
            "image": objects.AGENT,
            "command": command,
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        security: Json = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
        kubectl.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": self._name},
                "spec": {"restartPolicy": "Never", "securityContext": security, "containers": [container]},
            }
        )

    def answered(self) -> dict[str, int]:
        """Answers so far, by model version."""
        return dict(self._last().get("done", {}))  # type: ignore[call-overload, no-any-return]

    def wait_for_version(self, version: int, seconds: float = 120) -> None:
        """Wait until the version has answered."""
        wait_for(
            f"an answer of version {version}",
            self._last,
            lambda seen: str(version) in seen.get("done", {}),
            seconds=seconds,  # type: ignore[operator]
        )

    def stop(self) -> Json:
        """End the traffic and return the summary."""
        self._kubectl.run("exec", self._name, "--", "touch", "/tmp/stop")
        self._kubectl.wait(
            "pod", self._name, "to end", lambda found: found["status"]["phase"] == "Succeeded", seconds=60
        )
        summary = self._last()
        self._kubectl.run("delete", "pod", self._name, "--wait=false")
        return summary

    def _last(self) -> Json:
        lines = self._kubectl.run("logs", self._name, "--tail=1", check=False).out.strip().splitlines()
        return dict(json.loads(lines[-1])) if lines else {}

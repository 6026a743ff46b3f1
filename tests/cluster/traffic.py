"""Continuous requests to a served model, from inside the cluster, counted one by one.

The client is a pod that asks through the pool's Service with one new connection for each request, as short-lived
clients do; it prints every failure and a summary. It is told to stop by a file, so no request is cut off by its end.

`EVERY_WAY` are clients of several kinds at once: new and kept connections, HTTP, gRPC streams and OpenAI's API. They
say for each kind and version when requests were sent that it answered; a pause of `PAUSE_SECONDS` begins a new
interval. With `reconnect` one whose connection is refused connects again, as most clients do, and counts that apart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

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

PAUSE_SECONDS = 4.0
EVERY_WAY = """
import http.client, json, os, queue, sys, threading, time
import numpy, tritonclient.grpc as triton
host, model, pause, wanted = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]
lock, done, sent, failed, counts = threading.Lock(), {}, {}, [], {}
refusals = ("refused", "failed to connect")
stopped = lambda: os.path.exists("/tmp/stop")
class Http:
    port, path = 8000, f"/v2/models/{model}/generate"
    def body(self): return {"text_input": "def ", "max_tokens": 8}
    def version(self, answer): return answer["model_version"]
    def __init__(self): self.connection = http.client.HTTPConnection(host, self.port, timeout=60)
    def ask(self):
        self.connection.request("POST", self.path, json.dumps(self.body()), {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status != 200: raise RuntimeError(f"{answer.status}: {data[:300]}")
        return self.version(json.loads(data))
    def close(self): self.connection.close()
class OpenAI(Http):
    port, path = 9000, "/v1/completions"
    def body(self): return {"model": model, "prompt": "def ", "max_tokens": 8}
    def version(self, answer): return answer["model"].partition("@")[2]
class Streamed(OpenAI):
    def body(self): return {**super().body(), "max_tokens": 40, "stream": True}
    def ask(self):
        self.connection.request("POST", self.path, json.dumps(self.body()), {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        if answer.status != 200: raise RuntimeError(f"{answer.status}: {answer.read()[:300]}")
        lines = [line[6:].strip() for line in answer if line.startswith(b"data: ")]
        if lines[-1:] != [b"[DONE]"]: raise RuntimeError(f"cut after {len(lines)} pieces")
        return self.version(json.loads(lines[0]))
class Grpc:
    def __init__(self):
        self.answers = queue.SimpleQueue()
        self.client = triton.InferenceServerClient(f"{host}:8001")
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))
    def ask(self):
        values = {"text_input": "def ", "sampling_parameters": json.dumps({"max_tokens": 8})}
        inputs = [triton.InferInput(name, [1], "BYTES") for name in values]
        for one, value in zip(inputs, values.values()):
            one.set_data_from_numpy(numpy.array([value.encode()], dtype=object))
        try: self.client.async_stream_infer(model, inputs, enable_empty_final_response=True)
        except triton.InferenceServerException as error:  # over already: the callback was told why
            raise (self.answers.get(timeout=60)[1] or error)
        version = ""
        while True:
            result, error = self.answers.get(timeout=60)
            if error is not None: raise error
            answer = result.get_response()
            version = answer.model_version if len(answer.outputs) else version
            if answer.parameters["triton_final_response"].bool_param: return version
    def close(self):
        self.client.stop_stream()
        self.client.close()
def count(kind, version, when):
    with lock:
        done.setdefault(kind, {})[version] = done.setdefault(kind, {}).get(version, 0) + 1
        intervals = sent.setdefault(kind, {}).setdefault(version, [])
        if not intervals or when - intervals[-1][1] > pause: intervals.append([when, when])
        else: intervals[-1][1] = max(when, intervals[-1][1])
def client(kind, make, kept):
    connection = None
    while not stopped():
        when = time.time()
        try:
            connection = connection or make()
            count(kind, connection.ask(), when)
        except Exception as error:
            again = "reconnect" in wanted and any(words in str(error).lower() for words in refusals)
            if again: time.sleep(0.05)
            with lock:
                if again: counts["refused"] = counts.get("refused", 0) + 1
                else: failed.append(f"{when:.2f} {kind} {type(error).__name__}: {error}")
                if not again: counts[kind] = counts.get(kind, 0) + 1
            kept_on = False
        else: kept_on = kept
        if not kept_on and connection is not None:
            try: connection.close()
            except Exception: pass
            connection = None
def report():
    while not stopped():
        with lock:
            print(json.dumps({"done": done, "failed": len(failed), "failures": failed[-5:], "of": counts}), flush=True)
        time.sleep(0.5)
kinds = [("http new", Http, False), ("http kept", Http, True), ("grpc new", Grpc, False), ("grpc kept", Grpc, True),
         ("openai new", OpenAI, False), ("openai kept", OpenAI, True), ("openai streamed", Streamed, True)]
kinds = [kind for kind in kinds if kind[0] in wanted]
threads = [threading.Thread(target=client, args=kind) for kind in kinds] + [threading.Thread(target=report)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
told = {"done": done, "failed": len(failed), "failures": failed[:20], "of": counts, "sent": sent}
print(json.dumps(told), flush=True)
os._exit(0)  # all is said; a stream's thread in tritonclient can outlast its close() and keep the process
"""
KINDS = ("http new", "http kept", "grpc new", "grpc kept", "openai new", "openai kept")


class Traffic:
    """Requests that go on until `stop`."""

    def __init__(
        self,
        kubectl: Kubectl,
        pool: str,
        model: str,
        clients: int = 2,
        *,
        every_way: bool = False,
        program: Sequence[str] = (),
        kinds: tuple[str, ...] = KINDS,
        reconnect: bool = False,
        name: str = "",
    ) -> None:
        self._kubectl = kubectl
        self._kinds = kinds
        self._name = name or f"traffic-{pool}"
        command = ["python3", "-c", PROGRAM, pool, model, str(clients)]
        if every_way:
            command = ["python3", "-c", EVERY_WAY, pool, model, str(PAUSE_SECONDS), *kinds]
            command += ["reconnect"] if reconnect else []
        if program:  # a client of the test's own, which tells as these do
            command = ["python3", "-c", *program]
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
                "metadata": {"name": self._name, "labels": objects.labels()},
                "spec": {"restartPolicy": "Never", "securityContext": security, "containers": [container]},
            }
        )

    def answered(self) -> dict[str, int]:
        """Answers so far, by model version."""
        return dict(self._last().get("done", {}))  # type: ignore[call-overload, no-any-return]

    def wait_for_every_way(self, seconds: float = 120) -> None:
        """Wait until each kind of client has had an answer."""
        wait_for(
            "an answer to every client",
            self._last,
            lambda seen: len(seen.get("done", {})) == len(self._kinds),  # type: ignore[arg-type]
            seconds=seconds,
        )

    def wait_for_more(self, answers: int = 20, seconds: float = 60) -> None:
        """Wait until each kind of client has had so many answers more."""
        before = self._counts()
        wait_for(
            f"{answers} more answers to every client",
            self._counts,
            lambda seen: all(seen.get(kind, 0) >= before.get(kind, 0) + answers for kind in self._kinds),
            seconds=seconds,
        )

    def failed(self) -> dict[str, int]:
        """Failures so far, by kind of client; of clients of every kind."""
        counts = dict(self._last().get("of", {}))  # type: ignore[call-overload]
        return {kind: count for kind, count in counts.items() if kind in self._kinds}

    def refused(self) -> int:
        """Connections that were refused so far, where clients connect again."""
        counts: dict[str, int] = self._last().get("of", {})  # type: ignore[assignment]
        return counts.get("refused", 0)

    def last_failures(self) -> object:
        """Words of the last failures."""
        return self._last().get("failures")

    def _counts(self) -> dict[str, int]:
        done: dict[str, dict[str, int]] = self._last().get("done", {})  # type: ignore[assignment]
        return {kind: sum(counts.values()) for kind, counts in done.items()}

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

    def words(self, seconds: float) -> str:
        """Everything that a program of the test's own has printed, once it has ended well."""
        ended = lambda found: found["status"]["phase"] in ("Succeeded", "Failed")  # noqa: E731
        found = self._kubectl.wait("pod", self._name, "to end", ended, seconds=seconds)
        text = self._kubectl.run("logs", self._name).out
        assert found["status"]["phase"] == "Succeeded", text
        self._kubectl.run("delete", "pod", self._name, "--wait=false")
        return text

    def last(self) -> Json:
        """What the clients have told last."""
        return self._last()

    def _last(self) -> Json:
        lines = self._kubectl.run("logs", self._name, "--tail=1", check=False).out.strip().splitlines()
        return dict(json.loads(lines[-1])) if lines else {}

"""A version that answers and fails is found by what Triton counts, with the real operator, which is killed meanwhile,
and the real API server; kubelets and Tritons are played."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from aifactory.api import names
from tests.cluster import objects
from tests.component import pods
from tests.component.conftest import Operator
from tests.component.test_operator import make_ready
from tests.support.kubectl import Kubectl, condition

SELECTOR = "aifactory.dev/pool-name=chat"
ROLLOUT = {
    "strategy": "Canary",
    "steps": [{"weight": 10}, {"analyzeSeconds": 3600}, {"weight": 100}],
    "analysis": {"metrics": [{"name": "errorRate", "max": "0.05"}], "minSamples": 40},
}


@contextmanager
def triton(address: str, failures: int) -> Iterator[None]:
    """A Triton that has answered forty requests more each time it is asked, of which so many failed."""
    counted = [1000]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            counted[0] += 1
            labels = '{model="m",version="1"}'
            body = f"nv_inference_request_success{labels} {40 * counted[0]}\n"
            body += f"aifactory_failed_requests_total{labels} {failures * counted[0]}\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer((address, names.TRITON_METRICS_PORT), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def test_a_version_that_fails_is_taken_back(ns: Kubectl, start_operator: Callable[..., Operator]) -> None:
    process = start_operator("--lease-seconds=3")
    process.wait_ready()
    with ExitStack() as running:
        for address, failures in (("127.0.0.31", 0), ("127.0.0.32", 10)):
            running.enter_context(triton(address, failures))
        ns.apply(objects.pool("chat", "m", replicas=1, rollout=ROLLOUT))
        make_ready(ns, 1)
        ns.wait("ipool", "chat", "to have a pod", lambda _: len(ns.list("pods", SELECTOR)) == 1)
        (first,) = ns.list("pods", SELECTOR)
        pods.serve(ns, first["metadata"]["name"], "127.0.0.31")
        ns.wait_condition("ipool", "chat", "Ready")

        make_ready(ns, 2)
        ns.wait("ipool", "chat", "to have a candidate", lambda _: len(ns.list("pods", SELECTOR)) == 2)
        (second,) = (pod for pod in ns.list("pods", SELECTOR) if pod["metadata"]["uid"] != first["metadata"]["uid"])
        pods.serve(ns, second["metadata"]["name"], "127.0.0.32")
        found = ns.wait(
            "ipool", "chat", "to compare", lambda seen: condition(seen, "Reconciling")["reason"] == "Analyzing"
        )
        change = found["status"]["rollout"]
        assert (change["step"], change["weight"], change["actualWeight"]) == (1, 10, 50)
        since = change["window"]["since"]
        process.kill()
        process = start_operator("--lease-seconds=3")
        process.wait_ready()

        found = ns.wait_condition("ipool", "chat", "Degraded", seconds=60)
        change = found["status"]["rollout"]
        assert (change["phase"], change["reason"]) == ("Failed", "AnalysisFailed")
        (finding,) = change["analysis"]
        assert (finding["outcome"], finding["candidate"], finding["stable"]) == ("Failed", "0.25", "0")
        assert "errorRate: 0.25 in " in condition(found, "Degraded")["message"]
        assert since < condition(found, "Degraded")["lastTransitionTime"]
        ns.wait("ipool", "chat", "to let it go", lambda _: len(ns.list("deployments", SELECTOR)) == 1)
        events = [event["reason"] for event in ns.list("events", "") if event["involvedObject"]["name"] == "chat"]
        assert "AnalysisFailed" in events
    assert process.stop() == 0, process.words()
    assert "Traceback" not in process.log.read_text(), process.words()

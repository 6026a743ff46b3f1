"""How far a task is, for whoever asks its pod while it runs: GET /v1/status. It changes nothing."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from aifactory_agent.logs import fields

_log = logging.getLogger(__name__)
_CLIENT_TIMEOUT_SECONDS = 5


@contextmanager
def telling(status: Callable[[], dict[str, Any]], port: int) -> Iterator[None]:
    """Answer with `status()` while the block runs. The work does not depend on it: without the port it goes on."""
    if not port:
        yield
        return

    class Handler(BaseHTTPRequestHandler):
        timeout = _CLIENT_TIMEOUT_SECONDS

        def do_GET(self) -> None:
            found = self.path == "/v1/status"
            body = json.dumps(status()).encode() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: it is asked every few seconds."""

    try:
        server = _Server(("", port), Handler)
    except OSError as error:
        _log.warning("nobody is told how far it is", extra=fields(port=port, detail=str(error)))
        yield
        return
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()


class _Server(ThreadingHTTPServer):
    """On IPv4 and IPv6, whichever the pod has."""

    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)  # HTTPServer's would look up this machine's name, which may take long

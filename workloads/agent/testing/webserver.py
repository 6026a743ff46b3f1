"""A web server for tests: files from memory, with ranges and versions as real ones give them, and what goes wrong.

It stands for the servers that a test can not have: one that breaks off, one that changes a file while it is read, one
that gives no ranges. What real registries, hubs and buckets do is tested against those.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Reply:
    """An answer that is no file."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class WebServer:
    """What it gives; may be changed while it runs."""

    files: dict[str, bytes] = field(default_factory=dict)
    """By path, with a slash in front."""
    special: Callable[[str, str, dict[str, str]], Reply | None] = lambda method, path, headers: None
    """Answers first: gets method, path with query, headers with small letters."""
    ranges: bool = True
    versions: bool = True
    """Whether it sends ETags."""
    drop_after: int = 0
    """Each answer that is longer breaks off after so many bytes."""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Every request."""
    address: str = ""
    """host:port."""

    def etag(self, path: str) -> str:
        return f'"{hashlib.md5(self.files[path]).hexdigest()}"'


@dataclass(frozen=True)
class Certificates:
    """PEM files for a server at 127.0.0.1."""

    authority: Path
    made: Path
    key: Path


def certificates(folder: Path) -> Certificates:
    """A CA, and a certificate for 127.0.0.1 that it has signed."""
    folder.mkdir(parents=True, exist_ok=True)
    found = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    ca = [*new, "-subj", "/CN=ca", "-keyout", str(folder / "ca-key.pem"), "-out", str(found.authority)]
    leaf = [*new, "-subj", "/CN=store", "-keyout", str(found.key), "-out", str(found.made)]
    leaf += ["-CA", str(found.authority), "-CAkey", str(folder / "ca-key.pem")]
    leaf += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    for command in (ca, leaf):
        subprocess.run(command, check=True, capture_output=True)
    return found


@contextmanager
def serving(server: WebServer, tls: Certificates | None = None) -> Iterator[WebServer]:
    """The server, answering; with a certificate and its key by TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            server.asked.append((self.command, self.path, headers))
            if (reply := server.special(self.command, self.path, headers)) is not None:
                self._send(reply.status, reply.headers, reply.body)
                return
            path = unquote(self.path.partition("?")[0])
            content = server.files.get(path)
            if content is None:
                self._send(404, {}, b"no such file")
                return
            facts = {"ETag": server.etag(path)} if server.versions else {}
            if "if-match" in headers and server.versions and headers["if-match"] != facts["ETag"]:
                self._send(412, facts, b"")
                return
            wanted = _RANGE.fullmatch(headers.get("range", ""))
            if wanted is None or not server.ranges:
                self._send(200, facts, content)
                return
            start = int(wanted[1])
            end = min(int(wanted[2] or len(content)) + 1, len(content))
            if start >= len(content):
                self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
                return
            facts["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            self._send(206, facts, content[start:end])

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if 0 < server.drop_after < len(body):
                self.wfile.write(body[: server.drop_after])
                self.close_connection = True
                return
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.made, tls.key)
            http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        server.address = f"127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()

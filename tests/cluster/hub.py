"""A hub on the node's address, as small as one can be: it answers as huggingface.co does of one repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "5" * 40


@contextmanager
def serving(address: str, repository: str, files: Mapping[str, bytes], token: str) -> Iterator[str]:
    """Its URL. The files are those of branch main."""
    api = f"/api/models/{repository}"
    entries = [
        {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for path, data in files.items()
    ]
    answers = {
        f"{api}/revision/main": json.dumps({"sha": COMMIT}).encode(),
        f"{api}/tree/{COMMIT}?recursive=true": json.dumps(entries).encode(),
        **{f"/{repository}/resolve/{COMMIT}/{path}": data for path, data in files.items()},
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == f"Bearer {token}"
            body = answers.get(self.path) if allowed else None
            self.send_response(200 if body is not None else 401)
            if body is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("ETag", f'"{hashlib.sha1(body or b"").hexdigest()}"')
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer((address, 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield f"http://{address}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()

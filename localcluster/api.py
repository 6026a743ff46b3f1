"""A few requests to an API server with the standard library: what bringing a cluster up needs, and no more."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from localcluster.pki import Identity

Json = dict[str, Any]


class Api:
    """One API server as one identity. Every request is its own connection: the server may be restarted in between."""

    def __init__(self, server: str, authority: Path, identity: Identity) -> None:
        parts = urlsplit(server)
        self._host, self._port = parts.hostname or "", parts.port
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._tls.load_cert_chain(str(identity.certificate), str(identity.key))

    def request(
        self, method: str, path: str, body: object = None, content: str = "application/json"
    ) -> tuple[int, bytes]:
        """The status and the body of the answer. Raises OSError or HTTPException when nobody answers."""
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=10)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": content, "Accept": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> Json | None:
        """The object at ``path``; None if it is not there or the server is not."""
        try:
            status, body = self.request("GET", path)
            return dict(json.loads(body)) if status == 200 else None
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def is_ready(self) -> bool:
        """True once every start-up hook has passed and the namespaces that every user expects exist."""
        try:
            return (
                self.request("GET", "/readyz")[0] == 200 and self.request("GET", "/api/v1/namespaces/default")[0] == 200
            )
        except (OSError, http.client.HTTPException):
            return False

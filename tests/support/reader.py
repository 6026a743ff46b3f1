"""Objects as the API server has them, without a `kubectl` process for each look: a test that waits looks five times a
second, and a process costs twenty times the CPU time of a request.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

Json = dict[str, Any]

DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class Reader:
    """Reads from the API server of a kubeconfig that carries its certificates in itself.

    Every request is its own connection: the server may be restarted in between.
    """

    def __init__(self, kubeconfig: str) -> None:
        self._kubeconfig = kubeconfig
        self._kinds: dict[str, tuple[str, str, bool]] = {}

    def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """An object, empty if it is not there; None where there is no such kind."""
        path = self._path(kind, namespace)
        if path is None:
            return None
        status, body = self._request(f"{path}/{name}")
        if status == 404:
            return {}
        return _shown(_object(status, body))

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Json] | None:
        """Objects of a kind; None where there is no such kind."""
        path = self._path(kind, namespace)
        if path is None:
            return None
        found = _object(*self._request(path + (f"?{urlencode({'labelSelector': selector})}" if selector else "")))
        named = {"apiVersion": found["apiVersion"], "kind": found["kind"].removesuffix("List")}
        return [_shown({**named, **item}) for item in found["items"]]

    def _path(self, kind: str, namespace: str) -> str | None:
        kind = kind.lower()
        if kind not in self._kinds:
            self._kinds = self._discover()
        if kind not in self._kinds:
            return None
        root, plural, namespaced = self._kinds[kind]
        return f"{root}/namespaces/{namespace}/{plural}" if namespaced else f"{root}/{plural}"

    def _discover(self) -> dict[str, tuple[str, str, bool]]:
        """Where kinds are found, by every name that they have; full names go before short ones."""
        full: dict[str, tuple[str, str, bool]] = {}
        short: dict[str, tuple[str, str, bool]] = {}
        for start in ("/api", "/apis"):
            for group in _object(*self._request(start, DISCOVERY))["items"]:
                name = group["metadata"].get("name", "")
                for version in group["versions"]:
                    root = "/".join(part for part in (start, name, version["version"]) if part)
                    for resource in version["resources"]:
                        place = root, resource["resource"], resource["scope"] == "Namespaced"
                        for each in (resource["resource"], resource["singularResource"]):
                            full.setdefault(each, place)
                            full.setdefault(f"{each}.{name}", place)
                        for each in resource.get("shortNames", ()):
                            short.setdefault(each, place)
        return {**short, **full}

    def _request(self, path: str, accept: str = "application/json") -> tuple[int, bytes]:
        host, port, tls = self._server
        connection = http.client.HTTPSConnection(host, port, context=tls, timeout=30)
        try:
            connection.request("GET", path, headers={"Accept": accept})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise AssertionError(f"the API server does not answer GET {path}: {error!r}") from None
        finally:
            connection.close()

    @cached_property
    def _server(self) -> tuple[str, int, ssl.SSLContext]:
        config = yaml.safe_load(Path(self._kubeconfig).read_text())
        (cluster,), (user,) = config["clusters"], config["users"]
        url = urlsplit(cluster["cluster"]["server"])
        data = {**cluster["cluster"], **user["user"]}
        authority = base64.b64decode(data["certificate-authority-data"]).decode()
        tls = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as pair:  # load_cert_chain reads files alone
            for name in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(data[name]) + b"\n")
            pair.flush()
            tls.load_cert_chain(pair.name)
        return str(url.hostname), int(url.port or 443), tls


def _object(status: int, body: bytes) -> Json:
    if status != 200:
        raise AssertionError(f"the API server answers {status}: {body.decode(errors='replace')[:2000]}")
    return dict(json.loads(body))


def _shown(found: Json) -> Json:
    """As `kubectl get -o json` prints it."""
    found["metadata"].pop("managedFields", None)
    return found

"""HTTP as all sources on the web use it: https://, hubs and registries.

Ranges that go on where they broke off, redirects that are looked at before they are followed, and addresses that no
artifact comes from. A URI is written by a user and read by a pod with another network place than his, so (server-side
request forgery, OWASP): only HTTP, never from https to http, and no connection to this pod itself, to the link's own
addresses, where clouds hand out credentials, or to other known places of that kind. The address is looked at when the
connection stands, so no name can lead elsewhere than it did a moment ago. A credential goes to the host it is for.
"""

from __future__ import annotations

import ipaddress
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from aifactory_agent import __version__
from aifactory_agent.artifacts.reading import THREADS
from aifactory_agent.artifacts.store import StoredFile, changed
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.uri import ArtifactUri

CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 30
"""Without a byte for this long a request is tried again; a slow server that sends something is waited for."""
ATTEMPTS = 5
"""Tries in a row that bring nothing."""
_MAX_FAILURES = 50
"""Tries of one piece in all: a connection that always breaks after a few bytes is no way to get a model."""
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0
_REDIRECTS = 5
_HOSTS = 16
"""To which connections are kept."""
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOVED = frozenset({301, 302, 303, 307, 308})
_BLOCK = 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

T = TypeVar("T")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
CREDENTIAL_ADDRESSES: frozenset[Address] = frozenset(
    map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))
)
"""Metadata services of clouds outside of the link-local ranges (Alibaba, Azure, Oracle, AWS and Google by IPv6)."""


def is_forbidden(text: str) -> bool:
    """Whether no artifact may come from an IP address."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    special = address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
    return special or address in CREDENTIAL_ADDRESSES


class Forbidden(Exception):
    """A connection led to an address that no artifact comes from."""


def check_endpoint(uri: ArtifactUri, what: str, endpoint: str) -> None:
    """Refuse an endpoint that is none, or that leads to such an address now; `what` says where it is written.

    For clients that make their own connections. A proxy in the pod itself may be named. Raises FactoryError
    (InvalidArtifact).
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.query:
        message = f"{uri}: {what} is {endpoint!r}; write https://<host>, or http://<host> in a network of trust"
        raise FactoryError(Reason.INVALID_ARTIFACT, message)
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, None, type=socket.SOCK_STREAM)}
    except OSError:
        return  # whoever connects will say so
    found = {address for address in found if not ipaddress.ip_address(address.partition("%")[0]).is_loopback}
    if forbidden := sorted(address for address in found if is_forbidden(address)):
        raise FactoryError(Reason.INVALID_ARTIFACT, forbidden_words(uri, parts.hostname, forbidden[0]))


def forbidden_words(uri: ArtifactUri, host: str, address: str) -> str:
    """What to say of such an address."""
    return (
        f"{uri}: {host} leads to {address}, an address of this machine or of its cloud, and no artifact is read from "
        "there; use the address of a server in the network"
    )


class _Guarded:
    """Mixed into urllib3's connections."""

    def _new_conn(self) -> socket.socket:
        made: socket.socket = super()._new_conn()  # type: ignore[misc]
        address = str(made.getpeername()[0])
        if is_forbidden(address):
            made.close()
            raise Forbidden(address)
        return made


class _PlainConnection(_Guarded, HTTPConnection):
    pass


class _TlsConnection(_Guarded, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


@dataclass(frozen=True)
class Answer:
    """A whole, small answer, or the beginning of an error."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    """Where it came from after all redirects."""


@dataclass(frozen=True)
class Beginning:
    """What is known of a file after its first bytes were asked for."""

    size: int
    pin: str
    """Its version: ETag, or the time of the last change."""
    in_parts: bool
    """Whether parts of it can be asked for."""
    content: bytes | None
    """All of it, if it is small."""


class Refused(Exception):
    """The server answers, and what it says is neither the bytes nor that it is busy."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"HTTP {answer.status}")
        self.answer = answer


class _Again(Exception):
    """It may go better in a moment."""

    def __init__(self, words: str, wait: float = 0.0) -> None:
        super().__init__(words)
        self.wait = wait


class Web:
    """Requests for one artifact. Failures are FactoryErrors that name its URI, or Refused for the caller to explain."""

    def __init__(self, uri: ArtifactUri, authority: Path | None = None) -> None:
        self.uri = uri
        self._credentials: dict[str, str] = {}
        context = ssl.create_default_context()
        if authority is not None:
            context.load_verify_locations(authority)
        self._pools = urllib3.PoolManager(
            num_pools=_HOSTS,
            maxsize=THREADS,
            ssl_context=context,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=READ_TIMEOUT_SECONDS),
            retries=False,
        )
        self._known: dict[str, HTTPConnectionPool] = {}
        self._pools.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}

    def authorize(self, url: str, value: str) -> None:
        """From now on the host of this URL, and no other, gets this Authorization header."""
        self._credentials[_origin(url)] = value

    def is_authorized(self, url: str) -> bool:
        """Whether requests to the host of this URL bear credentials."""
        return _origin(url) in self._credentials

    def get(
        self,
        url: str,
        limit: int,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        follow: bool = True,
    ) -> Answer:
        """A document of at most `limit` bytes. Raises Refused for every status but 2xx (and 3xx if not followed)."""

        def once() -> Answer:
            response, place = self._open(method, url, headers or {}, follow)
            try:
                body = _beginning(response, limit + 1)
            finally:
                _finish(response)
            answer = Answer(response.status, response.headers, body, place)
            if len(body) > limit:
                message = f"{self.uri}: {url} has more than {limit} bytes; that is not what was asked for"
                raise FactoryError(Reason.INVALID_ARTIFACT, message)
            if response.status >= 400:
                raise Refused(answer)
            return answer

        return self._patiently(once)

    def begin(self, url: str, most: int) -> Beginning:
        """What a file is, and its bytes if it has no more than `most`: for small ones that saves a request each.

        Asked by a range: many servers and signed URLs allow GET only. Raises Refused.
        """

        def once() -> Beginning:
            response, place = self._open("GET", url, {"Range": f"bytes=0-{most - 1}"}, True)
            try:
                pin = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
                found = response.headers.get("Content-Range", "")
                if response.status == 416 and found == "bytes */0":
                    return Beginning(0, pin, True, b"")
                if response.status == 206 and (match := _CONTENT_RANGE.fullmatch(found)) and match[3] != "*":
                    size, in_parts = int(match[3]), True
                elif (
                    response.status in (200, 206) and (length := response.headers.get("Content-Length", "")).isdecimal()
                ):
                    size, in_parts = int(length), False
                elif response.status < 400:
                    message = f"{self.uri}: {_origin(place)} does not tell the size of {urlsplit(place).path}"
                    raise FactoryError(Reason.INVALID_ARTIFACT, f"{message}; use a server that sends Content-Length")
                else:
                    raise Refused(Answer(response.status, response.headers, _beginning(response, _ERROR_BYTES), place))
                body = b""
                if size <= most or in_parts:
                    with suppress(urllib3.exceptions.HTTPError, OSError):  # `read` asks for what is missing
                        body = _beginning(response, min(most, size))
                return Beginning(size, pin, in_parts, body if len(body) == size else None)
            finally:
                _finish(response)

        return self._patiently(once)

    def read(self, url: str, file: StoredFile, start: int, end: int, stop: threading.Event, pin: str = "") -> bytearray:
        """Bytes of a file, all of them, of the version that `pin` names. Raises Refused and FactoryError."""
        buffer = bytearray(end - start)
        filled = failures = vain = 0
        while filled < len(buffer):
            try:
                got = self._read_some(url, file, start + filled, end, pin, memoryview(buffer)[filled:], stop)
            except _Broken as error:
                got, failure = error.got, error
                failures += 1
                vain = 0 if got else vain + 1
                if vain >= ATTEMPTS or failures >= _MAX_FAILURES:
                    raise self._away(failure) from error
                if stop.wait(error.wait or _wait(vain)):
                    raise self._away(failure) from error
            filled += got
        return buffer

    def _read_some(
        self, url: str, file: StoredFile, start: int, end: int, pin: str, view: memoryview, stop: threading.Event
    ) -> int:
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if pin.startswith('"'):
            headers["If-Match"] = pin
        elif pin and not pin.startswith("W/"):
            headers["If-Unmodified-Since"] = pin
        filled = 0
        try:
            response, place = self._open("GET", url, headers, True)
            try:
                self._check_range(response, place, file, start, end, pin)
                while filled < len(view) and (block := response.read(min(_BLOCK, len(view) - filled))):
                    view[filled : filled + len(block)] = block
                    filled += len(block)
                    if stop.is_set():
                        raise _Again("it is not wanted any more")
            finally:
                _finish(response)
        except (_Again, urllib3.exceptions.HTTPError, OSError) as error:
            raise _Broken(str(error) or type(error).__name__, filled, getattr(error, "wait", 0.0)) from error
        if not filled:
            raise _Broken("the connection ended without a byte", 0)
        return filled

    def _check_range(self, response: Any, place: str, file: StoredFile, start: int, end: int, pin: str) -> None:
        """Raises unless the answer is the wanted part of the wanted version."""
        if response.status == 412:
            raise changed(self.uri, file.path)
        if response.status in (200, 206):
            now = response.headers.get("ETag") or response.headers.get("Last-Modified") or pin
            if pin and now != pin:
                raise changed(self.uri, file.path)
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status == 416 or (response.status == 206 and match and match[3] not in ("*", str(file.size))):
            there = match[3] if match else response.headers.get("Content-Range", "").rpartition("/")[2] or "fewer"
            message = (
                f"{self.uri}: {file.path} has {there} bytes there, but the source lists it with {file.size}: it was "
                "cut short when it was uploaded or mirrored; upload it again"
            )
            raise FactoryError(Reason.DIGEST_MISMATCH, message)
        if response.status == 206 and match and int(match[1]) == start:
            return
        if response.status == 200 and start == 0:
            length = response.headers.get("Content-Length", str(file.size))
            if length != str(file.size):
                message = f"{self.uri}: {file.path} has {length} bytes there, but the source lists it with {file.size}"
                raise FactoryError(Reason.DIGEST_MISMATCH, f"{message}; upload it again")
            if end == file.size:
                return
        if response.status in (200, 206):
            raise FactoryError(Reason.INVALID_ARTIFACT, without_ranges(self.uri, _origin(place)))
        raise Refused(Answer(response.status, response.headers, _beginning(response, _ERROR_BYTES), place))

    def _open(self, method: str, url: str, headers: Mapping[str, str], follow: bool) -> tuple[Any, str]:
        """A response whose body is still to be read. Raises _Again for a server that is busy."""
        for _ in range(_REDIRECTS + 1):
            sent = {"User-Agent": f"aifactory-agent/{__version__}", "Accept-Encoding": "identity", **headers}
            if (credential := self._credentials.get(_origin(url))) is not None:
                sent["Authorization"] = credential
            try:
                response = self._pool(url).urlopen(
                    method,
                    urllib3.util.parse_url(url).request_uri,
                    headers=sent,
                    preload_content=False,
                    decode_content=False,
                    redirect=False,
                    assert_same_host=False,
                )
            except Forbidden as error:
                message = forbidden_words(self.uri, str(urlsplit(url).hostname), str(error))
                raise FactoryError(Reason.INVALID_ARTIFACT, message) from None
            except urllib3.exceptions.LocationValueError as error:
                raise FactoryError(Reason.INVALID_ARTIFACT, f"{self.uri}: {url} is no address: {error}") from error
            except urllib3.exceptions.SSLError as error:
                if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                    raise
                message = (
                    f"{self.uri}: TLS: the certificate of {_origin(url)} is of a CA that is not known here ({error}): "
                    "put the CA's certificate into the secret under the key ca.crt"
                )
                raise FactoryError(Reason.STORE_UNAVAILABLE, message) from error
            if response.status in _BUSY:
                wait = _seconds(response.headers.get("Retry-After"))
                response.close()
                raise _Again(f"HTTP {response.status}", wait)
            if response.status not in _MOVED or not follow:
                return response, url
            response.drain_conn()
            response.release_conn()
            url = self._target(url, response.headers)
        message = f"{self.uri}: more than {_REDIRECTS} redirects, the last to {url}; correct the server or the URI"
        raise FactoryError(Reason.INVALID_ARTIFACT, message)

    def _pool(self, url: str) -> HTTPConnectionPool:
        """The connections to the host of a URL. The manager's own way to them costs a quarter of a small request."""
        origin = _origin(url)
        if (known := self._known.get(origin)) is None:
            if len(self._known) >= _HOSTS:
                self._known.clear()
            known = self._known[origin] = self._pools.connection_from_url(url)
        return known

    def redirected(self, answer: Answer) -> str:
        """Where an answer that was not followed leads to, or came from. Raises FactoryError for a forbidden place."""
        return self._target(answer.url, answer.headers) if answer.status in _MOVED else answer.url

    def _target(self, url: str, headers: Mapping[str, str]) -> str:
        target = urljoin(url, headers.get("Location", ""))
        before, after = urlsplit(url), urlsplit(target)
        if after.scheme not in ("https", "http") or (before.scheme == "https" and after.scheme != "https"):
            message = (
                f"{self.uri}: {before.netloc} redirects from {before.scheme}:// to {after.scheme}://, which is not "
                "followed; have it redirect to https://"
            )
            raise FactoryError(Reason.INVALID_ARTIFACT, message)
        return target

    def _patiently(self, once: Callable[[], T]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return once()
            except (_Again, urllib3.exceptions.HTTPError, OSError) as error:
                if attempt == ATTEMPTS:
                    raise self._away(error) from error
                time.sleep(getattr(error, "wait", 0.0) or _wait(attempt))
        raise AssertionError("unreachable")

    def _away(self, error: Exception) -> FactoryError:
        words = str(error) or type(error).__name__
        return FactoryError(Reason.STORE_UNAVAILABLE, f"{self.uri}: its server does not answer as it should: {words}")


class _Broken(Exception):
    """A request ended early."""

    def __init__(self, words: str, got: int, wait: float = 0.0) -> None:
        super().__init__(words)
        self.got = got
        self.wait = wait


_ERROR_BYTES = 4096


def without_ranges(uri: ArtifactUri, origin: str) -> str:
    """What to say of a server that gives files whole only."""
    return (
        f"{uri}: {origin} gives no parts of files (HTTP Range), which a large file needs to be read in parallel and to "
        "go on after a failure; put it behind a server that does, such as nginx, or into a bucket"
    )


def _finish(response: Any) -> None:
    """A connection whose answer was read to the end is used again, another is not."""
    if response.isclosed():
        response.release_conn()
    else:
        response.close()


def _beginning(response: Any, limit: int) -> bytes:
    body = b""
    while len(body) < limit and (block := response.read(limit - len(body))):
        body += block
    return body


def _origin(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _wait(attempt: int) -> float:
    """Longer after each failure, and not at the same moment as other pods."""
    longest: float = min(_FIRST_WAIT_SECONDS * 2.0 ** max(0, attempt - 1), _LONGEST_WAIT_SECONDS)
    return longest * random.uniform(0.5, 1.0)


def _seconds(retry_after: str | None) -> float:
    if retry_after is None or not retry_after.isdecimal():
        return 0.0
    return min(float(retry_after), _LONGEST_WAIT_SECONDS)

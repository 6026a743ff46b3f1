"""A real Envoy that works by the operator's files, pods that are processes with an address of their own, and a DNS.

Everything is on loopback addresses that are drawn by chance, so that nobody else's ports are in the way. The kubelet's
part is played here: a ConfigMap's files appear all at once, by the rename of a link.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp

from aifactory.api import names
from aifactory.serving import apikeys, envoy

BINARY = Path(sys.prefix) / "bin" / "envoy"
MODEL = "tiny"

POD = """
import asyncio, json, sys
from aiohttp import web
address, name, version = sys.argv[1:]
busy = False
seen = {"requests": 0, "bytes": 0, "hosts": []}
async def ready(_): return web.Response()
async def told(_): return web.json_response(seen)
async def infer(request):
    seen["requests"] += 1
    seen["hosts"] = sorted({*seen["hosts"], request.host})
    body = await request.read()
    seen["bytes"] += len(body)
    if busy: return web.json_response({"error": "busy"}, status=503)
    await asyncio.sleep(float(request.query.get("seconds", 0.005)))
    headers = sorted(key for key in map(str.lower, request.headers) if key in ("authorization", "x-other"))
    return web.json_response({"pod": name, "version": version, "bytes": len(body), "headers": headers})
async def stream(request):
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for number in range(int(request.query.get("tokens", 5))):
        await answer.write(f"data: {number}\\n\\n".encode())
        await asyncio.sleep(float(request.query.get("seconds", 0.1)))
    return answer
async def turn(request):
    global busy
    busy = request.query["busy"] == "1"
    return web.Response()
async def main():
    app = web.Application(client_max_size=2**26)
    app.add_routes([web.get("/v2/models/tiny/ready", ready), web.get("/health", ready), web.post("/turn", turn),
                    web.get("/seen", told),
                    web.post("/infer", infer), web.post("/v1/completions", infer), web.post("/stream", stream)])
    runner = web.AppRunner(app)
    await runner.setup()
    for port in (8000, 9000): await web.TCPSite(runner, address, port).start()
    print("up", flush=True)
    await asyncio.Future()
asyncio.run(main())
"""


class Dns(asyncio.DatagramProtocol):
    """Answers A by a table; whatever else is asked has no answer."""

    def __init__(self) -> None:
        self.table: dict[str, list[str]] = {}
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        question, is_a = data[12 : at + 5], data[at + 1 : at + 3] == b"\x00\x01"
        found = self.table.get(".".join(labels))
        addresses = (found or []) if is_a else []
        code = 0 if found is not None else 3
        head = data[:2] + bytes([0x84, code]) + b"\x00\x01" + len(addresses).to_bytes(2, "big") + bytes(4)
        answers = (
            b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04" + bytes(map(int, address.split(".")))
            for address in addresses
        )
        self._transport.sendto(head + question + b"".join(answers), addr)


class Site:
    """One gateway and its pods."""

    def __init__(self, directory: Path) -> None:
        self._net = f"127.{random.randint(64, 127)}.{random.randint(1, 254)}"
        self.directory = directory
        self.dns = Dns()
        self.pods: dict[str, subprocess.Popen[str]] = {}
        self.envoy: subprocess.Popen[bytes] | None = None
        self._dns_port = 0
        self._written = 0

    @property
    def address(self) -> str:
        """Of the gateway."""
        return f"{self._net}.1"

    def pod_address(self, name: str) -> str:
        return f"{self._net}.{ord(name[0])}"

    async def begin(self) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self.dns, local_addr=(self.address, 0))
        self._dns_port = transport.get_extra_info("sockname")[1]

    def start_pod(self, name: str, version: int) -> None:
        """A pod, which no name leads to yet."""
        command = [sys.executable, "-c", POD, self.pod_address(name), name, str(version)]
        self.pods[name] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def wait_for_pods(self, names: str = "") -> None:
        for pod in [self.pods[name] for name in names or self.pods]:
            assert pod.stdout is not None
            assert pod.stdout.readline() == "up\n"

    def kill_pod(self, name: str) -> None:
        self.pods.pop(name).kill()

    def name(self, host: str, pods: str) -> None:
        """Those pods are the ready ones that a headless Service has."""
        self.dns.table[host] = [self.pod_address(pod) for pod in pods]

    def write(self, routes: envoy.Routes) -> str:
        """Bring the files, as a kubelet does; returns what the gateway tells when it works by them."""
        files = envoy.files(routes)
        digest = json.loads(files["routes-status.json"])["resources"][0]["virtual_hosts"][0]["routes"][0]
        resolver = {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [{"socket_address": {"address": self.address, "port_value": self._dns_port}}],
                "dns_resolver_options": {"no_default_search_domain": True},
            },
        }
        for name, text in files.items():
            if name.startswith("bootstrap"):
                text = json.dumps({**json.loads(text), "typed_dns_resolver_config": resolver})
            for there in (envoy.DIRECTORY, envoy.TLS_DIRECTORY, apikeys.DIRECTORY):
                text = text.replace(there, str(self._mount(there)))
            files[name] = text.replace("0.0.0.0", self.address).replace("127.0.0.1", self.address)
        self.bring(envoy.DIRECTORY, files)
        return str(digest["direct_response"]["body"]["inline_string"])

    def bring(self, mount: str, files: dict[str, str]) -> None:
        """Files of a ConfigMap or a Secret appear where it is mounted, all at once."""
        self._written += 1
        directory = self._mount(mount)
        data = directory / f"..{self._written}"
        data.mkdir(parents=True)
        for name, text in files.items():
            (data / name).write_text(text)
            if not (directory / name).is_symlink():
                (directory / name).symlink_to(f"..data/{name}")
        (directory / "..data_tmp").symlink_to(data.name)
        os.rename(directory / "..data_tmp", directory / "..data")

    def _mount(self, path: str) -> Path:
        return self.directory if path == envoy.DIRECTORY else self.directory / Path(path).name

    def start_envoy(self, walls: envoy.Walls = envoy.NO_WALLS) -> None:
        log = (self.directory / "envoy.log").open("ab")
        said = (self.directory / "access.log").open("ab")
        command = [str(BINARY), *envoy.arguments(str(self.directory), walls)]
        self.envoy = subprocess.Popen(command, stderr=log, stdout=said)

    async def wait_for_digest(self, digest: str, seconds: float = 60.0) -> None:
        """Wait until the gateway works by those files."""
        deadline = asyncio.get_running_loop().time() + seconds
        seen = ""
        async with aiohttp.ClientSession() as session:
            while seen != digest:
                assert asyncio.get_running_loop().time() < deadline, f"{seen} instead of {digest}: {self.log()}"
                try:
                    async with session.get(self.url(names.GATEWAY_STATUS_PORT, envoy.FILES_PATH)) as answer:
                        seen = await answer.text()
                except aiohttp.ClientConnectionError:
                    pass
                await asyncio.sleep(0.01)

    def access_log(self) -> list[dict[str, Any]]:
        """What it has written about requests."""
        return [json.loads(line) for line in (self.directory / "access.log").read_text().splitlines()]

    def log(self) -> str:
        return (self.directory / "envoy.log").read_text()[-3000:]

    def url(self, port: int, path: str) -> str:
        return f"http://{self.address}:{port}{path}"

    def end(self) -> None:
        for process in (*self.pods.values(), *([self.envoy] if self.envoy else [])):
            process.send_signal(signal.SIGKILL)
            process.wait(10)


def routes(*sets: envoy.Pods, openai: bool = True) -> envoy.Routes:
    return envoy.Routes("chat", MODEL, openai, envoy.Pods("pods", "chat-pods"), sets)

"""How fast inputs are fetched, beside a plain copy by each store's own tool: same servers, same machine, in turn.

    $(python3 workloads/server/venv.py) workloads/agent/testing/source_speed.py --work DIR --s5cmd PATH --oras PATH

Servers are real ones on this machine: versitygw and CNCF distribution as the local cluster's tools build them, and
Caddy for the web and the hub. What is timed is each whole program, from its start until all bytes are on the disk:
`fetch` pushes them there and hashes them by itself; after the others `sync -f` is run, and in a column of its own
`sha256sum` too, since but for oras they compare nothing. Tools that are not given are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("server", "server/testing", "contract", "agent")]

from harness import WORKLOADS, free_ports, running  # noqa: E402
from webserver import certificates  # noqa: E402

COMMIT = "5" * 40
KEYS = {"AWS_ACCESS_KEY_ID": "factory", "AWS_SECRET_ACCESS_KEY": "factory-secret", "AWS_REGION": "us-east-1"}
IMAGE = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "268435456"}
"""What the agent's image sets."""
SETTLING_SECONDS = 4
"""A virtual machine gives the memory of deleted files back to its host a moment later, and fetching it again costs CPU
time: so nobody begins before that."""
PROGRAM = """
import sys
from aifactory_agent.artifacts import web
web.is_forbidden = lambda address: False  # the servers are on this machine, where no artifact comes from otherwise
from aifactory_agent.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Place:
    """Where everything of a run is."""

    def __init__(self, folder: Path) -> None:
        self.data, self.out, self.secrets, self.tls = (folder / name for name in ("data", "out", "secrets", "tls"))
        self.folder = folder
        self.ports: dict[str, int] = {}

    def make(self, large: int, small: int) -> None:
        """The files that are copied, once: random, so that nothing compresses them."""
        (self.data / "models/large").mkdir(parents=True, exist_ok=True)
        (self.data / "models/small").mkdir(exist_ok=True)
        path = self.data / "models/large/weights.bin"
        if not path.exists() or path.stat().st_size != large:
            with path.open("wb") as file:
                for start in range(0, large, 1 << 20):
                    file.write(os.urandom(min(1 << 20, large - start)))
        for number in range(small):
            if not (one := self.data / f"models/small/part-{number:04}.bin").exists():
                one.write_bytes(os.urandom(65536))
        for name in ("large", "small"):
            lines = [f"{sha256(path)}  {path.name}\n" for path in sorted((self.data / "models" / name).iterdir())]
            (self.folder / f"{name}.sums").write_text("".join(lines))

    def secret(self, name: str, **values: str) -> None:
        (self.secrets / name).mkdir(parents=True, exist_ok=True)
        for key, value in values.items():
            (self.secrets / name / key.replace("ca_crt", "ca.crt")).write_text(value)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def built(name: str) -> str:
    cluster = WORKLOADS.parent / "localcluster/cluster.py"
    done = subprocess.run([sys.executable, cluster, "bin", name], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()[-1]


def serve_s3(place: Place, stack: ExitStack) -> None:
    place.ports["s3"] = port = free_ports(1)[0]
    command = [built("versitygw"), "--port", f"127.0.0.1:{port}", "--quiet", "--access", KEYS["AWS_ACCESS_KEY_ID"]]
    command += ["--secret", KEYS["AWS_SECRET_ACCESS_KEY"], "posix", str(place.data)]
    stack.enter_context(running(command, port))
    place.secret("s3", **KEYS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")


def serve_registry(place: Place, stack: ExitStack, oras: str) -> None:
    place.ports["oci"] = port = free_ports(1)[0]
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(place.folder / "registry")}},
        "http": {
            "addr": f"127.0.0.1:{port}",
            "tls": {"certificate": str(place.tls / "cert.pem"), "key": str(place.tls / "key.pem")},
        },
    }
    (place.folder / "registry.json").write_text(json.dumps(config))
    stack.enter_context(
        running([built("registry"), "serve", str(place.folder / "registry.json")], port, OTEL_TRACES_EXPORTER="none")
    )
    for name in ("large", "small"):
        folder = place.data / "models" / name
        target = f"127.0.0.1:{port}/{name}:v1"
        command = [oras, "push", "--ca-file", str(place.tls / "ca.pem"), target, *sorted(os.listdir(folder))]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def serve_web(place: Place, stack: ExitStack, caddy: str) -> None:
    """Files by TLS, and a hub: its pages are files too, but for the kinds of its answers."""
    place.ports["https"], place.ports["hf"] = https, hub = free_ports(2)
    root = place.folder / "www"
    for name in ("large", "small"):
        (root / name).mkdir(parents=True, exist_ok=True)
        pages = root / "api/models/org" / name
        resolve = root / "org" / name / "resolve"
        for folder in (pages / "revision", pages / "tree", resolve):
            folder.mkdir(parents=True, exist_ok=True)
        files = sorted((place.data / "models" / name).iterdir())
        sums = dict(reversed(line.split()) for line in (place.folder / f"{name}.sums").read_text().splitlines())
        for link, target in [(root / name / path.name, path) for path in files]:
            if not link.is_symlink():
                link.symlink_to(target)
        (root / name / "SHA256SUMS").write_text((place.folder / f"{name}.sums").read_text())
        if not (link := resolve / COMMIT).is_symlink():
            link.symlink_to(place.data / "models" / name)
        tree = []
        for path in files:
            size = path.stat().st_size
            entry = {
                "type": "file",
                "path": path.name,
                "size": size,
                "oid": hashlib.sha1(path.name.encode()).hexdigest(),
            }
            if size > 10**7:
                entry["lfs"] = {"oid": sums[path.name], "size": size, "pointerSize": 130}
            tree.append(entry)
        (pages / "tree" / COMMIT).write_text(json.dumps(tree))
        about = {"id": f"org/{name}", "modelId": f"org/{name}", "sha": COMMIT, "private": False, "tags": []}
        about["siblings"] = [{"rfilename": path.name} for path in files]
        (pages / "revision/main").write_text(json.dumps(about))
        (pages / "info").write_text(json.dumps(about))
    (place.folder / "Caddyfile").write_text(
        f"""{{
  admin off
  auto_https off
}}
http://127.0.0.1:{hub} {{
  @resolve path_regexp ^/org/.*/resolve/
  header @resolve X-Repo-Commit {COMMIT}
  header /api/* Content-Type application/json
  rewrite /api/models/org/small /api/models/org/small/info
  rewrite /api/models/org/large /api/models/org/large/info
  root * {root}
  file_server
}}
https://127.0.0.1:{https} {{
  tls {place.tls / "cert.pem"} {place.tls / "key.pem"}
  root * {root}
  file_server
}}
"""
    )
    stack.enter_context(running([caddy, "run", "--config", str(place.folder / "Caddyfile")], https))
    place.secret("hub", HF_ENDPOINT=f"http://127.0.0.1:{hub}")


def fetch(place: Place, uri: str, secret: str) -> list[str]:
    spec = {"uri": uri, "destination": "pvc://out/cache", "secret": secret}
    arguments = ["fetch", "--spec", json.dumps(spec), "--claims", str(place.folder), "--secrets", str(place.secrets)]
    return [sys.executable, "-c", PROGRAM, *arguments, "--result", str(place.folder / "result"), "--port", "0"]


def commands(place: Place, options: argparse.Namespace) -> Iterator[tuple[str, list[str], str, list[str]]]:
    """What is copied, our command, the other tool's name and its command."""
    out, authority = str(place.out), str(place.tls / "ca.pem")
    for name in ("large", "small"):
        if options.s5cmd:
            endpoint = f"http://127.0.0.1:{place.ports['s3']}"
            command = [options.s5cmd, "--endpoint-url", endpoint, "cp", f"s3://models/{name}/*", f"{out}/"]
            yield f"s3 {name}", fetch(place, f"s3://models/{name}", "s3"), "s5cmd cp", command
        if options.oras:
            target = f"127.0.0.1:{place.ports['oci']}/{name}:v1"
            command = [options.oras, "pull", "--concurrency", "8", "--ca-file", authority, target, "-o", out]
            yield f"oci {name}", fetch(place, f"oci://{target}", "web"), "oras pull --concurrency 8", command
        if options.caddy:
            url = f"https://127.0.0.1:{place.ports['https']}/{name}"
            listed = place.folder / f"{name}.curl"
            files = sorted(os.listdir(place.data / "models" / name))
            listed.write_text("".join(f'url="{url}/{file}"\noutput="{out}/{file}"\n' for file in files))
            command = ["curl", "-sS", "-Z", "--parallel-max", "8", "--cacert", authority, "-K", str(listed)]
            yield f"https {name}", fetch(place, f"{url}/", "web"), "curl -Z --parallel-max 8", command
        if options.caddy and options.hf:
            command = [options.hf, "download", f"org/{name}", "--local-dir", out]
            yield f"hf {name}", fetch(place, f"hf://org/{name}", "hub"), "hf download", command


@dataclass(frozen=True)
class Taken:
    """What a copy has taken, in seconds."""

    wall: float
    cpu: float


def timed(place: Place, command: list[str], *, hashing: Path | None = None) -> Taken:
    """Run a copy until it has ended and all is on the disk. The CPU time is the programs' own, without the server's."""
    shutil.rmtree(place.out, ignore_errors=True)
    place.out.mkdir()
    subprocess.run(["sync", "-f", str(place.out)], check=True)
    time.sleep(SETTLING_SECONDS)
    endpoint = f"http://127.0.0.1:{place.ports.get('hf', 0)}"
    hub = {"HF_ENDPOINT": endpoint, "HF_HOME": str(place.folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    env = {**os.environ, **KEYS, **hub, **IMAGE, "HF_HUB_DISABLE_TELEMETRY": "1"}
    env["PYTHONPATH"] = f"{WORKLOADS / 'agent'}:{WORKLOADS / 'contract'}"
    began, before = time.perf_counter(), cpu_of_children()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)[:400]}\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    if hashing is not None:
        subprocess.run(["sha256sum", "--quiet", "-c", str(hashing)], cwd=place.out, check=True)
    subprocess.run(["sync", "-f", str(place.out)], check=True)
    return Taken(time.perf_counter() - began, cpu_of_children() - before)


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(place: Place, options: argparse.Namespace, what: str, ours: list[str], theirs: list[str]) -> list[Taken]:
    """Medians of ours, the other tool, and that with sha256sum after it: one after the other, round by round."""
    sums = place.folder / f"{what.split()[1]}.sums"
    rounds: list[tuple[Taken, Taken, Taken]] = []
    for _ in range(options.rounds):
        mine, other = timed(place, ours), timed(place, theirs)
        rounds.append((mine, other, other if what.startswith("oci") else timed(place, theirs, hashing=sums)))
        told = "  ".join(f"{taken.wall:.2f} s ({taken.cpu:.2f} CPU)" for taken in rounds[-1])
        print(f"{what}: {told}  load {os.getloadavg()[0]:.1f}", flush=True)
    median = statistics.median
    return [
        Taken(median(one.wall for one in column), median(one.cpu for one in column))
        for column in zip(*rounds, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetching beside each store's own tool.")
    parser.add_argument("--work", type=Path, required=True, help="directory for data; what is there is used again")
    parser.add_argument("--large", type=int, default=4096, help="MiB of the one large file")
    parser.add_argument("--small", type=int, default=1000, help="number of files of 64 KiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="what is copied, for example: s3 large, or: small")
    for tool in ("s5cmd", "oras", "caddy", "hf"):
        parser.add_argument(f"--{tool}", default=shutil.which(tool), help="its path")
    options = parser.parse_args()
    place = Place(options.work.resolve())
    place.folder.mkdir(parents=True, exist_ok=True)
    place.make(options.large << 20, options.small)
    if not (place.tls / "ca.pem").exists():
        certificates(place.tls)
    place.secret("web", ca_crt=(place.tls / "ca.pem").read_text())
    rows = []
    with ExitStack() as stack:
        starts: dict[str, Callable[[], None]] = {
            "s5cmd": lambda: serve_s3(place, stack),
            "oras": lambda: serve_registry(place, stack, options.oras),
            "caddy": lambda: serve_web(place, stack, options.caddy),
        }
        for tool, start in starts.items():
            if getattr(options, tool):
                start()
        for what, ours, name, theirs in commands(place, options):
            if options.only in what:
                mine, other, checked = compare(place, options, what, ours, theirs)
                cells = [what, *(f"{taken.wall:.2f} s ({taken.cpu:.2f} s)" for taken in (mine, other, checked))]
                cells += [f"{other.wall / mine.wall:.2f}", f"{checked.wall / mine.wall:.2f}"]
                rows.append(f"| {' | '.join(cells)} | `{name}` |")
    print(
        "| | `fetch` | tool | tool, then sha256sum | ratio | ratio | |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(rows)
    )


if __name__ == "__main__":
    main()

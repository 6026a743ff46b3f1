"""`aifactory-triton`: prepare a directory with the back ends, then run tritonserver.

Finds Triton where it is: NVIDIA's image has it in /opt/tritonserver, the wheel nvidia-pytriton brings it inside the
package. Needs no writable root: everything it writes goes to the repository volume, /tmp and /dev/shm. Before Triton
starts it says on that volume which back ends and GPUs there are.
SIGTERM is handed on to tritonserver (`supervise`), which stops taking requests, finishes those under way for up to
--exit-timeout-secs, and ends; while it starts, it ends at once.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aifactory_contract.cgroup import cpu_quota
from aifactory_contract.control import RESTRICTION, control_key
from aifactory_contract.memory import TELL, tell_memory
from aifactory_contract.server import write_server
from aifactory_server.backends import available, write_backends
from aifactory_server.distribution import Distribution, find_triton
from aifactory_server.supervise import supervise

_WORKER_START_SECONDS = 300
"""How long Triton waits for a worker process to say that it lives. Reading PyTorch from a cold disk takes a while."""
_DRIVER = "libcuda.so.1"
_COUNT_GPUS = f"""
import ctypes
cuda, count = ctypes.CDLL("{_DRIVER}"), ctypes.c_int()
code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
print(-code if code else count.value)
"""
_COUNT_SECONDS = 60
_NO_DEVICE = 100
"""CUDA's code for a driver that is there and a container that was given no GPU."""


@dataclass(frozen=True)
class Settings:
    """Where the server listens and keeps things; from environment variables, with the defaults of the serving pod."""

    repository: Path = Path("/repository")
    address: str = "0.0.0.0"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    exit_timeout_seconds: int = 30
    shm_prefix: str = "aifactory"
    """Beginning of the names of Triton's files in /dev/shm; those of a killed predecessor are removed."""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Settings:
        """Read AIFACTORY_<name of the field in capitals>; an empty one counts as not given."""

        def given(name: str, default: object) -> str:
            return environ.get(f"AIFACTORY_{name}") or str(default)

        return cls(
            repository=Path(given("REPOSITORY", cls.repository)),
            address=given("ADDRESS", cls.address),
            http_port=int(given("HTTP_PORT", cls.http_port)),
            grpc_port=int(given("GRPC_PORT", cls.grpc_port)),
            metrics_port=int(given("METRICS_PORT", cls.metrics_port)),
            exit_timeout_seconds=int(given("EXIT_TIMEOUT_SECONDS", cls.exit_timeout_seconds)),
            shm_prefix=given("SHM_PREFIX", cls.shm_prefix),
        )


def command(triton: Distribution, settings: Settings, backends: Path, key: str, extra: Sequence[str]) -> list[str]:
    """The command line of tritonserver. `extra` comes last and so overrides."""
    restricted = f"model-repository,shared-memory,trace,logging:{RESTRICTION}={key}"
    return [
        str(triton.server),
        f"--model-repository={settings.repository / 'models'}",
        f"--backend-directory={backends}",
        # Nothing is loaded but by the agent, and a model that does not load ends nothing.
        "--model-control-mode=explicit",
        "--exit-on-error=false",
        "--strict-readiness=false",
        "--disable-auto-complete-config",
        f"--http-address={settings.address}",
        f"--http-port={settings.http_port}",
        f"--grpc-address={settings.address}",
        f"--grpc-port={settings.grpc_port}",
        f"--metrics-address={settings.address}",
        f"--metrics-port={settings.metrics_port}",
        f"--exit-timeout-secs={settings.exit_timeout_seconds}",
        # Who may load models may run code: only the agent knows the key. Clients get inference, health and metadata.
        f"--http-restricted-api={restricted}",
        f"--grpc-restricted-protocol={restricted}",
        f"--backend-config=python,shm-region-prefix-name={settings.shm_prefix}",
        f"--backend-config=python,stub-timeout-seconds={_WORKER_START_SECONDS}",
        "--log-format=ISO8601",
        *extra,
    ]


def environment(triton: Distribution, environ: Mapping[str, str]) -> dict[str, str]:
    """Environment of tritonserver and of the worker processes it starts."""
    result = dict(environ)
    libraries = [*_python_library(), *([] if triton.libraries is None else [str(triton.libraries)])]
    if libraries:
        result["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [*libraries, environ.get("LD_LIBRARY_PATH")]))
    # Workers embed an isolated interpreter that ignores PYTHONPATH; `backends` hands this list to them.
    result["AIFACTORY_PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    threads = str(available_cpus())
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        result.setdefault(name, threads)
    # Idle threads soon sleep: the CPUs are shared with other workers and with Triton itself. Not at once: between two
    # layers of a model one would have to be woken up, which takes longer than many a layer.
    result.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    result.setdefault("GOMP_SPINCOUNT", "30000")
    # Workers run as any user, without a name or a home: caches of torch and vLLM go where one can write.
    result.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / "torchinductor"))
    result.setdefault("USER", "aifactory")
    if not os.access(result.get("HOME", ""), os.W_OK):
        result["HOME"] = tempfile.gettempdir()
    if triton.vllm_backend is not None:
        result["AIFACTORY_VLLM_BACKEND"] = str(triton.vllm_backend)
        result.setdefault("VLLM_NO_USAGE_STATS", "1")  # else it tells its makers what runs here
    # Models are on the volume; nothing is to be looked for on the internet.
    result.setdefault("HF_HUB_OFFLINE", "1")
    result.setdefault("TOKENIZERS_PARALLELISM", "false")
    return result


def _python_library() -> list[str]:
    """Directory of this Python's own library, if it has one.

    Workers embed a Python and get their modules from this one. If the loader found the library of another Python of the
    same name first, modules that are compiled (ssl is one) could not be imported.
    """
    folder, name = (sysconfig.get_config_var(variable) for variable in ("LIBDIR", "INSTSONAME"))
    return [folder] if folder and name and (Path(folder) / name).is_file() else []


def available_cpus() -> int:
    """CPUs this container may use: its quota rounded up, but not more than it may run on.

    Without this torch starts a thread for every CPU of the node, and a pod with a small share is slowed many times.
    """
    allowed, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return allowed if quota is None else min(allowed, math.ceil(quota))


def count_gpus() -> int:
    """GPUs that CUDA shows to this container, 0 without any; in a process of its own, because CUDA outlives no fork."""
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:  # there is none, as on most nodes: no process has to be started to know it
        return 0
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _COUNT_GPUS], capture_output=True, text=True, check=False, timeout=_COUNT_SECONDS
        )
    except subprocess.TimeoutExpired:
        print(f"aifactory-triton: CUDA has not answered in {_COUNT_SECONDS} s: no GPU is used", file=sys.stderr)
        return 0
    said = asked.stdout.strip()
    if asked.returncode or (said.startswith("-") and said != f"-{_NO_DEVICE}"):
        words = f"error {said[1:]}" if said else (asked.stderr.splitlines() or ["no answer"])[-1]
        print(f"aifactory-triton: CUDA can not start ({words}): no GPU is used", file=sys.stderr, flush=True)
        return 0
    return max(0, int(said))


def remove_leftovers(prefix: str, folder: Path = Path("/dev/shm")) -> None:
    """Delete shared memory of a killed predecessor: the volume outlives the container and would fill up."""
    for path in folder.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


def main() -> int:
    """Entry point; returns the exit code of tritonserver."""
    # Process 1 gets no signal without a handler: a pod may be deleted at any moment.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    settings = Settings.of(os.environ)
    triton = find_triton(os.environ)
    (settings.repository / "models").mkdir(parents=True, exist_ok=True)
    remove_leftovers(settings.shm_prefix)
    names = available(triton, os.environ)
    backends = write_backends(triton, Path(tempfile.mkdtemp(prefix="aifactory-backends-")), names)
    write_server(settings.repository, names, count_gpus(), os.environ)
    arguments = command(triton, settings, backends, control_key(settings.repository), sys.argv[1:])
    if os.environ.get(TELL):
        threading.Thread(target=tell_memory, args=(settings.repository, threading.Event()), daemon=True).start()
    print(f"aifactory-triton: starting {triton.server}", file=sys.stderr, flush=True)
    return supervise(arguments, environment(triton, os.environ))


if __name__ == "__main__":
    sys.exit(main())

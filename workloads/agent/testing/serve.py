"""Serves a Hugging Face directory by hand, without Kubernetes, until it is interrupted: for load tools and the curious.

python testing/serve.py MODEL_DIRECTORY [--name model] [--port 9000]

In workloads/agent, with the Python of ../server/venv.py.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("server", "server/testing", "contract", "agent")]

from endpoint import Endpoint  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", default="model")
    parser.add_argument("--port", type=int, default=9000)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        pod = Endpoint(Path(folder))
        pod.port = options.port
        try:
            pod.open()
            pod.load(options.name, options.model)
            print(f"{pod.url}/v1 serves {options.name}", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            pod.close()


if __name__ == "__main__":
    main()

"""The command line: `publish`, `verify`, `probe` and `fetch` run once in a pod of their own, the others beside Triton.

Those that run once end with one JSON line in the termination log, which is how the operator reads the outcome, and the
same line on stdout for people.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from aifactory_agent import __version__, logs
from aifactory_agent.artifacts import transfer
from aifactory_agent.artifacts.cache import Cache, Progress
from aifactory_agent.artifacts.stores import Mounts, open_source, open_store
from aifactory_agent.openai.limits import Limits
from aifactory_agent.progress import telling
from aifactory_contract import fetchspec
from aifactory_contract.desired import ModelKey
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import FORMATS, format_of
from aifactory_contract.names import check_model_name
from aifactory_contract.uri import ArtifactUri

_log = logging.getLogger(__name__)
_ANSWER_BYTES = 4096
"""Room in a termination message (Kubernetes, "Determine the Reason for Pod Failure"); more would be cut off."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    logs.setup(options.log_level)
    if options.command == "serve":
        _serve(options)
    if options.command == "openai":
        _openai(options)
    work = {"publish": _publish, "verify": _verify, "probe": _probe, "fetch": _fetch}[options.command]
    try:
        answer = work(options)
        code = 1 if "reason" in answer else 0
    except FactoryError as error:
        answer, code = {"reason": str(error.reason), "message": error.message}, 1
    except Exception as error:
        _log.exception("unexpected failure")
        message = f"{options.command} failed unexpectedly: {error!r}; the pod's log has the whole story"
        answer, code = {"reason": str(Reason.INTERNAL_ERROR), "message": message}, 1
    _report(options.result, answer)
    return code


def _publish(options: argparse.Namespace) -> dict[str, Any]:
    model, base = check_model_name(options.model), ArtifactUri.parse(options.store)
    if options.format is not None:
        format_of(options.format)
    if options.check_only:
        open_store(base.child(model), _mounts(options), options.secret)  # reads the secret
        return {"uri": str(base.child(model))}
    if options.source is None:
        raise FactoryError(Reason.SOURCE_NOT_FOUND, "publish needs --from DIR, the directory to publish")
    source = transfer.publish(options.source, base, model, _mounts(options), options.secret, options.format)
    return source.as_result()


def _verify(options: argparse.Namespace) -> dict[str, Any]:
    format_of(options.format)
    source = open_source(ArtifactUri.parse(options.uri), _mounts(options), options.secret)
    if options.triton is None:
        return transfer.verify(source, options.digest, options.format).as_result()
    from aifactory_agent.validate.trial import Trial, verify_and_try  # needs gRPC and a tokenizer

    trial = Trial(
        key=ModelKey(check_model_name(options.model), options.model_version),
        triton=options.triton,
        repository=options.repository,
        timeout_seconds=options.timeout_seconds,
        memory=options.memory,
        requests=json.loads(options.requests),
    )
    return verify_and_try(source, options.digest, options.format, trial)


def _probe(options: argparse.Namespace) -> dict[str, Any]:
    store = open_store(ArtifactUri.parse(options.store), _mounts(options), options.secret)
    store.probe()
    return {"uri": str(store.uri)}


def _fetch(options: argparse.Namespace) -> dict[str, Any]:
    spec = fetchspec.parse(options.spec)
    place = spec.destination
    claim = options.claims / place.root
    if not claim.is_dir():
        message = f"claim {place.root} of the destination is not mounted at {claim}; is the claim's name right?"
        raise FactoryError(Reason.SOURCE_NOT_FOUND, message)
    cache, progress = Cache(claim / place.path, place.root, spec.in_use), Progress(str(spec.uri))
    with telling(progress.as_json, options.port):
        found = cache.find(spec.digest) if spec.digest is not None else None
        if found is None:
            source = open_source(spec.uri, _mounts(options), spec.secret)
            files_of = spec.format if spec.format in FORMATS else None
            found = cache.fetch(source, spec.digest, progress, threading.Event(), files_of)
        if spec.format is not None:
            cache.check(found, spec.format, progress)
    return {
        "uri": str(spec.uri),
        "digest": found.digest,
        "files": found.files,
        "sizeBytes": found.size,
        "path": f"{place.path}/{found.name}",
        "cached": found.cached,
    }


def _serve(options: argparse.Namespace) -> NoReturn:
    import asyncio  # imported here: the others start twice as fast without

    from aifactory_agent.serve.main import Options, serve  # needs gRPC, which publish and verify do not

    given = Options(
        desired=options.desired,
        repository=options.repository,
        triton=options.triton,
        port=options.port,
        mounts=_mounts(options),
        load_timeout_seconds=options.load_timeout_seconds,
    )
    code = asyncio.new_event_loop().run_until_complete(serve(given))
    logging.shutdown()
    # A thread may hang in a read from a store for a while yet; nothing it does counts any more.
    os._exit(code)


def _openai(options: argparse.Namespace) -> NoReturn:
    import asyncio

    from aifactory_agent.openai.main import Options, serve  # needs a tokenizer, which the others do not

    limits = Limits(
        body_bytes=options.max_body_bytes,
        answer_tokens=options.max_answer_tokens,
        sequences=options.max_sequences,
        connections=options.max_connections,
        seconds=options.max_seconds,
    )
    asyncio.run(serve(Options(options.repository, options.triton, options.port, limits, options.on_demand)))
    raise SystemExit(0)


def _report(path: Path, answer: dict[str, Any]) -> None:
    line = _fitting(answer)
    print(line, flush=True)
    with suppress(OSError):  # outside a pod there is no termination log
        path.write_text(line)


def _fitting(answer: dict[str, Any]) -> str:
    """The answer in one line that is not cut off: of a long message its beginning, of many metrics the first."""
    while len(line := json.dumps(answer)) > _ANSWER_BYTES:
        if answer.get("leftOut"):
            answer = {**answer, "leftOut": answer["leftOut"][:-1]}
        elif answer.get("metrics"):
            answer = {**answer, "metrics": dict(list(answer["metrics"].items())[:-1])}
        elif answer.get("message"):
            # An escape has up to six bytes a character, so this many are too many at the least.
            keep = len(answer["message"]) - max(1, (len(line) - _ANSWER_BYTES) // 6)
            answer = {**answer, "message": answer["message"][:keep]}
        else:
            break
    return line


def _mounts(options: argparse.Namespace) -> Mounts:
    return Mounts(claims=options.claims, secrets=options.secrets)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aifactory-agent", description="Publish, verify and serve model artifacts.")
    parser.add_argument("--version", action="version", version=f"aifactory-agent {__version__}")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    commands = parser.add_subparsers(dest="command", required=True)

    publish = commands.add_parser("publish", help="copy a directory to a store, under a name made of its digest")
    publish.add_argument("--from", dest="source", type=Path, help="directory to publish")
    publish.add_argument("--format", help="what it has to be; without it what its files say")
    publish.add_argument(
        "--check-only", action="store_true", help="only see whether name, format, store and secret can be right"
    )
    publish.add_argument("--store", required=True, help="pvc://<claim>[/<path>] or s3://<bucket>[/<prefix>]")
    publish.add_argument("--model", required=True, help="name clients call the model by")

    verify = commands.add_parser("verify", help="read an artifact, compute its digest and check it")
    verify.add_argument("--uri", required=True, help="pvc://, s3://, gs://, az://, hf://, https:// or oci://")
    verify.add_argument("--digest", help="sha256:<64 hex digits>; without it the digest is computed and reported")
    verify.add_argument("--format", required=True, help=", ".join(sorted(FORMATS)))
    triton_help = "gRPC address of a Triton in this pod in which it is tried too; without it none is"
    verify.add_argument("--triton", help=triton_help)
    verify.add_argument("--repository", type=Path, default=Path("/repository"), help="volume shared with Triton")
    verify.add_argument("--model", default="model", help="what it is called there")
    verify.add_argument("--model-version", type=int, default=1, help="its number there")
    verify.add_argument("--memory", type=int, help="bytes that Triton may use; what may need more is not tried")
    verify.add_argument("--timeout-seconds", type=float, default=300, help="for loads and answers together")
    verify.add_argument("--requests", default="[]", help="spec.validation.requests of the ModelVersion, as JSON")

    probe = commands.add_parser("probe", help="write, read and delete something small, to see whether a store is good")
    probe.add_argument("--store", required=True, help="pvc://<claim>[/<path>] or s3://<bucket>[/<prefix>]")

    fetch = commands.add_parser(
        "fetch", help="bring an input to a volume, under its digest, unless it is there already, and check it"
    )
    spec_help = 'JSON: {"uri", "destination": "pvc://<claim>/<path>"}, and if wanted "digest", "secret", "format"'
    fetch.add_argument("--spec", required=True, help=spec_help)
    fetch.add_argument("--port", type=int, default=8081, help="port of /v1/status, which tells how far it is; 0: none")

    for command in (publish, verify, probe):
        command.add_argument("--secret", help="name of the mounted secret with the credentials of the source or store")
    for command in (publish, verify, probe, fetch):
        result = Path("/dev/termination-log")
        command.add_argument("--result", type=Path, default=result, help="where the JSON answer goes")

    serve = commands.add_parser("serve", help="bring the desired models up in the Triton server of this pod")
    serve.add_argument("--desired", type=Path, required=True, help="JSON file with what to serve; may change any time")
    serve.add_argument("--repository", type=Path, default=Path("/repository"), help="volume shared with Triton")
    serve.add_argument("--triton", default="localhost:8001", help="Triton's gRPC address, in this pod")
    serve.add_argument("--port", type=int, default=8081, help="port of /readyz, /healthz, /v1/status and /metrics")
    load_help = "a load that takes longer counts as failed"
    serve.add_argument("--load-timeout-seconds", type=float, default=600, help=load_help)

    openai = commands.add_parser("openai", help="answer OpenAI's API for the language models in this pod's Triton")
    openai.add_argument("--repository", type=Path, default=Path("/repository"), help="volume shared with Triton")
    openai.add_argument("--triton", default="localhost:8001", help="Triton's gRPC address, in this pod")
    openai.add_argument("--port", type=int, default=9000, help="port of /v1, /health and /healthz")
    openai.add_argument("--max-body-bytes", type=int, default=Limits.body_bytes, help="of one request")
    openai.add_argument("--max-answer-tokens", type=int, default=Limits.answer_tokens, help="of one choice")
    openai.add_argument(
        "--max-sequences", type=int, default=Limits.sequences, help="at the same time; more are answered with 503"
    )
    openai.add_argument("--max-connections", type=int, default=Limits.connections, help="at the same time")
    openai.add_argument(
        "--on-demand", action="store_true", help="have the agent load a model that is asked for; the request waits"
    )
    openai.add_argument("--max-seconds", type=float, default=Limits.seconds, help="for one answer")

    for command in (publish, verify, probe, fetch, serve):
        command.add_argument("--claims", type=Path, default=Mounts.claims, help="directory the claims are mounted in")
        command.add_argument("--secrets", type=Path, default=Mounts.secrets, help="directory of the mounted secrets")
    return parser

"""Parses the subset of the Containerfile language that this project uses, and refuses everything else.

Refusing is the point: an instruction that was silently skipped would make the images here differ from those that users
build from the same file. Each refusal names the file, the line and what is possible. Parsing only: no file but the
Containerfile itself is read here and nothing is built.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from localcluster.console import CannotRun

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL = re.compile(r"[a-z0-9]+(?:[.\-_/][a-z0-9]+)*")
_OWNER = re.compile(r"(\d+):(\d+)")
_PORT = re.compile(r"\d+(?:/(?:tcp|udp))?")
# Options of `pip install` that say nothing about what is installed: every lock is complete and hashed.
_PIP_NEEDED = ("--no-cache-dir", "--require-hashes")
_PIP_OPTIONAL = ("--no-deps",)


@dataclass(frozen=True, slots=True)
class Where:
    """A line of a Containerfile, for messages."""

    file: str
    line: int

    def refuse(self, problem: str) -> CannotRun:
        return CannotRun(f"{self.file}:{self.line}: {problem}")


@dataclass(frozen=True, slots=True)
class Arg:
    where: Where
    name: str
    default: str | None


@dataclass(frozen=True, slots=True)
class From:
    where: Where
    image: str


@dataclass(frozen=True, slots=True)
class Env:
    where: Where
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Label:
    where: Where
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Workdir:
    where: Where
    path: str


@dataclass(frozen=True, slots=True)
class User:
    where: Where
    user: str


@dataclass(frozen=True, slots=True)
class Expose:
    where: Where
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entrypoint:
    where: Where
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cmd:
    where: Where
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Copy:
    """`owner` is (user id, group id)."""

    where: Where
    sources: tuple[str, ...]
    target: str
    owner: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PipInstall:
    """`lock` is the path in the image of a hashed requirements file that an earlier COPY put there."""

    where: Where
    lock: str


Instruction = Arg | From | Env | Label | Workdir | User | Expose | Entrypoint | Cmd | Copy | PipInstall


def parse(
    file: Path,
    name: str,
    arguments: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[Instruction, ...]:
    """The instructions of ``file`` with variables replaced; ``name`` is how messages call the file.

    ``arguments`` are build arguments (`--build-arg`), ``environment`` is what the base image sets.
    Raises CannotRun at the first thing that is not understood.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CannotRun(f"{name} does not exist; each image is built from a Containerfile") from None
    reader = _Reader(dict(arguments or {}), dict(environment or {}))
    instructions = tuple(reader.read(where, line) for where, line in _logical_lines(text, name))
    if not any(isinstance(each, From) for each in instructions):
        raise CannotRun(f"{name}: there is no FROM instruction")
    return instructions


def _logical_lines(text: str, name: str) -> Iterator[tuple[Where, str]]:
    """Lines with continuations joined, comments and empty lines dropped."""
    pending, start = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line.startswith("#") or not line:
            continue  # also between continued lines, as in the real language
        start = start or number
        if line.endswith("\\"):
            pending += line[:-1].rstrip() + " "
            continue
        yield Where(name, start), pending + line
        pending, start = "", 0
    if pending:
        raise Where(name, start).refuse("the instruction ends with a backslash and nothing follows")


class _Reader:
    """Reads one instruction after the other; remembers the variables that later ones may use."""

    def __init__(self, arguments: dict[str, str], environment: dict[str, str]) -> None:
        self._arguments = arguments
        self._environment = environment
        self._variables: dict[str, str] = {}
        self._from_seen = False

    def read(self, where: Where, line: str) -> Instruction:
        keyword, _, rest = line.partition(" ")
        rest = rest.strip()
        method = getattr(self, f"_read_{keyword.lower()}", None)
        if method is None:
            known = "ARG, FROM, ENV, LABEL, WORKDIR, USER, EXPOSE, COPY, RUN pip install, ENTRYPOINT, CMD"
            raise where.refuse(f"{keyword} is not supported by the local image builder; it knows {known}")
        if not rest:
            raise where.refuse(f"{keyword} needs a value")
        if not self._from_seen and keyword.upper() not in ("ARG", "FROM"):
            raise where.refuse(f"{keyword} before FROM")
        instruction: Instruction = method(where, rest)
        return instruction

    def _replace(self, where: Where, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            found = self._variables.get(match[1])
            if found is None:
                raise where.refuse(
                    f"${{{match[1]}}} is not set: give it a default with ARG, or a value with ENV, above"
                )
            return found

        replaced = _VARIABLE.sub(value, text)
        if "$" in _VARIABLE.sub("", text):
            raise where.refuse("only variables written as ${NAME} are supported")
        return replaced

    def _words(self, where: Where, text: str) -> list[str]:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise where.refuse(f"cannot be read: {error}") from None
        return [self._replace(where, word) for word in words]

    def _pairs(self, where: Where, text: str, name: re.Pattern[str]) -> tuple[tuple[str, str], ...]:
        pairs = []
        for word in self._words(where, text):
            key, equals, value = word.partition("=")
            if not equals or not name.fullmatch(key):
                raise where.refuse(f"'{word}' is not of the form NAME=value")
            pairs.append((key, value))
        return tuple(pairs)

    def _exec_form(self, where: Where, text: str) -> tuple[str, ...]:
        try:
            words = json.loads(text)
        except ValueError:
            words = None
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise where.refuse('write the command as a JSON list, like ["python3", "-m", "module"]')
        return tuple(words)

    def _read_arg(self, where: Where, rest: str) -> Arg:
        name, equals, default = rest.partition("=")
        if not _NAME.fullmatch(name):
            raise where.refuse("write one ARG NAME=default a line")
        default = "".join(self._words(where, default))
        value = self._arguments.get(name, default if equals else None)
        if value is not None:
            self._variables[name] = value
        return Arg(where, name, default if equals else None)

    def _read_from(self, where: Where, rest: str) -> From:
        if self._from_seen:
            raise where.refuse("only one FROM is supported: no multi-stage builds")
        if rest != "${BASE}":
            raise where.refuse("write FROM ${BASE}, after ARG BASE=<public image>, so that the base can be chosen")
        image = self._replace(where, rest)
        self._from_seen = True
        # As in the real language, an ARG before FROM is not visible after it.
        self._variables = dict(self._environment)
        return From(where, image)

    def _read_env(self, where: Where, rest: str) -> Env:
        values = self._pairs(where, rest, _NAME)
        self._variables.update(values)
        return Env(where, values)

    def _read_label(self, where: Where, rest: str) -> Label:
        return Label(where, self._pairs(where, rest, _LABEL))

    def _read_workdir(self, where: Where, rest: str) -> Workdir:
        path = self._replace(where, rest)
        if not path.startswith("/"):
            raise where.refuse("WORKDIR must be an absolute path")
        return Workdir(where, path)

    def _read_user(self, where: Where, rest: str) -> User:
        user = self._replace(where, rest)
        if not re.fullmatch(r"\d+(:\d+)?", user):
            raise where.refuse("USER must be numeric (uid or uid:gid): Kubernetes checks runAsNonRoot by number")
        return User(where, user)

    def _read_expose(self, where: Where, rest: str) -> Expose:
        ports = tuple(self._words(where, rest))
        for port in ports:
            if not _PORT.fullmatch(port):
                raise where.refuse(f"'{port}' is not a port, or port/tcp, or port/udp")
        return Expose(where, tuple(port if "/" in port else f"{port}/tcp" for port in ports))

    def _read_entrypoint(self, where: Where, rest: str) -> Entrypoint:
        return Entrypoint(where, self._exec_form(where, rest))

    def _read_cmd(self, where: Where, rest: str) -> Cmd:
        return Cmd(where, self._exec_form(where, rest))

    def _read_copy(self, where: Where, rest: str) -> Copy:
        words = self._words(where, rest)
        owner = (0, 0)
        while words and words[0].startswith("--"):
            option, _, value = words.pop(0).partition("=")
            match = _OWNER.fullmatch(value)
            if option != "--chown" or not match:
                raise where.refuse(f"COPY {option} is not supported; only --chown=<uid>:<gid> with numbers is")
            owner = (int(match[1]), int(match[2]))
        if len(words) < 2:
            raise where.refuse("COPY needs at least one source and a target")
        *sources, target = words
        for source in sources:
            if any(character in source for character in "*?["):
                raise where.refuse(f"COPY of a pattern ('{source}') is not supported; name the file or the directory")
            if source.startswith("/") or ".." in source.split("/"):
                raise where.refuse(f"COPY source '{source}' must be a path inside the repository")
        if len(sources) > 1 and not target.endswith("/"):
            raise where.refuse("COPY of several sources needs a target that ends with /")
        return Copy(where, tuple(sources), target, owner)

    def _read_run(self, where: Where, rest: str) -> PipInstall:
        words = self._words(where, rest)
        usage = "RUN pip install --no-cache-dir --require-hashes -r <lock>"
        if words[:2] != ["pip", "install"]:
            raise where.refuse(f"this RUN is not supported; the local image builder can only do: {usage}")
        options = words[2:]
        if len(options) < 2 or options[-2] not in ("-r", "--requirement"):
            raise where.refuse(f"name the lock file last: {usage}")
        flags = options[:-2]
        if not set(_PIP_NEEDED) <= set(flags) or not set(flags) <= {*_PIP_NEEDED, *_PIP_OPTIONAL}:
            raise where.refuse(f"other options of pip are not supported: {usage}")
        return PipInstall(where, options[-1])

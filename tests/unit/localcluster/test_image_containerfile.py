"""The Containerfile parser: it understands what we use and refuses the rest by file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from localcluster.console import CannotRun
from localcluster.imagebuild import containerfile as cf
from localcluster.imagebuild.cli import CONTAINERFILES, ROOT

HEAD = "ARG BASE=python:3.11-slim\nFROM ${BASE}\n"


def parse(tmp_path: Path, text: str, **arguments: str) -> tuple[cf.Instruction, ...]:
    file = tmp_path / "Containerfile"
    file.write_text(text)
    return cf.parse(file, "app/Containerfile", arguments)


def test_every_instruction_we_use(tmp_path: Path) -> None:
    parsed = parse(
        tmp_path,
        HEAD
        + 'ENV A=1 \\\n    # a comment between\n    B="two words"\n'
        + "ENV C=${A}:x\nLABEL org.example.title='a b'\nWORKDIR /srv\n"
        + "COPY --chown=7:8 one two /opt/\n"
        + "RUN pip install --no-cache-dir --require-hashes --no-deps -r /opt/x.lock\n"
        + 'USER 65532:65532\nEXPOSE 8080 53/udp\nENTRYPOINT ["python3", "-m", "x"]\nCMD ["$HOME stays"]\n',
    )
    assert [each for each in parsed if not isinstance(each, cf.Arg | cf.From)] == [
        cf.Env(cf.Where("app/Containerfile", 3), (("A", "1"), ("B", "two words"))),
        cf.Env(cf.Where("app/Containerfile", 6), (("C", "1:x"),)),
        cf.Label(cf.Where("app/Containerfile", 7), (("org.example.title", "a b"),)),
        cf.Workdir(cf.Where("app/Containerfile", 8), "/srv"),
        cf.Copy(cf.Where("app/Containerfile", 9), ("one", "two"), "/opt/", (7, 8)),
        cf.PipInstall(cf.Where("app/Containerfile", 10), "/opt/x.lock"),
        cf.User(cf.Where("app/Containerfile", 11), "65532:65532"),
        cf.Expose(cf.Where("app/Containerfile", 12), ("8080/tcp", "53/udp")),
        cf.Entrypoint(cf.Where("app/Containerfile", 13), ("python3", "-m", "x")),
        cf.Cmd(cf.Where("app/Containerfile", 14), ("$HOME stays",)),
    ]


def test_the_base_is_an_argument(tmp_path: Path) -> None:
    def base(**arguments: str) -> str:
        return next(each.image for each in parse(tmp_path, HEAD, **arguments) if isinstance(each, cf.From))

    assert base() == "python:3.11-slim"
    assert base(BASE="registry.example/python:1") == "registry.example/python:1"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("RUN apt-get install -y curl", "this RUN is not supported"),
        ("RUN pip install torch", "name the lock file last"),
        ("RUN pip install --require-hashes -r x", "other options of pip are not supported"),
        ("RUN pip install --no-cache-dir --require-hashes --index-url=x -r x", "other options of pip"),
        ("RUN --mount=type=cache,target=/x pip install -r x", "this RUN is not supported"),
        ("ADD x /x", "ADD is not supported"),
        ("HEALTHCHECK NONE", "HEALTHCHECK is not supported"),
        ("COPY --from=build /x /y", "COPY --from is not supported"),
        ("COPY *.py /x/", "a pattern"),
        ("COPY ../x /x", "inside the repository"),
        ("COPY /etc/passwd /x", "inside the repository"),
        ("COPY one two /x", "ends with /"),
        ("COPY one", "at least one source and a target"),
        ("ENV A 1", "not of the form NAME=value"),
        ("ENV A=${UNKNOWN}", "${UNKNOWN} is not set"),
        ("ENV A=${BASE}", "${BASE} is not set"),
        ("ENV A=$B", "only variables written as ${NAME}"),
        ('ENV A="1', "cannot be read"),
        ("USER root", "USER must be numeric"),
        ("WORKDIR srv", "absolute path"),
        ("CMD python3", "JSON list"),
        ("ENTRYPOINT []", "JSON list"),
        ("EXPOSE http", "not a port"),
        ("FROM ${BASE}", "only one FROM"),
        ("WORKDIR", "WORKDIR needs a value"),
        ("ENV A=1 \\", "ends with a backslash"),
    ],
)
def test_refuses_with_file_and_line(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(CannotRun) as refused:
        parse(tmp_path, HEAD + line)
    assert str(refused.value).startswith("app/Containerfile:3: ")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("FROM python:3.11-slim", "so that the base can be chosen"),
        ("FROM ${BASE}", "${BASE} is not set"),
        ("USER 1\n" + HEAD, "USER before FROM"),
        ("ARG BASE=x", "there is no FROM"),
    ],
)
def test_refuses_a_fixed_or_missing_base(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(CannotRun, match="Containerfile") as refused:
        parse(tmp_path, text)
    assert says in str(refused.value)


@pytest.mark.parametrize("file", CONTAINERFILES.values())
def test_our_own_are_understood_and_run_as_the_restricted_user(file: str) -> None:
    parsed = cf.parse(ROOT / file, file)
    assert [each.user for each in parsed if isinstance(each, cf.User)] == ["65532:65532"]


def test_trainer_and_server_share_the_pytorch_layer() -> None:
    """Up to PyTorch their Containerfiles are the same, so that 5 GB are built, stored and unpacked once."""

    def beginning(image: str) -> list[object]:
        parsed = cf.parse(ROOT / CONTAINERFILES[image], image)
        first_install = next(index for index, each in enumerate(parsed) if isinstance(each, cf.PipInstall))
        return [
            (each.sources, each.target, each.owner) if isinstance(each, cf.Copy) else getattr(each, "lock", type(each))
            for each in parsed[: first_install + 1]
        ]

    assert beginning("trainer") == beginning("server")

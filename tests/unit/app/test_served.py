"""Optional resources: done without where they are not there, and where they are not ours to read."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import pytest

from aifactory.app import start
from aifactory.kube.client import Client
from aifactory.kube.errors import Forbidden, KubeError, NotFound
from aifactory.kube.resources import NODES, PODGROUPS, Resource
from aifactory.training.domain import Training
from tests.support.faketime import run
from tests.support.kinds import TRAININGJOBS


class Server:
    """An API server that answers with one thing after another, the last one for ever."""

    def __init__(self, *answers: set[Resource] | KubeError) -> None:
        self._answers = list(answers)

    async def served(self, resources: Collection[Resource]) -> set[Resource]:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, KubeError):
            raise answer
        return answer & set(resources)


def first_answer(*answers: set[Resource] | KubeError, namespace: str | None = None) -> set[Resource]:
    return run(lambda: start.first_answer(cast("Client", Server(*answers)), [Training()], namespace))


def test_what_is_not_served_is_done_without() -> None:
    assert first_answer({TRAININGJOBS, NODES, PODGROUPS}) == {NODES, PODGROUPS}
    assert first_answer({TRAININGJOBS, NODES}) == {NODES}


def test_who_watches_one_namespace_does_not_read_what_lies_in_none() -> None:
    """A Role, as `watchNamespace` gives, holds no right to nodes."""
    assert first_answer({TRAININGJOBS, NODES, PODGROUPS}, namespace="team") == {PODGROUPS}


def test_crds_may_come_after_the_operator() -> None:
    assert first_answer({NODES}, {NODES}, {NODES, TRAININGJOBS}) == {NODES}


def test_crds_are_not_waited_for_for_ever() -> None:
    with pytest.raises(NotFound, match=r"does not serve trainingjobs\.aifactory\.dev: apply the CRDs"):
        first_answer({NODES})


def test_trouble_is_not_taken_for_absence() -> None:
    with pytest.raises(Forbidden):
        first_answer(Forbidden(403, "Forbidden", "no"), {TRAININGJOBS})

"""Which version a wish means, and what is said while there is none."""

from __future__ import annotations

from typing import Any

import pytest

from aifactory.api.inferencepool import PoolModel
from aifactory.api.reasons import Reason
from aifactory.serving.assignment import Waiting, resolve
from tests.unit.serving.builders import version

LATEST = PoolModel(name="tiny", track="Latest")
VERIFYING = {"ready": False, "reason": "Verifying", "message": "pod tiny-v2-verify-0 reads the artifact"}
BROKEN = {"ready": False, "reason": "DigestMismatch", "message": "sha256:a is not sha256:b"}


def pinned(number: int) -> PoolModel:
    return PoolModel(name="tiny", version=number)


@pytest.mark.parametrize(
    ("wish", "versions", "number"),
    [
        (LATEST, [version(1), version(10), version(9)], 10),
        (LATEST, [version(1), version(2, **VERIFYING)], 1),
        (LATEST, [version(1), version(2, **BROKEN)], 1),
        (LATEST, [version(1), version(2, deleting=True)], 1),
        (pinned(1), [version(1), version(2)], 1),
        (pinned(1), [version(1, deleting=True)], 1),
    ],
)
def test_the_version_that_is_meant(wish: PoolModel, versions: list[Any], number: int) -> None:
    found = resolve(wish, versions)
    assert not isinstance(found, Waiting), found
    assert found.version == number


UNCHECKED = {"ready": False, "reason": "", "message": ""}


@pytest.mark.parametrize(
    ("wish", "versions", "told"),
    [
        (
            LATEST,
            [],
            "waiting for a ModelVersion of tiny: none exists; a TrainingJob with output.model.name tiny makes one",
        ),
        (
            LATEST,
            [version(2, **VERIFYING), version(1, **BROKEN)],
            "no ModelVersion of tiny is Ready; the newest, tiny-v2, is not: "
            "Verifying: pod tiny-v2-verify-0 reads the artifact",
        ),
        (
            LATEST,
            [version(2, **UNCHECKED)],
            "no ModelVersion of tiny is Ready; the newest, tiny-v2, is not: it has not been checked yet",
        ),
        (
            LATEST,
            [version(1, deleting=True, reason="Verified")],
            "no ModelVersion of tiny is Ready; the newest, tiny-v1, is not: Verified",
        ),
        (pinned(3), [], "waiting for version 3 of model tiny; existing versions: none"),
        (pinned(3), [version(2), version(1)], "waiting for version 3 of model tiny; existing versions: 1, 2"),
        (
            pinned(2),
            [version(2, **VERIFYING)],
            "ModelVersion tiny-v2 is not Ready: Verifying: pod tiny-v2-verify-0 reads the artifact",
        ),
        (pinned(2), [version(2, **UNCHECKED)], "ModelVersion tiny-v2 is not Ready: it has not been checked yet"),
    ],
)
def test_what_is_waited_for(wish: PoolModel, versions: list[Any], told: str) -> None:
    assert resolve(wish, versions) == Waiting(Reason.WAITING_FOR_MODEL, told)


def test_a_pinned_version_that_is_broken_needs_a_person() -> None:
    told = "ModelVersion tiny-v2 is not Ready: DigestMismatch: sha256:a is not sha256:b"
    assert resolve(pinned(2), [version(2, **BROKEN)]) == Waiting(Reason.MODEL_NOT_READY, told)

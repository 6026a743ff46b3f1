"""What the agent says of a version that has failed, while it is tried again."""

from __future__ import annotations

from typing import Any

import pytest

from aifactory_agent.serve.planner import Actual, Failure, Present
from aifactory_agent.serve.status import Status, Told, report
from aifactory_contract.desired import Desired, ModelKey, ModelSpec
from aifactory_contract.errors import Reason
from aifactory_contract.uri import ArtifactUri

DIGEST = "sha256:" + "0" * 64
KEY, OTHER = ModelKey("m", 1), ModelKey("m", 2)
SPEC, OTHER_SPEC = (ModelSpec(key, ArtifactUri.parse("pvc://c/m"), DIGEST, "huggingface") for key in (KEY, OTHER))
HERE = {KEY: Present(DIGEST, "c")}
RUNS = {"m": frozenset({1})}


def told(actual: Actual, now: float = 0.0) -> Status:
    return report(Desired("r", (SPEC,)), None, actual, Told(), now)


def after(
    reason: Reason = Reason.LOAD_FAILED, attempts: int = 2, fetched: int = 0, retry_at: float = 0.0, **what: Any
) -> Actual:
    failure = Failure(SPEC, reason, "the words", attempts, retry_at, fetched)
    return Actual(**{"triton_up": True, "present": HERE, **what}, failures={KEY: failure})


LOADING = {"loading": frozenset({"m"})}


@pytest.mark.parametrize(
    ("actual", "state"),
    [
        pytest.param(after(retry_at=9.0), "Failed", id="it waits"),
        pytest.param(after(), "Failed", id="it is due"),
        pytest.param(after(**LOADING), "Failed", id="it is loaded again"),
        pytest.param(after(triton_up=False), "Failed", id="Triton is away"),
        pytest.param(after(serving=RUNS), "Loading", id="it has loaded"),
        pytest.param(after(serving=RUNS, **LOADING), "Loading", id="it is asked"),
        pytest.param(after(Reason.CONFIRM_FAILED, serving=RUNS, **LOADING), "Failed", id="it is asked again"),
        pytest.param(after(Reason.UNSERVABLE, attempts=1, **LOADING), "Failed", id="no accident"),
        pytest.param(after(attempts=1, **LOADING), "Loading", id="perhaps an accident"),
        pytest.param(after(attempts=1, retry_at=9.0), "Pending", id="perhaps an accident, it waits"),
        pytest.param(after(Reason.TRITON_UNAVAILABLE, attempts=1, triton_up=False), "Pending", id="Triton's accident"),
        pytest.param(
            after(Reason.STORE_UNAVAILABLE, 1, present={}, fetching={KEY: 0}), "Failed", id="nothing has come yet"
        ),
        pytest.param(
            after(Reason.STORE_UNAVAILABLE, 1, 70, present={}, fetching={KEY: 70}), "Failed", id="as much as before"
        ),
        pytest.param(
            after(Reason.STORE_UNAVAILABLE, 1, 70, present={}, fetching={KEY: 71}), "Fetching", id="more than before"
        ),
    ],
)
def test_a_failure_stands_until_a_try_gets_further(actual: Actual, state: str) -> None:
    status = told(actual)
    assert (status.models[0].state, status.models[0].message) == (state, "the words")
    assert status.message == f"m version 1 is {state}: the words"


def test_what_waits_after_an_accident_is_in_no_conflict_with_the_version_that_goes_on_meanwhile() -> None:
    present = {KEY: Present(DIGEST, "c"), OTHER: Present(DIGEST, "another")}
    failure = Failure(OTHER_SPEC, Reason.LOAD_FAILED, "killed", 1, 9.0)
    actual = Actual(triton_up=True, present=present, failures={OTHER: failure})
    status = report(Desired("r", (SPEC, OTHER_SPEC)), None, actual, Told(), 0.0)
    assert [(str(model.state), model.reason) for model in status.models] == [("Pending", ""), ("Pending", "LoadFailed")]

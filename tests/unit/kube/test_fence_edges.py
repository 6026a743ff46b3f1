"""A leader's calls pass the fence unchanged, with everything they say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aifactory.kube.errors import NotLeading
from aifactory.kube.fence import Fenced
from aifactory.kube.resources import DEPLOYMENTS

BODY = {"metadata": {"name": "a", "namespace": "n"}}


class Spy:
    """An `Api` that notes each call and returns it."""

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        async def call(*args: Any, **options: Any) -> Any:
            return verb, args, options

        def watch(*args: Any, **options: Any) -> Any:
            return verb, args, options

        return watch if verb == "watch" else call


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("get", (DEPLOYMENTS, "n", "a"), {}, ""),
    ("list", (DEPLOYMENTS,), {"namespace": "n", "limit": 5}, ""),
    ("watch", (DEPLOYMENTS,), {"resource_version": "7", "namespace": "n"}, ""),
    ("create", (DEPLOYMENTS, BODY), {"dry_run": True}, "create"),
    ("patch", (DEPLOYMENTS, "n", "a", BODY), {"type": "json", "resource_version": "7"}, "patch"),
    ("patch_status", (DEPLOYMENTS, "n", "a", BODY), {"resource_version": "7"}, "patch the status of"),
    ("apply", (DEPLOYMENTS, BODY), {"field_manager": "m", "force": False}, "apply"),
    ("delete", (DEPLOYMENTS, "n", "a"), {"uid": "u", "grace_seconds": 5, "propagation": "Foreground"}, "delete"),
]


async def outcome(found: Any) -> Any:
    return await found if isinstance(found, Awaitable) else found


@pytest.mark.parametrize(("verb", "args", "options", "words"), CALLS)
async def test_a_call_is_passed_on_as_it_is(
    verb: str, args: tuple[Any, ...], options: dict[str, Any], words: str
) -> None:
    leading: Any = Fenced(Spy(), lambda: True)  # type: ignore[arg-type]
    called, passed, said = await outcome(getattr(leading, verb)(*args, **options))
    assert (called, passed) == (verb, args)
    assert options.items() <= said.items()

    second: Any = Fenced(Spy(), lambda: False)  # type: ignore[arg-type]
    if words:
        with pytest.raises(NotLeading, match=rf"^{words} deployments.apps: this replica does not lead$"):
            await outcome(getattr(second, verb)(*args, **options))
    else:
        assert (await outcome(getattr(second, verb)(*args, **options)))[0] == verb


async def test_what_is_not_said_is_passed_on_as_the_usual() -> None:
    leading: Any = Fenced(Spy(), lambda: True)  # type: ignore[arg-type]
    assert (await leading.patch(DEPLOYMENTS, "n", "a", BODY))[2] == {"type": "merge", "resource_version": None}
    assert (await leading.patch_status(DEPLOYMENTS, "n", "a", BODY))[2] == {"resource_version": None}
    assert (await leading.apply(DEPLOYMENTS, BODY, field_manager="m"))[2] == {"field_manager": "m", "force": True}
    said = (await leading.delete(DEPLOYMENTS, "n", "a"))[2]
    assert said["uid"] is None
    assert said.get("propagation", "Background") == "Background"

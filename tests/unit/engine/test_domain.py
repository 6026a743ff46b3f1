"""What a domain declares when it says no more: children it makes and removes, options, and nothing from outside."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from aifactory.engine.domain import READ, Child, Domain, option
from aifactory.kube.objects import Pod
from aifactory.kube.resources import PODS


def test_children_are_read_made_and_removed_and_nothing_else_is_done_to_them() -> None:
    assert (READ, Child(PODS, Pod).verbs) == (("get", "list", "watch"), ("create", "delete"))


def test_an_option_has_a_default_words_and_a_way_to_read_it() -> None:
    @dataclass(frozen=True)
    class Settings:
        size: int = option(3, "how many", parse=int)
        name: str = option("a", "whose")

    assert Settings() == Settings(3, "a")
    size, name = fields(Settings)
    assert size.metadata == {"help": "how many", "parse": int}
    assert name.metadata == {"help": "whose", "parse": None}


def test_a_domain_brings_in_nothing_from_outside_unless_it_says_so() -> None:
    outside: Any = None
    assert [*Domain.probes(Domain(), outside), *Domain.routes(Domain(), outside)] == []
    assert [*Domain.indexes(Domain()), *Domain.watches(Domain())] == []

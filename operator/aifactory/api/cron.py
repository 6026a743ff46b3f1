"""Times that come again, as in a crontab: https://man7.org/linux/man-pages/man5/crontab.5.html.

A rule of the CRD refuses what no crontab could have. What a rule can not tell (a range that goes backwards, the 31st of
April, a time zone that nobody knows) is found when the operator reads the object, and told as `InvalidSpec`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field

from aifactory.api.rules import rule

EXAMPLE: Final = "0 8 * * 1-5"


def _part(value: str) -> str:
    one = rf"(\\*|({value})(-({value}))?)(/[0-9]{{1,2}})?"
    return f"{one}(,{one})*"


_PARTS: Final = (
    "[0-5]?[0-9]",
    "[01]?[0-9]|2[0-3]",
    "0?[1-9]|[12][0-9]|3[01]",
    "0?[1-9]|1[0-2]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec",
    "[0-7]|sun|mon|tue|wed|thu|fri|sat",
)
_PATTERN: Final = f"(?i)^{' +'.join(map(_part, _PARTS))}$"
_WORDS: Final = f"cron is minute, hour, day of month, month and day of week, for example {EXAMPLE}"


def _check_cron(value: str) -> str:
    try:
        next(CronSim(value, datetime.now(UTC)))
    except (CronSimError, StopIteration) as error:
        raise ValueError(f"{_WORDS}, and {value!r} never comes ({error})") from error
    return value


def _check_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {value!r}: write one as Europe/Berlin, or leave it out") from error
    return value


Cron = Annotated[
    str,
    Field(
        max_length=100,
        json_schema_extra={"x-kubernetes-validations": [rule(f"self.matches('{_PATTERN}')", _WORDS)]},
    ),
    AfterValidator(_check_cron),
]
"""Minute, hour, day of the month, month and day of the week."""

TimeZone = Annotated[str, Field(pattern="^[A-Za-z0-9_+/-]{1,64}$"), AfterValidator(_check_zone)]
"""A name in the IANA time zone database."""

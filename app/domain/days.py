"""Days and weeks of a program, where it is.

Arithmetic is done on UTC instants only: two local times of one zone subtract as clocks on a wall
do, an hour wrong where summer time begins or ends. A local time that does not exist is moved
forward by the gap; of one that there is twice, the first is meant.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from app.fhir.errors import refused

FirstDay = Literal["mon", "sun"]
DAY = timedelta(days=1)
YEARS = range(1900, 3000)  # that are reckoned with: there are days before and after all of them
EARLIEST = datetime(YEARS.start, 1, 1, tzinfo=UTC)
LATEST = datetime(YEARS.stop - 1, 12, 31, tzinfo=UTC)
OF_THE_MACHINE = frozenset({"localtime", "posixrules"})  # whatever zone that is
LEAP = re.compile(r"(T\d\d:\d\d):60")


def zone_named(name: str) -> ZoneInfo:
    """Return a time zone; a 422 for what is no IANA name."""
    try:
        if name in OF_THE_MACHINE:
            raise ValueError(name)
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        text = "The time zone is not known; expected an IANA name such as America/Los_Angeles"
        raise refused("value", text, status=422) from None


def instant(text: str) -> datetime:
    """Return a FHIR instant or dateTime as a moment in UTC; one without an offset is in UTC.

    A leap second is the second before; what is before YEARS, or after them, is at their ends.
    """
    if len(text) < len("2026-03-02"):  # a year, or a year and a month
        text += "-01" * (2 - text.count("-"))
    if ":60" in text:
        text = LEAP.sub(r"\1:59", text)
    found = datetime.fromisoformat(text)
    if not YEARS.start <= found.year < YEARS.stop:
        return EARLIEST if found.year < YEARS.start else LATEST
    if found.tzinfo is UTC:  # as most are
        return found
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def moment(microseconds: int) -> datetime:
    """Return microseconds since 1970 in UTC."""
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC)


def written(at: datetime, zone: ZoneInfo | None = None) -> str:
    """Return a moment as a FHIR instant: in UTC with Z, or with the offset of a zone."""
    if zone is None:
        return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z"
    return at.astimezone(zone).isoformat(timespec="seconds")


def at(day: date, clock: time, zone: ZoneInfo) -> datetime:
    """Return in UTC when a clock of a zone shows a time on a day."""
    wall = datetime.combine(day, clock.replace(tzinfo=None, fold=0), zone)
    return wall.astimezone(UTC)  # in a gap fold=0 is the offset before it: moved forward


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """Return in UTC when a day begins: its first moment, also where 00:00 does not exist."""
    return at(day, time(), zone)


def local_day(moment: datetime, zone: ZoneInfo) -> date:
    """Return the day on which a moment is in a zone."""
    return moment.astimezone(zone).date()


def whole(text: str, name: str) -> date:
    """Return the day in a parameter of a call; a 422 for a month, a year, and for other times."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = date.min
    if found.year not in YEARS:
        said = f"{name} must be a day, YYYY-MM-DD, from {YEARS.start} on"
        raise refused("value", said, f"http.{name}", 422)
    return found


def local_days(
    period: tuple[datetime | None, datetime | None], zone: ZoneInfo
) -> tuple[date | None, date | None]:
    """Return the first day of a period, and the first that is no more of it; None for no end."""
    start, end = period
    return start and local_day(start, zone), end and local_day(end, zone)


def week_of(day: date, first: FirstDay = "mon") -> date:
    """Return the first day of the week that a day is in."""
    return day - DAY * ((day.weekday() + (first == "sun")) % 7)


def days(start: date, end: date) -> Iterator[date]:
    """Yield the days from `start` up to, not including, `end`."""
    for n in range((end - start).days):
        yield start + DAY * n


def age(born: date, day: date) -> int:
    """Return whole years on a day; who was born on 29 February is older on 1 March."""
    return day.year - born.year - ((day.month, day.day) < (born.month, born.day))

"""A weekly timetable, and the sessions that it makes: pure.

https://hl7.org/fhir/R4/plandefinition.html

Each action of a PlanDefinition is one session that comes again every week. It begins when the
clocks of the program show its time; it ends when its minutes have passed, whatever clocks show by
then. A session is known by the plan, the action and its local day, so that the same timetable
always makes the same sessions.
"""

import re
from calendar import monthrange
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from app.domain.chart import Interval, reference
from app.domain.days import DAY, at, days
from app.domain.vocabulary import (
    BREAK,
    CLINICAL_MINUTES,
    GROUP_REF,
    KIND,
    LOCATION,
    MODE,
    Vocabulary,
)
from app.fhir.wire import Resource

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ACTION_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")  # part of the identifier of its sessions
CLOCK = re.compile(r"[0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]+)?")  # without the leap seconds of FHIR
UNITS = {"min": 1, "h": 60}
HOUR, WHOLE_DAY, WEEK = 60, 24 * 60, 7 * 24 * 60  # in minutes


@dataclass(frozen=True)
class Meeting:
    """A session that comes again every week.

    `breaks` are (minutes after its beginning, length). It meets from the day `first` to `last`,
    both included; None for always. "" stands for a place or group that is not said.
    """

    action: str
    title: str
    kind: str
    weekdays: tuple[int, ...]
    clock: time
    duration: int
    minutes: int
    breaks: tuple[tuple[int, int], ...]
    mode: str
    location: str
    group: str
    first: date | None
    last: date | None

    def on(self, day: date) -> bool:
        """Return whether it meets on a day."""
        return day.weekday() in self.weekdays and self.during(day)

    def during(self, day: date) -> bool:
        """Return whether a day is one of the time for which it is planned."""
        return (self.first is None or self.first <= day) and (self.last is None or day <= self.last)


@dataclass(frozen=True)
class Occurrence:
    """One session of a timetable, on the day on which it begins."""

    meeting: Meeting
    day: date
    start: datetime

    @property
    def end(self) -> datetime:
        """Return when it ends."""
        return self.start + timedelta(minutes=self.meeting.duration)

    @property
    def breaks(self) -> tuple[Interval, ...]:
        """Return its breaks."""
        begun = [(self.start + timedelta(minutes=after), n) for after, n in self.meeting.breaks]
        return tuple((one, one + timedelta(minutes=length)) for one, length in begun)

    def name(self, plan: str, group: str = "") -> str:
        """Return its identifier; with the id of a group where several have such a session."""
        ended = f":{group}" if group else ""
        return f"urn:iop:session:{plan}:{self.meeting.action}:{self.day}{ended}"


def occurrences(
    meetings: Iterable[Meeting], zone: ZoneInfo, first: date, last: date
) -> Iterator[Occurrence]:
    """Yield the sessions of the days from `first` to `last`, both included, day by day.

    A beginning that no clock shows (summer time begins) is moved forward by the gap; of one that
    clocks show twice the first is meant.
    """
    known = tuple(meetings)
    for day in days(first, last + DAY):
        today = sorted((m for m in known if m.on(day)), key=lambda m: (m.clock, m.action))
        yield from (Occurrence(one, day, at(day, one.clock, zone)) for one in today)


def programs(plan: Resource) -> list[str]:
    """Return the references of the HealthcareServices that a PlanDefinition is for."""
    return [
        reference(one["valueReference"])
        for one in plan.get("useContext", ())
        if one["code"].get("code") == "program" and "valueReference" in one
    ]


def meetings(vocabulary: Vocabulary, plan: Resource) -> tuple[Meeting, ...]:
    """Return what a PlanDefinition plans, without the actions that `flaws` finds unusable."""
    return tuple(
        meeting(vocabulary, action)
        for action in plan.get("action", ())
        if not flaws(vocabulary, action)
    )


def flaws(vocabulary: Vocabulary, action: Resource) -> list[str]:
    """Return why an action is no session that comes again, in words; nothing where it is one."""
    repeat = action.get("timingTiming", {}).get("repeat", {})
    times, weekdays = repeat.get("timeOfDay", ()), repeat.get("dayOfWeek", ())
    breaks = vocabulary.values(action, BREAK)
    said = {
        "exactly one kind": len(set(vocabulary.codes(action.get("code", []), KIND))) == 1,
        "an id of letters, digits, - and .": bool(ACTION_ID.fullmatch(action.get("id", ""))),
        "exactly one timeOfDay": len(times) == 1 and CLOCK.fullmatch(times[0] or "") is not None,
        "a dayOfWeek": bool(weekdays) and None not in weekdays,
        "a duration of whole minutes, a day at most": 0 < _minutes(repeat) <= WHOLE_DAY,
        "breaks with the times of start and end": all(_has_times(one) for one in breaks),
        "no actions of its own": "action" not in action,
    }
    return [words for words, true in said.items() if not true]


def _minutes(repeat: Resource) -> int:
    """Return the duration of a Timing in minutes, 0 for one that is none."""
    length = repeat.get("duration", 0) * UNITS.get(repeat.get("durationUnit", ""), 0)
    return int(length) if length == int(length) else 0


def _has_times(period: Any) -> bool:
    """Return whether a Period has the times of a day at both ends."""
    ends = [period.get(name, "") for name in ("start", "end")] if isinstance(period, dict) else [""]
    return all("T" in one for one in ends)


def meeting(vocabulary: Vocabulary, action: Resource) -> Meeting:
    """Return an action without flaws as a value; what it does not say of minutes is its length."""
    v = vocabulary
    repeat = action["timingTiming"]["repeat"]
    clock = time.fromisoformat(repeat["timeOfDay"][0])
    duration = _minutes(repeat)
    breaks = tuple(sorted(_break(one, clock) for one in v.values(action, BREAK)))
    bounds = repeat.get("boundsPeriod", {})
    return Meeting(
        action=action["id"],
        title=action.get("title", ""),
        kind=v.code(action["code"], KIND),
        weekdays=tuple(sorted({WEEKDAYS.index(one) for one in repeat["dayOfWeek"]})),
        clock=clock,
        duration=duration,
        minutes=v.value(action, CLINICAL_MINUTES) or duration - sum(n for _, n in breaks),
        breaks=breaks,
        mode=v.value(action, MODE) or "in-person",
        location=reference(v.value(action, LOCATION)),
        group=reference(v.value(action, GROUP_REF)),
        first=_days(bounds.get("start"))[0],
        last=_days(bounds.get("end"))[1],
    )


def _break(period: Resource, clock: time) -> tuple[int, int]:
    """Return a break of a plan, whose days do not count: how long after the beginning, and length.

    The clock times are meant as they are written, whatever offset they were written with.
    """
    start, end = (_of_day(_clock(period[n])) for n in ("start", "end"))
    return (start - _of_day(clock)) % WHOLE_DAY, (end - start) % WHOLE_DAY


def _clock(text: str) -> time:
    """Return the time of day of a dateTime, as it is written."""
    return time.fromisoformat(text.partition("T")[2][: len("10:30")])


def _of_day(clock: time) -> int:
    return clock.hour * HOUR + clock.minute


def _days(text: str | None) -> tuple[date, date] | tuple[None, None]:
    """Return the first and the last day that a dateTime means: it may be a month or a year."""
    if not text:
        return None, None
    first = date.fromisoformat((text + "-01-01")[:10])
    if len(text) == len("2026-03"):
        return first, first.replace(day=monthrange(first.year, first.month)[1])
    return first, date.fromisoformat((text + "-12-31")[:10])


# --- what a week of it is ----------------------------------------------------------------------


def groups(meetings: Iterable[Meeting]) -> list[str]:
    """Return the groups that have sessions of their own, [""] where there are none."""
    return sorted({one.group for one in meetings if one.group}) or [""]


def weeks(meetings: Sequence[Meeting], group: str) -> Iterator[list[Meeting]]:
    """Yield what a group does in a week, once for each day on which that changes."""
    own = [one for one in meetings if one.group in ("", group)]
    for day in {one.first or date.min for one in own}:
        yield [one for one in own if one.during(day)]


def minutes_by_weekday(week: Iterable[Meeting]) -> dict[int, int]:
    """Return the clinical minutes of each weekday that has a session."""
    found: dict[int, int] = {}
    for one in week:
        for weekday in one.weekdays:
            found[weekday] = found.get(weekday, 0) + one.minutes
    return found


def overlap(one: Meeting, other: Meeting) -> bool:
    """Return whether two that a group has in the same week are at the same time some day."""
    return any(
        (start - begun) % WEEK < other.duration or (begun - start) % WEEK < one.duration
        for start in _starts(one)
        for begun in _starts(other)
    )


def _starts(meeting: Meeting) -> list[int]:
    return [weekday * WHOLE_DAY + _of_day(meeting.clock) for weekday in meeting.weekdays]

"""Rule W: the worked examples, its edges in time zones, and what holds for any attendance."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.domain.chart import (
    POLICIES,
    Episode,
    Interval,
    LevelPeriod,
    Membership,
    Program,
    Session,
    Visit,
    covers,
)
from app.domain.days import DAY, FirstDay, at, local_day, midnight, week_of
from app.domain.figures import hours
from app.domain.figures.hours import Care, Counted, Week, apportioned, presence, weeks
from app.domain.vocabulary import KINDS

ROWS = yaml.safe_load((Path(__file__).parent / "hours.yaml").read_text())
MONDAY = date(2026, 3, 2)
LONG_AGO = date(2026, 1, 5)
DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
LOS_ANGELES = ZoneInfo("America/Los_Angeles")
OVER = datetime(2026, 4, 1, tzinfo=UTC)

# By group: days, start and end, break, kind
TIMETABLE: Mapping[str, tuple[str, str, str, dict[str, str]]] = {
    "day": ("Mon Tue Thu Fri", "09:00-12:15", "10:30-10:45", {}),
    "hiop": ("Mon Tue Wed Thu Fri", "09:00-14:00", "", {}),
    "evening": ("Mon Wed Thu", "18:00-21:00", "", {}),
    "mixed": ("Mon Tue Thu Fri", "09:00-11:30", "", {"Fri": "wellness"}),
    "night": ("Sun", "22:00-25:00", "", {}),
    "closed": ("", "09:00-12:15", "", {}),
}


def program(zone: str = "America/Los_Angeles", first: FirstDay = "mon") -> Program:
    return Program(
        reference="HealthcareService/day",
        zone=ZoneInfo(zone),
        week_start=first,
        level="2.1",
        track="day",
        capacity=None,
        populations=(),
        organization="Organization/1",
        policy=dict(POLICIES),
    )


def day(name: str) -> date:
    return MONDAY + DAY * DAYS.index(name)


def clock(on: date, text: str) -> datetime:
    """Return a local time; 25:00 is one o'clock on the next day."""
    hour, minute = map(int, text.split(":"))
    return at(on + DAY * (hour // 24), time(hour % 24, minute), LOS_ANGELES)


def span(on: date, text: str) -> Interval:
    start, end = (clock(on, part) for part in text.split("-"))
    return start, end


def period(row: Any, otherwise: date = LONG_AGO) -> tuple[datetime, datetime | None]:
    start, end = row or (None, None)
    first = midnight(day(start) if start else otherwise, LOS_ANGELES)
    return first, midnight(day(end), LOS_ANGELES) if end else None


def session(group: str, name: str, row: dict[str, Any]) -> Session:
    _, times, pause, kinds = TIMETABLE[group]
    start, end = span(day(name), times)
    if kinds.get(name) == "wellness":
        end += timedelta(minutes=30)
    breaks = (span(day(name), pause),) if pause else ()
    reference = f"Appointment/{group}-{name}"
    return Session(
        reference=reference,
        identifier=f"urn:iop:session:plan:{group}:{day(name)}",
        status="cancelled" if name in row.get("cancelled", ()) else "fulfilled",
        start=start,
        end=end,
        kind=kinds.get(name, "group"),
        minutes=(end - start - sum((b - a for a, b in breaks), timedelta())) // hours.MINUTE,
        breaks=breaks,
        mode="in-person",
        group=f"Group/{group}",
        program="HealthcareService/day",
        replaces="",
        locations=(),
        facilitators=(),
    )


def sessions(row: dict[str, Any]) -> dict[str, Session]:
    groups = row.get("groups", {"day": None})
    found = [session(g, name, row) for g in groups for name in TIMETABLE[g][0].split()]
    for old, new in row.get("makeup", {}).items():
        made = session("day", new, {})
        found.append(replace(made, replaces=f"Appointment/day-{old}"))
    return {one.reference: one for one in found}


def visit(n: int, text: str, held: Mapping[str, Session]) -> Visit:
    """Return a visit; of a kind that a session of its day has, it is one of that session."""
    *mode, kind, name = [word for word in text.split() if "-" not in word or not word[0].isdigit()]
    times = tuple(span(day(name), word) for word in text.split() if word[0].isdigit())
    own = next(
        (
            s
            for s in held.values()
            if s.kind == kind and local_day(s.start, LOS_ANGELES) == day(name)
            and s.start < times[-1][1] and times[0][0] < s.end
        ),
        None,
    )  # fmt: skip
    made = Visit(
        reference=f"Encounter/{n}",
        patient="Patient/1",
        episode="EpisodeOfCare/1",
        status="finished",
        kind=kind,
        mode=mode[0] if mode else "in-person",
        session=own.reference if own else "",
        booking="",
        part_of="",
        period=(times[0][0], times[-1][1]),
        intervals=times,
        breaks=own.breaks if own else (),
        credited=None,
        counts=None,
        attendance="attended",
    )
    return replace(made, credited=hours.minutes(presence(made)))


def care(row: dict[str, Any]) -> Care:
    said = row.get("episode", {})
    start, end = period((said.get("start"), said.get("end")))
    levels = row.get("levels", {"2.1": None})
    held = sessions(row)
    groups = row.get("groups", {"day": None})
    places = tuple((f"Group/{g}", member(*(times or (None, None)))) for g, times in groups.items())
    joined = {
        s.reference: s
        for s in held.values()
        for g, m in places
        if s.group == g and covers(m, local_day(s.start, LOS_ANGELES))
    }
    return Care(
        episode=Episode(
            reference="EpisodeOfCare/1",
            patient="Patient/1",
            organization="Organization/1",
            program="HealthcareService/day",
            status="active",
            start=start,
            end=end,
            levels=tuple(
                LevelPeriod(
                    level,
                    max(start, period(times)[0]),
                    period(times)[1] or end,
                    "ServiceRequest/1",
                    "",
                )
                for level, times in levels.items()
            ),
            holds=tuple(period(one) for one in said.get("holds", ())),
            waits=(),
            discharge_reason="",
        ),
        born=row.get("born"),
        orders={"ServiceRequest/1": row["order"]} if "order" in row else {},
        places=places,
        sessions=tuple(held.values()),
        outcomes={
            s.reference: row["outcomes"][name]
            for s in held.values()
            for name in row.get("outcomes", ())
            if local_day(s.start, LOS_ANGELES) == day(name)
        },
        visits=tuple(visit(n, text, joined) for n, text in enumerate(row.get("visits", ()))),
        scheduled={s.reference: s.start for s in held.values()},
        meetings=tuple((day(name), n) for name, n in row.get("meetings", {}).items()),
    )


def member(start: str | None, end: str | None) -> Membership:
    return Membership(
        "Patient/1", day(start) if start else LONG_AGO, day(end) if end else None, bool(end)
    )


def week(row: dict[str, Any]) -> Week:
    asof = midnight(day(row["asof"]), LOS_ANGELES) if "asof" in row else OVER
    (found,) = weeks(care(row), program(), MONDAY, MONDAY + DAY * 6, asof)
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_the_week_is_as_in_the_worked_example(row: dict[str, Any]) -> None:
    found = week(row)

    said = {name: getattr(found, name) for name in row["week"]}
    wanted = {n: Decimal(v) if n == "rate" and v else v for n, v in row["week"].items()}
    assert said == wanted
    assert str(hours.hours(found.delivered)) == row.get("hours", str(hours.hours(found.delivered)))


@pytest.mark.parametrize("row", [row for row in ROWS if "minutes" in row], ids=lambda r: r["id"])
def test_each_kind_has_the_minutes_of_the_worked_example(row: dict[str, Any]) -> None:
    found = apportioned(care(row), program(), OVER)

    assert {one.visit.kind: one.minutes for one in found} == row["minutes"]


def test_the_week_of_the_change_to_summer_time_is_an_hour_shorter() -> None:
    found = week({})

    assert found.period == (
        datetime(2026, 3, 2, 8, tzinfo=UTC),
        datetime(2026, 3, 9, 7, tzinfo=UTC),
    )


def test_minutes_across_the_gap_of_summer_time_are_those_that_passed() -> None:
    night = (
        at(date(2026, 3, 8), time(0, 30), LOS_ANGELES),
        at(date(2026, 3, 8), time(3, 30), LOS_ANGELES),
    )

    assert hours.minutes([night]) == 120


def test_minutes_across_the_fold_of_winter_time_are_those_that_passed() -> None:
    night = (
        at(date(2026, 11, 1), time(0, 30), LOS_ANGELES),
        at(date(2026, 11, 1), time(3, 30), LOS_ANGELES),
    )

    assert hours.minutes([night]) == 240


def test_a_week_may_begin_on_sunday() -> None:
    found = weeks(care({}), program(first="sun"), MONDAY, MONDAY, OVER)

    assert [one.first for one in found] == [date(2026, 3, 1)]


def test_there_are_no_weeks_before_the_episode_and_after_it() -> None:
    row = {"episode": {"start": "Thu", "end": "Fri"}}

    found = weeks(care(row), program(), date(2026, 1, 1), date(2026, 6, 1), OVER)

    assert [one.first for one in found] == [MONDAY]


def test_what_is_not_finished_or_has_not_begun_has_no_minutes() -> None:
    full = care(ROWS[0])
    planned = replace(full.visits[0], status="in-progress")
    wrong = replace(full.visits[1], status="entered-in-error")
    some = replace(full, visits=(planned, wrong, *full.visits[2:]))

    found = apportioned(some, program(), midnight(day("Fri"), LOS_ANGELES))

    assert [(one.visit.reference, one.minutes) for one in found] == [("Encounter/2", 180)]


def test_an_encounter_may_say_that_it_does_not_count() -> None:
    full = care(ROWS[0])
    some = replace(full, visits=(replace(full.visits[0], counts=False),))

    assert [one.minutes for one in apportioned(some, program(), OVER)] == [0]


def test_peer_support_counts_where_the_program_says_so() -> None:
    counting = replace(program(), policy={**POLICIES, "peer-support-counts": 1})
    row = {"visits": ["peer-support Mon 14:00-15:00"]}

    found = apportioned(care(row), counting, OVER)

    assert [one.minutes for one in found] == [60]


# --- what holds for any attendance -------------------------------------------------------------

ZONES = ["America/Los_Angeles", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]
CHANGES = [date(2026, 3, 2), date(2026, 10, 26), date(2026, 3, 30), date(2026, 9, 28)]
COUNTED_KINDS = ["group", "individual", "family", "wellness", "skills", "med-management"]


@st.composite
def attendances(draw: st.DrawFn) -> tuple[Program, date, Care]:
    """Return two weeks of visits, many at the same time, around a change of the clocks."""
    where = program(draw(st.sampled_from(ZONES)), draw(st.sampled_from(["mon", "sun"])))
    first = week_of(draw(st.sampled_from(CHANGES)), where.week_start)
    start = midnight(first, where.zone)
    two_weeks = (midnight(first + DAY * 14, where.zone) - start) // hours.MINUTE
    visits = []
    for n in range(draw(st.integers(0, 12))):
        begin = start + hours.MINUTE * draw(st.integers(0, two_weeks - 1))
        pieces, moment = [], begin
        for _ in range(draw(st.integers(1, 3))):
            end = moment + hours.MINUTE * draw(st.integers(1, 200))
            pieces.append((moment, end))
            moment = end + hours.MINUTE * draw(st.integers(1, 60))
        pause = begin + hours.MINUTE * draw(st.integers(0, 200))
        visits.append(
            plain(
                n,
                draw(st.sampled_from(COUNTED_KINDS)),
                tuple(pieces),
                ((pause, pause + hours.MINUTE * draw(st.integers(1, 30))),),
            )
        )
    episode = replace(care({}).episode, start=start, levels=())
    return where, first, Care(episode, visits=tuple(visits))


def plain(n: int, kind: str, pieces: tuple[Interval, ...], breaks: tuple[Interval, ...]) -> Visit:
    made = replace(visit(n, f"{kind} Mon 09:00-10:00", {}), intervals=pieces, breaks=breaks)
    made = replace(made, period=(pieces[0][0], pieces[-1][1]))
    return replace(made, credited=hours.minutes(presence(made)))


def simulated(where: Program, care: Care) -> dict[tuple[date, str], int]:
    """Return the minutes by week and kind, found by looking at every minute."""
    present: dict[datetime, list[Visit]] = defaultdict(list)
    for one in care.visits:
        if not KINDS[one.kind].counts:
            continue
        for start, end in one.intervals:
            while start < end:
                if not any(a <= start < b for a, b in one.breaks):
                    present[start].append(one)
                start += hours.MINUTE
    found: dict[tuple[date, str], int] = defaultdict(int)
    for there in present.values():
        best = min(there, key=lambda v: (KINDS[v.kind].precedence, v.period, v.reference))
        week = week_of(local_day(best.period[0], where.zone), where.week_start)
        found[week, best.kind] += 1
    return dict(found)


def summed(where: Program, counted: list[Counted]) -> dict[tuple[date, str], int]:
    found: dict[tuple[date, str], int] = defaultdict(int)
    for one in counted:
        if one.minutes:
            found[week_of(one.day, where.week_start), one.visit.kind] += one.minutes
    return dict(found)


@given(attendances())
def test_hours_are_those_of_a_simulation_that_looks_at_every_minute(
    drawn: tuple[Program, date, Care],
) -> None:
    where, _, some = drawn

    assert summed(where, apportioned(some, where, OVER + DAY * 365)) == simulated(where, some)


@given(attendances())
def test_the_union_of_overlaps_is_never_counted_twice(drawn: tuple[Program, date, Care]) -> None:
    where, _, some = drawn

    total = sum(one.minutes for one in apportioned(some, where, OVER + DAY * 365))

    counting = [v for v in some.visits if KINDS[v.kind].counts]
    there = hours.merged(piece for one in counting for piece in presence(one))
    assert total == hours.minutes(there)


@given(attendances())
def test_the_weeks_add_up_to_the_whole(drawn: tuple[Program, date, Care]) -> None:
    where, first, some = drawn
    asof = OVER + DAY * 365

    found = weeks(some, where, first, first + DAY * 20, asof)

    whole = sum(one.minutes for one in apportioned(some, where, asof))
    assert sum(one.delivered + one.wellness_excluded for one in found) == whole
    assert all(one.wellness * 4 <= one.delivered for one in found)


@given(attendances())
def test_no_visit_has_more_minutes_than_it_was_credited(drawn: tuple[Program, date, Care]) -> None:
    where, _, some = drawn

    found = apportioned(some, where, OVER + DAY * 365)

    assert all(0 <= one.minutes <= one.credited for one in found)
    assert len(found) == len(some.visits)

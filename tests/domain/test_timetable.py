"""A timetable makes the sessions that a calendar on the wall would have."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.program.timetable import (
    Meeting,
    flaws,
    groups,
    meetings,
    minutes_by_weekday,
    occurrences,
    overlap,
    weeks,
)
from app.domain.sessions.calendar import Place, appointment, following, makeup
from app.domain.vocabulary import Vocabulary
from tests.domain.clinic import action

LOS_ANGELES = ZoneInfo("America/Los_Angeles")
ZONES = [ZoneInfo(n) for n in ("America/Los_Angeles", "America/New_York", "UTC", "Asia/Kathmandu")]
VOCABULARY = Vocabulary("https://example.org/fhir/iop")


def weekly(weekdays: str, clock: str, duration: int = 180, **fields: Any) -> Meeting:
    """Return a session of some days ("mon thu") at a time."""
    names = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    known: dict[str, Any] = {
        "action": "a",
        "title": "",
        "kind": "group",
        "weekdays": tuple(names.index(one) for one in weekdays.split()),
        "clock": time.fromisoformat(clock),
        "duration": duration,
        "minutes": duration,
        "breaks": (),
        "mode": "in-person",
        "location": "",
        "group": "",
        "first": None,
        "last": None,
    }
    return Meeting(**{**known, **fields})


def starts(meeting: Meeting, first: str, last: str, zone: ZoneInfo = LOS_ANGELES) -> list[str]:
    """Return when the sessions of some days begin, in UTC."""
    found = occurrences([meeting], zone, date.fromisoformat(first), date.fromisoformat(last))
    return [f"{one.start:%Y-%m-%dT%H:%MZ}" for one in found]


def test_twelve_weeks_of_the_day_track_are_48_sessions_and_46_without_two_holidays() -> None:
    day = weekly("mon tue thu fri", "09:00", 195)

    found = list(occurrences([day], LOS_ANGELES, date(2026, 3, 30), date(2026, 6, 21)))
    holidays = {date(2026, 5, 25), date(2026, 6, 19)}

    assert len(found) == 48
    assert sum(one.day not in holidays for one in found) == 46


@pytest.mark.parametrize(
    ("day", "instant"),
    [
        ("2026-10-28", "2026-10-29T01:00Z"),
        ("2026-11-04", "2026-11-05T02:00Z"),
        ("2026-03-04", "2026-03-05T02:00Z"),
        ("2026-03-11", "2026-03-12T01:00Z"),
    ],
)
def test_an_evening_session_begins_at_six_by_the_clocks_of_the_program(
    day: str, instant: str
) -> None:
    assert starts(weekly("wed", "18:00"), day, day) == [instant]


def test_a_beginning_that_no_clock_shows_is_moved_forward_by_the_gap() -> None:
    night = weekly("sun", "02:30")

    (found,) = occurrences([night], LOS_ANGELES, date(2026, 3, 8), date(2026, 3, 8))

    assert found.start == datetime(2026, 3, 8, 10, 30, tzinfo=UTC)
    assert found.start.astimezone(LOS_ANGELES).time() == time(3, 30)


def test_of_a_beginning_that_clocks_show_twice_the_first_is_meant() -> None:
    assert starts(weekly("sun", "01:30"), "2026-11-01", "2026-11-01") == ["2026-11-01T08:30Z"]


def test_a_session_lasts_its_minutes_also_where_clocks_are_changed_meanwhile() -> None:
    night = weekly("sun", "00:30", 180, breaks=((120, 15),))

    (found,) = occurrences([night], LOS_ANGELES, date(2026, 3, 8), date(2026, 3, 8))

    assert found.end - found.start == timedelta(minutes=180)
    assert found.end.astimezone(LOS_ANGELES).time() == time(4, 30)
    assert found.breaks == (
        (found.start + timedelta(minutes=120), found.start + timedelta(minutes=135)),
    )


def test_a_session_meets_within_its_bounds_both_days_included() -> None:
    bound = weekly("mon", "09:00", first=date(2026, 3, 9), last=date(2026, 3, 16))

    assert len(starts(bound, "2026-03-01", "2026-03-31")) == 2


def test_a_session_belongs_to_the_day_on_which_it_begins() -> None:
    (late,) = occurrences([weekly("sun", "22:00")], LOS_ANGELES, date(2026, 3, 8), date(2026, 3, 8))

    assert (late.day, late.start.date()) == (date(2026, 3, 8), date(2026, 3, 9))
    assert late.name("plan") == "urn:iop:session:plan:a:2026-03-08"
    assert late.name("plan", "g2") == "urn:iop:session:plan:a:2026-03-08:g2"


def test_an_action_says_kind_days_clock_and_breaks() -> None:
    told = action(days="mon tue thu fri", clock="09:00:00", minutes=180, pause="10:30/10:45")

    (found,) = meetings(VOCABULARY, {"action": [told]})

    assert (found.kind, found.weekdays, found.clock) == ("group", (0, 1, 3, 4), time(9))
    assert (found.duration, found.minutes, found.breaks) == (195, 180, ((90, 15),))


def test_only_the_clock_of_a_break_counts() -> None:
    told = action(clock="23:00:00")
    period = {"start": "1999-12-31T23:50:00+05:45", "end": "2000-01-01T00:05:00+05:45"}
    told["extension"] = [VOCABULARY.extended("iop-break", valuePeriod=period)]

    (found,) = meetings(VOCABULARY, {"action": [told]})

    assert found.breaks == ((50, 15),)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"code": []}, "exactly one kind"),
        ({"id": "two words"}, "an id of letters, digits, - and ."),
        ({"timingTiming": {}}, "exactly one timeOfDay"),
        ({"action": [{"title": "inside"}]}, "no actions of its own"),
    ],
)
def test_an_action_that_is_no_weekly_session_is_named_as_such(
    change: dict[str, Any], expected: str
) -> None:
    told = {**action(), **change}

    assert expected in flaws(VOCABULARY, told)
    assert meetings(VOCABULARY, {"action": [told]}) == ()


def test_a_week_of_a_group_is_what_all_do_and_what_it_does_alone() -> None:
    known = [
        weekly("mon", "09:00", 60),
        weekly("mon", "11:00", 30, group="Group/a"),
        weekly("tue", "11:00", 45, group="Group/b"),
    ]

    assert groups(known) == ["Group/a", "Group/b"]
    assert [minutes_by_weekday(week) for week in weeks(known, "Group/a")] == [{0: 90}]
    assert [minutes_by_weekday(week) for week in weeks(known, "Group/b")] == [{0: 60, 1: 45}]


def test_a_timetable_that_changes_is_two_weeks() -> None:
    known = [
        weekly("mon", "09:00", 60, last=date(2026, 3, 31)),
        weekly("mon", "09:00", 90, first=date(2026, 4, 1)),
    ]

    found = [minutes_by_weekday(week) for week in weeks(known, "")]

    assert sorted(one[0] for one in found) == [60, 90]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (("mon", "10:00"), True),
        (("mon", "12:00"), False),
        (("tue", "10:00"), False),
        (("mon", "08:00"), True),
        (("sun", "23:00", 9 * 60 + 120), True),  # into Monday morning
    ],
)
def test_sessions_overlap_where_a_weekday_has_both_at_once(
    other: tuple[Any, ...], expected: bool
) -> None:
    assert overlap(weekly("mon", "09:00"), weekly(*other)) is expected
    assert overlap(weekly(*other), weekly("mon", "09:00")) is expected


clocks = st.times().map(lambda t: t.replace(second=0, microsecond=0))
plans = st.builds(
    weekly,
    st.lists(st.sampled_from(("mon", "tue", "wed", "thu", "fri", "sat", "sun")), min_size=1).map(
        " ".join
    ),
    clocks.map(time.isoformat),
    st.integers(1, 600),
)
ranges = st.tuples(st.dates(date(2025, 1, 1), date(2027, 12, 31)), st.integers(0, 60))


@given(plans, ranges, st.sampled_from(ZONES))
def test_the_same_timetable_always_makes_the_same_sessions(
    plan: Meeting, range: tuple[date, int], zone: ZoneInfo
) -> None:
    first, length = range
    last = first + timedelta(days=length)

    once = [(o.name("p"), o.start) for o in occurrences([plan], zone, first, last)]
    again = [(o.name("p"), o.start) for o in occurrences([plan], zone, first, last)]

    assert once == again
    assert len({name for name, _ in once}) == len(once)


@given(plans, ranges, st.integers(0, 60), st.sampled_from(ZONES))
def test_two_stretches_of_days_make_the_sessions_of_both(
    plan: Meeting, range: tuple[date, int], cut: int, zone: ZoneInfo
) -> None:
    first, length = range
    last = first + timedelta(days=length)
    middle = first + timedelta(days=min(cut, length))

    whole = list(occurrences([plan], zone, first, last))
    early = list(occurrences([plan], zone, first, middle))
    late = list(occurrences([plan], zone, middle + timedelta(days=1), last))

    assert early + late == whole


@given(plans, ranges, st.sampled_from(ZONES))
def test_a_session_begins_on_its_day_not_before_its_time_and_lasts_its_minutes(
    plan: Meeting, range: tuple[date, int], zone: ZoneInfo
) -> None:
    first, length = range
    for one in occurrences([plan], zone, first, first + timedelta(days=length)):
        local = one.start.astimezone(zone)
        assert local.date() == one.day
        assert local.time() >= plan.clock  # later only in a gap
        assert one.end - one.start == timedelta(minutes=plan.duration)


places = st.builds(
    Place,
    st.just("HealthcareService/day"),
    st.sampled_from(ZONES),
    st.sampled_from(["", "Group/a"]),
    st.sampled_from([(), ("PractitionerRole/th1",), ("PractitionerRole/th1", "Practitioner/2")]),
)
SOON = datetime(2026, 3, 7, 18, tzinfo=UTC)


@given(plans, st.dates(date(2025, 1, 1), date(2027, 12, 31)), places)
def test_what_follows_its_timetable_already_does_not_change(
    plan: Meeting, day: date, place: Place
) -> None:
    week = occurrences([plan], place.zone, day, day + timedelta(days=6))
    for one in week:
        made = appointment(VOCABULARY, one, place, one.name("p"), "1")
        assert following(VOCABULARY, {**made, "comment": "kept"}, made) == {
            **made,
            "comment": "kept",
        }


@given(plans, st.dates(date(2025, 1, 1), date(2027, 12, 31)), places)
def test_what_takes_the_place_of_a_session_is_as_long(
    plan: Meeting, day: date, place: Place
) -> None:
    one = next(iter(occurrences([plan], place.zone, day, day + timedelta(days=6))))
    made = appointment(VOCABULARY, one, place, one.name("p"), "1")

    late = makeup(VOCABULARY, made, SOON, place.zone, "2")

    start, end = (datetime.fromisoformat(late[n]) for n in ("start", "end"))
    assert start == SOON
    assert end.astimezone(UTC) - start.astimezone(UTC) == one.end - one.start


def test_a_session_keeps_who_leads_it_and_where_it_is_unless_others_are_wanted() -> None:
    (one,) = occurrences([weekly("mon", "09:00")], LOS_ANGELES, date(2026, 3, 9), date(2026, 3, 9))
    nobody = Place("HealthcareService/day", LOS_ANGELES, "", ())
    somebody = Place("HealthcareService/day", LOS_ANGELES, "", ("PractitionerRole/th1",))
    other = Place("HealthcareService/day", LOS_ANGELES, "", ("PractitionerRole/th2",))
    first, plain, changed = (
        appointment(VOCABULARY, one, place, "", "1") for place in (somebody, nobody, other)
    )

    assert following(VOCABULARY, first, plain) == first
    assert following(VOCABULARY, first, changed) == changed


@pytest.mark.parametrize(
    ("bounds", "first", "last"),
    [
        ({"start": "2026", "end": "2026"}, date(2026, 1, 1), date(2026, 12, 31)),
        ({"start": "2026-02", "end": "2026-02"}, date(2026, 2, 1), date(2026, 2, 28)),
        ({"end": "2026-12"}, None, date(2026, 12, 31)),
        ({"start": "2026-03-02T00:00:00-08:00"}, date(2026, 3, 2), None),
    ],
)
def test_bounds_may_be_months_and_years(
    bounds: dict[str, str], first: date | None, last: date | None
) -> None:
    told = action()
    told["timingTiming"]["repeat"]["boundsPeriod"] = bounds

    (found,) = meetings(VOCABULARY, {"action": [told]})

    assert (found.first, found.last) == (first, last)


@pytest.mark.parametrize(
    ("repeat", "period", "expected"),
    [
        ({"timeOfDay": ["23:59:60"]}, {}, "exactly one timeOfDay"),
        ({"timeOfDay": [None]}, {}, "exactly one timeOfDay"),
        ({"dayOfWeek": ["mon", None]}, {}, "a dayOfWeek"),
        ({"duration": 0.5}, {}, "a duration of whole minutes, a day at most"),
        ({}, {"start": "2026-03-02T10:30:00Z"}, "breaks with the times of start and end"),
        (
            {},
            {"start": "2026-03-02", "end": "2026-03-02"},
            "breaks with the times of start and end",
        ),
    ],
)
def test_what_cannot_be_read_is_named_too(
    repeat: dict[str, Any], period: dict[str, str], expected: str
) -> None:
    told = action(pause="")
    told["timingTiming"]["repeat"].update(repeat)
    if period:
        told["extension"].append(VOCABULARY.extended("iop-break", valuePeriod=period))

    assert flaws(VOCABULARY, told) == [expected]

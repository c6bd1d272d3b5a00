"""Credited minutes and the status of attendance, as arithmetic [domain.md 3.5, 3.6.4]."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.attendance.credit import (
    Held,
    counts_as_session,
    credited,
    excused,
    next_business_day,
    review_due,
    status,
    union,
)
from app.domain.chart import POLICIES, Interval

DAY = "2026-03-03"  # a Tuesday
OFFSET = "-08:00"


def at(clock: str, day: str = DAY, offset: str = OFFSET) -> datetime:
    """Return a wall time of a day in Los Angeles in UTC."""
    return datetime.fromisoformat(f"{day}T{clock}{offset}").astimezone(UTC)


def times(*clocks: tuple[str, str]) -> list[Interval]:
    """Return intervals of that day."""
    return [(at(start), at(end)) for start, end in clocks]


# 09:00 to 12:15 with a break from 10:30 to 10:45
SESSION = Held(at("09:00"), at("12:15"), tuple(times(("10:30", "10:45"))), 180)
WHOLE = ("09:00", "12:15")


# --- A3: credited minutes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("presence", "minutes"),
    [
        ([WHOLE], 180),
        ([("08:40", "12:30")], 180),
        ([("09:00", "11:40")], 145),
        ([("09:00", "10:40")], 90),  # out in the break
        ([("09:25:40", "12:15")], 154),  # seconds are cut off once
        ([("09:25", "11:40")], 120),
        ([("09:25", "12:15")], 155),
        ([("09:00", "09:30"), ("10:20", "12:15")], 130),  # out for an individual session
        ([("10:30", "10:45")], 0),
        ([("13:00", "14:00")], 0),
        ([], 0),
    ],
)
def test_credited_minutes_are_the_presence_without_breaks(
    presence: list[tuple[str, str]], minutes: int
) -> None:
    assert credited(times(*presence), SESSION) == minutes


def test_seconds_of_two_presences_are_added_up_before_they_are_cut_off() -> None:
    presence = times(("09:00", "09:10:30"), ("09:20", "09:30:30"))

    assert credited(presence, SESSION) == 21


def test_overlapping_presences_are_credited_once() -> None:
    presence = times(("09:00", "10:00"), ("09:30", "10:30"), ("09:45", "09:50"))

    assert credited(presence, SESSION) == 90


def test_overlapping_breaks_are_taken_out_once() -> None:
    held = Held(at("09:00"), at("12:15"), tuple(times(("10:30", "10:45"), ("10:40", "10:50"))), 180)

    assert credited(times(WHOLE), held) == 175


def test_where_summer_time_ends_three_hours_on_the_clock_are_four() -> None:
    start, end = at("00:30", "2026-11-01", "-07:00"), at("03:30", "2026-11-01", "-08:00")

    assert credited([(start, end)], Held(start, end, (), 300)) == 240


def test_where_summer_time_begins_three_hours_on_the_clock_are_two() -> None:
    start, end = at("00:30", "2026-03-08", "-08:00"), at("03:30", "2026-03-08", "-07:00")

    assert credited([(start, end)], Held(start, end, (), 300)) == 120


# --- A4, A5: never more than the clinical minutes -----------------------------------------------


def test_never_more_is_credited_than_the_clinical_minutes() -> None:
    held = Held(at("09:00"), at("13:00"), (), 180)

    assert credited(times(("09:00", "13:00")), held) == 180


@pytest.mark.parametrize(
    ("held", "minutes"),
    [
        (Held(at("09:00"), at("11:15"), SESSION.breaks, 180), 120),  # ended an hour early
        (Held(at("09:30"), at("12:15"), SESSION.breaks, 180), 150),
        (Held(at("09:00"), at("13:00"), SESSION.breaks, 180), 180),  # longer is not more
        (Held(at("09:00"), at("12:15"), tuple(times(("10:30", "11:00"))), 180), 165),
        (Held(at("09:00"), at("10:20"), SESSION.breaks, 180), 80),  # over before its break
    ],
)
def test_a_shorter_session_or_a_longer_break_lowers_the_clinical_minutes(
    held: Held, minutes: int
) -> None:
    assert held.minutes == minutes


# --- A2: the status follows from the times ------------------------------------------------------


@pytest.mark.parametrize(
    ("presence", "expected"),
    [
        ([WHOLE], "attended"),
        ([("09:10", "12:05")], "attended"),
        ([("09:10:01", "12:15")], "late"),
        ([("09:00", "12:04:59")], "left-early"),
        ([("09:25", "11:40")], "late-left-early"),
        ([("09:00", "09:30"), ("10:20", "12:15")], "attended"),
        ([("08:00", "13:00")], "attended"),
        ([("13:00", "14:00")], ""),
        ([], ""),
    ],
)
def test_the_status_follows_from_first_in_and_last_out(
    presence: list[tuple[str, str]], expected: str
) -> None:
    assert status(times(*presence), SESSION, POLICIES) == expected


def test_grace_is_measured_from_when_the_session_really_began() -> None:
    held = Held(at("09:20"), at("12:15"), SESSION.breaks, 180)

    assert status(times(("09:25", "12:15")), held, POLICIES) == "attended"


def test_a_program_may_choose_its_grace() -> None:
    strict = {**POLICIES, "start-grace-minutes": 0}

    assert status(times(("09:05", "12:15")), SESSION, strict) == "late"


# --- A6 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minutes", "clinical", "expected"),
    [(90, 180, True), (89, 180, False), (38, 75, True), (37, 75, False), (0, 180, False)],
)
def test_half_of_the_clinical_minutes_rounded_up_count_as_a_session(
    minutes: int, clinical: int, expected: bool
) -> None:
    assert counts_as_session(minutes, clinical, POLICIES) is expected


# --- A7 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notice", "reasons", "expected"),
    [
        (at("09:00", "2026-03-02"), [], True),
        (at("09:01", "2026-03-02"), [], False),
        (None, ["medical"], True),
        (None, ["court"], True),
        (None, ["bereavement"], True),
        (None, ["religious"], True),
        (None, ["transport"], False),
        (at("08:00"), ["work", "medical"], True),
        (None, [], False),
    ],
)
def test_an_absence_is_excused_by_a_day_of_notice_or_by_its_reason(
    notice: datetime | None, reasons: list[str], expected: bool
) -> None:
    assert excused(notice, reasons, SESSION.start, POLICIES) is expected


@pytest.mark.parametrize(
    ("day", "due"),
    [
        ("2026-03-03", "2026-03-04"),
        ("2026-03-06", "2026-03-09"),
        ("2026-03-07", "2026-03-09"),
        ("2026-03-08", "2026-03-09"),
    ],
)
def test_outreach_is_due_on_the_next_business_day(day: str, due: str) -> None:
    assert next_business_day(date.fromisoformat(day)) == date.fromisoformat(due)


# --- A12 ----------------------------------------------------------------------------------------

THERE, GONE, SORRY = "attended", "no-show", "excused"


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([GONE, GONE], False),
        ([GONE, GONE, GONE], True),
        ([GONE, GONE, SORRY, GONE], True),
        ([GONE, GONE, "late", GONE], False),
        ([GONE, GONE, GONE, THERE], False),
        ([GONE, THERE] * 6, False),
        ([GONE, THERE] * 7, True),
        ([SORRY] * 9, False),
        ([], False),
    ],
)
def test_a_review_is_due_at_the_third_no_show_in_a_row_or_the_seventh_absence(
    statuses: list[str], expected: bool
) -> None:
    assert review_due(statuses, POLICIES) is expected


# --- what holds for any session -----------------------------------------------------------------

BEGIN = datetime(2026, 11, 1, 6, 30, tzinfo=UTC)  # the night when summer time ends
SECONDS = st.integers(0, 900)


def interval(pair: tuple[int, int]) -> Interval:
    """Return an interval of seconds after BEGIN."""
    start, end = sorted(pair)
    return BEGIN + timedelta(seconds=start), BEGIN + timedelta(seconds=end)


INTERVALS = st.lists(st.tuples(SECONDS, SECONDS).map(interval), max_size=5)
SESSIONS = st.builds(
    lambda times, breaks, most: Held(times[0], times[1], tuple(breaks), most),
    st.tuples(SECONDS, SECONDS).map(interval),
    INTERVALS,
    st.integers(1, 15),
)


@given(INTERVALS, SESSIONS)
def test_credited_minutes_never_exceed_the_clinical_ones(
    presence: list[Interval], held: Held
) -> None:
    assert 0 <= credited(presence, held) <= held.minutes <= held.scheduled


@given(INTERVALS, SESSIONS)
def test_credited_minutes_are_those_of_a_count_second_by_second(
    presence: list[Interval], held: Held
) -> None:
    def inside(second: datetime, intervals: list[Interval]) -> bool:
        return any(start <= second < end for start, end in intervals)

    seconds = [BEGIN + timedelta(seconds=n) for n in range(900)]
    there = [
        second
        for second in seconds
        if held.start <= second < held.end
        and inside(second, presence)
        and not inside(second, list(held.breaks))
    ]

    assert credited(presence, held) == min(len(there) // 60, held.minutes)


@given(INTERVALS)
def test_a_union_is_in_order_and_has_gaps(presence: list[Interval]) -> None:
    found = union(presence)

    assert all(before[1] < after[0] for before, after in pairwise(found))

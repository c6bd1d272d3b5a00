"""The census of days: the worked example, what holds for any episodes, and small cells."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.chart import Episode, LevelPeriod
from app.domain.days import DAY, local_day, midnight
from app.domain.figures.counts import (
    FLOWS,
    Cell,
    Census,
    average,
    census,
    keeps_back,
    stay,
    suppressed,
)
from tests.domain.test_hours import LOS_ANGELES, program

MARCH = date(2026, 3, 1)
OTHER = "HealthcareService/evening"
HERE = program()


def on(day: int | None) -> datetime | None:
    """Return the beginning of a day of March; 0 and below are of February."""
    return None if day is None else midnight(MARCH + DAY * (day - 1), LOS_ANGELES)


def episode(start: int | None, end: int | None, **known: Any) -> Episode:
    values: dict[str, Any] = {
        "reference": f"EpisodeOfCare/{start}-{end}",
        "patient": "Patient/1",
        "organization": "Organization/1",
        "program": HERE.reference,
        "status": "finished" if end else "active",
        "start": on(start),
        "end": on(end),
        "levels": (),
        "holds": (),
        "waits": (),
        "discharge_reason": "",
    }
    return Episode(**{**values, **known})


def level(code: str, start: int, end: int | None, program: str = HERE.reference) -> LevelPeriod:
    return LevelPeriod(code, on(start) or datetime.now(UTC), on(end), "", program)


def counted(*episodes: Episode, first: int = 2, last: int = 8, **known: Any) -> list[Census]:
    stays = [stay(one, HERE) for one in episodes]
    return census(stays, MARCH + DAY * (first - 1), MARCH + DAY * (last - 1), **known)


def test_the_worked_example() -> None:
    a, b, c, d = episode(1, None), episode(3, 6), episode(5, 5), episode(-8, 4)

    found = counted(a, b, c, d)

    assert [one.active for one in found] == [2, 3, 2, 2, 1, 1, 1]
    assert average(found) == Decimal("1.71")
    assert [one.counts["admissions"] for one in found] == [0, 1, 0, 1, 0, 0, 0]
    assert [one.counts["discharges"] for one in found] == [0, 0, 1, 1, 1, 0, 0]


def test_the_day_of_admission_counts_and_that_of_discharge_does_not() -> None:
    found = counted(episode(3, 5))

    assert [one.day.day for one in found if one.active] == [3, 4]


def test_admission_and_discharge_on_one_day_are_listed_and_count_no_day() -> None:
    found = counted(episode(5, 5))

    assert [
        (one.counts["admissions"], one.counts["discharges"], one.active)
        for one in found
        if one.counts["admissions"]
    ] == [(1, 1, 0)]


def test_a_late_discharge_is_of_its_local_day() -> None:
    late = datetime(2026, 3, 6, 3, tzinfo=UTC)  # 19:00 on the 5th

    found = counted(replace(episode(3, 5), end=late))

    assert [one.day.day for one in found if one.active] == [3, 4]


def test_days_on_hold_are_not_active() -> None:
    found = counted(episode(1, None, holds=((on(3), on(5)),)))

    assert [one.counts["onhold"] for one in found] == [0, 1, 1, 0, 0, 0, 0]
    assert [one.active for one in found] == [1, 0, 0, 1, 1, 1, 1]


def test_a_hold_that_lasts_has_no_end() -> None:
    found = counted(episode(1, None, status="onhold", holds=((on(6), None),)))

    assert [one.counts["onhold"] for one in found] == [0, 0, 0, 0, 1, 1, 1]


def test_who_waits_is_on_the_waiting_list_and_nothing_else() -> None:
    waiting = episode(None, None, status="waitlist", waits=((on(4), None),))

    found = counted(waiting)

    assert [one.counts["waitlist"] for one in found] == [0, 0, 1, 1, 1, 1, 1]
    assert not any(one.active or one.counts["admissions"] for one in found)


@pytest.mark.parametrize("status", ["planned", "cancelled", "entered-in-error"])
def test_who_was_never_admitted_is_not_there(status: str) -> None:
    found = counted(episode(1, None, status=status))

    assert not any(one.active or one.counts["onhold"] for one in found)


def test_a_transfer_is_neither_admission_nor_discharge() -> None:
    moved = episode(1, None, levels=(level("2.5", 1, 4), level("2.1", 4, None, OTHER)))

    found = counted(moved, first=1)

    assert [one.active for one in found] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert [one.counts["transitions-out"] for one in found] == [0, 0, 0, 1, 0, 0, 0, 0]
    assert sum(one.counts["discharges"] or 0 for one in found) == 0


def test_who_comes_from_another_program_comes_by_transition() -> None:
    moved = episode(1, 7, program=OTHER, levels=(level("2.5", 1, 4, OTHER), level("2.1", 4, 7)))

    found = counted(moved)

    assert [one.counts["transitions-in"] for one in found] == [0, 0, 1, 0, 0, 0, 0]
    assert [one.counts["discharges"] for one in found] == [0, 0, 0, 0, 0, 1, 0]


def test_a_new_level_in_the_same_program_moves_a_person_from_cell_to_cell() -> None:
    moved = episode(1, None, levels=(level("2.5", 1, 4), level("2.1", 4, None)))

    found = counted(moved, labels=lambda one: one.levels)

    assert [one.by for one in found][1:3] == [
        (Cell("2.1", 0), Cell("2.5", 1)),
        (Cell("2.1", 1), Cell("2.5", 0)),
    ]
    assert sum(one.counts["transitions-out"] or 0 for one in found) == 0


def test_cells_count_only_who_is_active() -> None:
    held = episode(1, None, holds=((on(3), None),))

    found = counted(held, labels=lambda one: [("day", (date.min, None))])

    assert [one.by for one in found][:2] == [(Cell("day", 1),), (Cell("day", 0),)]


# --- small cells -------------------------------------------------------------------------------


def day(active: int, *by: int, flows: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Census:
    cells = tuple(Cell(chr(97 + n), count) for n, count in enumerate(by))
    counts = {"active": active, "onhold": 0, "waitlist": 0, **dict(zip(FLOWS, flows, strict=True))}
    return Census(MARCH, counts, cells)


@pytest.mark.parametrize(
    ("cells", "left"),
    [
        ((20, 30), (20, 30)),
        ((20, 30, 0), (20, 30, 0)),
        ((10, 30), (None, None)),
        ((5, 20, 30), (None, None, 30)),
        ((9, 8, 30), (None, None, 30)),
        ((1, 1, 30, 40), (None, None, None, 40)),
        ((5, 0, 30), (None, 0, None)),
    ],
)
def test_small_cells_go_and_those_that_tell_of_them(
    cells: tuple[int, ...], left: tuple[int | None, ...]
) -> None:
    found = suppressed(day(sum(cells), *cells))

    assert tuple(cell.count for cell in found.by) == left


@pytest.mark.parametrize(("active", "left"), [(0, 0), (1, None), (10, None), (11, 11)])
def test_a_count_from_1_to_10_is_kept_back(active: int, left: int | None) -> None:
    assert suppressed(day(active)).active == left


def test_comings_and_goings_are_kept_back_together() -> None:
    found = suppressed(day(40, flows=(12, 3, 0, 0)))

    assert found.active == 40
    assert [found.counts[name] for name in FLOWS] == [None] * 4
    assert keeps_back(found)


def test_an_average_of_days_of_which_one_is_kept_back_would_tell() -> None:
    found = [suppressed(day(20)), suppressed(day(5))]

    assert average(found) is None


# --- what holds for any episodes ---------------------------------------------------------------


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    start = draw(st.integers(-20, 30))
    length = draw(st.none() | st.integers(0, 40))
    end = None if length is None else start + length
    holds = []
    moment = start
    for _ in range(draw(st.integers(0, 2))):
        moment += draw(st.integers(1, 10))
        stop = moment + draw(st.integers(0, 10))
        if end is None or stop <= end:
            holds.append((on(moment), on(stop)))
        moment = stop
    turn = draw(st.none() | st.integers(0, 20))
    levels = [level("2.5", start, end)]
    if turn is not None and (end is None or start + turn <= end):
        there = draw(st.sampled_from([OTHER, HERE.reference]))
        levels = [level("2.5", start, start + turn), level("2.1", start + turn, end, there)]
    return episode(start, end, holds=tuple(holds), levels=tuple(levels))


many = st.lists(episodes(), max_size=12)


@given(many)
def test_consecutive_days_differ_by_who_came_and_who_went(some: list[Episode]) -> None:
    found = counted(*some, first=-30, last=70)

    for before, after in pairwise(found):
        came = sum(after.counts[name] or 0 for name in ("admissions", "transitions-in"))
        went = sum(after.counts[name] or 0 for name in ("discharges", "transitions-out"))
        was, there = (
            sum(one.counts[n] or 0 for n in ("active", "onhold")) for one in (before, after)
        )
        assert there - was == came - went


@given(many)
def test_each_day_is_as_if_it_were_looked_at_alone(some: list[Episode]) -> None:
    found = counted(*some, first=-25, last=40)

    def there(one: Episode, when: date) -> bool:
        now = on((when - MARCH).days + 1)
        assert now is not None
        return any(
            level.start <= now and (level.end is None or now < level.end)
            for level in one.levels
            if level.program == HERE.reference
        )

    def held(one: Episode, when: date) -> bool:
        return any(
            local_day(a, LOS_ANGELES) <= when and (b is None or when < local_day(b, LOS_ANGELES))
            for a, b in one.holds
        )

    for one in found:
        inside = [e for e in some if there(e, one.day)]
        assert one.counts["onhold"] == sum(held(e, one.day) for e in inside)
        assert one.active == sum(not held(e, one.day) for e in inside)


@given(many)
def test_cells_by_level_add_up_to_who_is_active(some: list[Episode]) -> None:
    found = counted(*some, first=-25, last=40, labels=lambda one: one.levels)

    assert all(sum(cell.count or 0 for cell in one.by) == one.active for one in found)


@given(st.lists(st.integers(0, 40), max_size=6))
def test_what_is_kept_back_never_follows_from_what_is_shown(cells: list[int]) -> None:
    found = suppressed(day(sum(cells), *cells))

    missing = [n for n, cell in zip(cells, found.by, strict=True) if cell.count is None]
    assert not any(0 < (cell.count or 0) <= 10 for cell in found.by)
    if missing and found.active is not None and found.active > 10:
        assert sum(missing) > 10
        assert len(missing) > 1

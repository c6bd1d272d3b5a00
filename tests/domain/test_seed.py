"""The synthetic program: the story it tells, and that a server takes it."""

import re
import shutil
from collections import Counter
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.config import Settings
from app.domain.days import DAY, week_of
from app.domain.seed import SIZES, Seeded, seed
from app.domain.seed.cases import BEGUN, TWINS, cases
from app.domain.seed.center import Center, center, full, npi, resources
from app.domain.seed.people import person
from app.domain.seed.story import (
    Admitted,
    Event,
    Met,
    Planned,
    Stay,
    Unmet,
    arrivals,
    closed,
    events,
    holidays,
    stream,
)
from app.domain.vocabulary import Vocabulary
from app.fhir.access import SYSTEM
from app.fhir.interaction import Interaction
from app.fhir.rest import Server, handle
from app.fhir.wire import decode
from app.main import ROOT, build
from tests.conftest import BASE_URL
from tests.domain.office import Iop

LAST = date(2026, 6, 30)
V = Vocabulary("https://example.org/fhir/iop")


def told(size: str, seed: int = 1) -> tuple[Center, list[Stay], list[Event]]:
    """Return center, stays and events of a seed."""
    row = SIZES[size]
    first = week_of(LAST) - DAY * 7 * row.weeks
    where = center(row.tracks, row.times, row.groups)
    stays = cases(where, LAST, seed)
    if row.arriving:
        stays = arrivals(where, first, LAST, seed, stays)
    return where, stays, events(where, stays, first, LAST, seed)


def test_the_same_seed_tells_the_same_story() -> None:
    assert told("tiny") == told("tiny")


def test_another_seed_tells_another_story() -> None:
    assert told("tiny", 1) != told("tiny", 2)


@pytest.mark.parametrize("size", ["tiny", "demo"])
def test_events_come_in_the_order_of_time(size: str) -> None:
    _, _, story = told(size)

    assert all(one.at <= other.at for one, other in pairwise(story))


def test_tiny_has_twelve_patients_who_show_a_difficulty_each() -> None:
    _, stays, _ = told("tiny")

    assert {stay.patient for stay in stays} == set(BEGUN)
    assert len(stays) == 12


def test_a_demo_has_as_many_patients_as_its_arrival_rates_say() -> None:
    _, stays, _ = told("demo")

    assert 380 <= len(stays) <= 520
    assert 80 <= sum(stay.there(LAST - DAY) for stay in stays) <= 140


def test_a_load_has_a_program_with_five_hundred_active_patients() -> None:
    _, stays, _ = told("load")

    assert len(stays) > 1700
    assert sum(stay.there(LAST) and stay.on(LAST).id == "day" for stay in stays) >= 500


@pytest.mark.parametrize("size", ["tiny", "demo"])
def test_no_group_ever_has_more_members_than_places(size: str) -> None:
    where, stays, _ = told(size)
    places = [place for stay in stays for place in stay.places]

    for group in (*where.groups, full(where)):
        mine = [place for place in places if place.group == group]
        for day in {place.start for place in mine}:
            assert sum(place.on(day) for place in mine) <= group.capacity


def test_rooms_and_therapists_are_never_in_two_sessions_at_once() -> None:
    where, _, _ = told("demo")
    taken: Counter[tuple[str, str, int]] = Counter()
    for group in where.groups:
        for slot in group.track.slots:
            start = slot.start.hour * 60 + slot.start.minute
            for day in slot.days:
                for minute in range(start, start + slot.length):
                    taken[group.room, day, minute] += 1
                    taken[group.therapist, day, minute] += 1

    assert max(taken.values()) == 1


def test_who_meets_has_been_admitted_and_sessions_are_planned_before() -> None:
    _, _, story = told("demo")
    here: set[str] = set()
    planned: dict[str, date] = {}
    for event in story:
        match event:
            case Planned():
                planned[event.group.id] = event.end
            case Admitted():
                here.add(event.stay.patient)
            case Met():
                assert event.day <= planned[event.group.id]
                assert {one.stay.patient for one in event.attendance} <= here
            case _:
                pass


def test_every_session_is_either_held_or_cancelled_but_none_on_a_holiday() -> None:
    where, _, story = told("tiny")
    first = week_of(LAST) - DAY * 42
    held = Counter((e.group.id, e.slot.id, e.day) for e in story if isinstance(e, Met | Unmet))
    due = Counter(
        (group.id, slot.id, first + DAY * n)
        for group in where.groups
        for slot in group.track.slots
        for n in range((LAST - first).days)
        if ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[n % 7] in slot.days
        and not closed(first + DAY * n)
    )

    assert held == due


def test_most_sessions_are_attended_but_not_all() -> None:
    _, _, story = told("demo")
    seen = Counter(one.status for e in story if isinstance(e, Met) for one in e.attendance)
    share = {status: count / seen.total() for status, count in seen.items()}

    assert 0.65 < share["attended"] < 0.75
    assert 0.05 < share["no-show"] < 0.15
    assert set(share) == {
        "attended",
        "late",
        "left-early",
        "late-left-early",
        "excused",
        "no-show",
    }


def test_who_comes_late_comes_after_the_grace_of_ten_minutes() -> None:
    _, _, story = told("demo")
    rows = [
        (one, e.at - timedelta(minutes=20 + e.slot.length))
        for e in story
        if isinstance(e, Met)
        for one in e.attendance
    ]
    late = [
        (one.presence[0] - start).total_seconds() / 60
        for one, start in rows
        if one.presence and one.status.startswith("late")
    ]
    timely = [
        (one.presence[0] - start).total_seconds() / 60
        for one, start in rows
        if one.presence and one.status in ("attended", "left-early")
    ]

    assert min(late) > 10
    assert max(timely) <= 10


def test_a_hold_ends_two_weeks_before_the_last_one_and_nobody_is_expected_during_it() -> None:
    _, stays, _ = told("tiny")
    (stay,) = [stay for stay in stays if stay.away]
    group = stay.places[0].group

    assert stay.away == (date(2026, 6, 8), date(2026, 6, 15))
    assert stay.expected(group, date(2026, 6, 7))
    assert not stay.expected(group, date(2026, 6, 8))
    assert stay.expected(group, date(2026, 6, 15))


def test_two_patients_have_one_name_and_birthday() -> None:
    _, stays, _ = told("tiny")
    one, other = (stay.person for stay in stays if stay.patient in TWINS)

    assert (one.given, one.family, one.born) == (other.given, other.family, other.born)


def test_one_turns_eighteen_in_a_group_of_adolescents() -> None:
    _, stays, _ = told("tiny")
    (stay,) = [stay for stay in stays if stay.patient == "turning-18"]
    birthday = stay.person.born.replace(year=stay.person.born.year + 18)

    assert stay.start < birthday < LAST
    assert stay.there(birthday)


def test_the_age_fits_the_track() -> None:
    _, stays, _ = told("demo")
    ages = {
        stay.track.id: [
            (s.start - s.person.born).days // 365.25 for s in stays if s.track == stay.track
        ]
        for stay in stays
    }

    assert max(ages.pop("adolescent")) < 18
    assert min(min(each) for each in ages.values()) >= 18


def test_a_person_is_drawn_from_her_own_random_numbers() -> None:
    assert person(stream(1, "a"), LAST, "") == person(stream(1, "a"), LAST, "")
    assert person(stream(1, "a"), LAST, "") != person(stream(1, "b"), LAST, "")


def test_memorial_day_and_juneteenth_are_the_holidays_of_the_tiny_program() -> None:
    assert holidays(date(2026, 5, 18), LAST) == (date(2026, 5, 25), date(2026, 6, 19))


def test_names_of_groups_say_nothing_of_who_is_in_them() -> None:
    where, _, _ = told("demo")
    names = [one["name"] for one in resources(V, where, LAST) if one["resourceType"] == "Group"]

    assert names == [f"Group {n}" for n in range(1, len(names) + 1)]


def test_a_made_up_npi_has_the_right_check_digit() -> None:
    digits = [int(one) for one in "80840" + npi(1)]
    doubled = [sum(divmod(d * 2, 10)) if n % 2 else d for n, d in enumerate(reversed(digits))]

    assert len(npi(1)) == 10
    assert sum(doubled) % 10 == 0


# --- on a server ---------------------------------------------------------------------------------


async def seeded(settings: Settings) -> Seeded:
    """Make the tiny program in a furnished database."""
    async with build(settings, audited=False) as server:
        return await seed(server, V, SIZES["tiny"], 1, LAST, lambda done, total: None)


async def found(server: Server, type: str, **criteria: str) -> list[dict[str, Any]]:
    """Return what a search finds, at most a thousand."""
    pairs = (*((name.replace("__", ":"), value) for name, value in criteria.items()),)
    asked = Interaction("search-type", type=type, pairs=(*pairs, ("_count", "1000")))
    reply = await handle(server, SYSTEM, asked)
    assert reply.status == 200, reply.body
    return [entry["resource"] for entry in decode(reply.body).get("entry", ())]


async def test_a_tiny_program_lives_on_a_server(program_settings: Settings) -> None:
    made = await seeded(program_settings)

    async with build(program_settings) as server:
        episodes = await found(server, "EpisodeOfCare")
        (moved,) = await found(server, "EpisodeOfCare", patient="level-change")
        flags = await found(server, "Flag")
        unlabelled = await found(server, "Encounter", _security__not="HTEST")
        visits = await found(server, "Encounter", **{"iop-kind": "group"})

    assert made.patients == 12
    assert Counter(one["status"] for one in episodes) == {"active": 10, "finished": 2}
    levels = [one for one in moved["extension"] if one["url"] == V.extension("iop-loc-period")]
    assert len(levels) == 2
    assert "Patient/no-show-streak" in {one["subject"]["reference"] for one in flags}
    assert visits
    assert unlabelled == []


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_the_same_seed_gives_the_same_bytes(
    furnished_sqlite: Path, tmp_path: Path, engine: str
) -> None:
    bodies = []
    for name in ("one", "other"):
        file = shutil.copy(furnished_sqlite, tmp_path / f"{name}.db")
        settings = Settings(database_url=f"sqlite:///{file}", base_url=BASE_URL)
        await seeded(settings)
        async with build(settings) as server:
            types = ("Appointment", "Encounter", "EpisodeOfCare", "Group", "Provenance", "Task")
            bodies.append([await found(server, type, _sort="_id") for type in types])

    assert bodies[0] == bodies[1]


@pytest.fixture
def environment(program_url: str) -> dict[str, str]:
    """The settings of commands on this test's database."""
    return {"MILEPOST_DATABASE_URL": program_url, "MILEPOST_BASE_URL": BASE_URL}


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_command_seeds_an_empty_database_once(environment: dict[str, str]) -> None:
    first = CliRunner().invoke(app, ["seed", "--if-empty"], env=environment)
    second = CliRunner().invoke(app, ["seed", "--if-empty"], env=environment)
    third = CliRunner().invoke(app, ["seed"], env=environment)

    assert (first.exit_code, second.exit_code, third.exit_code) == (0, 0, 1), first.output
    assert "Appointment" in first.stdout
    assert "seed --size demo" in first.stdout
    assert second.stdout == ""
    assert "There are patients in this database" in third.stderr


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_command_knows_three_sizes(environment: dict[str, str]) -> None:
    refused = CliRunner().invoke(app, ["seed", "--size", "huge"], env=environment)

    assert refused.exit_code == 2
    assert "tiny, demo, load" in refused.stderr


async def test_every_search_that_the_page_names_is_one(iop: Iop) -> None:
    page = (ROOT / "docs" / "iop.md").read_text()
    searches = re.findall(r"`([A-Z][A-Za-z]+\?[^`]+)`", page)

    answers = {one: (await iop.client.get(f"/{one.replace('[session]', 'x')}")) for one in searches}

    assert len(searches) >= 12
    assert {one: reply.text for one, reply in answers.items() if reply.status_code != 200} == {}

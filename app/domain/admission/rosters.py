"""Rosters: who is in which group, since when, and up to when.

https://hl7.org/fhir/R4/group.html

A roster is a Group of a program. A membership has whole days, where the program is; the day on
which it ends is no more one of it, and it is never taken off the roster. What is asked of a member
is asked when a membership begins or is made longer: later the group may outgrow it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache, partial
from itertools import combinations
from zoneinfo import ZoneInfo

from app.domain import chart, shipped
from app.domain.admission.episodes import IN_FORCE, current
from app.domain.admission.overrides import overridden
from app.domain.chart import Membership, Program, Roster
from app.domain.days import local_day, midnight, moment, written
from app.domain.vocabulary import (
    CHARACTERISTIC,
    POPULATION,
    ROSTER,
    STAGE,
    Vocabulary,
)
from app.fhir.reader import Reader
from app.fhir.rules import Change, Finding, Rule
from app.fhir.wire import Resource

SESSIONS_OPEN = 2  # a closed group takes nobody after so many sessions
# Groups of an age are for whoever is of it; to all others belongs who says so himself
BY_AGE = frozenset({"adolescents", "young-adults", "older-adults"})
ADOLESCENTS = "adolescents"
FIRST_STAGE = "early"


@dataclass(frozen=True)
class Joining:
    """A membership that begins, or was made longer, by a change of a roster."""

    change: Change
    roster: Roster
    membership: Membership
    place: int
    element: Resource

    def finding(self, text: str) -> Finding:
        """Return what is wrong with it."""
        return Finding(self.change, text, f"member[{self.place}]")


def is_roster(vocabulary: Vocabulary, group: Resource | None) -> bool:
    """Return whether a Group is a roster."""
    return group is not None and vocabulary.code(group.get("code"), CHARACTERISTIC) == ROSTER


def rosters(vocabulary: Vocabulary, changes: Sequence[Change]) -> list[tuple[Change, Roster]]:
    """Return the changes that leave a roster."""
    return [
        (change, chart.roster(vocabulary, change.after))
        for change in changes
        if change.after is not None and is_roster(vocabulary, change.after)
    ]


def joinings(vocabulary: Vocabulary, changes: Sequence[Change]) -> list[Joining]:
    """Return the memberships that some changes begin or make longer."""
    found = []
    for change, roster in rosters(vocabulary, changes):
        assert change.after is not None
        was = members(vocabulary, change.before)
        for n, (one, element) in enumerate(
            zip(roster.members, change.after.get("member", ()), strict=True)
        ):
            if not any(within(one, old) for old in was):
                found.append(Joining(change, roster, one, n, element))
    return found


def within(one: Membership, other: Membership) -> bool:
    """Return whether a membership is all of another one, or its beginning."""
    same = (one.patient, one.start) == (other.patient, other.start)
    return same and (other.end is None or (one.end is not None and one.end <= other.end))


async def program_of(vocabulary: Vocabulary, reader: Reader, roster: Roster) -> Program | None:
    """Return the program of a roster, None where there is none."""
    found = await reader.get(roster.program) if roster.program else None
    return chart.program(vocabulary, found) if found else None


async def zone_of(vocabulary: Vocabulary, reader: Reader, roster: Roster) -> ZoneInfo:
    """Return the time zone of the program of a roster; UTC where there is none."""
    program = await program_of(vocabulary, reader, roster)
    return program.zone if program else ZoneInfo("UTC")


async def room(vocabulary: Vocabulary, reader: Reader, roster: Roster) -> int:
    """Return how many members a roster has room for: as it says, or its program, or as usual."""
    program = await program_of(vocabulary, reader, roster)
    usual = program.policy if program else chart.POLICIES
    return roster.capacity or usual["group-capacity"]


# --- the group itself (INV-GR-1, INV-GR-6, LK7) --------------------------------------------------


async def check_capacity(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return rosters with more members on a day, today or later, than there is room for."""
    found = []
    for change, roster in rosters(vocabulary, changes):
        today = local_day(moment(reader.now), await zone_of(vocabulary, reader, roster))
        if crowd(roster, today) > await room(vocabulary, reader, roster):
            found.append(Finding(change, "Group is full", "member"))
    return found


def crowd(roster: Roster, day: date) -> int:
    """Return how many members a roster has at most on one day, that day or later."""
    days = {day, *(one.start for one in roster.members if one.start > day)}
    return max(len(roster.on(one)) for one in days)


def members(vocabulary: Vocabulary, group: Resource | None) -> tuple[Membership, ...]:
    """Return the memberships of a roster; none of what is none."""
    if group is None or not is_roster(vocabulary, group):
        return ()
    return chart.roster(vocabulary, group).members


async def check_history(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return rosters from which memberships were taken, or in which they have no proper days."""
    del reader
    found = []
    for change in changes:
        was, now = members(vocabulary, change.before), members(vocabulary, change.after)
        left = Counter((one.patient, one.start) for one in was)
        left.subtract((one.patient, one.start) for one in now)
        if any(number > 0 for number in left.values()):
            text = "A membership is ended, not taken off the roster"
            found.append(Finding(change, text, "member"))
        if not all(map(dated, now)):
            text = "A membership has a first day, and an end where it is inactive"
            found.append(Finding(change, text, "member"))
        of_one: dict[str, list[Membership]] = {}
        for one in now:
            of_one.setdefault(one.patient, []).append(one)
        if any(overlap(*two) for some in of_one.values() for two in combinations(some, 2)):
            found.append(Finding(change, "A patient is a member twice on one day", "member"))
    return found


def dated(membership: Membership) -> bool:
    """Return whether a membership says when it began, and when it ended if it did."""
    if membership.start == date.min or (membership.inactive and membership.end is None):
        return False
    return membership.end is None or membership.end >= membership.start


def overlap(one: Membership, other: Membership) -> bool:
    """Return whether two memberships are of one patient, and of a day that is in both."""
    if one.patient != other.patient or one.start == one.end or other.start == other.end:
        return False
    first, second = sorted((one, other), key=lambda each: each.start)
    return first.end is None or second.start < first.end


async def check_complete(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return what a roster lacks."""
    del reader
    found = []
    for change, roster in rosters(vocabulary, changes):
        assert change.after is not None
        lacks = {
            "name": "name" not in change.after,
            "managingEntity": not roster.organization,
            "extension": not roster.program,
        }
        text = "A roster needs a name, a managing Organization, and its program (iop-program)"
        found += [
            Finding(change, text, at, code="required") for at, missing in lacks.items() if missing
        ]
    return found


async def check_name(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return a warning for names that tell whom a group is for: members see them (LK7)."""
    del reader
    text = "The name of the group tells what its members are; give it a neutral one"
    return [
        Finding(change, text, "name", "warning")
        for change, _ in rosters(vocabulary, changes)
        if change.after and not neutral(vocabulary, change.after.get("name", ""))
    ]


def neutral(vocabulary: Vocabulary, name: str) -> bool:
    """Return whether a name has no word of a population in it."""
    words = {word.removesuffix("s") for word in re.findall(r"[a-z]+", name.lower())}
    return words.isdisjoint(_telling(vocabulary.base))


@cache
def _telling(base: str) -> frozenset[str]:
    """Return the words, without a plural s, that the codes of populations are made of."""
    codes = next(
        one["concept"]
        for one in shipped.resources(base)
        if (one["resourceType"], one["id"]) == ("CodeSystem", POPULATION)
    )
    words = {word for one in codes for word in one["code"].split("-")}
    return frozenset(word.removesuffix("s") for word in words) - {"young", "older", "first", "co"}


# --- who joins (INV-GR-2 to 5, INV-GR-7) ---------------------------------------------------------


async def check_episode(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return new members without an episode in the program, or of another stage than the group.

    INV-GR-2 and INV-GR-4: the stage is that of the episode, the first one where it says none.
    """
    new = joinings(vocabulary, changes)
    episodes = await current(vocabulary, reader, [one.membership.patient for one in new], *IN_FORCE)
    found = []
    for one in new:
        zone = await zone_of(vocabulary, reader, one.roster)
        own = [e for e in episodes if covering(vocabulary, e, one.roster, one.membership, zone)]
        if not own:
            found.append(one.finding("A member needs an active episode in the program"))
            continue
        stage = vocabulary.value(own[0], STAGE) or FIRST_STAGE
        set_aside = overridden(vocabulary, one.element, "INV-GR-4")
        if one.roster.stage and stage != one.roster.stage and not set_aside:
            text = "The group is of another stage of treatment than its new member"
            found.append(replace(one.finding(text), rule="INV-GR-4"))
    return found


def covering(
    vocabulary: Vocabulary,
    resource: Resource,
    roster: Roster,
    membership: Membership,
    zone: ZoneInfo,
) -> bool:
    """Return whether an episode is of the member, in the program, and lasts all the membership."""
    episode = chart.episode(vocabulary, resource)
    programs = {episode.program, *(level.program for level in episode.levels)}
    if episode.patient != membership.patient or roster.program not in programs:
        return False
    if episode.start is None or local_day(episode.start, zone) > membership.start:
        return False
    if episode.end is None:
        return True
    return membership.end is not None and membership.end <= local_day(episode.end, zone)


async def check_preference(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return new members of a group for some who have not said that they belong to these."""
    text = "The group is for people who say that they belong to it; no such wish is on record"
    return [
        one.finding(text)
        for one in joinings(vocabulary, changes)
        if (wanted := sorted(set(one.roster.populations) - BY_AGE))
        if not await _attested(vocabulary, reader, one.membership.patient, wanted)
    ]


async def _attested(
    vocabulary: Vocabulary, reader: Reader, patient: str, populations: Sequence[str]
) -> bool:
    """Return whether a patient is on record as saying that he is of one of some populations."""
    system = vocabulary.system(POPULATION)
    return bool(
        await reader.count(
            "Observation",
            ("subject", patient),
            ("status", "final,amended,corrected"),
            ("value-concept", ",".join(f"{system}|{one}" for one in populations)),
        )
    )


async def check_closed(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return new members of a closed group that has begun without them."""
    return [
        one.finding("The group is closed: its second session is over")
        for one in joinings(vocabulary, changes)
        if one.roster.closed
        if await is_closed(vocabulary, reader, one.roster, one.membership.start)
    ]


async def is_closed(vocabulary: Vocabulary, reader: Reader, roster: Roster, day: date) -> bool:
    """Return whether a closed group has had so many sessions before a day that nobody joins."""
    zone = await zone_of(vocabulary, reader, roster)
    held = await reader.count(
        "Appointment",
        ("supporting-info", roster.reference),
        ("status", "booked,arrived,fulfilled"),
        ("date", f"lt{written(midnight(day, zone))}"),
    )
    return held >= SESSIONS_OPEN


async def check_ages(
    vocabulary: Vocabulary, changes: Sequence[Change], reader: Reader
) -> Iterable[Finding]:
    """Return new members who are adolescents among adults, or adults among adolescents."""
    new = joinings(vocabulary, changes)
    patients = await reader.get_all(m.patient for one in new for m in beside(one))
    found = []
    for one in new:
        starts = {max(m.start, one.membership.start) for m in beside(one)}
        if any(_mixed(one, day, patients) for day in sorted(starts)):
            found.append(one.finding("Adolescents and adults do not share a group"))
    return found


def beside(joining: Joining) -> list[Membership]:
    """Return the memberships that have a day in common with a new one, itself among them."""
    new = joining.membership
    return [
        one
        for one in joining.roster.members
        if one is new or ((one.end or date.max) > new.start and (new.end or date.max) > one.start)
    ]


def _mixed(joining: Joining, day: date, patients: Mapping[str, Resource]) -> bool:
    """Return whether a new member is of another age than the group, or than it is for, on a day."""

    def young(patient: str) -> bool | None:
        resource = patients.get(patient)
        years = chart.age(resource, day) if resource else None
        return None if years is None else years < chart.ADULT

    own = young(joining.membership.patient)
    if own is None or (not own and ADOLESCENTS in joining.roster.populations):
        return True
    return any(young(other) is (not own) for other in joining.roster.on(day))


def rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Return the rules of this module."""
    v, types, marks = vocabulary, frozenset({"Group"}), (vocabulary.mark,)
    return (
        Rule("required", types, marks, partial(check_complete, v)),
        Rule("INV-GR-6", types, marks, partial(check_history, v)),
        Rule("INV-GR-1", types, marks, partial(check_capacity, v)),
        Rule("INV-GR-2", types, marks, partial(check_episode, v)),
        Rule("INV-GR-3", types, marks, partial(check_preference, v)),
        Rule("INV-GR-5", types, marks, partial(check_closed, v)),
        Rule("INV-GR-7", types, marks, partial(check_ages, v)),
        Rule("LK7", types, marks, partial(check_name, v)),
    )

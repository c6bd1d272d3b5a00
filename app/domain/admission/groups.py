"""Groups: who joins one, who leaves it, and what that means for the sessions of the group."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from app.domain import chart
from app.domain.admission.overrides import granted
from app.domain.admission.rosters import crowd, is_closed, is_roster, room, zone_of
from app.domain.chart import Membership, Roster, reference
from app.domain.days import local_day, midnight, moment, whole, written
from app.domain.sessions import bookings
from app.domain.vocabulary import ISSUE, SESSION, Vocabulary
from app.domain.writes import created, provenance, updated
from app.fhir.errors import FhirError, Issue, outcome, refused
from app.fhir.interaction import Interaction, Reply
from app.fhir.operations import Call, Plan, Trial, answered
from app.fhir.reader import Reader
from app.fhir.wire import Resource

OVERRIDABLE = frozenset({"INV-GR-4"})
LEFT = "oth"  # of appointment-cancellation-reason: none of its reasons is that a group was left


async def join(vocabulary: Vocabulary, call: Call) -> Reply | Plan | Trial:
    """Return the plan by which a patient becomes a member of a group from a day on.

    Raises a 409 where the group is full or closed, or the patient is a member already.
    """
    group, roster, zone, patient = await _locked(vocabulary, call)
    day = _day(call, zone)
    overrides = await granted(vocabulary, call, OVERRIDABLE)
    await admitting(vocabulary, call.reader, roster, patient, day)
    booked = await places(vocabulary, call, roster, patient, day, zone)
    writes = [updated(joined(group, patient, day, overrides)), *map(created, booked)]
    return _plan(vocabulary, call, roster, patient, day, writes)


async def admitting(
    vocabulary: Vocabulary, reader: Reader, roster: Roster, patient: str, day: date
) -> None:
    """Refuse with a 409 who cannot become a member of a group, whoever he is."""
    if any(one.patient == patient and (one.end or date.max) > day for one in roster.members):
        raise conflict(vocabulary, "already-member", "The patient is a member of this group")
    more = replace(roster, members=(*roster.members, Membership(patient, day, None, False)))
    if crowd(more, day) > await room(vocabulary, reader, roster):
        raise conflict(vocabulary, "capacity", "Group is full")
    if roster.closed and await is_closed(vocabulary, reader, roster, day):
        raise conflict(vocabulary, "group-closed", "The group is closed")


def conflict(vocabulary: Vocabulary, code: str, text: str, at: str = "Group.member") -> FhirError:
    """Return the refusal of what does not go together with what is there: a 409."""
    issue = Issue("error", "conflict", text, at, (vocabulary.system(ISSUE), code))
    return FhirError([issue], 409)


def joined(group: Resource, patient: str, day: date, overrides: Sequence[Resource]) -> Resource:
    """Return a roster with one member more."""
    member: Resource = {"entity": {"reference": patient}, "period": {"start": day.isoformat()}}
    member["inactive"] = False
    if overrides:
        member = {"extension": list(overrides), **member}
    return {**group, "member": [*group.get("member", ()), member]}


async def places(
    vocabulary: Vocabulary, call: Call, roster: Roster, patient: str, day: date, zone: ZoneInfo
) -> list[Resource]:
    """Return the bookings of a patient for the sessions of a group from a day on.

    Without those that he has already.
    """
    reader, since = call.reader, midnight(day, zone)
    sessions = await bookings.sessions_of(reader, roster.reference, since)
    if not sessions:
        return []
    own = await appointments(reader, patient, since)
    had = {reference(vocabulary.value(one, SESSION)) for one in own}
    return [
        bookings.booking(vocabulary, one, patient, call.new_id())
        for one in sessions
        if f"Appointment/{one['id']}" not in had
    ]


async def leave(vocabulary: Vocabulary, call: Call) -> Reply | Plan | Trial:
    """Return the plan by which a membership ends on a day, and what was booked after it.

    Raises a 409 where the patient is no member.
    """
    group, roster, zone, patient = await _locked(vocabulary, call)
    day = _day(call, zone)
    open = [
        n
        for n, one in enumerate(roster.members)
        if one.patient == patient and (one.end or date.max) > day
    ]
    if not open:
        raise conflict(vocabulary, "not-a-member", "The patient is not a member of this group")
    today = local_day(moment(call.now), zone)
    rows = list(group["member"])
    for n in open:
        end = max(day, roster.members[n].start)
        period = {**rows[n]["period"], "end": end.isoformat()}
        rows[n] = {**rows[n], "period": period, "inactive": end <= today}
    reader, since = call.reader, midnight(day, zone)
    sessions = await bookings.sessions_of(reader, roster.reference, since)
    theirs = {f"Appointment/{one['id']}" for one in sessions}
    gone = [
        updated(bookings.cancelled(one, LEFT, "Left the group"))
        for one in await appointments(reader, patient, since)
        if reference(vocabulary.value(one, SESSION)) in theirs
    ]
    writes = [updated({**group, "member": rows}), *gone]
    return _plan(vocabulary, call, roster, patient, day, writes)


async def appointments(reader: Reader, patient: str, since: datetime) -> list[Resource]:
    """Return the Appointments of a patient that are booked from a moment on."""
    wanted = ("patient", patient), ("status", ",".join(sorted(bookings.BOOKED)))
    return await reader.search("Appointment", *wanted, ("date", f"ge{written(since)}"))


async def _locked(vocabulary: Vocabulary, call: Call) -> tuple[Resource, Roster, ZoneInfo, str]:
    """Return the group of a call, as it stands still now, with its zone; and the patient."""
    patient = call.named(call.one("patient"), "patient", "Patient")
    await call.store.lock([("Group", call.asked.id), ("Patient", patient.partition("/")[2])])
    reader = call.reader
    group = await reader.read("Group", call.asked.id)
    if not is_roster(vocabulary, group):
        raise refused("business-rule", "The Group is not the roster of a program", "Group.code")
    if await reader.get(patient) is None:
        raise refused("not-found", "There is no such Patient", "http.patient", 422)
    roster = chart.roster(vocabulary, group)
    return group, roster, await zone_of(vocabulary, reader, roster), patient


def _day(call: Call, zone: ZoneInfo) -> date:
    said = call.one("date")
    return whole(said, "date") if said else local_day(moment(call.now), zone)


def _plan(
    vocabulary: Vocabulary,
    call: Call,
    roster: Roster,
    patient: str,
    day: date,
    writes: list[Interaction],
) -> Plan:
    """Return the writes of a roster and of a patient's bookings, each with a Provenance."""
    own = writes[1:]
    attested = [provenance(vocabulary, call, some) for some in (writes[:1], own) if some]
    told = {
        "group": roster.reference,
        "patient": patient,
        "date": day.isoformat(),
        "appointment": [f"{one.type}/{one.id}" for one in own],
    }
    return Plan([*writes, *attested], told=told)


async def tell(call: Call, told: Mapping[str, Any], issues: Sequence[Issue]) -> Reply:
    """Return who joined or left which group, and what was booked or cancelled for that."""
    shown = {
        "group": {"reference": told["group"]},
        "patient": {"reference": told["patient"]},
        "date": told["date"],
        "appointment": await seen(call, told["appointment"]),
        "outcome": outcome(issues),
    }
    return Reply(200, answered(call.operation, shown))


async def seen(call: Call, references: Sequence[str]) -> list[Resource]:
    """Return those of some references as References that the caller may see."""
    there = await call.reader.get_all(references)
    return [{"reference": one} for one in references if one in there]


def operations(vocabulary: Vocabulary) -> Mapping[str, Mapping[str, Any]]:
    """Return what performs the operations of this module, by their code."""
    known = {"join": join, "leave": leave}
    return {
        code: {
            "perform": partial(perform, vocabulary),
            "tell": tell,
            "writes": True,
            "needs": {"instance": ("read", "update")},
        }
        for code, perform in known.items()
    }

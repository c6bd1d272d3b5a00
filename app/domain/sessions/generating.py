"""$generate-sessions and $cancel-session: a timetable put into the calendar, and taken out of it.

What is made is known by its identifier, so that the same call again makes nothing. A session that
lies ahead follows its timetable; one that has begun, was called off or has attendance stays as it
is.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from app.domain.chart import booking as booking_of
from app.domain.chart import program as track_of
from app.domain.chart import reference
from app.domain.chart import session as session_of
from app.domain.days import instant, moment, whole, zone_named
from app.domain.program.timetable import Occurrence, occurrences
from app.domain.sessions import conflicts
from app.domain.sessions.bookings import (
    BOOKED,
    booking,
    cancelled,
    episodes_of,
    moved,
    patient_of,
    some_of,
)
from app.domain.sessions.calendar import (
    Episodes,
    Place,
    appointment,
    expected,
    following,
    in_treatment,
    makeup,
)
from app.domain.sessions.conflicts import Conflict
from app.domain.sessions.planning import Asked, Timetable, asked, refusal, timetable
from app.domain.vocabulary import ISSUE, SESSION, URI, Vocabulary
from app.domain.writes import created, provenance, updated
from app.fhir.errors import FhirError, Issue, outcome
from app.fhir.interaction import Interaction, Reply
from app.fhir.operations import Call, Plan, answered
from app.fhir.reader import Reader
from app.fhir.rules import identities
from app.fhir.wire import Resource

ATTENDED = frozenset({"arrived", "checked-in", "fulfilled", "noshow"})
ERROR = "entered-in-error"
SHOWN = 20  # conflicts that a refusal names


def operations(vocabulary: Vocabulary) -> Mapping[str, Mapping[str, Any]]:
    """Return what performs the operations of this module, by their code."""
    return {
        "generate-sessions": {
            "perform": partial(generate, vocabulary),
            "tell": tell_generated,
            "writes": True,
            "needs": {"instance": ("read",)},
        },
        "cancel-session": {
            "perform": partial(cancel, vocabulary),
            "tell": tell_cancelled,
            "writes": True,
            "needs": {"instance": ("read", "update")},
        },
    }


# --- what comes of it --------------------------------------------------------------------------


@dataclass
class Made:
    """What a call comes to: the sessions that are to be, and what has to be written for them.

    `sessions` are all that were asked for, `fresh` those of them that are new or changed, as are
    all `bookings`.
    """

    sessions: list[Resource] = field(default_factory=list)
    fresh: list[Resource] = field(default_factory=list)
    bookings: list[Resource] = field(default_factory=list)
    skipped: list[tuple[date, str]] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    unchanged: int = 0

    def told(self) -> dict[str, Any]:
        """Return what the answer of $generate-sessions says."""
        new = sum(_is_new(one) for one in self.fresh)
        return {
            "summary": {
                "created": new,
                "unchanged": self.unchanged,
                "updated": len(self.fresh) - new,
                "skipped": len(self.skipped),
                "patient-appointments": sum(_is_new(one) for one in self.bookings),
            },
            "session": [_name(one) for one in self.sessions],
            "skipped": [{"date": day.isoformat(), "reason": why} for day, why in self.skipped],
            "conflict": [one.told() for one in self.conflicts],
        }


def _is_new(resource: Resource) -> bool:
    return "meta" not in resource


def _name(appointment: Resource) -> str:
    return f"Appointment/{appointment['id']}"


def _groups(session: Resource) -> list[str]:
    about = (reference(one) for one in session.get("supportingInformation", ()))
    return [one for one in about if one.startswith("Group/")]


async def generate(vocabulary: Vocabulary, call: Call) -> Reply | Plan:
    """Make the sessions of a timetable for some days, and book those who belong to them."""
    v = vocabulary
    wanted = asked(v, call)
    known = await timetable(v, call, wanted)
    if not (known.active or wanted.preview):
        text = "Sessions are made from an active timetable"
        raise refusal(v, "plan-not-active", text, "PlanDefinition.status", 409)
    standing = [f"PlanDefinition/{known.plan}", *known.rosters, *known.members]
    await call.store.lock(identities(standing))
    known = await timetable(v, call, wanted)
    made = await _made(v, call, known, wanted)
    if wanted.preview:
        return await tell_generated(call, made.told(), ())
    if made.conflicts and not wanted.despite_conflicts:
        raise _in_conflict(v, made.conflicts)
    return Plan(_writes(v, call, [*made.fresh, *made.bookings]), told=made.told())


def _in_conflict(vocabulary: Vocabulary, found: Sequence[Conflict]) -> FhirError:
    """Return the refusal of sessions that are in conflict, which names nobody."""
    details = (vocabulary.system(ISSUE), "overlap")
    rows = dict.fromkeys((one.kind, one.date) for one in found)
    texts = [f"On {day} a {kind} has something else at the same time" for kind, day in rows]
    return FhirError([Issue("error", "conflict", text, "", details) for text in texts[:SHOWN]], 409)


def _writes(
    vocabulary: Vocabulary, call: Call, appointments: Iterable[Resource], reason: str = ""
) -> list[Interaction]:
    """Return the writes of Appointments, with one Provenance a patient, and one for sessions."""
    found: defaultdict[str, list[Interaction]] = defaultdict(list)
    for one in appointments:
        write = created(one) if _is_new(one) else updated(one)
        found[patient_of(one)].append(write)
    proofs = [provenance(vocabulary, call, writes, reason) for writes in found.values()]
    return [*(write for writes in found.values() for write in writes), *proofs]


async def tell_generated(call: Call, told: Mapping[str, Any], issues: Sequence[Issue]) -> Reply:
    """Return the answer: sessions that the caller may see, what was skipped, what conflicts."""
    seen = await call.reader.get_all(told["session"])
    sessions = [{"reference": one} for one in told["session"] if one in seen]
    return _reply(call, {**told, "session": sessions}, issues)


def _reply(call: Call, values: Mapping[str, Any], issues: Sequence[Issue]) -> Reply:
    warned = outcome(issues) if issues else None
    return Reply(200, answered(call.operation, {**values, "outcome": warned}))


# --- beside what is in the calendar ------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """A session of a timetable for a group; `alone` if no other group has it."""

    occurrence: Occurrence
    place: Place
    plan: str
    alone: bool

    @property
    def names(self) -> tuple[str, str]:
        """Return the identifiers that it may have: of the timetable, and of its group in that."""
        group = self.place.group.rpartition("/")[2]
        return self.occurrence.name(self.plan), self.occurrence.name(self.plan, group)

    def among(self, stored: Mapping[str, Sequence[Resource]]) -> Resource | None:
        """Return it as it is stored, None where it is not."""
        held = (one for name in self.names for one in stored.get(name, ()))
        group = self.place.group
        return next((one for one in held if not group or group in _groups(one)), None)

    def name(self, stored: Mapping[str, Sequence[Resource]]) -> str:
        """Return the identifier of a new one, which no other group has."""
        plain, own = self.names
        return plain if self.alone and plain not in stored else own


async def _made(vocabulary: Vocabulary, call: Call, known: Timetable, asked: Asked) -> Made:
    """Return what the timetable comes to, beside what there is already."""
    v, made, reader = vocabulary, Made(), call.reader
    planned = list(_planned(known, asked, made))
    stored = await _by_name(reader, planned)
    held = [one for some in stored.values() for one in some]
    booked = await _by_session(v, reader, held)
    for one in planned:
        before = one.among(stored)
        wanted = appointment(v, one.occurrence, one.place, one.name(stored), call.new_id())
        if before is None:
            made.sessions.append(wanted)
            made.fresh.append(wanted)
        else:
            after = following(v, before, wanted)
            _follow(call, made, before, after, booked.get(_name(before), ()))
    await _book(v, call, reader, known, made, booked)
    await _look_for_conflicts(v, reader, known.zone, made)
    return made


def _planned(known: Timetable, asked: Asked, made: Made) -> Iterator[Planned]:
    """Yield the sessions of the days that are asked for; what a holiday takes away is skipped."""
    for one in occurrences(known.meetings, known.zone, asked.first, asked.last):
        groups = known.groups_of(one.meeting, asked)
        if one.day in asked.holidays:
            made.skipped += [(one.day, "holiday") for _ in groups]
            continue
        leaders = asked.facilitators.get(one.meeting.action) or asked.facilitators.get("", ())
        for group in groups:
            place = Place(known.program, known.zone, group, leaders)
            yield Planned(one, place, known.plan, alone=len(groups) == 1)


async def _by_name(reader: Reader, planned: Iterable[Planned]) -> Mapping[str, list[Resource]]:
    """Return what is stored of some sessions, by identifier; those made in error are none."""
    found: defaultdict[str, list[Resource]] = defaultdict(list)
    for some in some_of(name for one in planned for name in one.names):
        values = ",".join(f"{URI}|{name}" for name in some)
        for one in await reader.search("Appointment", ("identifier", values)):
            for name in one["identifier"] if one["status"] != ERROR else ():
                found[name.get("value", "")].append(one)
    return found


async def _by_session(
    vocabulary: Vocabulary, reader: Reader, sessions: Iterable[Resource]
) -> Mapping[str, list[Resource]]:
    """Return the bookings of some sessions, by reference; those made in error are none."""
    found: defaultdict[str, list[Resource]] = defaultdict(list)
    for some in some_of(_name(one) for one in sessions):
        for one in await reader.search("Appointment", ("iop-session", ",".join(some))):
            if one["status"] != ERROR:
                found[reference(vocabulary.value(one, SESSION))].append(one)
    return found


def _follow(
    call: Call, made: Made, before: Resource, wanted: Resource, bookings: Sequence[Resource]
) -> None:
    """Have a stored session follow its timetable, and its bookings with it, if it still may."""
    why = _fixed(call, before, wanted, bookings)
    if before == wanted:
        made.unchanged += 1
    elif why:
        made.skipped.append((date.fromisoformat(wanted["start"][:10]), why))
    else:
        made.fresh.append(wanted)
        places = [(one, moved(one, wanted)) for one in bookings if one["status"] in BOOKED]
        made.bookings += [after for one, after in places if after != one]
    made.sessions.append(before if why else wanted)


def _fixed(call: Call, before: Resource, wanted: Resource, bookings: Iterable[Resource]) -> str:
    """Return why a session does not follow its timetable any more, "" where it does."""
    if before["status"] != "booked":
        return str(before["status"])
    if any(one["status"] in ATTENDED for one in bookings):
        return "attended"
    begins = min(instant(one["start"]) for one in (before, wanted))
    return "past" if begins <= moment(call.now) else ""


async def _book(
    vocabulary: Vocabulary,
    call: Call,
    reader: Reader,
    known: Timetable,
    made: Made,
    booked: Mapping[str, Sequence[Resource]],
) -> None:
    """Book the members of the rosters who have no place yet in a session that is booked."""
    v = vocabulary
    episodes = await episodes_of(v, reader, known.members)
    for session in made.sessions:
        there = {patient_of(one) for one in booked.get(_name(session), ())}
        for group in _groups(session) if session["status"] == "booked" else ():
            if group in known.rosters:
                due = expected(known.rosters[group], episodes, session_of(v, session), known.zone)
                new = [one for one in due if one not in there]
                made.bookings += [booking(v, session, one, call.new_id()) for one in new]


async def _look_for_conflicts(
    vocabulary: Vocabulary,
    reader: Reader,
    zone: ZoneInfo,
    made: Made,
    without: Sequence[Resource] = (),
) -> None:
    """Note where anybody or anything would be in two places; who would be is not booked.

    What is to be cancelled in the same call stands in nobody's way.
    """
    v, off = vocabulary, {_name(one) for one in without}
    led = [one for one in (*made.fresh, *made.bookings) if v.value(one, SESSION) is None]
    sessions = [session_of(v, one) for one in led]
    made.conflicts += await conflicts.of_sessions(v, reader, sessions, zone, off)
    planned = [booking_of(v, one) for one in made.bookings]
    twice = await conflicts.of_patients(v, reader, planned, zone, off)
    made.conflicts += twice.values()
    made.bookings = [one for one in made.bookings if not _is_new(one) or _name(one) not in twice]


# --- a session that does not take place --------------------------------------------------------


async def cancel(vocabulary: Vocabulary, call: Call) -> Plan:
    """Cancel a session with all its bookings, and make another in its place where that is asked.

    A session of one patient alone is his booking.
    """
    v, reason, at = vocabulary, call.one("reason"), call.one("replacement")
    session, bookings = await _session(v, call)
    people = [patient_of(one) for one in (session, *bookings)]
    standing = [_name(session), *map(_name, bookings), *_groups(session), *people]
    await call.store.lock(identities(standing))
    session, bookings = await _session(v, call)
    made = Made()
    if at:
        whole(at[:10], "replacement")
        if instant(at) <= moment(call.now):
            raise refusal(v, "range", "A replacement is in the future", "Parameters.parameter")
        made = await _made_up(v, call, session, bookings, at)
    off = [cancelled(one, "prov", reason) for one in (session, *bookings)]
    told = {
        "session": _name(session),
        "replacement": next(map(_name, made.sessions), None),
        "summary": {"cancelled": len(bookings), "booked": len(made.bookings)},
        "conflict": [one.told() for one in made.conflicts],
    }
    writes = _writes(v, call, [*off, *made.fresh, *made.bookings], reason)
    return Plan(writes, told=told)


async def _session(vocabulary: Vocabulary, call: Call) -> tuple[Resource, list[Resource]]:
    """Return the session that is called, and those of its bookings that are still to be kept."""
    v, reader = vocabulary, call.reader
    session = await reader.read("Appointment", call.asked.id)
    if v.value(session, SESSION) is not None:
        text = "This is the booking of one patient for a session: cancel that, or update this"
        raise refusal(v, "not-a-session", text, "Appointment.extension")
    if session["status"] != "booked":
        text = "Only a session that is booked can be cancelled"
        raise refusal(v, "not-booked", text, "Appointment.status", 409)
    bookings = (await _by_session(v, reader, [session])).get(_name(session), [])
    if any(one["status"] in ATTENDED for one in bookings):
        text = "Attendance is recorded of the session, or somebody has arrived"
        raise refusal(v, "attendance-recorded", text, "Appointment", 409)
    return session, [one for one in bookings if one["status"] in BOOKED]


async def _made_up(
    vocabulary: Vocabulary, call: Call, session: Resource, bookings: Sequence[Resource], at: str
) -> Made:
    """Return the session that takes the place of another, and who of its patients can come."""
    v, reader, begins = vocabulary, call.reader, instant(at)
    people = [patient_of(one) for one in bookings]
    alone = patient_of(session)
    episodes = await episodes_of(v, reader, [one for one in (*people, alone) if one])
    zone = await _zone(v, reader, session) or _own_zone(episodes.get(alone, ()))
    later = makeup(v, session, begins, zone, call.new_id())
    made = Made(sessions=[later], fresh=[] if alone else [later], bookings=[later] if alone else [])
    coming = [one for one in people if in_treatment(episodes.get(one, ()), begins)]
    made.bookings += [booking(v, later, one, call.new_id()) for one in coming]
    await _look_for_conflicts(v, reader, zone, made, (session, *bookings))
    if any(one.kind != "patient" or alone for one in made.conflicts):
        raise _in_conflict(v, made.conflicts)
    return made


async def _zone(vocabulary: Vocabulary, reader: Reader, session: Resource) -> ZoneInfo | None:
    """Return the time zone of the program of a session, None for one that names no program."""
    program = session_of(vocabulary, session).program
    service = await reader.get(program) if program else None
    return track_of(vocabulary, service).zone if service else None


def _own_zone(episodes: Episodes) -> ZoneInfo:
    """Return the time zone of somebody's program, UTC for none."""
    return next((zone for _, zone in episodes), zone_named("UTC"))


async def tell_cancelled(call: Call, told: Mapping[str, Any], issues: Sequence[Issue]) -> Reply:
    """Return the answer: the session, and what takes its place."""
    seen = await call.reader.get_all(
        one for one in (told["session"], told["replacement"]) if one is not None
    )
    names = {
        name: {"reference": told[name]} if told[name] in seen else None
        for name in ("session", "replacement")
    }
    return _reply(call, {**told, **names}, issues)

"""A session that is being recorded: what the record says around it.

Everything is read in bulk, with the eyes of whoever records.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from app.domain import chart
from app.domain.attendance.rollcall import Expected
from app.domain.chart import Episode, Program, Session, reference
from app.domain.days import local_day
from app.domain.sessions.bookings import covers
from app.domain.vocabulary import ISSUE, Vocabulary
from app.fhir.errors import FhirError, Issue
from app.fhir.reader import Reader
from app.fhir.wire import Resource

GONE = frozenset({"cancelled", "entered-in-error"})

Story = tuple[Episode, Resource]


@dataclass(frozen=True)
class Sitting:
    """A session and what there is of it; what is of one patient is by patient.

    `appointment` is the session, or, `alone`, the booking of the one patient that it is of.
    `shared` is the session Encounter, None before there is one; `visits` are the Encounters of
    patients. `statuses` are those of attendance that were recorded. `members` are on the roster
    that day, and treated.
    """

    appointment: Resource
    session: Session
    program: Program
    alone: bool
    bookings: Mapping[str, Resource]
    statuses: Mapping[str, str]
    visits: Mapping[str, Resource]
    shared: Resource | None
    episodes: Mapping[str, Resource]
    members: frozenset[str]

    @property
    def recorded(self) -> bool:
        """Return whether attendance was recorded before, by whomever.

        Encounters that are planned or in progress record nothing yet.
        """
        known = [*self.visits.values(), *([self.shared] if self.shared else ())]
        return bool(self.statuses) or any(one["status"] == "finished" for one in known)

    @property
    def expected(self) -> Expected:
        """Return who is expected; of what was recorded, who was."""
        booked = {p for p, one in self.bookings.items() if one["status"] not in GONE}
        unbooked = frozenset() if self.recorded else self.members - self.bookings.keys()
        return Expected(
            all=frozenset(booked | self.statuses.keys() | unbooked),
            others=frozenset(self.bookings.keys() | self.members),
            treated=frozenset(self.episodes),
        )


async def sitting(
    vocabulary: Vocabulary, reader: Reader, id: str, named: frozenset[str]
) -> Sitting:
    """Return the session of an Appointment; `named` are the patients that a call names.

    Raises a 404 where there is none, and a 422 for what is no session that can be attended.
    """
    appointment = await reader.read("Appointment", id)
    own = chart.booking(vocabulary, appointment)
    if "start" not in appointment:
        raise _refusal(vocabulary, "not-a-session", "The Appointment has no time")
    if own.session:
        text = "This is the booking of one patient: attendance is taken at its session"
        raise _refusal(vocabulary, "not-a-session", text)
    if appointment["status"] in GONE and not own.attendance:
        raise _refusal(vocabulary, "session-cancelled", "The session was cancelled", 409)
    read = _alone if own.patient else _of_group
    return await read(vocabulary, reader, appointment, named)


def _refusal(vocabulary: Vocabulary, code: str, text: str, status: int = 422) -> FhirError:
    details = (vocabulary.system(ISSUE), code)
    kind = "conflict" if status == 409 else "business-rule"
    return FhirError([Issue("error", kind, text, "Appointment", details)], status)


async def _alone(
    vocabulary: Vocabulary, reader: Reader, appointment: Resource, named: frozenset[str]
) -> Sitting:
    """Return a session of one patient, in the program of his episode."""
    del named
    patient = chart.booking(vocabulary, appointment).patient
    session = chart.session(vocabulary, appointment)
    stories = await _stories(vocabulary, reader, {patient})
    around = [one.program for one, _ in stories if _includes(one, session.start)]
    program = await _program(vocabulary, reader, session.program or next(iter(around), ""))
    treated = _treated(stories, session, program)
    found = await reader.search("Encounter", ("appointment", session.reference))
    return Sitting(
        appointment=appointment,
        session=session,
        program=program,
        alone=True,
        bookings={patient: appointment},
        statuses=_statuses(vocabulary, {patient: appointment}),
        visits=_visits(found),
        shared=None,
        episodes=treated,
        members=frozenset(),
    )


async def _of_group(
    vocabulary: Vocabulary, reader: Reader, appointment: Resource, named: frozenset[str]
) -> Sitting:
    """Return a session of a group."""
    session = chart.session(vocabulary, appointment)
    group = await reader.get(session.group) if session.group else None
    if group is None:
        text = "This Appointment is neither the session of a group nor of a patient"
        raise _refusal(vocabulary, "not-a-session", text)
    program = await _program(vocabulary, reader, session.program)
    day = local_day(session.start, program.zone)
    roster = chart.roster(vocabulary, group).on(day)
    bookings = _bookings(
        vocabulary, await reader.search("Appointment", ("iop-session", session.reference))
    )
    visits = await reader.search("Encounter", ("iop-session", session.reference))
    places = [session.reference, *(f"Appointment/{one['id']}" for one in bookings.values())]
    booked = await reader.search("Encounter", ("appointment", ",".join(places)))
    stories = await _stories(vocabulary, reader, {*named, *roster, *bookings})
    treated = _treated(stories, session, program)
    return Sitting(
        appointment=appointment,
        session=session,
        program=program,
        alone=False,
        bookings=bookings,
        statuses=_statuses(vocabulary, bookings),
        visits=_visits([*visits, *booked]),
        shared=next(
            (one for one in booked if _of_all(one) and one["status"] not in GONE),
            None,
        ),
        episodes=treated,
        members=frozenset(one for one in roster if one in treated),
    )


async def _program(vocabulary: Vocabulary, reader: Reader, place: str) -> Program:
    found = await reader.get(place) if place else None
    if found is None:
        text = "The session belongs to no program: its patient has no episode at that time"
        raise _refusal(vocabulary, "not-on-roster", text)
    return chart.program(vocabulary, found)


async def _stories(vocabulary: Vocabulary, reader: Reader, patients: set[str]) -> list[Story]:
    found = await reader.search("EpisodeOfCare", ("patient", ",".join(sorted(patients))))
    return [(chart.episode(vocabulary, one), one) for one in found]


def _includes(episode: Episode, moment: datetime) -> bool:
    """Return whether an episode has begun and not ended, on hold or not."""
    begun = episode.start is not None and episode.start <= moment
    return begun and (episode.end is None or moment < episode.end)


def _treated(stories: list[Story], session: Session, program: Program) -> dict[str, Resource]:
    """Return the episode of each patient who is treated when a session begins.

    One in the program of the session comes before one in another.
    """
    found = [(one, whole) for one, whole in stories if covers(one, session.start, program.zone)]
    found.sort(key=lambda story: story[0].program == program.reference)
    return {one.patient: whole for one, whole in found}


def _bookings(vocabulary: Vocabulary, found: list[Resource]) -> dict[str, Resource]:
    """Return the bookings of patients; one that is gone only where there is no other."""
    found = sorted(found, key=lambda one: one["status"] not in GONE)
    return {chart.booking(vocabulary, one).patient: one for one in found}


def _statuses(vocabulary: Vocabulary, bookings: Mapping[str, Resource]) -> dict[str, str]:
    read = {patient: chart.booking(vocabulary, one) for patient, one in bookings.items()}
    return {patient: one.attendance for patient, one in read.items() if one.attendance}


def _of_all(encounter: Resource) -> bool:
    return reference(encounter.get("subject")).startswith("Group/")


def _visits(found: list[Resource]) -> dict[str, Resource]:
    """Return the Encounters of patients; one that was withdrawn only where there is no other."""
    own = [one for one in found if reference(one.get("subject")).startswith("Patient/")]
    own.sort(key=lambda one: one["status"] not in GONE)
    return {reference(one["subject"]): one for one in own}
